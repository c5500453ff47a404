"""Chat templates in the manner of the common families, each with the tokens that it needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import tiny
from swift.chat.render import Renderer, RendererSpec


@dataclass(frozen=True)
class Family:
    """A template, its control tokens, and what stands around an answer in its text."""

    template: str
    header: str  # before an answer
    stop: str  # behind it; the token that ends it
    tokens: tuple[Any, ...] = ()
    systems: bool = True  # knows a system turn
    eos: str = "<|im_end|>"

    def tokenizer(self) -> PreTrainedTokenizerFast:
        made = tiny.make_tokenizer()
        made.add_special_tokens({"additional_special_tokens": list(self.tokens)})
        made.eos_token = self.eos
        made.chat_template = self.template
        return made

    def renderer(self) -> Renderer:
        return renderer_of(self.tokenizer())


def renderer_of(tokenizer: Any, *, end_ids: tuple[int, ...] | None = None) -> Renderer:
    ends = (tokenizer.eos_token_id,) if end_ids is None else end_ids
    names = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    templates = {"default": tokenizer.chat_template} if tokenizer.chat_template else {}
    return Renderer(
        RendererSpec(
            tokenizer.backend_tokenizer.to_str(), templates, names, ends, tokenizer.eos_token_id
        )
    )


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + tiny.CHATML
)
GENERATION = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRIPS_THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% set text = m['content'] %}{% if m['role'] == 'assistant' and loop.index0 < ns.last %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}"
    "{{ eos_token }}{% endif %}"
)
NO_STOP = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

FAMILIES = {
    "chatml": Family(tiny.CHATML, "<|im_start|>assistant\n", "<|im_end|>"),
    "llama3": Family(
        LLAMA3,
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        eos="<|endoftext|>",
    ),
    "gemma": Family(
        GEMMA,
        "<start_of_turn>model\n",
        "<end_of_turn>",
        ("<start_of_turn>", "<end_of_turn>"),
        systems=False,
        eos="<|endoftext|>",
    ),
    "default-system": Family(DEFAULT_SYSTEM, "<|im_start|>assistant\n", "<|im_end|>"),
    "generation": Family(GENERATION, "<|im_start|>assistant\n", "<|im_end|>"),
    "strips-thinking": Family(STRIPS_THINKING, "<|im_start|>assistant\n", "<|im_end|>"),
    "mistral": Family(MISTRAL, "[/INST]", "<|im_end|>", ("[INST]", "[/INST]")),
    "phi": Family(
        PHI,
        "<|assistant|>\n",
        "<|end|>",
        tuple(
            AddedToken(f"<|{name}|>", special=True, rstrip=True)
            for name in ("system", "user", "assistant", "end")
        ),
    ),
}


def without_spelling(tokenizer_json: str, **changes: Any) -> str:
    """The JSON of a tokenizer with some of its parts replaced."""
    return json.dumps({**json.loads(tokenizer_json), **changes})
