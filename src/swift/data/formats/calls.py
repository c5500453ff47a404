"""Tool calls and tool definitions in the forms that people write, all as OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.chat.message import ToolCall
from swift.data.formats.form import kind_word, text_of, unpacked
from swift.errors import DataError

_ARGUMENTS = ("arguments", "parameters", "input")
_PARAMETERS = ("parameters", "input_schema", "inputSchema")


def call_of(call: Any, where: str) -> ToolCall:
    """One tool call from its mapping, OpenAI's or the inner one alone."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} has no function name")
    key = next((key for key in _ARGUMENTS if function.get(key) is not None), "arguments")
    arguments = unpacked(function.get(key), f"{where}.{key}") or {}
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.{key} should be a JSON object")
    return ToolCall(function["name"], arguments, id_of(call.get("id"), f"{where}.id"))


def calls_of(value: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls of one turn: a mapping, a list of them, or the JSON text of either."""
    value = unpacked(value, where)
    many = value if isinstance(value, list) else [value]
    return tuple(call_of(call, where.rpartition(".")[0] or where) for call in many)


def id_of(value: Any, where: str) -> str | None:
    """A name or number of a call, if there is one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else text_of(value, where)


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool definitions in OpenAI's form: from a list, its JSON text, or a list of JSON texts.

    Known are OpenAI's form, its inner function alone, and Anthropic's.

    Raises:
        DataError: one of them is no object, or has no name.
    """
    value = unpacked(value, "tools")
    if isinstance(value, Mapping):
        value = [value]
    if not value:
        return ()
    if not isinstance(value, list):
        raise DataError("tools should be a list of JSON objects")
    return tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(value))


def _tool(tool: Any, where: str) -> Mapping[str, Any]:
    tool = unpacked(tool, where)
    if not isinstance(tool, Mapping):
        raise DataError(f"tools should be a list of JSON objects, {where} is {kind_word(tool)}")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} has no name")
    if function is not tool:
        return tool if "type" in tool else {"type": "function", **tool}
    inner = {k: v for k, v in tool.items() if k not in ("type", *_PARAMETERS)}
    key = next((key for key in _PARAMETERS if tool.get(key) is not None), None)
    return {"type": "function", "function": {**inner, **({"parameters": tool[key]} if key else {})}}
