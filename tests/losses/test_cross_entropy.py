"""The chunked cross-entropy is the plain one: its loss, its gradients, and never all its logits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import tiny
from swift.config.tuner import LoraSection
from swift.data.batch import batch
from swift.data.pack import pack
from swift.losses import cross_entropy as room
from swift.losses.cross_entropy import chunk_rows, cross_entropy
from swift.losses.loss import Loss
from swift.models.attention import choose_layout
from swift.models.heads import find_head
from swift.train.objective import Objective
from swift.tune.lora import attach

N, D, V = 200, 16, 50
CHUNKS = {"one chunk": 10**6, "two chunks": 128 * V, "many chunks": 1}


@pytest.fixture(params=CHUNKS)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(room.CHUNK_ELEMENTS, "cpu", CHUNKS[request.param])
    rows = {"one chunk": N, "two chunks": 128, "many chunks": 64}[request.param]
    assert min(chunk_rows(V, torch.device("cpu")), N) == rows


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Hidden states, targets and weights that are 1 or not."""
    torch.manual_seed(0)
    hidden_ND = torch.randn(N, D).to(dtype).requires_grad_()
    weights_N = torch.rand(N) * 3
    weights_N[::3] = 1
    return hidden_ND, torch.randint(V, (N,)), weights_N


def naive(logits_NV: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor) -> Any:
    each_N = F.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return (each_N * weights_N).sum()


def compare(
    head: Callable[[torch.Tensor], torch.Tensor],
    learning: list[nn.Parameter],
    dtype: torch.dtype = torch.float32,
    bound: float = 1e-5,
) -> Loss:
    """Loss and all gradients against the plain formula; the slope from above is not 1."""
    hidden_ND, targets_N, weights_N = problem(dtype)
    inputs = [hidden_ND, *learning]
    expected = naive(head(hidden_ND), targets_N, weights_N)
    right = torch.autograd.grad(0.25 * expected, inputs)
    found = cross_entropy(hidden_ND, targets_N, weights_N, head, learning, V)
    grads = torch.autograd.grad(0.25 * found.total, inputs)
    torch.testing.assert_close(found.total, expected, rtol=bound, atol=0)
    for grad, exact in zip(grads, right, strict=True):
        assert grad.dtype == exact.dtype
        assert (grad - exact).norm() <= bound * exact.norm()
    return found


def test_loss_and_gradients_equal_the_plain_formula(chunks: None) -> None:
    head = nn.Linear(D, V)
    compare(head, list(head.parameters()))


def test_a_head_without_bias(chunks: None) -> None:
    head = nn.Linear(D, V, bias=False)
    compare(head, [head.weight])


def test_a_frozen_head(chunks: None) -> None:
    head = nn.Linear(D, V).requires_grad_(False)
    compare(head, [])


def test_frozen_hidden_states(chunks: None) -> None:
    """Only the head learns."""
    head = nn.Linear(D, V)
    hidden_ND, targets_N, weights_N = problem()
    hidden_ND = hidden_ND.detach()
    naive(head(hidden_ND), targets_N, weights_N).backward()
    right = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    cross_entropy(hidden_ND, targets_N, weights_N, head, [*head.parameters()], V).total.backward()
    for parameter, exact in zip(head.parameters(), right, strict=True):
        torch.testing.assert_close(parameter.grad, exact, rtol=1e-5, atol=1e-6)


def test_a_head_with_a_soft_cap(chunks: None) -> None:
    linear = nn.Linear(D, V)
    compare(lambda hidden: torch.tanh(linear(hidden) / 2) * 2, list(linear.parameters()))


def test_a_head_with_a_scale(chunks: None) -> None:
    linear = nn.Linear(D, V)
    compare(lambda hidden: linear(hidden) * 0.0625, list(linear.parameters()))


def test_a_head_with_an_adapter(chunks: None) -> None:
    model = tiny.make_model(hidden_size=D, vocab_size=V, tie_word_embeddings=False)
    attach(LoraSection(rank=4, targets=["lm_head"]), model, [], "base")
    with torch.no_grad():
        model.lm_head.lora_B["default"].weight.normal_(std=0.1)
    head = find_head(model)
    assert len(head.learning()) == 2
    compare(head, head.learning())


def test_bfloat16_hidden_states_and_head(chunks: None) -> None:
    """Within bfloat16's rounding (8 bits) of logits and gradients."""
    head = nn.Linear(D, V, dtype=torch.bfloat16)
    compare(head, list(head.parameters()), torch.bfloat16, bound=1e-2)


def test_bfloat16_logits_are_summed_in_float32(chunks: None) -> None:
    head = nn.Linear(D, V, dtype=torch.bfloat16)
    hidden_ND, targets_N, weights_N = problem(torch.bfloat16)
    expected = naive(head(hidden_ND), targets_N, weights_N)
    found = cross_entropy(hidden_ND, targets_N, weights_N, head, [], V)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=0)


def test_under_autocast(chunks: None) -> None:
    """As a model with float32 weights is trained in bfloat16."""
    head = nn.Linear(D, V)
    with torch.autocast("cpu", torch.bfloat16):
        compare(head, list(head.parameters()), bound=1e-2)


