"""Sounds by libsndfile."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from swift.chat.media.audio import Audio, check_length
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import Steady

_BLOCK = 1 << 20  # values at a time
_UNKNOWN = 1 << 62  # frames of a file that does not say


def read(stream: BinaryIO, settings: MediaSettings) -> Audio:
    """All samples of an open file, the mean of its channels.

    Raises:
        ValueError: it is longer than the settings allow, or cut off.
        soundfile.SoundFileError: it is of no format that libsndfile reads.
    """
    missing = _missing_of_wave(stream)
    if missing:
        raise ValueError(f"it is cut off: {missing} bytes of samples are missing")
    blocks: list[NDArray[np.float32]] = []
    with soundfile.SoundFile(Steady(stream)) as file:
        declared = file.frames
        at_once, count = max(1, _BLOCK // file.channels), 0
        while len(block := file.read(at_once, dtype="float32", always_2d=True)):
            count += len(block)
            check_length(count, file.samplerate, settings)
            blocks.append(block.mean(axis=1, dtype=np.float64).astype(np.float32))
        if count < declared < _UNKNOWN:
            raise ValueError(f"it is cut off: {count} of {declared} samples can be read")
        samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
        return Audio(samples, file.samplerate)


def _missing_of_wave(stream: BinaryIO) -> int:
    """Bytes that a WAV file lacks by its header; libsndfile would read the rest in silence.

    A writer that could not go back leaves a size of 0 or nearly 2^32: it says nothing.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(head := stream.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return max(stream.tell() + size - end, 0) if size < 0xFFFF_0000 else 0
        stream.seek(size + size % 2, 1)
    return 0
