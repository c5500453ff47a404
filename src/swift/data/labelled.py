"""Rows of tasks beside a conversation -> samples of several sequences, or with labels."""

from __future__ import annotations

from swift.chat.message import Conversation
from swift.chat.render import Renderer
from swift.data.formats.meaning import Meaning, Preference, Unpaired, kind_of
from swift.data.tokens import Compact, compact, joined
from swift.errors import RenderError


def labelled(meaning: Meaning, renderer: Renderer, learn: str) -> Compact:
    """The sample of a row: of a pair the chosen answer's sequence, then the rejected one's.

    Labels are the margin of a pair, where it has one, or 1 for a good answer and 0 for a bad one.

    Raises:
        RenderError: a conversation cannot be rendered, or there is no such task.
    """
    match meaning:
        case Preference(chosen, rejected, margin):
            pair = [
                _sequence(conversation, renderer, learn, name)
                for name, conversation in (("chosen", chosen), ("rejected", rejected))
            ]
            if pair[0].tokens == pair[1].tokens:
                raise RenderError("chosen and rejected are the same tokens")
            return joined(pair, [] if margin is None else [margin])
        case Unpaired(conversation, good):
            return joined([_sequence(conversation, renderer, learn, "it")], [float(good)])
        case _:
            raise RenderError(f"a row of kind {kind_of(meaning)} cannot be learned from here")


def _sequence(conversation: Conversation, renderer: Renderer, learn: str, name: str) -> Compact:
    """A conversation as one sequence of tokens."""
    try:
        found = renderer.render(conversation, learn)
    except RenderError as error:
        raise RenderError(f"{name}: {error}") from None
    if len(found) != 1:
        raise RenderError(
            f"{name}: the template writes its turns as {len(found)} texts, and an answer is one; "
            "use --loss_scale last_round, or set loss to false on the turns before the last"
        )
    return compact(found[0])