def test_nothing_learned_gives_zero_with_a_graph() -> None:
    head = nn.Linear(D, V)
    hidden_ND = torch.randn(5, D, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = cross_entropy(hidden_ND[none], none, torch.zeros(0), head, [*head.parameters()], V)
    assert loss.total.item() == 0
    loss.total.backward()
    for tensor in (hidden_ND, head.weight, head.bias):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_without_gradients_as_in_an_evaluation(chunks: None) -> None:
    head = nn.Linear(D, V)
    hidden_ND, targets_N, weights_N = problem()
    with torch.no_grad():
        found = cross_entropy(hidden_ND, targets_N, weights_N, head, [*head.parameters()], V)
        expected = naive(head(hidden_ND), targets_N, weights_N)
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=0)


def test_accuracy_counts_the_weight_of_the_right_ones(chunks: None) -> None:
    head = nn.Linear(D, V)
    hidden_ND, targets_N, weights_N = problem()
    best_N = head(hidden_ND).argmax(-1)
    targets_N[::2] = best_N[::2]
    found = cross_entropy(hidden_ND, targets_N, weights_N, head, [], V)
    expected = weights_N[best_N == targets_N].sum()
    torch.testing.assert_close(found.sums["token_accuracy"], expected, rtol=1e-5, atol=0)
    assert not found.sums["token_accuracy"].requires_grad


def test_huge_logits_do_not_overflow(chunks: None) -> None:
    head = nn.Linear(D, V)
    with torch.no_grad():
        head.weight.mul_(1e4)
    compare(head, list(head.parameters()))


class Largest(TorchDispatchMode):
    """Records the most elements of a tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


def test_all_logits_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, vocabulary = 640, 1000
    monkeypatch.setitem(room.CHUNK_ELEMENTS, "cpu", 64 * vocabulary)
    head = nn.Linear(D, vocabulary)
    hidden_ND = torch.randn(positions, D, requires_grad=True)
    targets_N, weights_N = torch.randint(vocabulary, (positions,)), torch.ones(positions)
    with Largest() as ours:
        learning = list(head.parameters())
        cross_entropy(hidden_ND, targets_N, weights_N, head, learning, vocabulary).total.backward()
    assert ours.elements == 64 * vocabulary
    with Largest() as plain:
        naive(head(hidden_ND), targets_N, weights_N).backward()
    assert plain.elements == positions * vocabulary


def test_rows_of_a_chunk_are_multiples_of_64() -> None:
    for vocabulary in (10, 32_000, 151_936, 10**7):
        rows = chunk_rows(vocabulary, torch.device("cpu"))
        assert rows >= 64 and rows % 64 == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_model_has_the_gradients_of_transformers_own_loss(tied: bool) -> None:
    model = tiny.make_model(tie_word_embeddings=tied)
    tokens = torch.randint(3, 400, (1, 90))
    mean = model(input_ids=tokens, labels=tokens).loss
    (mean * 89).backward()
    right = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sample = tiny.Sample(tokens[0].int().numpy(), torch.ones(90).numpy(), "row")
    choose_layout(model)
    total = Objective(model, find_head(model))(batch(pack([sample])))["total"]
    total.backward()
    torch.testing.assert_close(total, mean * 89, rtol=1e-6, atol=0)
    assert len(right) == (29 if tied else 30)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - right[name]).norm() <= 1e-5 * right[name].norm(), name


def test_it_does_not_matter_how_a_step_is_cut_into_micro_batches() -> None:
    model = tiny.make_model()
    choose_layout(model)
    objective, samples = Objective(model, find_head(model)), tiny.samples(30, 8, 55, 19, 41)
    results = []
    for cuts in ([0, 5], [0, 1, 2, 3, 4, 5], [0, 2, 5]):
        parts = [samples[a:b] for a, b in pairwise(cuts)]
        totals = [objective(batch(pack(part)))["total"] for part in parts]
        sum(totals).backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        results.append((sum(totals).detach(), grads))
        model.zero_grad()
    (whole, right), *others = results
    for total, grads in others:
        torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)
        for name, grad in grads.items():
            assert (grad - right[name]).norm() <= 1e-5 * right[name].norm(), name


def test_it_is_the_number_of_trl(tmp_path: Path) -> None:
    """trl 1.16's SFTTrainer on the same two samples: one padded, -100 for what is not learned."""
    trl = pytest.importorskip("trl", reason="compares with trl==1.16.0, which is not installed")
    datasets = pytest.importorskip("datasets")
    model, samples = tiny.make_model(), tiny.samples(37, 21)
    for sample in samples:
        sample.weights[:] = sample.weights > 0
    rows = []
    for sample in samples:
        labels = [t if w else -100 for t, w in zip(sample.tokens, sample.weights, strict=True)]
        rows.append({"input_ids": sample.tokens.tolist(), "labels": [int(t) for t in labels]})
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(str(tmp_path), use_cpu=True, report_to="none", max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny.make_tokenizer(),
    )
    inputs = trainer.data_collator(rows)
    count = int((inputs["labels"][:, 1:] != -100).sum())
    expected = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
    expected.backward()
    right = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    choose_layout(model)
    ours = batch(pack(samples))
    assert ours.weight == count
    mean = Objective(model, find_head(model))(ours)["total"] / ours.weight
    mean.backward()
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - right[name]).norm() <= 1e-5 * right[name].norm(), name
