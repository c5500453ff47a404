"""Losses of classes, rankings and embeddings, against loops in float64 and against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification
from transformers.loss.loss_utils import ForSequenceClassificationLoss

import tiny
from swift.config.task import EmbeddingSection
from swift.losses import classification, contrastive, ranking
from swift.losses.contrastive import Texts


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KINDS = ["regression", "single_label_classification", "multi_label_classification"]


@pytest.mark.parametrize("kind", KINDS)
def test_classes_cost_what_transformers_says(kind: str) -> None:
    outputs = numbers(5, 4).float().requires_grad_()
    labels: Any = {
        "regression": numbers(5, 4, seed=1).float(),
        "single_label_classification": torch.tensor([0, 3, 1, 1, 2]),
        "multi_label_classification": (numbers(5, 4, seed=2) > 0).float(),
    }[kind]
    ours = {
        "regression": classification.regression,
        "single_label_classification": classification.single_label,
        "multi_label_classification": classification.multi_label,
    }[kind](outputs, labels)
    (slope,) = torch.autograd.grad(ours.total / 5, outputs)
    config = LlamaForSequenceClassification(tiny.make_config(num_labels=4)).config
    config.problem_type = kind
    theirs = ForSequenceClassificationLoss(labels, outputs, config)
    (expected,) = torch.autograd.grad(theirs, outputs)
    torch.testing.assert_close(ours.total / 5, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-7)


SCORES, LABELS = numbers(9), torch.tensor([1, 0, 0, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
QUERY = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])  # the last one has nothing that is relevant


def groups() -> list[list[tuple[float, float]]]:
    pairs = list(zip(SCORES.tolist(), LABELS.tolist(), strict=True))
    return [[pair for pair, q in zip(pairs, QUERY, strict=True) if q == one] for one in range(3)]


def test_documents_one_by_one() -> None:
    expected = 0.0
    for group in groups():
        for score, label in group:
            chance = 1 / (1 + math.exp(-score))
            expected -= (label * math.log(chance) + (1 - label) * math.log(1 - chance)) / len(group)
    assert float(ranking.pointwise(SCORES, LABELS, QUERY).total) == pytest.approx(expected, 1e-12)


def test_documents_of_a_query_against_each_other() -> None:
    expected = 0.0
    for group in groups():
        below = sum(math.exp(score) for score, _ in group)
        relevant = sum(label for _, label in group)
        for score, label in group:
            if label:
                expected -= label / relevant * math.log(math.exp(score) / below)
    scores = SCORES.clone().requires_grad_()
    found = ranking.listwise(scores, LABELS, QUERY)
    assert float(found.total) == pytest.approx(expected, 1e-12)
    found.total.backward()
    assert scores.grad is not None and scores.grad.isfinite().all() and (scores.grad[7:] == 0).all()


def test_ranks() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 9.0, 8.0, 7.0])
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    said = ranking.pointwise(scores, labels, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert float(said.sums["top1"]) == 1 and float(said.counts["top1"]) == 2
    assert float(said.sums["mrr"]) == pytest.approx(1 / 3 + 1)


def texts(**changes: Any) -> Texts:
    """Three anchors: two positives and a negative; one of each; a positive alone."""
    whole = {
        "anchors_BD": numbers(3, 6),
        "others_MD": numbers(6, 6, seed=1),
        "anchor_M": torch.tensor([0, 0, 0, 1, 1, 2]),
        "labels_M": torch.tensor([1, 1, 0, 1, 0, 1], dtype=torch.float64),
    }
    return Texts(**{**whole, **changes})


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def naive_infonce(given: Texts, in_batch: bool, margin: float | None, temperature: float) -> float:
    total = 0.0
    count = len(given.others_MD)
    for a, anchor in enumerate(given.anchors_BD):
        near = [cosine(anchor, other) for other in given.others_MD]
        mine = [int(given.anchor_M[m]) == a for m in range(count)]
        good = [m for m in range(count) if mine[m] and given.labels_M[m] == 1]
        bad = [m for m in range(count) if m not in good and (in_batch or mine[m])]
        for m in good:
            kept = [n for n in bad if margin is None or near[n] <= near[m] + margin]
            top = math.exp(near[m] / temperature)
            below = top + sum(math.exp(near[n] / temperature) for n in kept)
            total -= math.log(top / below) / len(good)
    return total


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("margin", [None, 0.05])
def test_infonce(in_batch: bool, margin: float | None) -> None:
    section = EmbeddingSection(
        temperature=0.3,
        in_batch=in_batch,
        mask_fake_negatives=margin is not None,
        fake_negative_margin=margin or 0.1,
    )
    expected = naive_infonce(texts(), in_batch, margin, 0.3)
    anchors = numbers(3, 6).requires_grad_()
    loss = contrastive.infonce(texts(anchors_BD=anchors), section)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert anchors.grad is not None and anchors.grad.isfinite().all()


def test_matryoshka_adds_up_the_beginnings() -> None:
    section = EmbeddingSection(mrl_dims=[2, 4], temperature=0.3)
    expected = sum(naive_infonce(texts().first(n), True, None, 0.3) for n in (2, 4, 6))
    assert float(contrastive.embedding(texts(), section).total) == pytest.approx(expected, 1e-12)


def pairs(given: Texts) -> list[tuple[float, float]]:
    return [
        (cosine(given.anchors_BD[given.anchor_M[m]], given.others_MD[m]), float(given.labels_M[m]))
        for m in range(len(given.others_MD))
    ]


def test_scores_of_pairs() -> None:
    given = texts(labels_M=torch.tensor([0.2, 0.9, -0.3, 1, 0, 0.5], dtype=torch.float64))
    expected = sum((near - label) ** 2 for near, label in pairs(given))
    found = contrastive.cosine_similarity(given, EmbeddingSection())
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_pairs_that_are_alike_or_not() -> None:
    margin, expected = 0.9, 0.0
    for near, label in pairs(texts()):
        far = 1 - near
        expected += 0.5 * (label * far**2 + (1 - label) * max(0, margin - far) ** 2)
    found = contrastive.contrastive(texts(), EmbeddingSection(margin=margin))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_hard_pairs() -> None:
    margin = 1.2
    good = [1 - near for near, label in pairs(texts()) if label == 1]
    bad = [1 - near for near, label in pairs(texts()) if label == 0]
    hard = [far for far in good if far > min(bad)], [far for far in bad if far < max(good)]
    assert hard[0] and hard[1]
    expected = sum(far**2 for far in hard[0]) + sum(max(0, margin - far) ** 2 for far in hard[1])
    found = contrastive.online_contrastive(texts(), EmbeddingSection(margin=margin))
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", contrastive.LOSSES)
def test_a_process_without_rows_learns_nothing(loss: Any) -> None:
    """Its loss still has a gradient, zero, so that others do not wait for it."""
    weight = torch.ones(1, 6, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = Texts(weight[:0], weight[:0], nothing, torch.zeros(0))
    found = contrastive.embedding(empty, EmbeddingSection(loss_type=loss))
    assert float(found.total) == 0 and all(float(value) == 0 for value in found.sums.values())
    found.total.backward()
    assert weight.grad is not None and (weight.grad == 0).all()
