"""The keys and values of all running answers, in buffers that rows join and leave at any time.

Rows are aligned at the right: the newest token of every row stands in the same column, and what is
left of a row's first token is masked, as in a left-padded batch. So every architecture that can
generate from left-padded batches can be run, each with its own masks. A step writes one column in
place; a row that leaves is replaced by the last one; the buffers move only when they are full.
On a CPU one more column that no row sees lies at the left: without a mask, transformers (5.23) lets
torch's kernel repeat the keys, which takes four times as long in bfloat16.

Axes: B rows, H heads, C columns, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

SLACK = 256  # columns to grow into, where it is not known how many there will be

Keys = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, (1, H, T, D)."""


class _Layer(CacheLayerMixin):
    """One layer's part: transformers calls ``update`` in every forward pass."""

    is_sliding = False  # all that a row has seen is kept; masks know of sliding windows

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the buffers are made with the first row."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Keys:
        """Write the newest column; returns all live ones."""
        w = self._window
        assert self.keys is not None and self.values is not None
        self.keys[: w.rows, :, w.right : w.right + 1] = key_states
        self.values[: w.rows, :, w.right : w.right + 1] = value_states
        live = slice(w.left, w.right + 1)
        return self.keys[: w.rows, :, live], self.values[: w.rows, :, live]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a step sees, and the first one."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Live columns."""
        return self._window.right - self._window.left

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class Window:
    """The cache of a batch whose rows come and go."""

    def __init__(self, layers: int, rows: int = 1, grow: int = SLACK, unseen: int = 0) -> None:
        """Begin empty.

        Args:
            layers: of the model.
            rows: that there will be at least, where that is known.
            grow: columns to grow into before everything is copied once more.
            unseen: columns at the left that no row sees.
        """
        self._least, self._grow, self._unseen = rows, grow, unseen
        self.rows = 0
        self.left = self.right = 0  # live columns, of the buffers
        self.lengths: list[int] = []  # tokens of each row
        self._layers = [_Layer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def join(self, prompt: Sequence[Keys], copies: int = 1) -> None:
        """Add a row behind the others.

        Args:
            prompt: its keys and values, of each layer.
            copies: such rows to add.
        """
        length, rows = prompt[0][0].shape[2], self.rows + copies
        if not self._fits(rows, length):
            self._move(
                max(self._least, 1 << (rows - 1).bit_length()), max(length, self.width), prompt
            )
        place = slice(self.right - length, self.right)
        for layer, (keys, values) in zip(self._layers, prompt, strict=True):
            assert layer.keys is not None and layer.values is not None
            layer.keys[self.rows : rows, :, place] = keys
            layer.values[self.rows : rows, :, place] = values
        self.rows = rows
        self.lengths += [length] * copies
        self.left = self.right - self.width - self._unseen

    def leave(self, row: int) -> None:
        """Take a row away; the last row takes its number."""
        last = self.rows - 1
        if row != last:
            place = slice(self.right - self.lengths[last], self.right)
            for layer in self._layers:
                assert layer.keys is not None and layer.values is not None
                layer.keys[row, :, place] = layer.keys[last, :, place]
                layer.values[row, :, place] = layer.values[last, :, place]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.rows = last
        self.left = self.right - self.width - self._unseen

    def ready(self) -> None:
        """Make room for the column of the next step."""
        if not self._fits(self.rows, 0):
            old = [(layer.keys, layer.values) for layer in self._layers]
            self._move(len(old[0][0]), self.width, old)  # type: ignore[arg-type]

    def advance(self) -> None:
        """Every row has one more token: a step has written its column."""
        self.right += 1
        self.lengths = [length + 1 for length in self.lengths]
        self.left = self.right - self.width - self._unseen

    def mask(self, device: torch.device) -> torch.Tensor:
        """What each row sees in the next step: 1 for its tokens, (B, live columns + 1)."""
        width = self.width + self._unseen + 1
        first = torch.tensor([width - length - 1 for length in self.lengths])
        return (torch.arange(width)[None] >= first[:, None]).long().to(device)

    def _fits(self, rows: int, length: int) -> bool:
        keys = self._layers[0].keys
        if keys is None:
            return False
        long = length + self._unseen <= self.right
        return rows <= keys.shape[0] and long and self.right + 1 <= keys.shape[2]

    def _move(self, height: int, width: int, like: Sequence[Keys]) -> None:
        """Into new buffers of the format of ``like``: live columns only, with room to go on."""
        right = width + self._unseen + self._grow
        old = slice(self.left, self.right)
        new = slice(right - (self.right - self.left), right)
        for layer, formats in zip(self._layers, like, strict=True):
            made = []
            for before, shape in zip((layer.keys, layer.values), formats, strict=True):
                buffer = shape.new_zeros(height, shape.shape[1], right + self._grow, shape.shape[3])
                if self.rows:
                    assert before is not None
                    buffer[: self.rows, :, new] = before[: self.rows, :, old]
                made.append(buffer)
            layer.keys, layer.values = made
        self.left, self.right = new.start, right
