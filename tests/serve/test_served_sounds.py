"""Sounds in a request are heard."""

from __future__ import annotations

import base64
import io
import math
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import chat, serve, user

import tiny
from swift.chat.load import load_renderer, load_tokenizer
from swift.infer.backends.transformers import TransformersEngine
from swift.models.load import load_model


def tone(hertz: float) -> dict[str, Any]:
    """A second of a tone, as OpenAI's part."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        for at in range(16_000):
            level = round(20_000 * math.sin(2 * math.pi * hertz * at / 16_000))
            sound.writeframesraw(level.to_bytes(2, "little", signed=True))
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def test_a_sound_takes_its_tokens_and_changes_what_is_believed(tmp_path: Path) -> None:
    folder = tiny.save_audio_checkpoint(tmp_path)
    renderer = load_renderer(folder)
    engine = TransformersEngine(
        load_model(folder, torch.float32), load_tokenizer(folder), marks=lambda: renderer.marks
    )
    app = serve(engine, renderer)

    def ask(*parts: dict[str, Any]) -> Any:
        content = [*parts, {"type": "text", "text": "What is it?"}]
        done = chat(app, messages=user(content), max_tokens=2, logprobs=True)
        assert done.status_code == 200, done.text
        first = done.json()["choices"][0]["logprobs"]["content"][0]
        return done.json()["usage"]["prompt_tokens"], first["token"], first["logprob"]

    silent, low, high = ask(), ask(tone(110)), ask(tone(1760))
    assert low[0] - silent[0] >= 25 and low[0] == high[0]  # 25 a second, and the template's words
    assert (low[1], pytest.approx(low[2], abs=1e-4)) != high[1:]
    assert ask(tone(110)) == low
    broken = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    done = chat(app, messages=user([broken]), max_tokens=2)
    assert done.status_code == 400 and "sound" in done.json()["error"]["message"]
    engine.close()
