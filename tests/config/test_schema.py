"""The JSON schema of a command: valid by itself, and true of what the command accepts."""

from __future__ import annotations

from typing import Any

import pytest

from swift.cli import COMMANDS, _load
from swift.config.parse import read
from swift.config.tree import leaves, section_at

ROOTS = {name: _load(command.config) for name, command in COMMANDS.items() if command.config}
NEEDED = {
    "sft": ["--model", "m", "--dataset", "d"],
    "pt": ["--model", "m", "--dataset", "d"],
    "rlhf": ["--model", "m", "--dataset", "d"],
    "inspect": ["--model", "m", "--dataset", "d"],
    "verify": ["--model", "m"],
    "trace": ["--run", "r", "--step", "1"],
    "infer": ["--model", "m"],
    "sample": ["--model", "m", "--dataset", "d"],
    "deploy": ["--model", "m"],
    "app": ["--model", "m"],
    "rollout": ["--model", "m"],
    "export": ["--adapters", "a", "--merge_lora"],
    "merge-lora": ["--adapters", "a", "--merge_lora"],
}
TYPES = {
    "string": str,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
    "number": (int, float),
    "integer": int,
}
KEYWORDS = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum",
    "exclusiveMaximum", "exclusiveMinimum", "items", "maximum", "minItems", "minLength", "minimum",
    "properties", "required", "title", "type",
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Where a value breaks a schema; knows every keyword that our schemas use."""
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    if "$ref" in schema:
        return faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        each = [faults(value, option, root, at) for option in schema["anyOf"]]
        return [] if [] in each else [f"{at}: none of anyOf: {each}"]
    if "const" in schema and value != schema["const"]:
        return [f"{at}: {value!r} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is not in {schema['enum']}"]
    if "type" in schema:
        right = isinstance(value, TYPES[schema["type"]])
        if not right or (isinstance(value, bool) and schema["type"] in ("number", "integer")):
            return [f"{at}: {value!r} is not of type {schema['type']}"]
    return [*bounds(value, schema, at), *below(value, schema, root, at)]


def bounds(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    broken = {
        "minimum": lambda least: value < least,
        "maximum": lambda most: value > most,
        "exclusiveMinimum": lambda least: value <= least,
        "exclusiveMaximum": lambda most: value >= most,
        "minLength": lambda least: len(value) < least,
        "minItems": lambda least: len(value) < least,
    }
    return [
        f"{at}: {value!r}: {k} {schema[k]}" for k in broken if k in schema and broken[k](schema[k])
    ]


def below(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            line for i, item in enumerate(value) for line in faults(item, items, root, f"{at}[{i}]")
        ]
    if not isinstance(value, dict):
        return []
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    lines = [f"{at}.{name} is missing" for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        if name in known:
            lines += faults(item, known[name], root, f"{at}.{name}")
        elif more is False:
            lines.append(f"{at}.{name} is unknown")
        elif isinstance(more, dict):
            lines += faults(item, more, root, f"{at}.{name}")
    return lines


def dumped(command: str, *words: str) -> dict[str, Any]:
    config, _ = read(ROOTS[command], command, [*NEEDED[command], *words])
    return config.model_dump(mode="json")


@pytest.mark.parametrize("command", ROOTS)
def test_the_default_configuration_is_accepted(command: str) -> None:
    schema = ROOTS[command].model_json_schema()
    assert faults(dumped(command), schema, schema) == []


def test_a_configuration_of_other_kinds_is_accepted() -> None:
    schema = ROOTS["sft"].model_json_schema()
    values = dumped("sft", "--tuner_type", "full", "--lr_scheduler_type", "wsd", "--resume")
    assert faults(values, schema, schema) == []


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "epochs", 0),
        ("train", "save", "never"),
        ("train", "epocs", 1),
        ("tuner", "rank", 0),
        ("tuner", "kind", "lor"),
        ("tuner", "freeze", ["x"]),
        ("data", "shuffle_buffer", 0),
        ("data", "train", [1]),
        ("data", "packing", "yes"),
        ("data", "columns", {"a": 1}),
    ],
    ids=str,
)
def test_what_the_command_refuses_is_refused(section: str, name: str, value: Any) -> None:
    schema = ROOTS["sft"].model_json_schema()
    values = dumped("sft")
    values[section][name] = value
    assert faults(values, schema, schema) != []


def test_jsonschema_accepts_it() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    for command, root in ROOTS.items():
        schema = root.model_json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(dumped(command), schema)


@pytest.mark.parametrize("command", ROOTS)
def test_every_setting_is_in_the_schema_with_its_help(command: str) -> None:
    root = ROOTS[command]
    schema = root.model_json_schema()
    for leaf in leaves(root):
        section, _, name = leaf.path.rpartition(".")
        if name == "kind":
            continue
        place = schema["properties"][section] if section else schema
        if "$ref" in place:
            place = schema["$defs"][place["$ref"].removeprefix("#/$defs/")]
        having = [s for s in place.get("anyOf", [place]) if name in s["properties"]]
        assert having, leaf.path
        assert " ".join(having[0]["properties"][name]["description"].split()) == leaf.help


def test_the_tree_knows_every_field() -> None:
    root = ROOTS["sft"]
    paths = {leaf.path for leaf in leaves(root)}
    assert {"model.path", "tuner.kind", "tuner.rank", "tuner.freeze", "output"} <= paths
    assert "command" not in paths
    for name in root.model_fields:
        if name != "command":
            found = {path for path in paths if path == name or path.startswith(f"{name}.")}
            assert found, name
            assert (found == {name}) == (section_at(root, name) is None)


def test_a_leaf_of_some_kinds_names_them() -> None:
    kinds = {leaf.path: leaf.kinds for leaf in leaves(ROOTS["sft"])}
    assert kinds["tuner.rank"] == ("lora",)
    assert kinds["tuner.freeze"] == ("full",)
    assert kinds["schedule.min_ratio"] == ("cosine", "linear", "wsd")
    assert kinds["schedule.warmup_steps"] == ()
