"""Rows that come and go in shared buffers: what a step sees is what each row has."""

from __future__ import annotations

import random

import pytest
import torch

from swift.infer.backends.window import Window


@pytest.mark.parametrize("unseen", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_step_sees_of_every_row_all_that_it_has(unseen: int, seed: int) -> None:
    rng, window = random.Random(seed), Window(2, unseen=unseen)
    rows: list[list[float]] = []
    for number in range(400):
        if len(rows) < 6 and (not rows or rng.random() < 0.1):
            tokens = [number + i / 1000 for i in range(rng.choice([1, 7, 7, 300]))]
            keys = torch.tensor(tokens, dtype=torch.float64)[None, None, :, None]
            window.join([(keys, -keys), (keys + 0.5, -keys)])
            rows.append(tokens)
        elif len(rows) > 1 and rng.random() < 0.1:
            gone = rng.randrange(len(rows))
            window.leave(gone)
            rows[gone] = rows[-1]
            rows.pop()
        window.ready()
        mask = window.mask(torch.device("cpu")).bool()
        for row in rows:
            row.append(rng.random())
        new = torch.tensor([row[-1] for row in rows], dtype=torch.float64)[:, None, None, None]
        seen = window.cache.layers[0].update(new, -new)
        other, _ = window.cache.layers[1].update(new + 0.5, -new)
        assert mask.shape == (len(rows), seen[0].shape[2])
        for number_of, row in enumerate(rows):
            mine = seen[0][number_of, 0, :, 0][mask[number_of]]
            assert mine.tolist() == row == (-seen[1][number_of, 0, :, 0][mask[number_of]]).tolist()
            assert other[number_of, 0, -len(row) :, 0].tolist() == [x + 0.5 for x in row]
        assert not unseen or not mask[:, 0].any()  # so that there always is a mask
        window.advance()
