"""Rows of tasks beside a conversation -> samples of several sequences, or with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swift.chat.message import Conversation, Message, Rendered
from swift.chat.render import Renderer
from swift.data.formats.meaning import (
    SYSTEMS,
    Classification,
    Embedding,
    Meaning,
    Preference,
    Ranking,
    Steps,
    Unpaired,
    kind_of,
)
from swift.data.tokens import Compact, compact, joined
from swift.errors import RenderError


def labelled(meaning: Meaning, renderer: Renderer, learn: str) -> Compact:
    """The sample of a row: of a pair the chosen answer's sequence, then the rejected one's.

    Labels are the margin of a pair, where it has one; 1 for a good answer and 0 for a bad one; the
    classes or numbers of a text; of an anchor with texts 1 (or the score) for each positive and 0
    for each negative, whose sequences follow the anchor's; the relevance of every document.

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
        case Classification(conversation, label):
            labels = label if isinstance(label, tuple) else (label,)
            return joined([_read(conversation, renderer, "it")], [float(one) for one in labels])
        case Embedding(anchor, positives, negatives, score):
            texts = [("anchor", anchor)]
            texts += [(f"positive {i}", text) for i, text in enumerate(positives, 1)]
            texts += [(f"negative {i}", text) for i, text in enumerate(negatives, 1)]
            near = 1.0 if score is None else score
            labels = (*[near] * len(positives), *[0.0] * len(negatives))
            return joined([_read(text, renderer, name) for name, text in texts], labels)
        case Ranking(query, documents, labels, asked):
            joining = question if asked else _answered
            pairs = [joining(query, document) for document in documents]
            read = [_read(pair, renderer, f"document {i}") for i, pair in enumerate(pairs, 1)]
            return joined(read, labels)
        case Steps(conversation, steps, labels):
            return joined([_judged(conversation, steps, renderer)], labels)
        case _:
            raise RenderError(f"a row of kind {kind_of(meaning)} cannot be learned from here")


def _answered(query: Conversation, document: Conversation) -> Conversation:
    """A document as the answer to its query."""
    turns = (replace(message, role="assistant") for message in document.messages)
    return replace(query, messages=(*query.messages, *turns))


JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def question(query: Conversation, document: Conversation) -> Conversation:
    """Whether a document fits a query, as Qwen3-Reranker is asked; a system message of the query is
    the instruction.

    Raises:
        RenderError: the query is more than a message of a user.
    """
    system = [m.content for m in query.messages if m.role in SYSTEMS]
    turns = [m.content for m in query.messages if m.role not in SYSTEMS]
    if len(turns) != 1 or not all(isinstance(one, str) for one in (*turns, *system)):
        raise RenderError("a query with documents is one message, of text")
    text = "\n".join(str(message.content) for message in document.messages)
    asked = (
        f"<Instruct>: {system[0] if system else INSTRUCTION}\n<Query>: {turns[0]}\n"
        f"<Document>: {text}"
    )
    return replace(query, messages=(Message("system", JUDGE), Message("user", asked)))


def _read(conversation: Conversation, renderer: Renderer, name: str) -> Compact:
    """A conversation as tokens that are all read for what the model says of it as a whole: behind
    a user's turn stands the beginning of an answer, as before one is written.
    """
    if conversation.media:
        raise RenderError(f"{name}: images, videos and sounds are not read for this task yet")
    try:
        if conversation.messages and conversation.messages[-1].role == "assistant":
            (found,) = renderer.render(conversation, "all")
            return compact(found)
        given = conversation.messages, conversation.tools, conversation.template_kwargs
        tokens = renderer.prompt(*given)
    except RenderError as error:
        raise RenderError(f"{name}: {error}") from None
    return compact(Rendered(tokens, [1.0] * len(tokens)))


def in_steps(
    prompt: Sequence[int], steps: Sequence[str], renderer: Renderer
) -> tuple[list[int], list[int]]:
    """A prompt with the steps of an answer behind it, each with the end of a line.

    Returns:
        The tokens, and where the last token of each step stands.
    """
    tokens, ends = list(prompt), []
    for step in steps:
        tokens += [*renderer.tokenizer.encode(step).ids, *renderer.tokenizer.encode("\n").ids]
        ends.append(len(tokens) - 1)
    return tokens, ends


def _judged(conversation: Conversation, steps: Sequence[str], renderer: Renderer) -> Compact:
    """Steps as tokens. What is learned at the end of a step is said by the weight of the token
    behind it, as everywhere; behind the last one a stop token stands for that.
    """
    if conversation.media:
        raise RenderError("images, videos and sounds are not read for this task yet")
    given = conversation.messages, conversation.tools, conversation.template_kwargs
    tokens, ends = in_steps(renderer.prompt(*given), steps, renderer)
    weights = [0.0] * (len(tokens) + 1)
    for end in ends:
        weights[end + 1] = 1.0
    return compact(Rendered([*tokens, min(renderer.stop_ids)], weights))


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
