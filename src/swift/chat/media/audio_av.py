"""Sounds by FFmpeg (PyAV): formats that libsndfile lacks, and other sampling rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from swift.chat.media.audio import Audio, check_length
from swift.chat.media.container import container, timely
from swift.chat.media.settings import MediaSettings

_BLOCK = 1 << 16  # samples at a time
_SLACK_S = 0.3  # a file that ends so much before its header says is whole
_TAPS = 128
_SHARP = {"filter_size": str(_TAPS), "cutoff": "0.98"}
"""A filter 4 times as long as FFmpeg's usual one.

Flat to 0.94 of half the lower rate, 100 dB down from 1.04 of it.
"""


def read(stream: BinaryIO, settings: MediaSettings) -> Audio:
    """The first sound of an open file, the mean of its channels.

    Raises:
        ValueError: there is none, it is longer than the settings allow, or cut off.
        av.FFmpegError: it is of no format that FFmpeg reads, or broken.
    """
    blocks: list[NDArray[np.float32]] = []
    with container(stream) as file:
        if not file.streams.audio:
            raise ValueError("no sound in it")
        sound = file.streams.audio[0]
        rate, count = sound.rate, 0
        for block in timely(_channels(file, sound), settings.max_decode_s):
            count += block.shape[1]
            check_length(count, rate, settings)
            blocks.append(block.mean(axis=0, dtype=np.float64).astype(np.float32))
        if sound.duration is not None and sound.time_base is not None:
            seconds = float(sound.duration * sound.time_base)
            if seconds - count / rate > _SLACK_S:
                raise ValueError(f"it is cut off: {count / rate:.2f} of {seconds:.2f} s are there")
    return Audio(np.concatenate(blocks) if blocks else np.empty(0, np.float32), rate)


def _channels(
    file: av.container.InputContainer, sound: av.AudioStream
) -> Iterator[NDArray[np.float32]]:
    """Samples (C, S) as they are decoded; integers are scaled to -1..1."""
    floats = AudioResampler(format="fltp")
    for frame in file.decode(sound):
        frame.pts = None  # else gaps in the times count as errors
        for converted in floats.resample(frame):
            yield converted.to_ndarray().astype(np.float32, copy=False)


def resample(audio: Audio, rate: int) -> Audio:
    """The same sound at another rate, by FFmpeg's resampler (a windowed sinc).

    What lies above half of the lower rate is removed. The result has the samples that the length
    asks for: ceil(S * rate / audio.rate).
    """
    length = math.ceil(len(audio.samples) * rate / audio.rate)
    # the filter looks ahead, and gives nothing of a sound that is shorter than itself
    silence = 2 * _TAPS * math.ceil(max(1.0, audio.rate / rate))
    samples = np.pad(audio.samples, (0, silence))[None]
    resampler = AudioResampler(format="flt", layout="mono", rate=rate, options=_SHARP)
    blocks = []
    for start in range(0, samples.shape[1], _BLOCK):
        block = np.ascontiguousarray(samples[:, start : start + _BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate = audio.rate
        blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    resampled = np.concatenate(blocks)[:length].astype(np.float32, copy=False)
    if len(resampled) < length:
        raise ValueError(f"it cannot be resampled from {audio.rate} to {rate} Hz")
    return Audio(resampled, rate)
