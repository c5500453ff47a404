"""The checkpoint's own chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import jinja2.meta
from transformers.utils.chat_template_utils import render_jinja_template

from swift.errors import RenderError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ENDS = re.compile(r"\{%-?\s*endgeneration\s*-?%\}")
_HANDED = frozenset(
    (
        *("messages", "tools", "documents", "add_generation_prompt", "raise_exception"),
        *("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens"),
        *("strftime_now", "tojson"),
    )
)
"""What templates read that no request may set."""


@dataclass(frozen=True)
class Template:
    """A Jinja chat template with the variables that the tokenizer hands to it.

    ``sources`` holds the templates by name; most checkpoints have one, ``default``; some have
    another for conversations with tools, ``tool_use``.
    """

    sources: Mapping[str, str]
    variables: Mapping[str, Any] = field(default_factory=dict)

    def names(self, role: str) -> bool:
        """Whether a role is written in it by name."""
        quoted = re.compile(rf"['\"]{re.escape(role)}['\"]")
        return any(quoted.search(source) for source in self.sources.values())

    @property
    def switches(self) -> frozenset[str]:
        """Variables that it reads and nobody hands to it unasked: ``enable_thinking`` ..."""
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
        found: set[str] = set()
        for source in self.sources.values():
            tree = environment.parse(_ENDS.sub("", _GENERATION.sub("", source)))
            found |= jinja2.meta.find_undeclared_variables(tree)
        return frozenset(found - _HANDED - environment.globals.keys())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        generate: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as this checkpoint writes it.

        Args:
            messages: mappings with ``role``, ``content`` ...
            tools: tool definitions.
            generate: end with the header of an answer to come.
            kwargs: what else the template reads, such as ``enable_thinking``.

        Raises:
            RenderError: the template refuses the conversation.
        """
        return self.render_marked(messages, tools, generate=generate, kwargs=kwargs)[0]

    def render_marked(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        generate: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """The same, and where its ``{% generation %}`` blocks lie; None: it has none."""
        name = "tool_use" if tools and "tool_use" in self.sources else "default"
        marked = bool(_GENERATION.search(self.sources[name]))
        try:
            found: Any = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self.sources[name],
                add_generation_prompt=generate,
                return_assistant_tokens_mask=marked,
                **{**self.variables, **(kwargs or {})},
            )
        except jinja2.TemplateError as error:
            raise RenderError(f"the chat template refuses it: {error.message or error}") from None
        except RecursionError:
            raise RenderError("the chat template cannot write it: nested too deeply") from None
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise RenderError(f"the chat template cannot write it: {error}") from None
        return str(found[0][0]), [tuple(span) for span in found[1][0]] if marked else None
