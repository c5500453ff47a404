"""Rows of tasks beside writing -> tokens, labels, and which text they belong to in a batch."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from swift.chat.load import renderer_for
from swift.chat.render import Renderer
from swift.config.model import ModelSection
from swift.data.encode import EncodeSettings, compact_row
from swift.data.formats.form import formats
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.data.tokens import Compact
from swift.errors import DataError

TOKENIZER = tiny.make_tokenizer()


@pytest.fixture(scope="module")
def renderer(checkpoint: Path) -> Renderer:
    return renderer_for(checkpoint, ModelSection(path=str(checkpoint)))


def read(row: dict[str, Any], task: str, renderer: Renderer) -> Compact:
    raw, settings = json.dumps(row).encode(), EncodeSettings(kind=task)
    (found,) = compact_row(raw, renderer, settings, formats(task), Path())
    return found


def written(*turns: tuple[str, str]) -> list[int]:
    """As the template has it, up to an answer that is still to come."""
    messages = [{"role": role, "content": text} for role, text in turns]
    ask = turns[-1][0] != "assistant"
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def split(found: Compact) -> list[list[int]]:
    ends = np.cumsum((0, *found.parts))
    return [found.tokens[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("label", [2, 0.5, [0, 2], [0.25, 1.5], []])
def test_a_text_with_its_labels(label: Any, renderer: Renderer) -> None:
    found = read({"text": "Who are you?", "label": label}, "classification", renderer)
    assert split(found) == [written(("user", "Who are you?"))]
    assert found.labels == tuple(label if isinstance(label, list) else [label])
    assert set(found.weights) == {1.0} and sum(found.runs) == len(found.tokens)


def test_a_conversation_is_read_to_its_end(renderer: Renderer) -> None:
    turns = [("user", "Who are you?"), ("assistant", "My name is Apus.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    found = read({"messages": messages, "label": 1}, "classification", renderer)
    assert split(found) == [written(*turns)]


def test_an_anchor_comes_first(renderer: Renderer) -> None:
    row = {"anchor": "q", "positive": ["a", "b"], "negative": "c"}
    found = read(row, "embedding", renderer)
    assert split(found) == [written(("user", text)) for text in "qabc"]
    assert found.labels == (1.0, 1.0, 0.0)
    found = read({"sentence1": "q", "sentence2": "a", "score": 0.25}, "embedding", renderer)
    assert found.labels == (0.25,) and len(found.parts) == 2


def test_a_document_answers_its_query(renderer: Renderer) -> None:
    row = {"query": "q", "documents": ["a", "b"], "labels": [0, 1]}
    found = read(row, "ranking", renderer)
    assert split(found) == [written(("user", "q"), ("assistant", text)) for text in "ab"]
    assert found.labels == (0.0, 1.0)


def test_media_are_refused(renderer: Renderer) -> None:
    row = {"text": "<image>What is it?", "images": ["a.png"], "label": 1}
    with pytest.raises(DataError, match="image"):
        read(row, "classification", renderer)


def test_a_batch_knows_whose_texts_and_labels_they_are() -> None:
    def sample(parts: tuple[int, ...], labels: tuple[float, ...]) -> Sample:
        length = sum(parts)
        return Sample(
            np.arange(length, dtype=np.int32), np.ones(length, np.float32), "row", (), parts, labels
        )

    laid = pack([sample((2, 3, 4), (1, 0)), sample((5,), ()), sample((2, 2), (1,))], whole=True)
    assert laid.sample_Q.tolist() == [0, 0, 0, 1, 2, 2]
    assert laid.sample_Y.tolist() == [0, 0, 2] and laid.labels.tolist() == [1, 0, 1]
    assert laid.ends_Q.tolist() == [1, 4, 8, 13, 15, 17]
    empty = pack([], 4)
    assert len(empty.sample_Q) == len(empty.sample_Y) == 0
