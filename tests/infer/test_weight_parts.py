"""Weights in parts: whatever their sizes, what arrives is what was sent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from swift.errors import DataError
from swift.infer.parts import _HEAD, pack, unpack
from swift.serve.refused import Refused
from swift.serve.weights import Incoming

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64]
shapes = st.lists(st.integers(0, 40), max_size=3).map(tuple)


def arrived(parts: list[bytes]) -> dict[str, torch.Tensor]:
    update = Incoming("a", "1")
    for number, part in enumerate(parts):
        update.take(number, part)
        update.take(number, part)  # sent again: its answer was lost
    return update.whole(len(parts))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=12),
    st.integers(1, 5000),
)
def test_what_arrives_is_what_was_sent(
    made: list[tuple[tuple[int, ...], torch.dtype]], size: int
) -> None:
    sent = {
        f"layer.{i}.weight": (torch.randn(shape) * 100).to(dtype)
        for i, (shape, dtype) in enumerate(made)
    }
    parts = list(pack(sent.items(), _HEAD + size))
    assert max(map(len, parts)) <= _HEAD + max(size, 1 << 10)
    found = arrived(parts)
    assert found.keys() == sent.keys()
    assert all(found[name].dtype == sent[name].dtype for name in sent)
    assert all(torch.equal(found[name], sent[name]) for name in sent)


def test_a_head_of_many_names_keeps_its_bound() -> None:
    sent = {f"model.layers.{i}.self_attn.a_very_long_name_of_a_projection": torch.ones(1)
            for i in range(1000)}  # fmt: skip
    assert max(map(len, pack(sent.items(), 1 << 20))) < _HEAD


def test_what_is_transposed_or_a_view_arrives_as_it_looks() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    sent = {"turned": whole.t(), "part": whole[1:3, 2:]}
    found = arrived(list(pack(sent.items(), 1 << 20)))
    assert all(torch.equal(found[name], sent[name]) for name in sent)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"nothing",
        save({"a": torch.ones(2)}),
        save({"a": torch.ones(2, 2)}, {"a": "[[2, 2], 0]"}),
        save({"a": torch.ones(3)}, {"a": "[[2], 0]"}),
        save({"a": torch.ones(1)}, {"a": "[[2], -1]"}),
        save({"a": torch.ones(1)}, {"a": "[[-1, -1], 0]"}),
        save({"a": torch.ones(1)}, {"a": "7"}),
    ],
)
def test_a_part_that_is_none_is_refused(part: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        unpack(part)


def test_an_update_with_a_hole_never_becomes_whole() -> None:
    parts = list(pack([("a", torch.ones(2000)), ("b", torch.ones(2000))], _HEAD + 1024))
    assert len(parts) > 4
    update = Incoming("a", "1")
    update.take(0, parts[0])
    with pytest.raises(Refused, match="1 parts are here"):
        update.take(2, parts[2])
    with pytest.raises(Refused, match="but 1 are here"):
        update.whole(len(parts))
    with pytest.raises(Refused, match="a: it is not whole"):
        update.whole(1)
