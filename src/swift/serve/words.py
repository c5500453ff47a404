"""Tokens of texts and conversations, without an answer (vLLM's /tokenize and /detokenize)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from swift.chat.message import Conversation
from swift.serve.answer import Answerer
from swift.serve.ask import Ask
from swift.serve.completions import Ids
from swift.serve.openai_messages import ChatMessage, OfferedTool, messages_of
from swift.serve.refused import wrong
from swift.serve.wire import Defaults, Wire, check_media


class Tokenize(Wire):
    """The body of ``POST /tokenize``: a text, or messages as a chat is asked with them."""

    model: str
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[OfferedTool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class Detokenize(Wire):
    """The body of ``POST /detokenize``."""

    model: str
    tokens: Ids


def asked(wire: Tokenize, defaults: Defaults) -> Ask:
    """What the tokens are of.

    Raises:
        Refused: it is not one of the two.
    """
    if (wire.prompt is None) == (wire.messages is None):
        raise wrong("prompt", "give either a prompt or messages")
    if wire.prompt is not None:
        return Ask(wire.model, (wire.prompt,), defaults.sampling)
    tools = tuple(tool.for_template() for tool in wire.tools or ())
    messages = messages_of(wire.messages or ())
    conversation = Conversation(messages, tools, wire.chat_template_kwargs or {})
    check_media(conversation, defaults)
    return Ask(wire.model, conversation, defaults.sampling)


def tokens_of(wire: Tokenize, ask: Ask, answerer: Answerer) -> dict[str, Any]:
    """The tokens on the wire."""
    tokens = answerer.tokens(ask)
    found: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": answerer.engine.context,
        "tokens": tokens,
    }
    if wire.return_token_strs:
        tokenizer = answerer.renderer.tokenizer
        found["token_strs"] = [tokenizer.decode([id], keep_special=True) for id in tokens]
    return found


def text_of(wire: Detokenize, answerer: Answerer) -> dict[str, Any]:
    """The text of tokens on the wire.

    Raises:
        Refused: an id is not one of the vocabulary.
    """
    tokenizer = answerer.renderer.tokenizer
    if max(wire.tokens) >= tokenizer.size:
        raise wrong("tokens", f"an id is not below {tokenizer.size}, the vocabulary's size")
    return {"prompt": tokenizer.decode(wire.tokens, keep_special=True)}
