"""A sound as samples of one channel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from swift import registry
from swift.chat.media.heads import HEAD
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import opened, refusing, shown
from swift.errors import DataError

MAX_RATE = 1_000_000
"""Samples per second; more are a broken header."""

for _name, _file, _needs in (
    ("audio", "audio_soundfile:read", "soundfile"),
    ("audio of this format", "audio_av:read", "av"),
    ("resampling audio", "audio_av:resample", "av"),
):
    registry.register("media", _name, f"swift.chat.media.{_file}", needs=_needs, extra="media")


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Samples of a sound.

    Attributes:
        samples: float32 (S,), 1 is full scale; more than 1 only if the file has it.
        rate: samples per second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def open_audio(
    source: str, base: Path | None = None, settings: MediaSettings | None = None
) -> Audio:
    """A sound, or the sound of a video, in one channel: the mean of all.

    WAV, FLAC, Ogg, MP3, AIFF and CAF are read by libsndfile, others by FFmpeg. A file that is
    shorter than its header says is refused; streams (MP3, Ogg, ADTS) do not say.

    Args:
        source: where it lies (see :func:`swift.chat.media.source.read_bytes`).
        base: the folder that relative paths begin at.
        settings: limits, and ``sampling_rate``, to which it is resampled without aliases.

    Raises:
        DataError: it cannot be read, has no sound in it, no sample, one that is not finite, is cut
            off or too long.
        MissingExtra: the package that reads or resamples it is not installed.
    """
    settings = settings or MediaSettings()
    with opened(source, base, settings) as stream, refusing(source, "a sound", stream):
        audio: Audio = registry.load("media", _reader(stream))(stream, settings)
        if not len(audio.samples):
            raise DataError(f"{shown(source)}: a sound of no length; remove it or its row")
        if not 0 < audio.rate <= MAX_RATE:
            raise DataError(f"{shown(source)}: {audio.rate} samples per second, as no sound has")
        if not np.isfinite(audio.samples).all():
            raise DataError(f"{shown(source)}: some samples are not finite numbers")
        if settings.sampling_rate in (None, audio.rate):
            return audio
        resampled: Audio = registry.load("media", "resampling audio")(audio, settings.sampling_rate)
        return resampled


def check_length(count: int, rate: int, settings: MediaSettings) -> None:
    """See that a sound of so many samples is no longer than the settings allow.

    Raises:
        ValueError: it is.
    """
    if count > settings.max_audio_s * rate:
        raise ValueError(f"it is longer than max_audio_s={settings.max_audio_s:g}")
    if count > settings.max_samples:
        raise ValueError(f"it has more than max_samples={settings.max_samples}")


def _reader(stream: BinaryIO) -> str:
    head = stream.read(HEAD)
    stream.seek(0)
    tagged = head[:4] in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"FORM", b"caff") or (
        head[:3] == b"ID3"
    )
    # a frame of MPEG audio; layer 0 is ADTS (AAC)
    mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06
    ogg = head[:4] == b"OggS" and any(n in head for n in (b"vorbis", b"OpusHead", b"FLAC"))
    riff_but_no_wave = head[:4] == b"RIFF" and head[8:12] != b"WAVE"
    ours = (tagged or mpeg or ogg) and not riff_but_no_wave
    return "audio" if ours else "audio of this format"
