"""Parts found by name: what is registered, what is missing, what comes from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import swift.data.formats.form
import swift.observe.metrics  # noqa: F401
from swift import registry
from swift.config.parse import read
from swift.config.runs import SftConfig
from swift.config.tree import leaves
from swift.config.tuner import LoraSection, TunerSection
from swift.errors import ConfigError, MissingExtra
from swift.registry import build, entries, load, load_plugins, register

NEEDED = ["--model", "m", "--dataset", "d"]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves the registrations of the session as they are."""
    monkeypatch.setattr(
        registry, "_ENTRIES", {name: dict(group) for name, group in registry._ENTRIES.items()}
    )
    yield


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes an importable module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")

    return write


def test_load_gives_the_object_behind_a_name(module: Callable[[str, str], None]) -> None:
    module("shelf_a", "THING = [1]")
    register("thing", "one", "shelf_a:THING")
    assert load("thing", "one") == [1]
    assert list(entries("thing")) == ["one"]
    with pytest.raises(KeyError):
        load("thing", "two")


def test_registering_imports_nothing() -> None:
    register("thing", "absent", "no_such_module_at_all:X")
    with pytest.raises(ModuleNotFoundError):
        load("thing", "absent")


def test_a_missing_engine_names_the_command_that_brings_it(
    module: Callable[[str, str], None],
) -> None:
    module("shelf_b", "import no_such_engine.deep")
    register("thing", "fast", "shelf_b:X", needs="no_such_engine", extra="fast")
    with pytest.raises(MissingExtra) as caught:
        load("thing", "fast")
    assert str(caught.value) == "'fast' needs no_such_engine: pip install 'swift-llm[fast]'"
    assert caught.value.exit_code == 2


def test_another_missing_module_is_not_taken_for_the_engine(
    module: Callable[[str, str], None],
) -> None:
    module("shelf_c", "import another_missing_module")
    register("thing", "fast", "shelf_c:X", needs="no_such_engine")
    with pytest.raises(ModuleNotFoundError, match="another_missing_module"):
        load("thing", "fast")


def test_build_calls_the_code_of_the_kind(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("shelf_d", "def attach(section, *args, **kwargs):\n    return section, args, kwargs")
    registry.variant(TunerSection, "lora", code="shelf_d:attach")(LoraSection)
    section = LoraSection(rank=3)
    assert build(section, "model", name="x") == (section, ("model",), {"name": "x"})


def test_build_knows_no_section_without_registration() -> None:
    class Odd:
        kind = "odd"

    with pytest.raises(KeyError, match="Odd of kind 'odd' is not registered"):
        build(Odd())


PLUGIN = '''
from typing import Literal
from swift.config.tuner import TunerSection
from swift.registry import variant

@variant(TunerSection, "{kind}", code="nowhere:attach")
class MySection(TunerSection):
    """A tuner of my own."""
    kind: Literal["{kind}"] = "{kind}"
    strength: int = 5
    """How much."""
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., str]:
    def write(kind: str, folder: str = ".") -> str:
        file = tmp_path / folder / "plugin.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(PLUGIN.format(kind=kind), encoding="utf-8")
        return str(file)

    return write


def test_a_plug_in_adds_a_kind_with_its_settings(plugin: Callable[..., str]) -> None:
    file = plugin("mine")
    words = ["--external_plugins", file, "--tuner_type", "mine", "--tuner.strength", "7"]
    config, _ = read(SftConfig, "sft", [*NEEDED, *words])
    assert (config.tuner.kind, config.tuner.strength) == ("mine", 7)
    assert "tuner.strength" in {leaf.path for leaf in leaves(SftConfig)}
    assert "mine" in str(SftConfig.model_json_schema()["properties"]["tuner"])


def test_a_plug_in_may_be_named_in_a_file(plugin: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"external_plugins: {plugin('ours')}\ntuner: {{kind: ours, strength: 2}}\n")
    config, _ = read(SftConfig, "sft", [str(file), *NEEDED])
    assert (config.tuner.kind, config.tuner.strength) == ("ours", 2)


def test_plug_ins_of_one_name_in_two_folders_are_two(plugin: Callable[..., str]) -> None:
    load_plugins([plugin("first", "a"), plugin("second", "b")])
    assert {"first", "second"} <= set(entries(TunerSection))


def test_a_plug_in_is_imported_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    file = tmp_path / "once.py"
    file.write_text(f"open({str(log)!r}, 'a').write('x')")
    load_plugins([str(file)])
    load_plugins([str(file), str(file)])
    assert log.read_text() == "x"


def test_a_plug_in_that_cannot_be_used(tmp_path: Path) -> None:
    broken, odd = tmp_path / "broken.py", tmp_path / "odd.txt"
    broken.write_text("1 / 0")
    odd.write_text("")
    with pytest.raises(ConfigError, match="does not exist"):
        load_plugins([str(tmp_path / "absent.py")])
    with pytest.raises(ConfigError, match="not a Python file"):
        load_plugins([str(odd)])
    for _ in range(2):  # the second time as well: nothing half imported is left
        with pytest.raises(ConfigError, match=r"failed to import: ZeroDivisionError"):
            load_plugins([str(broken)])


def test_a_broken_plug_in_is_one_problem_among_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(SftConfig, "sft", [*NEEDED, "--external_plugins", "absent.py", "--lora_rank", "x"])
    assert caught.value.problems == [
        "--external_plugins: absent.py does not exist",
        "--lora_rank: 'x' is not a whole number",
    ]


def install(folder: Path, code: str) -> None:
    """An installed distribution with an entry point, as pip lays it out."""
    (folder / "acme_swift.py").write_text(code)
    info = folder / "acme_swift-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-swift\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[swift.plugins]\nacme = acme_swift\n")


def test_an_installed_plug_in_registers_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "from swift.registry import register\nregister('thing', 'acme', 'x:y')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_swift", raising=False)
    load_plugins([])
    assert "acme" in entries("thing")


def test_a_broken_installed_plug_in_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_swift", raising=False)
    with pytest.raises(ConfigError, match=r"plug-in acme \(acme_swift\): ZeroDivisionError"):
        load_plugins([])


def test_every_registered_part_has_code() -> None:
    for group in list(registry._ENTRIES):
        for name, entry in entries(group).items():
            if entry.needs is None:
                assert load(group, name) is not None, (group, name)
