"""What a model is told of a batch with media: positions on all axes, and what is seen."""

from __future__ import annotations

import pytest
import torch

from contracts.learning import Learning
from contracts.processors import save_tiny
from swift.data.pack import pack
from swift.data.stream import Collate
from swift.models.arranged import arranged
from swift.models.attention import packed_attention


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Learning:
    folder = tmp_path_factory.mktemp("qwen")
    save_tiny("qwen2_vl", folder)
    return Learning(folder)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Learning:
    folder = tmp_path_factory.mktemp("gemma")
    save_tiny("gemma3", folder)
    return Learning(folder)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("multiple", [1, 64])
def test_positions_are_those_of_each_sample(qwen: Learning, packed: bool, multiple: int) -> None:
    batch = Collate(packed, multiple, qwen.renderer.spec)(qwen.samples)
    positions = arranged(qwen.model, batch)["position_ids"]
    assert positions.shape[0] == 4
    assert torch.equal(positions[0], batch.positions)
    for number, call in enumerate(qwen.calls):
        size = call["input_ids"].shape[1] - 1
        row, first = (0, batch.bounds[number]) if packed else (number, 0)
        found = positions[1:, row, first : first + size]
        if "image_grid_thw" in call:
            expected, _ = qwen.model.model.get_rope_index(
                call["input_ids"], call["mm_token_type_ids"], call["image_grid_thw"]
            )
            assert torch.equal(found, expected[:, 0, :size])
            assert not torch.equal(found[0], found[1])
        else:
            assert torch.equal(found, torch.arange(size).expand(3, -1))


def test_images_are_seen_in_both_directions_and_no_sample_sees_another(gemma: Learning) -> None:
    batch = Collate(spec=gemma.renderer.spec)(gemma.samples)
    masks = arranged(gemma.model, batch)["attention_mask"]
    assert masks.keys() == {"full_attention", "sliding_attention"}
    types, mask = batch.media["token_type_ids"][0], masks["full_attention"][0, 0]
    expected = torch.zeros_like(mask)
    for start, stop in zip(batch.bounds, batch.bounds[1:], strict=False):
        inside = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
        image = types[start:stop] == 1  # one image a sample
        expected[start:stop, start:stop] = inside | (image[:, None] & image[None, :])
    assert torch.equal(mask, expected)
    assert mask.triu(1).any()


def test_texts_alone_need_not_be_told_of_types(gemma: Learning) -> None:
    assert not Collate(spec=gemma.renderer.spec)(gemma.samples[1:2]).media


def test_types_of_a_filled_pack_end_with_its_samples(gemma: Learning) -> None:
    batch = Collate(multiple=64, spec=gemma.renderer.spec)(gemma.samples)
    types = batch.media["token_type_ids"]
    assert types.shape == batch.tokens.shape
    count = pack(gemma.samples).count
    assert types[0, :count].any() and not types[0, count:].any()


@pytest.mark.parametrize("cap", [None, 3.0])
def test_packed_attention_with_a_mask_is_attention_under_that_mask(cap: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 8) for _ in range(3))
    borders = torch.tensor([0, 4, 9], dtype=torch.int32)
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[..., :4, :4] = torch.ones(4, 4).tril() > 0
    mask[..., 4:, 4:] = True
    scores = query @ key.transpose(2, 3) / 8**0.5
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    expected = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, value, mask, softcap=cap, cu_seq_lens_q=borders
    )
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)
