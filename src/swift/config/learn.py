"""Which tokens of a conversation are learned: the names that a run may join with ``+``."""

from __future__ import annotations

from swift import registry

TURNS = ("default", "last_round", "all")
"""Which turns: every assistant turn, those behind the last user's, every token there is."""

for _name in (
    *("ignore_empty_think", "ignore_think_prefix"),
    *("hermes", "react", "alpha_umi", "qwen", "agentflan"),
):
    registry.register("learn", _name, f"swift.chat.weights:{_name}")


def unknown(value: str) -> str | None:
    """Why a value names nothing that is known; None: it does."""
    known = [*TURNS, *registry.entries("learn")]
    wrong = [name for name in value.split("+") if name not in known]
    return f"{wrong[0]!r} is not one of {', '.join(known)}; join several with +" if wrong else None
