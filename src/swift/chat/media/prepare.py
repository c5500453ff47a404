"""Media -> what a checkpoint's processor makes of them, each prepared once.

What the processor makes of a medium is kept under the hash of its content and of all that decides
about it. Whether several media together are those of each laid side by side is found by trying, on
three of different sizes; where they are not, several are prepared together, every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from swift.chat.media.keep import Array, Folder, Memory
from swift.chat.media.processor import MediaSpec, Processor
from swift.chat.media.source import opened, refusing
from swift.chat.message import Kind, Media
from swift.errors import DataError

_BLOCK = 1 << 20


class Prepare:
    """What a processor makes of media, by the names of a model's arguments, tokens among them."""

    def __init__(
        self, spec: MediaSpec, processor: Processor, mark_of: Callable[[Media], str]
    ) -> None:
        """Nothing is read or written yet.

        Args:
            spec: of the processor, with how much is kept.
            processor: the checkpoint's.
            mark_of: the control token that stands for a medium.
        """
        self._spec = spec
        self._processor = processor
        self._mark_of = mark_of
        self._found: dict[Kind, dict[str, int] | None] = {}
        self._memory = Memory(spec.settings.keep.memory_bytes)

    def __call__(self, media: Sequence[Media]) -> dict[str, Array]:
        """All that the processor makes of the marks of media and of the media, in their order.

        Raises:
            DataError: one cannot be read.
        """
        if len(media) == 1:
            return {name: array.copy() for name, array in self._one(media[0]).items()}
        kinds = {self._processor.as_what(medium.kind) for medium in media}
        axes = self._axes(kinds.pop()) if len(kinds) == 1 else None
        found = join([self._one(medium) for medium in media], axes) if axes else None
        return self._made(media) if found is None else found

    def _made(self, media: Sequence[Media]) -> dict[str, Array]:
        values = [self._processor.read(medium) for medium in media]
        marks = [self._mark_of(one) * len(some) for one, some in zip(media, values, strict=True)]
        return self._processor.call("".join(marks), [value for some in values for value in some])

    def _one(self, medium: Media) -> Mapping[str, Array]:
        name = self._name(medium)
        found = self._memory.get(name)
        if found is not None:
            return found
        found = self._folder.get(name) if self._folder else None
        if found is None:
            found = self._made([medium])
            if any(array.dtype.hasobject for array in found.values()):
                return found
            if self._folder:
                self._folder.put(name, found)
        self._memory.put(name, found)
        return found

    @cached_property
    def _folder(self) -> Folder | None:
        keep = self._spec.settings.keep
        return Folder(Path(keep.folder), keep.disk_bytes) if keep.folder else None

    @cached_property
    def _decides(self) -> bytes:
        """All that decides about the arrays of a medium beside the medium."""
        settings = self._spec.settings.deciding
        return f"1:{self._spec.fingerprint}:{settings}:{version('transformers')}".encode()

    def _name(self, medium: Media) -> str:
        """The same for the same content.

        An address on the network stands for its content, which would have to be fetched to be
        known.
        """
        digest = hashlib.blake2b(self._decides, digest_size=20)
        sources = (medium.source,) if isinstance(medium.source, str) else medium.source
        digest.update(f":{medium.kind}:{self._mark_of(medium)}:{len(sources)}".encode())
        for source in sources:
            if source.lower().startswith(("http://", "https://")):
                digest.update(f":{source}".encode())
                continue
            with opened(source, None, self._spec.settings) as stream, refusing(source, "a file"):
                size = 0
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
            digest.update(f":{size}".encode())
        return digest.hexdigest()

    def _axes(self, kind: Kind) -> dict[str, int] | None:
        """Along which axis the arrays of several media lie; None: they are not put together so."""
        if kind not in self._found:
            self._found[kind] = self._find_axes(kind)
        return self._found[kind]

    def _find_axes(self, kind: Kind) -> dict[str, int] | None:
        values = [self._processor.probe(kind, number) for number in range(3)]
        mark = self._mark_of(Media(kind, ""))
        try:
            parts = [self._processor.call(mark, [value]) for value in values]
            whole = self._processor.call(mark * len(values), values)
        except DataError:
            return None
        axes: dict[str, int] = {}
        for name, expected in whole.items():
            own = [part.get(name) for part in parts]
            found = next((axis for axis in range(expected.ndim) if _is(own, expected, axis)), None)
            if found is None:
                return None
            axes[name] = found
        return axes


def _is(parts: Sequence[Array | None], expected: Array, axis: int) -> bool:
    if any(part is None or part.ndim != expected.ndim for part in parts):
        return False
    found = _laid([part for part in parts if part is not None], axis)
    return found.dtype == expected.dtype and np.array_equal(found, expected)


def join(parts: Sequence[Mapping[str, Array]], axes: Mapping[str, int]) -> dict[str, Array] | None:
    """Arrays of several media side by side; None: they do not have the same names."""
    if any(part.keys() != axes.keys() for part in parts):
        return None
    return {name: _laid([part[name] for part in parts], axis) for name, axis in axes.items()}


def _laid(parts: Sequence[Array], axis: int) -> Array:
    """Arrays side by side along an axis, filled up with zeros along the others; always a copy."""
    shapes = np.array([part.shape for part in parts])
    shape = shapes.max(axis=0)
    shape[axis] = shapes[:, axis].sum()
    laid: Array = np.zeros(shape, np.result_type(*parts))
    at = 0
    for part in parts:
        place: list[Any] = [slice(0, size) for size in part.shape]
        place[axis] = slice(at, at + part.shape[axis])
        laid[tuple(place)] = part
        at += part.shape[axis]
    return laid
