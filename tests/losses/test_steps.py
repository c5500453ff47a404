"""Process rewards: where labels stand and what they cost is what TRL's PRMTrainer says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForTokenClassification

import tiny
from swift.chat.load import load_renderer
from swift.config.alignment import PrmSection
from swift.data.batch import batch
from swift.data.encode import EncodeSettings, compact_row
from swift.data.formats.form import formats
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.models.attention import choose_layout
from swift.train.reference import NO_REFERENCE
from swift.train.steps import StepObjective

TRL = json.loads(Path(__file__).with_name("trl_prm.json").read_text())


def samples(checkpoint: Path) -> list[Sample]:
    renderer = load_renderer(checkpoint)
    made = []
    for i, row in enumerate(TRL["rows"]):
        raw = json.dumps(row).encode()
        (one,) = compact_row(raw, renderer, EncodeSettings("steps"), formats("steps"), Path())
        weights = np.repeat(np.float32(one.weights), one.runs)
        tokens = np.array(one.tokens, np.int32)
        made.append(Sample(tokens, weights, f"row {i}", (), tuple(one.parts), tuple(one.labels)))
    return made


def test_labels_stand_where_trl_puts_them(checkpoint: Path) -> None:
    for sample, theirs in zip(samples(checkpoint), TRL["samples"], strict=True):
        assert sample.tokens[:-1].tolist() == theirs["input_ids"]  # and a stop token
        ends = [i for i, label in enumerate(theirs["labels"]) if label != -100]
        assert (np.flatnonzero(sample.weights) - 1).tolist() == ends
        assert list(sample.labels) == [theirs["labels"][i] for i in ends]


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_is_that_of_trl(checkpoint: Path, packed: bool) -> None:
    torch.manual_seed(0)
    model = LlamaForTokenClassification(tiny.make_config(num_labels=2)).eval()
    choose_layout(model, "auto" if packed else "eager")
    objective = StepObjective(PrmSection(), model, NO_REFERENCE)
    laid = batch(pack(samples(checkpoint)), packed=packed)
    out = objective(laid)
    assert laid.weight == 5.0
    assert float(out["total"]) / laid.weight == pytest.approx(TRL["loss"], rel=1e-5)
