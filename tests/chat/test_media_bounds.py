"""Files whose headers say more than is in them: refused before memory is taken for it."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swift.chat.media import MediaSettings, open_audio, open_image, open_video
from swift.chat.media.keep import Memory
from swift.errors import DataError

av = pytest.importorskip("av", reason="pip install 'swift-llm[media]'")
soundfile = pytest.importorskip("soundfile", reason="pip install 'swift-llm[media]'")

NARROW = MediaSettings(fps=5.0, max_pixels=900, sampling_rate=8000).for_others(10_000, 1 << 20)


def film(frames: int = 10, size: tuple[int, int] = (64, 48), **options: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=options) as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), number * 8 % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        out.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    """A second of plain sound in a QuickTime file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def changed(content: bytes, **fields: tuple[int, int]) -> bytes:
    """An MP4 with other numbers in its tables: name=(place in the box's content, value)."""
    made = bytearray(content)
    for name, (place, value) in fields.items():
        at = content.index(name.encode()) + 4 + place
        made[at : at + 4] = struct.pack(">I", value)
    return bytes(made)


MANY = 60_000_000  # for which FFmpeg takes 4 GB
BOMBS = {
    "one size": lambda: changed(film(), stsz=(8, MANY), stsc=(12, MANY), stts=(8, MANY)),
    "times": lambda: changed(film(), stts=(8, MANY)),
    "fragments": lambda: changed(film(movflags="frag_keyframe+empty_moov"), trun=(4, MANY)),
    "packed": lambda: film().replace(b"mvhd", b"cmov"),
    "sound": lambda: changed(sound(), stsc=(12, 4_000_000_000)),
    "sound that is none": lambda: changed(sound().replace(b"sowt", b"mp4v"), stsz=(8, MANY)),
    "sound that lasts": lambda: changed(sound(), stsz=(8, MANY), stts=(12, 2)),
    "behind": lambda: b"\0\0\0\1wide\0\0\0\0\0\0\0\x10" + BOMBS["one size"](),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("read", [open_video, open_audio])
def test_tables_that_say_too_much(name: str, read: Any, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(BOMBS[name]())
    with pytest.raises(DataError, match=r"its header says more than|its tables are compressed"):
        read("a.mp4", tmp_path)


def test_files_that_were_changed_were_good(tmp_path: Path) -> None:
    for name, content in (
        ("a.mp4", film()),
        ("b.mp4", film(movflags="frag_keyframe+empty_moov")),
    ):
        (tmp_path / name).write_bytes(content)
        assert len(open_video(name, tmp_path, MediaSettings(fps=10)).frames) == 10
    (tmp_path / "d.mov").write_bytes(sound())
    assert len(open_audio("d.mov", tmp_path).samples) == 8000


def test_boxes_in_boxes_end(tmp_path: Path) -> None:
    """Empty boxes without number are not followed for ever."""
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x08free" * 1_000_001)
    with pytest.raises(DataError, match="boxes"):
        open_video("a.mp4", tmp_path)


def test_frames_together_have_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(film(30))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    size = 64 * 48
    for source in ("a.mp4", ("a.png",) * 30):
        asked = MediaSettings(fps=10, max_video_pixels=30 * size)
        assert len(open_video(source, tmp_path, asked).frames) == 30
        with pytest.raises(
            DataError, match=f"30 frames of 64 x 48 .* max_video_pixels={29 * size}"
        ):
            open_video(source, tmp_path, MediaSettings(fps=10, max_video_pixels=29 * size))
        fewer = MediaSettings(fps=10, max_video_pixels=29 * size, max_frames=8)
        assert len(open_video(source, tmp_path, fewer).frames) == 8


@pytest.mark.parametrize("read", [open_video, open_audio])
def test_decoding_that_takes_too_long_is_given_up(read: Any, tmp_path: Path) -> None:
    (tmp_path / "a.mov").write_bytes(film() if read is open_video else sound())
    with pytest.raises(DataError, match="longer than max_decode_s=1e-09"):
        read("a.mov", tmp_path, MediaSettings(max_decode_s=1e-9))


@pytest.mark.parametrize("ending", ["flac", "mov"])
def test_a_sound_of_many_samples(ending: str, tmp_path: Path) -> None:
    """Silence is small in a file, however high its rate."""
    if ending == "flac":
        soundfile.write(tmp_path / "a.flac", np.zeros(2_000_000), 192_000)
        assert (tmp_path / "a.flac").stat().st_size < 20_000
    else:
        (tmp_path / "a.mov").write_bytes(sound())
    count = 2_000_000 if ending == "flac" else 8000
    assert len(open_audio(f"a.{ending}", tmp_path, MediaSettings(max_samples=count)).samples)
    with pytest.raises(DataError, match=f"max_samples={count - 1}"):
        open_audio(f"a.{ending}", tmp_path, MediaSettings(max_samples=count - 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def pictures_in_icons() -> Iterator[bytes]:
    """Two pictures of 300 x 300 that their icon calls 16 x 16."""
    rows = zlib.compress(bytes(300 * (1 + 3 * 300)))
    size = struct.pack(">II", 300, 300)
    head = chunk(b"IHDR", size + b"\x08\x02\0\0\0")
    yield b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    bitmap = struct.pack("<IiiHHIIiiII", 40, 300, 600, 1, 24, 0, 0, 0, 0, 0, 0)
    yield bitmap + bytes(300 * 900 + 300 * 40)


def test_a_picture_in_an_icon_is_not_decoded_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for picture in pictures_in_icons():
        entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 24, len(picture), 22)
        (tmp_path / "a.ico").write_bytes(b"\0\0\1\0\1\0" + entry + picture)
        assert open_image("a.ico", tmp_path).size == (300, 300)
        with monkeypatch.context() as patched:
            patched.setattr(Image, "open", None)
            with pytest.raises(DataError, match="300 x 300 pixels"):
                open_image("a.ico", tmp_path, MediaSettings(max_image_pixels=89_999))
    (tmp_path / "b.ico").write_bytes(b"\0\0\1\0\xff\xff" + bytes(40))
    with pytest.raises(DataError, match="not readable as an image"):
        open_image("b.ico", tmp_path)


def test_limits_for_others_change_no_more_than_limits() -> None:
    assert (NARROW.fps, NARROW.max_pixels, NARROW.sampling_rate) == (5.0, 900, 8000)
    assert (NARROW.max_image_pixels, NARROW.max_bytes) == (10_000, 1 << 20)
    assert (NARROW.max_video_pixels, NARROW.max_samples) == (40_000, 4 << 20)
    assert NARROW.max_decode_s == 60 and not NARROW.allow_remote
    tight = MediaSettings(max_image_pixels=5, max_bytes=6, max_samples=7, max_decode_s=8.0)
    found = tight.for_others(10_000, 1 << 20)
    assert (found.max_image_pixels, found.max_bytes) == (5, 6)
    assert (found.max_samples, found.max_decode_s) == (7, 8.0)


def test_what_is_kept_is_for_several_threads() -> None:
    """One is asked for while another one makes it go: that was a KeyError."""
    memory, faults = Memory(8 * 40), []

    def use(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for name in random.integers(0, 12, 20_000):
                if memory.get(str(name)) is None:
                    memory.put(str(name), {"a": np.zeros(8)})
        except KeyError as error:
            faults.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not faults and memory.used <= memory.most
    assert memory.used == 64 * sum(memory.get(str(name)) is not None for name in range(12))
