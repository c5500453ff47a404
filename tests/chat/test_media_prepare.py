"""Media are prepared once, and several are what the processor itself makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from models.test_seeing import MAKERS
from swift.chat.load import load_renderer
from swift.chat.media.marks import Marks
from swift.chat.media.settings import Keep, MediaSettings
from swift.chat.message import Media


@pytest.fixture(scope="module", params=list(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("model")
    MAKERS[request.param](place)
    return place


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Media]:
    place, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for number, size in enumerate([(60, 90), (32, 32), (20, 120), (45, 45)]):
        path = place / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        made.append(Media("image", str(path)))
    return made


def marks_of(folder: Path, keep: Keep | None = None) -> Marks:
    return load_renderer(folder, media=MediaSettings(keep=keep or Keep())).marks


def counted(marks: Marks, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the processor was given from now on."""
    calls: list[int] = []
    call: Callable[[str, Sequence[Any]], Any] = marks.processor.call

    def counting(text: str, given: Sequence[Any]) -> Any:
        calls.append(len(given))
        return call(text, given)

    monkeypatch.setattr(marks.processor, "call", counting)
    return calls


def equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
        for name in expected
    )


def read(marks: Marks, media: list[Media]) -> list[Any]:
    return [value for medium in media for value in marks.processor.read(medium)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_are_what_the_processor_makes_of_them(
    folder: Path, images: list[Media], count: int
) -> None:
    marks = marks_of(folder)
    chosen = images[:count]
    expected = marks.processor.call(marks.mark * count, read(marks, chosen))
    assert equal(marks.prepare(chosen), expected)
    assert equal(marks.prepare(chosen), expected), "from memory"
    assert equal(marks.prepare(chosen[::-1] + chosen[:1]), marks.processor.call(
        marks.mark * (count + 1), read(marks, chosen[::-1] + chosen[:1])))  # fmt: skip


def test_an_image_is_prepared_once_in_a_process(
    folder: Path, images: list[Media], monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = marks_of(folder)
    marks.prepare(images[:2])
    calls = counted(marks, monkeypatch)
    marks.prepare(images[:2])
    marks.prepare([images[0], images[0], images[2]])
    marks.texts(images[:3])
    assert calls == [1]
    found = marks.prepare(images[:1])
    found["pixel_values"][:] = 0
    assert marks.prepare(images[:1])["pixel_values"].any(), "what is kept is not handed out"


def test_an_image_is_prepared_once_for_all_processes(
    folder: Path, images: list[Media], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Keep(memory_bytes=0, folder=str(tmp_path / "kept"))
    first = marks_of(folder, keep).prepare(images)
    marks = marks_of(folder, keep)
    marks.prepare(images[:2])
    calls = counted(marks, monkeypatch)
    assert equal(marks.prepare(images), first)
    assert not calls


def test_other_content_and_other_settings_are_prepared_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    medium = Media("image", str(path))
    keep = Keep(folder=str(tmp_path / "kept"))
    Image.new("RGB", (40, 40), "red").save(path)
    marks = marks_of(folder, keep)
    red = marks.prepare([medium])
    Image.new("RGB", (40, 40), "blue").save(path)
    calls = counted(marks, monkeypatch)
    assert not np.array_equal(marks.prepare([medium])["pixel_values"], red["pixel_values"])
    copy = Media("image", str(path.rename(tmp_path / "b.png")))
    marks.prepare([copy])
    assert calls == [1], "equal content under another name is known"
    other = load_renderer(folder, media=MediaSettings(keep=keep, max_image_pixels=10**6)).marks
    calls = counted(other, monkeypatch)
    other.prepare([copy])
    assert 1 in calls


def test_settings_of_keeping_change_nothing(tmp_path: Path) -> None:
    settings = MediaSettings(fps=3, keep=Keep(0, str(tmp_path), 5))
    assert settings.deciding == MediaSettings(fps=3)
    assert replace(settings, fps=None).deciding == MediaSettings()


def test_a_processor_that_looks_at_all_images_is_asked_every_time(
    images: list[Media], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = marks_of(tiny.save_vision_checkpoint(tmp_path))
    call: Callable[[str, Sequence[Any]], Any] = marks.processor.call

    def together(text: str, given: Sequence[Any]) -> Any:
        found = call(text, given)
        return {**found, "pixel_values": found["pixel_values"] * len(given)}

    monkeypatch.setattr(marks.processor, "call", together)
    alone, both = marks.prepare(images[:1]), marks.prepare(images[:2])
    assert np.array_equal(both["pixel_values"][:1], 2 * alone["pixel_values"])
