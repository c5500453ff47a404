"""Sounds in a request are heard as in training."""

from __future__ import annotations

import base64
import io
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from serving import chat, serve, user

import tiny
from swift.chat.load import for_others, load_renderer, load_tokenizer
from swift.chat.message import Media, Message
from swift.chat.render import Renderer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model

av = pytest.importorskip("av", reason="pip install 'swift-llm[media]'")
soundfile = pytest.importorskip("soundfile", reason="pip install 'swift-llm[media]'")

RATE = 16_000


def samples(hertz: float) -> np.ndarray:
    """A second of a tone."""
    return (0.6 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)).astype(np.float32)


def part(content: bytes, form: str = "wav") -> dict[str, Any]:
    """OpenAI's."""
    data = base64.b64encode(content).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def written(sound: np.ndarray, form: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form)
    return file.getvalue()


@dataclass(frozen=True)
class Listener:
    """A model that hears, served."""

    engine: TransformersEngine
    renderer: Renderer
    app: FastAPI

    def ask(self, *parts: dict[str, Any]) -> tuple[int, list[float]]:
        """Tokens of the prompt, and what is believed of the answer's."""
        messages = user([*parts, {"type": "text", "text": "What is it?"}])
        done = chat(self.app, messages=messages, max_tokens=4, logprobs=True, temperature=0)
        assert done.status_code == 200, done.text
        believed = done.json()["choices"][0]["logprobs"]["content"]
        return done.json()["usage"]["prompt_tokens"], [one["logprob"] for one in believed]

    def own(self, path: Path) -> tuple[int, list[float]]:
        """The same of a file, without a server."""
        media = (Media("audio", str(path)),)
        tokens = self.renderer.prompt([Message("user", (*media, "What is it?"))])
        sampling = Sampling(4, 0.0, logprobs=0, stop_ids=tuple(self.renderer.stop_ids))
        [whole] = self.engine.generate([Request(tokens, sampling, media)])
        return len(tokens), list(whole.logprobs or ())


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    folder = tiny.save_audio_checkpoint(tmp_path_factory.mktemp("ears"))
    renderer = for_others(load_renderer(folder), 1_000_000, 1 << 20)
    engine = TransformersEngine(
        load_model(folder, torch.float32), load_tokenizer(folder), marks=lambda: renderer.marks
    )
    yield Listener(engine, renderer, serve(engine, renderer))
    engine.close()


def close(found: tuple[int, list[float]]) -> tuple[int, Any]:
    return found[0], pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize(
    ("form", "rate"), [("wav", RATE), ("flac", 8_000), ("ogg", 44_100), ("mp3", 22_050)]
)
def test_a_sound_is_heard_as_in_training(
    listener: Listener, tmp_path: Path, form: str, rate: int
) -> None:
    content = written(samples(440), form, rate)
    (tmp_path / f"a.{form}").write_bytes(content)
    own = listener.own(tmp_path / f"a.{form}")
    url = f"data:audio/{form};base64,{base64.b64encode(content).decode()}"
    for one in (part(content, form), part(content, "x"), {
        "type": "audio_url", "audio_url": {"url": url}
    }):  # fmt: skip
        assert listener.ask(one) == close(own)


def test_a_sound_takes_its_tokens_and_changes_what_is_believed(listener: Listener) -> None:
    low, high = (part(written(samples(hertz), "wav")) for hertz in (110, 1760))
    silent, first, second = listener.ask(), listener.ask(low), listener.ask(high)
    assert first[0] - silent[0] >= 25 and first[0] == second[0]  # 25 a second, and the words
    assert first[1] != pytest.approx(second[1], abs=1e-4)
    assert listener.ask(low) == close(first)
    both, other = listener.ask(low, high), listener.ask(high, low)
    assert both[0] == other[0] >= first[0] + 25
    assert both[1] != pytest.approx(other[1], abs=1e-4)


def lying(seconds: float, bytes_there: int) -> bytes:
    """A WAV whose header says more than is there."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, RATE, math.ceil(seconds * RATE), "NONE", ""))
        sound.writeframesraw(bytes(2 * math.ceil(seconds * RATE)))
    return file.getvalue()[: 44 + bytes_there]


def hours() -> bytes:
    """Five and a half hours of silence in some ten kilobytes."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 1000, 1, format="FLAC") as sound:
        for _ in range(20):
            sound.write(np.zeros(1_000_000, np.int16))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"RIFF", "sound"),
        (lying(2, 100), "cut off: 63900 bytes"),
        (lying(600, 0), "cut off"),
        (hours(), "more than max_samples=4194304"),
        (written(samples(440), "ogg")[:60], "Ogg"),
        (b"\xff\xd8\xff" + bytes(100), "a JPEG image"),
        (b"#EXTM3U\nfile:///etc/passwd", "a playlist"),
    ],
    ids=["head", "cut", "all cut", "hours", "cut ogg", "picture", "playlist"],
)
def test_sounds_that_are_none(listener: Listener, content: bytes, why: str) -> None:
    done = chat(listener.app, messages=user([part(content)]), max_tokens=2)
    assert done.status_code == 400 and why in done.json()["error"]["message"], done.text
    assert len(done.text) < 600


def test_a_file_is_no_address(listener: Listener) -> None:
    body = {"type": "audio_url", "audio_url": {"url": "/etc/passwd"}}
    done = chat(listener.app, messages=user([body]))
    assert (done.status_code, done.json()["error"]["code"]) == (400, "unsupported_media")
