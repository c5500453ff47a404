"""Sounds: the same samples from every format, one channel, resampled without aliases."""

from __future__ import annotations

import io
import random
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from swift.chat.media import Audio, MediaSettings, open_audio
from swift.errors import DataError, MissingExtra

av = pytest.importorskip("av", reason="PyAV is not installed (swift-llm[media])")
soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (swift-llm[media])")

RATE = 16000


def tone(hertz: float = 440, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def put(
    folder: Path,
    samples: np.ndarray,
    name: str = "a.wav",
    rate: int = RATE,
    subtype: str | None = None,
) -> str:
    soundfile.write(folder / name, samples, rate, subtype)
    return name


def by_ffmpeg(path: Path, samples: np.ndarray, codec: str, rate: int = RATE) -> str:
    """A file that FFmpeg writes, of samples (C, S)."""
    with av.open(str(path), "w") as file:
        layout = "mono" if len(samples) == 1 else "stereo"
        stream = file.add_stream(codec, rate, layout=layout)
        block = av.AudioFrame.from_ndarray(samples.astype(np.float32), "fltp", layout)
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        for frame in av.AudioResampler(stream.format, layout, rate).resample(block):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path.name


def level(samples: np.ndarray) -> float:
    """Amplitude of a sine, away from the ends."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return float(np.sqrt(2 * np.mean(np.square(middle, dtype=np.float64))))


@pytest.mark.parametrize(
    ("subtype", "error"),
    [
        ("PCM_U8", 1 / 128),
        ("PCM_16", 1 / 2**15),
        ("PCM_24", 1 / 2**23),
        ("PCM_32", 1 / 2**24),
        ("FLOAT", 1 / 2**24),
        ("DOUBLE", 1 / 2**24),
        ("ULAW", 1 / 32),
    ],
)
def test_every_depth_of_a_wav_gives_the_same_samples(
    tmp_path: Path, subtype: str, error: float
) -> None:
    audio = open_audio(put(tmp_path, tone(), subtype=subtype), tmp_path)
    assert (audio.samples.dtype, audio.samples.shape, audio.rate) == (np.float32, (RATE,), RATE)
    assert audio.seconds == 1
    assert np.abs(audio.samples - tone()).max() <= error


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.caf", "a.au", "a.w64", "a.rf64"])
def test_lossless_formats_agree(tmp_path: Path, name: str) -> None:
    audio = open_audio(put(tmp_path, tone(), name, subtype="PCM_16"), tmp_path)
    assert np.abs(audio.samples - tone()).max() <= 1 / 2**15


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_lossy_formats_of_libsndfile_are_near(tmp_path: Path, name: str) -> None:
    audio = open_audio(put(tmp_path, tone(), name), tmp_path)
    assert abs(audio.seconds - 1) < 0.15
    assert level(audio.samples) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "codec", "error"),
    [
        ("a.m4a", "aac", 0.05),
        ("a.mp4", "aac", 0.05),
        ("a.mkv", "pcm_s16le", 1e-4),
        ("a.webm", "libopus", 0.05),
        ("a.mka", "pcm_u8", 0.01),
        ("a.avi", "pcm_s24le", 1e-6),
        ("a.aac", "aac", None),
        ("a.opus", "libopus", None),
    ],
)
def test_other_formats_by_ffmpeg(
    tmp_path: Path, name: str, codec: str, error: float | None
) -> None:
    truth = tone(rate=48000)
    by_ffmpeg(tmp_path / name, truth[None], codec, 48000)
    audio = open_audio(name, tmp_path)
    assert audio.rate == 48000
    assert abs(audio.seconds - 1) < 0.1
    assert level(audio.samples) == pytest.approx(0.5, abs=0.02)
    if error is not None:
        middle = slice(5000, 40000)
        difference = audio.samples[middle] - truth[middle]
        assert np.sqrt(np.mean(difference**2)) < error


def test_channels_are_averaged(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for channels in (2, 6):
        samples = chance.uniform(-1, 1, (500, channels)).astype(np.float32)
        name = put(tmp_path, samples, subtype="FLOAT")
        truth = samples.astype(np.float64).mean(1).astype(np.float32)
        assert np.array_equal(open_audio(name, tmp_path).samples, truth)
    both = np.stack([tone(440), tone(1000)])
    audio = open_audio(by_ffmpeg(tmp_path / "a.mkv", both, "pcm_s16le"), tmp_path)
    assert np.abs(audio.samples - both.mean(0)).max() < 1e-4
    silent = np.stack([tone(), -tone()], -1)
    assert np.abs(open_audio(put(tmp_path, silent), tmp_path).samples).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 22050, 44100, 48000, 192000])
@pytest.mark.parametrize("hertz", [100.0, 1000.0, 3500.0])
def test_resampling_keeps_frequency_phase_and_level(
    tmp_path: Path, rate: int, hertz: float
) -> None:
    name = put(tmp_path, tone(hertz, rate, 2.0), rate=rate, subtype="FLOAT")
    audio = open_audio(name, tmp_path, MediaSettings(sampling_rate=RATE))
    assert (audio.rate, len(audio.samples), audio.samples.dtype) == (RATE, 2 * RATE, np.float32)
    middle = slice(RATE // 4, -RATE // 4)
    assert np.abs(audio.samples - tone(hertz, seconds=2.0))[middle].max() < 1e-4


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_what_the_new_rate_cannot_hold_is_gone_and_the_rest_is_not(
    tmp_path: Path, rate: int
) -> None:
    settings = MediaSettings(sampling_rate=RATE)
    for hertz, most in ((8400, 1e-4), (9000, 1e-4), (10500, 1e-4)):
        name = put(tmp_path, tone(hertz, rate), rate=rate, subtype="FLOAT")
        assert level(open_audio(name, tmp_path, settings).samples) < 0.5 * most
    name = put(tmp_path, tone(7500, rate), rate=rate, subtype="FLOAT")
    assert level(open_audio(name, tmp_path, settings).samples) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 1000, 65535, 65536, 65537, 200001])
def test_the_length_of_what_is_resampled(tmp_path: Path, count: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, count)
    for rate in (8000, 16000, 44100):
        audio = open_audio(
            put(tmp_path, samples, rate=rate), tmp_path, MediaSettings(sampling_rate=RATE)
        )
        assert len(audio.samples) == -(-count * RATE // rate)
        assert np.isfinite(audio.samples).all()
        if rate == RATE:
            assert np.abs(audio.samples - samples).max() <= 1 / 2**15


def test_silence_is_a_sound(tmp_path: Path) -> None:
    name = put(tmp_path, np.zeros(8000), rate=8000)
    audio = open_audio(name, tmp_path, MediaSettings(sampling_rate=RATE))
    assert np.array_equal(audio.samples, np.zeros(RATE, np.float32))


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = file.add_stream("aac", RATE, layout="mono")
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        file.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(tone()[None].astype(np.float32), "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(sound.encode(block))
        file.mux(sound.encode(None))
    audio = open_audio("a.mp4", tmp_path)
    assert np.abs(audio.samples[2000:14000] - tone()[2000:14000]).max() < 0.05


def test_what_is_no_usable_sound_says_why(tmp_path: Path) -> None:
    put(tmp_path, np.zeros(0), "empty.wav")
    put(tmp_path, np.array([0, np.nan, 0]), "nan.wav", subtype="FLOAT")
    put(tmp_path, np.array([0, np.inf, 0]), "infinite.wav", subtype="DOUBLE")
    put(tmp_path, tone(seconds=3), "long.wav")
    put(tmp_path, tone(seconds=3), "long.flac")
    by_ffmpeg(tmp_path / "long.m4a", tone(seconds=3)[None], "aac")
    (tmp_path / "page.mp3").write_bytes(b"<html>404</html>")
    with av.open(str(tmp_path / "mute.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        file.mux(video.encode(None))
    for name, words in (
        ("empty.wav", "a sound of no length"),
        ("nan.wav", "not finite numbers"),
        ("infinite.wav", "not finite numbers"),
        *((f"long.{form}", "longer than max_audio_s=2") for form in ("wav", "flac", "m4a")),
        ("page.mp3", "an HTML page"),
        ("mute.mp4", "no sound in it"),
        ("none.wav", "does not exist"),
    ):
        with pytest.raises(DataError, match=f"^{name}: .*{words}"):
            open_audio(name, tmp_path, MediaSettings(max_audio_s=2))


def files(folder: Path) -> dict[str, bytes]:
    """Small valid files of every format."""
    short = tone(seconds=0.6)
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.caf"):
        put(folder, short, name)
    by_ffmpeg(folder / "a.m4a", short[None], "aac")
    by_ffmpeg(folder / "a.mka", short[None], "pcm_s16le")
    by_ffmpeg(folder / "a.aac", short[None], "aac")
    by_ffmpeg(folder / "a.webm", tone(rate=48000)[None], "libopus", 48000)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


NAMES = (
    "a.wav",
    "a.flac",
    "a.ogg",
    "a.mp3",
    "a.aiff",
    "a.caf",
    "a.m4a",
    "a.mka",
    "a.aac",
    "a.webm",
)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files(tmp_path_factory.mktemp("sounds"))


def opened(folder: Path, name: str, content: bytes, settings: MediaSettings) -> Audio | None:
    (folder / name).write_bytes(content)
    try:
        audio = open_audio(name, folder, settings)
    except DataError as error:
        assert str(error).startswith(f"{name}: ")
        return None
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert len(audio.samples)
    assert np.isfinite(audio.samples).all()
    return audio


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_that_is_cut_off_is_refused_where_its_header_knows(
    sounds: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    content = sounds[name]
    whole = opened(tmp_path, name, content, MediaSettings())
    assert whole is not None
    for length in range(1, len(content), max(1, len(content) // 40)):
        audio = opened(tmp_path, name, content[:length], MediaSettings())
        if audio is not None and name in ("a.wav", "a.flac"):
            assert np.array_equal(audio.samples, whole.samples)
        if audio is not None and name == "a.m4a":
            assert audio.seconds > whole.seconds - 0.4


@pytest.mark.parametrize("name", NAMES)
def test_whatever_bytes_come_in_only_data_errors_come_out(
    sounds: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    chance = random.Random(name)
    settings = MediaSettings(sampling_rate=8000, max_audio_s=60)
    for _ in range(40):
        content = bytearray(sounds[name])
        for _ in range(chance.choice((1, 3, 30))):
            where = chance.randrange(min(len(content), chance.choice((100, 1 << 20))))
            content[where] = chance.randrange(256)
        opened(tmp_path, name, bytes(content), settings)


def test_a_wav_whose_writer_could_not_go_back_is_read_to_its_end(tmp_path: Path) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tone(), RATE, format="WAV", subtype="PCM_16")
    content = bytearray(stream.getvalue())
    at = content.index(b"data") + 4
    for size in (0xFFFF_FFFF, 0):
        content[at : at + 4] = struct.pack("<I", size)
        content[4:8] = struct.pack("<I", 0xFFFF_FFFF)
        audio = opened(tmp_path, "a.wav", bytes(content), MediaSettings())
        assert (audio is None) if size == 0 else (audio is not None and len(audio.samples) == RATE)
    content[at : at + 4] = struct.pack("<I", 4 * RATE)
    with pytest.raises(DataError, match="cut off: 32000 bytes of samples are missing"):
        (tmp_path / "a.wav").write_bytes(content)
        open_audio("a.wav", tmp_path)


@pytest.mark.parametrize(("name", "package"), [("a.wav", "soundfile"), ("a.m4a", "av")])
def test_without_a_package_the_error_names_the_extra(
    sounds: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    package: str,
) -> None:
    (tmp_path / name).write_bytes(sounds[name])
    for module in ("audio_av", "audio_soundfile", "container"):
        monkeypatch.delitem(sys.modules, f"swift.chat.media.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"needs {package}: pip install 'swift-llm\[media\]'"):
        open_audio(name, tmp_path)
