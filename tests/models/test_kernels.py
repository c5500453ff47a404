"""The faster products are the same products."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from swift.models import kernels
from swift.models.kernels import ROWS, fast_linear, product, row_multiple

K, N = 256, 512
"""A weight large enough for the fast kernel."""

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


@pytest.fixture(params=[pytest.param(True, marks=needs_onednn), False], ids=["onednn", "plain"])
def wins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As on a machine on which oneDNN is chosen, or not."""
    monkeypatch.setattr(kernels, "onednn_wins", lambda: request.param)
    return request.param


class Calls(TorchDispatchMode):
    """Counts products by oneDNN."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "mkldnn"
        return func(*args, **(kwargs or {}))


def inputs(*shape: int, layout: str = "contiguous", bias: bool = True) -> list[torch.Tensor]:
    """x, weight and perhaps a bias."""
    torch.manual_seed(0)
    if layout == "transposed":
        x, weight = torch.randn(*shape[:-2], K, shape[-1]).mT, torch.randn(K, N).t()
    elif layout == "strided":
        x, weight = torch.randn(*shape, 2 * K)[..., ::2], torch.randn(2 * N, K)[::2]
    else:
        x, weight = torch.randn(*shape, K), torch.randn(N, K)
    made = [x, weight, torch.randn(N)] if bias else [x, weight]
    return [tensor.requires_grad_() for tensor in made]


SHAPES = [(ROWS,), (2, ROWS), (4, 16), (70,), (2, 7)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_a_linear_layer(
    wins: bool, shape: tuple[int, ...], layout: str, bias: bool
) -> None:
    tensors = [tensor.detach() for tensor in inputs(*shape, layout=layout, bias=bias)]
    torch.testing.assert_close(product(*tensors), F.linear(*tensors), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_linear_has_the_result_and_gradients_of_a_linear_layer(
    wins: bool, shape: tuple[int, ...], layout: str, bias: bool
) -> None:
    tensors = inputs(*shape, layout=layout, bias=bias)
    expected = F.linear(*tensors)
    slope = torch.randn_like(expected)
    right = torch.autograd.grad(expected, tensors, slope)
    with fast_linear():
        found = F.linear(*tensors)
    grads = torch.autograd.grad(found, tensors, slope)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    for grad, exact in zip(grads, right, strict=True):
        assert grad.shape == exact.shape
        assert (grad - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_is_frozen_gets_no_gradient(wins: bool, frozen: str) -> None:
    x, weight, bias = inputs(ROWS)
    {"x": x, "weight": weight}[frozen].requires_grad_(False)
    with fast_linear():
        F.linear(x, weight, bias).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert (weight.grad is None) == (frozen == "weight")


@needs_onednn
def test_the_fast_kernel_is_really_used_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "onednn_wins", lambda: True)
    tensors = inputs(4 * ROWS)
    with Calls() as calls:
        with fast_linear():
            out = F.linear(*tensors)
        out.sum().backward()
    assert calls.count == 3


@pytest.mark.parametrize("shape", [(65,), (ROWS - 1,)])
def test_rows_that_would_compile_a_kernel_of_their_own_go_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(kernels, "onednn_wins", lambda: True)
    with Calls() as calls, torch.no_grad():
        product(*inputs(*shape))
    assert calls.count == 0


def test_batches_are_filled_up_only_where_it_helps(wins: bool) -> None:
    assert row_multiple(torch.device("cpu")) == (ROWS if wins else 1)
    assert row_multiple(torch.device("cuda")) == 1


def test_the_same_bits_again(wins: bool) -> None:
    def once() -> list[torch.Tensor]:
        tensors = inputs(2, ROWS)
        with fast_linear():
            out = F.linear(*tensors)
        return [out, *torch.autograd.grad(out.square().sum(), tensors)]

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


def test_inside_gradient_checkpointing(wins: bool) -> None:
    """Computed again in the same context, so to the same bits."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(K, N), nn.GELU(), nn.Linear(N, K))
    x = torch.randn(ROWS, K, requires_grad=True)
    with fast_linear():
        block(x).sum().backward()
    right = [x.grad, *(p.grad for p in block.parameters())]
    x.grad = None
    block.zero_grad()
    again = {"context_fn": lambda: (contextlib.nullcontext(), fast_linear())}
    with fast_linear():
        out = checkpoint(block, x, use_reentrant=False, **again)
    out.sum().backward()
    for grad, exact in zip([x.grad, *(p.grad for p in block.parameters())], right, strict=True):
        assert torch.equal(grad, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_formats_are_left_alone(wins: bool, dtype: torch.dtype) -> None:
    tensors = [tensor.detach().to(dtype) for tensor in inputs(ROWS)]
    with fast_linear(), Calls() as calls:
        found = F.linear(*tensors)
    assert calls.count == 0
    assert torch.equal(found, F.linear(*tensors))


def test_autocast_is_left_alone(wins: bool) -> None:
    tensors = inputs(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(*tensors)
        with fast_linear():
            found = F.linear(*tensors)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_other_functions_and_keywords_pass_through(wins: bool) -> None:
    x, weight, bias = inputs(ROWS)
    with fast_linear():
        by_name = F.linear(x, weight, bias=bias)
        assert torch.equal(F.relu(x), x.relu())
    torch.testing.assert_close(by_name, F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


def test_no_rows_at_all(wins: bool) -> None:
    x, weight = torch.zeros(0, K, requires_grad=True), torch.randn(N, K, requires_grad=True)
    with fast_linear():
        F.linear(x, weight).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(N, K))
