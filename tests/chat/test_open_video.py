"""Videos: the frames that are shown at even distances in time, whole and upright, or none."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swift.chat.media import MediaSettings, Video, open_video
from swift.chat.media.video import spread
from swift.errors import DataError, MissingExtra

av = pytest.importorskip("av", reason="PyAV is not installed (swift-llm[media])")

HEIGHT, WIDTH, RATE = 32, 48, 10
CODECS = {
    "a.mp4": "libx264",
    "a.mov": "libx264",
    "a.mkv": "ffv1",
    "a.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
    "a.ts": "libx264",
    "a.flv": "libx264",
    "a.mpg": "mpeg1video",  # which has no slower rate than 24
}
SLOW = [name for name in CODECS if name != "a.mpg"]


def picture(number: int) -> np.ndarray:
    """A frame whose brightness is its number, with one bright corner."""
    frame = np.full((HEIGHT, WIDTH, 3), 5 * number, np.uint8)
    frame[:8, :8] = 255
    return frame


def film(
    path: Path,
    frames: int = 40,
    rate: int = RATE,
    stamps_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sound_s: float = 0,
) -> Path:
    """A video file of pictures; ``stamps_ms`` are the times of its frames."""
    codec = CODECS[f"a{path.suffix}"]
    with av.open(str(path), "w", options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "4", "g": "12", "sc_threshold": "0"}
        else:
            stream.bit_rate = 4_000_000
        sound = (
            file.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", 8000)
            if sound_s
            else None
        )
        if stamps_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if stamps_ms:
                frame.pts, frame.time_base = stamps_ms[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if sound is not None:
            samples = np.zeros((1, int(8000 * sound_s)), np.int16)
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate = 8000
            file.mux(sound.encode(block))
            file.mux(sound.encode(None))
    return path


@cache
def bytes_of(name: str, folder: Path) -> bytes:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    rate = RATE if name in SLOW else 25
    return film(folder / name, rate=rate, options=options).read_bytes()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def numbers(video: Video) -> list[int]:
    """Which pictures the frames are, by their brightness."""
    found = video.frames[:, 16:, 16:].mean((1, 2, 3)) / 5
    assert np.abs(found - np.rint(found)).max() < 0.45
    return np.rint(found).astype(int).tolist()


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize(
    ("settings", "fps", "indices"),
    [
        (MediaSettings(), 10, range(40)),
        (MediaSettings(fps=2), 2, range(0, 40, 5)),
        (MediaSettings(fps=3), 3, [k * 10 // 3 for k in range(12)]),
        (MediaSettings(fps=100), 10, range(40)),
        (MediaSettings(fps=2, max_frames=4), 1, (0, 10, 20, 30)),
        (MediaSettings(max_frames=3), 0.75, (0, 13, 26)),
        (MediaSettings(max_frames=1), 0.25, (0,)),
        (MediaSettings(fps=0.1), 0.1, (0,)),
        (MediaSettings(fps=0.1, min_frames=4), 1, (0, 10, 20, 30)),
        (MediaSettings(min_frames=80), 20, [k // 2 for k in range(80)]),
    ],
)
def test_frames_are_those_at_even_times(
    films: Path, name: str, settings: MediaSettings, fps: float, indices: Sequence[int]
) -> None:
    bytes_of(name, films)
    video = open_video(name, films, settings)
    assert video.frames.dtype == np.uint8
    assert video.frames.shape == (len(indices), HEIGHT, WIDTH, 3)
    assert video.indices == tuple(indices)
    assert video.fps == pytest.approx(fps, rel=1e-3)
    assert video.seconds == pytest.approx(4, rel=1e-3)
    assert numbers(video) == list(video.indices)
    if CODECS[name] == "ffv1":
        truth = np.stack([picture(number) for number in indices])
        assert np.array_equal(video.frames, truth)


def test_a_program_stream_is_read(films: Path) -> None:
    bytes_of("a.mpg", films)
    for settings, count in ((MediaSettings(), 40), (MediaSettings(fps=5), 8)):
        video = open_video("a.mpg", films, settings)
        assert len(video.frames) in (count, count + 1)
        assert numbers(video) == list(video.indices)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_frames_of_uneven_length_are_taken_by_their_times(tmp_path: Path, suffix: str) -> None:
    steps = np.random.default_rng(0).choice([20, 40, 100, 500, 1000], 40)
    stamps = [int(stamp) for stamp in np.cumsum([0, *steps[:-1]])]
    film(tmp_path / f"a{suffix}", stamps_ms=stamps)
    for fps in (0.5, 1.0, 2.0):
        video = open_video(f"a{suffix}", tmp_path, MediaSettings(fps=fps))
        times = np.arange(len(video.frames)) * 1000 / video.fps
        shown = np.searchsorted(np.array(stamps) - 1, times, side="right") - 1
        assert list(video.indices) == shown.tolist() == numbers(video)
        assert video.seconds * 1000 >= stamps[-1]


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", 20, stamps_ms=[5000 + 100 * k for k in range(20)])
    video = open_video("a.mkv", tmp_path, MediaSettings(fps=5))
    assert video.indices == tuple(range(0, 20, 2))
    assert video.seconds == pytest.approx(2)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_sound_that_goes_on_does_not_lengthen_the_video(tmp_path: Path, name: str) -> None:
    film(tmp_path / name, 20, sound_s=6)
    video = open_video(name, tmp_path, MediaSettings(fps=5))
    assert (video.seconds, video.indices) == (pytest.approx(2), tuple(range(0, 20, 2)))


def test_an_animation_is_a_video(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(number)) for number in range(10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    video = open_video("a.gif", tmp_path, MediaSettings(fps=5))
    assert (numbers(video), video.indices) == ([0, 2, 4, 6, 8], (0, 2, 4, 6, 8))


MATRICES = {
    (1, 0, 0, 1): lambda a: a,
    (0, 1, -1, 0): lambda a: np.rot90(a, -1, (1, 2)),  # a phone held upright
    (-1, 0, 0, -1): lambda a: a[:, ::-1, ::-1],
    (0, -1, 1, 0): lambda a: np.rot90(a, 1, (1, 2)),
    (-1, 0, 0, 1): lambda a: a[:, :, ::-1],
    (1, 0, 0, -1): lambda a: a[:, ::-1],
    (0, 1, 1, 0): lambda a: a.swapaxes(1, 2),
    (0, -1, -1, 0): lambda a: a[:, ::-1, ::-1].swapaxes(1, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_videos_are_turned_upright(films: Path, tmp_path: Path, matrix: tuple[int, ...]) -> None:
    content = bytearray(bytes_of("a.mp4", films))
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    settings = MediaSettings(fps=1)
    truth = MATRICES[matrix](open_video("a.mp4", films, settings).frames)
    assert np.array_equal(open_video("turned.mp4", tmp_path, settings).frames, truth)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm", "a.ts"])
def test_a_video_that_is_cut_off_is_refused_or_its_frames_are_whole(
    films: Path, tmp_path: Path, name: str
) -> None:
    content = bytes_of(name, films)
    whole = open_video(name, films)
    refused = 0
    for length in range(1, len(content), max(1, len(content) // 40)):
        (tmp_path / name).write_bytes(content[:length])
        try:
            video = open_video(name, tmp_path)
        except DataError as error:
            assert str(error).startswith(f"{name}: ")
            refused += 1
            continue
        # a transport stream has no header that could say how long it is
        assert name == "a.ts" or video.seconds > whole.seconds - 0.35
        assert name == "a.ts" or len(set(video.indices)) == len(video.indices)
        assert np.array_equal(video.frames, whole.frames[list(video.indices)])
    assert refused >= (1 if name == "a.ts" else 30)


def test_a_cut_video_serves_where_all_wanted_frames_are_there(films: Path, tmp_path: Path) -> None:
    content = bytes_of("a.mp4", films)
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 9 // 10])
    video = open_video("cut.mp4", tmp_path, MediaSettings(max_frames=2))
    assert (video.indices, video.seconds) == ((0, 20), pytest.approx(4))
    with pytest.raises(DataError, match=r"cut.mp4: cut off: the header says 4.00 s, the pictures"):
        open_video("cut.mp4", tmp_path)


@pytest.mark.parametrize("name", CODECS)
def test_whatever_bytes_come_in_only_data_errors_come_out(
    films: Path, tmp_path: Path, name: str
) -> None:
    chance = random.Random(name)
    settings = MediaSettings(fps=2, max_image_pixels=1 << 20)
    for _ in range(25):
        content = bytearray(bytes_of(name, films))
        for _ in range(chance.choice((1, 3, 30))):
            where = chance.randrange(min(len(content), chance.choice((200, 1 << 20))))
            content[where] = chance.randrange(256)
        (tmp_path / name).write_bytes(content)
        try:
            video = open_video(name, tmp_path, settings)
        except DataError as error:
            assert str(error).startswith(f"{name}: ")
        else:
            assert len(video.frames) == len(video.indices) <= settings.max_frames


def test_what_is_no_video_is_refused_with_what_it_is(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    (tmp_path / "page.mp4").write_bytes(b"<html><body>Please log in</body></html>")
    film(tmp_path / "a.mp4", 5)
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    for name, words in (
        ("sound.wav", "no video stream in it"),
        ("image.png", "it is a PNG image"),
        ("page.mp4", "an HTML page"),
        ("list.m3u8", "a playlist"),
        ("list.mp4", "a playlist"),
        ("none.mp4", "does not exist"),
    ):
        with pytest.raises(DataError, match=f"^{name}: .*{words}"):
            open_video(name, tmp_path)


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(films: Path) -> None:
    bytes_of("a.mp4", films)
    with pytest.raises(
        DataError, match="frames of 48 x 32 pixels, the limit is max_image_pixels=9"
    ):
        open_video("a.mp4", films, MediaSettings(max_image_pixels=9))


def test_images_in_order_are_a_video(tmp_path: Path) -> None:
    names = tuple(f"{number}.png" for number in range(10))
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(tmp_path / name)
    for settings, fps, indices in (
        (MediaSettings(), 2, range(10)),
        (MediaSettings(fps=5), 5, range(10)),
        (MediaSettings(fps=5, max_frames=4), 2, (0, 2, 5, 7)),
        (MediaSettings(fps=5, min_frames=20), 10, [k // 2 for k in range(20)]),
    ):
        video = open_video(names, tmp_path, settings)
        assert (video.fps, video.indices) == (fps, tuple(indices))
        assert np.array_equal(video.frames, np.stack([picture(number) for number in indices]))
        assert video.seconds == 10 / (settings.fps or 2)
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "turned.png")
    with pytest.raises(DataError, match=r"turned.png: a frame of 32 x 48 in a video .* 48 x 32"):
        open_video((*names, "turned.png"), tmp_path)
    with pytest.raises(DataError, match=r"^gone.png: does not exist"):
        open_video((*names, "gone.png"), tmp_path)
    with pytest.raises(DataError, match="no frames"):
        open_video((), tmp_path)


@pytest.mark.parametrize("seconds", [0.04, 0.5, 1.0, 3.3, 600.0])
@pytest.mark.parametrize("rate", [1.0, 23.976, 60.0])
def test_spread_keeps_its_limits(seconds: float, rate: float) -> None:
    frames = max(1, round(seconds * rate))
    for fps in (None, 0.3, 2.0, 100.0):
        for least, most in ((1, 1), (1, 768), (4, 8), (50, 50)):
            settings = MediaSettings(fps=fps, min_frames=least, max_frames=most)
            count, distance = spread(frames / rate, rate, frames, settings)
            assert least <= count <= most
            assert (count - 1) * distance < frames / rate
            if fps and fps <= rate and least < count < most:
                assert distance == 1 / fps


def test_without_pyav_the_error_names_the_extra(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of("a.mp4", films)
    for name in ("video_file", "container"):
        monkeypatch.delitem(sys.modules, f"swift.chat.media.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"needs av: pip install 'swift-llm\[media\]'"):
        open_video("a.mp4", films)


STREAMS = [
    ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    ("a.mkv", "libx264", {"g": "12", "x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    ("a.ts", "libx264", {"g": "9", "x264-params": "open-gop=1:bframes=3:b-pyramid=2"}),
    ("a.mp4", "libx265", {"g": "12", "x265-params": "open-gop=1:bframes=3:log-level=0"}),
    ("a.webm", "libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    ("a.mkv", "mpeg2video", {"g": "12", "bf": "2"}),
    ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=15"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), STREAMS)
def test_leaps_to_keyframes_change_no_pixel(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV is built without {codec}")
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), np.uint8)
    with av.open(str(tmp_path / name), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 2 * WIDTH, 2 * HEIGHT, "yuv420p"
        for number in range(120):
            moved = np.roll(noise, number, 1).repeat(2, 0)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        file.mux(stream.encode(None))
    whole = open_video(name, tmp_path)
    assert len(whole.frames) == 120
    for count in (*range(1, 12), 40, 77):
        video = open_video(name, tmp_path, MediaSettings(max_frames=count))
        # Matroska's times are rounded to milliseconds, which may be the frame before
        expected = np.arange(count) * 120 // count
        assert np.isin(np.subtract(video.indices, expected), (0, 1)).all()
        assert np.array_equal(video.frames, whole.frames[list(video.indices)])


def test_what_lies_between_is_not_decoded(tmp_path: Path) -> None:
    from swift.chat.media import frames, video_file

    film(tmp_path / "a.mp4", 50)  # a keyframe every 12
    with (tmp_path / "a.mp4").open("rb") as stream:
        times = video_file._times(stream, "a.mp4", MediaSettings())
        assert [times.packets[k][1] for k in (0, 11, 12, 24)] == [True, False, True, True]
        points = [0.0, 1.3, 4.8]
        content = (tmp_path / "a.mp4").read_bytes()
        found = list(frames.by_keyframes(stream, times, points))
        assert [index for index, _, _ in found] == [0, 13, 48]
        assert [index for index, _, _ in frames.in_order(stream, times, points)] == [0, 13, 48]
    # the pictures of packets that are not needed may be rubbish
    with av.open(str(tmp_path / "a.mp4")) as file:
        spans = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    broken = bytearray(content)
    for place in (*range(28, 36), *range(38, 46)):
        start, size = spans[place]
        broken[start + 5 : start + size] = bytes(size - 5)
    (tmp_path / "b.mp4").write_bytes(broken)
    with (tmp_path / "b.mp4").open("rb") as stream:
        again = list(frames.by_keyframes(stream, times, points))
    for (_, one, _), (_, other, _) in zip(found, again, strict=True):
        assert np.array_equal(one.to_ndarray(format="rgb24"), other.to_ndarray(format="rgb24"))
