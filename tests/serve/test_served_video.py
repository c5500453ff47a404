"""Videos in a request are seen as training and ``swift infer`` see them."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
import torch
import yaml
from fastapi import FastAPI
from PIL import Image
from serving import chat, events, post, serve, user
from test_process import listening

import tiny
from swift.chat.load import for_others, load_renderer, load_tokenizer
from swift.chat.media import processor
from swift.chat.media.settings import MediaSettings
from swift.chat.message import Conversation, Media, Message
from swift.chat.render import Renderer
from swift.config.infer import EngineSection
from swift.config.model import UsedModelSection
from swift.config.runs import DeployConfig
from swift.config.serve import ServeSection
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.infer.load import load_talker, settle
from swift.infer.talk import Talker
from swift.models.load import load_model
from swift.observe.log import Log
from swift.serve.server import Served, make_service

av = pytest.importorskip("av", reason="pip install 'swift-llm[media]'")

A_FRAME = 17  # tokens
ANSWER = 12
LIMITS = (1_000_000, 4 << 20)


def picture(number: int) -> np.ndarray[Any, Any]:
    """A bright square that moves to the right."""
    pixels = np.full((48, 64, 3), 30, np.uint8)
    pixels[16:32, 2 * number : 2 * number + 12] = (250, 120, 40)
    return pixels


def film(seconds: int = 3) -> bytes:
    """Ten pictures a second, as an MP4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10 * seconds):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number % 26))))
        out.mux(stream.encode())
    return file.getvalue()


def part(content: bytes, kind: str = "video/mp4") -> dict[str, Any]:
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {"type": "video_url", "video_url": {"url": url}}


def asking(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return user([*parts, {"type": "text", "text": "Where to?"}])


@dataclass(frozen=True)
class Cinema:
    """A model that sees, served."""

    folder: Path
    engine: TransformersEngine
    renderer: Renderer
    app: FastAPI

    def talked(self, *media: Media) -> str:
        """What ``swift infer`` answers."""
        talker = Talker(self.renderer, self.engine, written(self.renderer))
        [(message, _)] = talker.answers([asked(*media)])
        return str(message.content)


def written(renderer: Renderer) -> Sampling:
    """The likeliest tokens of those that are plain text: a tiny model says odd bytes."""
    size, decode = renderer.tokenizer.size, renderer.tokenizer.decode
    odd = {id: -100.0 for id in range(size) if not (decode([id]).isascii() and decode([id]))}
    return Sampling(ANSWER, 0.0, frequency_penalty=2.0, logit_bias=odd)


def asked(*media: Media) -> Conversation:
    return Conversation((Message("user", (*media, "Where to?")),))


@pytest.fixture(scope="module")
def cinema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cinema]:
    folder = tiny.save_vision_checkpoint(tmp_path_factory.mktemp("eyes"))
    renderer = load_renderer(folder, media=MediaSettings(fps=2.0, max_frames=5))
    renderer = for_others(renderer, *LIMITS)
    engine = TransformersEngine(
        load_model(folder, torch.float32), load_tokenizer(folder), marks=lambda: renderer.marks
    )
    app = serve(engine, renderer, sampling=written(renderer))
    yield Cinema(folder, engine, renderer, app)
    engine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "film.mp4").write_bytes(film())
    return tmp_path / "film.mp4"


def said(app: FastAPI, *parts: dict[str, Any], **more: Any) -> tuple[str, int]:
    """The answer, and the tokens of the prompt."""
    done = chat(app, messages=asking(*parts), **more)
    assert done.status_code == 200, done.text
    body = done.json()
    return body["choices"][0]["message"]["content"], body["usage"]["prompt_tokens"]


def believed(app: FastAPI, *parts: dict[str, Any]) -> list[float]:
    """The log-probability of each token of the answer."""
    done = chat(app, messages=asking(*parts), logprobs=True).json()
    return [one["logprob"] for one in done["choices"][0]["logprobs"]["content"]]


def test_a_video_is_answered_as_infer_answers_it(cinema: Cinema, path: Path) -> None:
    own = Media("video", str(path))
    renderer = load_renderer(cinema.folder, media=MediaSettings(fps=2.0, max_frames=5))
    tokens = renderer.prompt(asked(own).messages)
    sampling = replace(written(renderer), logprobs=0)
    [whole] = cinema.engine.generate([Request(tokens, sampling, (own,))])
    found, size = said(cinema.app, part(path.read_bytes()))
    assert found == cinema.talked(own) == renderer.parse(whole.tokens).content
    assert size == len(tokens) == said(cinema.app)[1] + 5 * A_FRAME
    assert found != said(cinema.app)[0]  # it is seen
    assert believed(cinema.app, part(path.read_bytes())) == pytest.approx(whole.logprobs, abs=1e-5)


def test_a_stream_of_it_is_the_whole_answer_in_pieces(cinema: Cinema, path: Path) -> None:
    video = part(path.read_bytes())
    done = chat(
        cinema.app, messages=asking(video), stream=True, stream_options={"include_usage": True}
    )
    found = [event for event in events(done) if event]
    texts = [one["choices"][0]["delta"].get("content") or "" for one in found if one["choices"]]
    assert ("".join(texts), found[-1]["usage"]["prompt_tokens"]) == said(cinema.app, video)
    assert len([text for text in texts if text]) > 1


def test_videos_among_images_keep_their_order(cinema: Cinema, path: Path) -> None:
    Image.fromarray(picture(20)).save(path.with_name("a.png"))
    url = base64.b64encode(path.with_name("a.png").read_bytes()).decode()
    still = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{url}"}}
    video = part(path.read_bytes())
    file, image = Media("video", str(path)), Media("image", str(path.with_name("a.png")))
    beliefs = {}
    for name, parts, media in (
        ("vi", (video, still), (file, image)),
        ("iv", (still, video), (image, file)),
        ("vv", (video, video), (file, file)),
    ):
        found, size = said(cinema.app, *parts)
        assert found == cinema.talked(*media)
        beliefs[name] = believed(cinema.app, *parts)
        assert size == said(cinema.app)[1] + A_FRAME * (10 if name == "vv" else 6)
    assert beliefs["vi"] != pytest.approx(beliefs["iv"], abs=1e-4)


def jpegs(count: int) -> list[bytes]:
    made = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(picture(3 * number)).save(file, "JPEG")
        made.append(file.getvalue())
    return made


@pytest.mark.parametrize("count", [1, 3, 8])
def test_frames_one_by_one_are_a_row_of_frames(cinema: Cinema, tmp_path: Path, count: int) -> None:
    """``data:video/jpeg;base64,A,B,C`` as vLLM has it, and a list of files as a row has it."""
    names = []
    for number, content in enumerate(jpegs(count)):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        names.append(str(tmp_path / f"{number}.jpg"))
    joined = ",".join(base64.b64encode(one).decode() for one in jpegs(count))
    video = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{joined}"}}
    found, size = said(cinema.app, video)
    assert found == cinema.talked(Media("video", tuple(names)))
    assert size == said(cinema.app)[1] + A_FRAME * min(count, 5)  # max_frames


def test_fps_and_frames_of_the_request_s_model(cinema: Cinema, path: Path) -> None:
    for settings, frames in (
        (MediaSettings(fps=1.0), 3),
        (MediaSettings(fps=4.0), 12),
        (MediaSettings(fps=4.0, max_frames=2), 2),
        (MediaSettings(fps=0.4, min_frames=4), 4),
        (MediaSettings(), 30),
    ):
        renderer = for_others(load_renderer(cinema.folder, media=settings), *LIMITS)
        app = serve(cinema.engine, renderer)
        done = post(app, "/tokenize", {"messages": asking(part(path.read_bytes()))})
        assert done.json()["count"] == said(cinema.app)[1] + frames * A_FRAME


def remembering(folder: Path, place: Path) -> Path:
    """The checkpoint as a run leaves it that read two frames of a video and small images."""
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).symlink_to(file)
    run = {"command": "sft", "model": {"path": str(folder), "fps": 1.0, "max_frames": 2}}
    (place / "config.yaml").write_text(yaml.safe_dump(run))
    return place


def test_a_server_remembers_how_videos_were_read(
    cinema: Cinema, path: Path, tmp_path: Path
) -> None:
    folder = remembering(cinema.folder, tmp_path / "run")
    section, _ = settle(UsedModelSection(path=str(folder), dtype="float32"))
    config = DeployConfig(model=section)
    talker = load_talker(
        section,
        EngineSection(max_new_tokens=ANSWER),
        torch.device("cpu"),
        Log(speaking=False),
        config,
        lambda renderer: for_others(renderer, *LIMITS),
    )
    talker = replace(talker, sampling=written(talker.renderer))
    served = Served(talker, "tiny", {}, None)
    quiet = ServeSection(max_image_pixels=LIMITS[0], max_body_mb=4, verbose=False)
    service, app = make_service(served, quiet, Log(speaking=False))
    found, size = said(app, part(path.read_bytes()))
    assert size == said(app)[1] + 2 * A_FRAME
    [(message, _)] = talker.answers([asked(Media("video", str(path)))])
    assert found == message.content
    assert service.answerer.renderer is talker.renderer  # so a video is read once
    talker.engine.close()


def test_a_video_is_read_once_and_beside_the_event_loop(
    cinema: Cinema, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is decoded others are answered; the engine takes what was made of it."""
    times, real = [], processor.open_video

    def slow(*args: Any, **more: Any) -> Any:
        times.append(time.monotonic())
        time.sleep(0.6)
        return real(*args, **more)

    monkeypatch.setattr(processor, "open_video", slow)
    renderer = for_others(load_renderer(cinema.folder, media=MediaSettings(fps=1.0)), *LIMITS)
    monkeypatch.setattr(cinema.engine, "_marks", lambda: renderer.marks)
    app = serve(cinema.engine, renderer, sampling=Sampling(2, 0.0))
    body = {"model": "tiny", "messages": asking(part(path.read_bytes()))}

    async def ask() -> list[tuple[int, float]]:
        async with serving.client_of(app) as client:

            async def one(path: str, body: dict[str, Any] | None) -> tuple[int, float]:
                done = await (client.post(path, json=body) if body else client.get(path))
                return done.status_code, time.monotonic()

            seen = asyncio.create_task(one("/v1/chat/completions", body))
            while not times:
                await asyncio.sleep(0.005)
            text = {"model": "tiny", "messages": asking()}
            return [
                await one("/health", None),
                await one("/v1/chat/completions", text),
                await seen,
            ]

    chat(app, messages=asking(), max_tokens=1)  # templates are compiled
    (health, first), (text, second), (video, last) = asyncio.run(ask())
    assert (health, text, video) == (200, 200, 200)
    assert first - times[0] < 0.5 and second - times[0] < 0.55 and last - times[0] > 0.6
    assert len(times) == 1


def test_the_page_s_example_runs(
    cinema: Cinema, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    [example] = [one for one in re.findall(r"```py\n(.*?)```", page, re.S) if "video_url" in one]
    monkeypatch.chdir(path.parent)
    with listening(cinema.app) as address:
        exec(example.replace("http://127.0.0.1:8000", address).replace("smol", "tiny"), {})
    content, _, size = capsys.readouterr().out.strip().rpartition(" ")
    asked = [part(path.read_bytes()), {"type": "text", "text": "What happens?"}]
    done = chat(cinema.app, messages=user(asked)).json()
    assert content == done["choices"][0]["message"]["content"].strip()
    assert int(size) == done["usage"]["prompt_tokens"]


def broken() -> dict[str, bytes]:
    whole = film()
    return {
        "cut": whole[: len(whole) // 2],
        "no film": b"\0\0\0\x18ftypmp42" + bytes(200),
        "empty": b"",
        "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "a list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "says too much": whole.replace(b"mvhd", b"cmov"),
    }


@pytest.mark.parametrize("name", list(broken()))
def test_videos_that_are_none(cinema: Cinema, name: str) -> None:
    done = chat(cinema.app, messages=asking(part(broken()[name])))
    assert done.status_code == 400, done.text
    error = done.json()["error"]
    assert error["code"] == "invalid_prompt" and len(error["message"]) < 500
    assert "passwd" not in done.text and "Traceback" not in done.text


@pytest.mark.parametrize(
    "url",
    ["data:video/jpeg;base64,", "data:video/jpeg;base64,/9j/,", "data:video/jpeg;base64,!!,!!",
     "data:video/jpeg;base64" + "," * 5000, "data:video/mp4;base64,AAAA,AAAA"],
    ids=["none", "one and none", "no base64", "commas", "two files"],
)  # fmt: skip
def test_frames_that_are_none(cinema: Cinema, url: str) -> None:
    done = chat(cinema.app, messages=asking({"type": "video_url", "video_url": {"url": url}}))
    assert done.status_code == 400 and len(done.text) < 1000


def test_a_video_of_ten_thousand_frames(cinema: Cinema) -> None:
    """Only what is wanted of it is kept; what is wanted of it has a bound."""
    long = part(film(1000))
    assert said(cinema.app, long)[1] == said(cinema.app)[1] + 5 * A_FRAME
    settings = MediaSettings(fps=10.0, max_frames=10_000)
    renderer = for_others(load_renderer(cinema.folder, media=settings), *LIMITS)
    done = chat(serve(cinema.engine, renderer), messages=asking(long))
    assert done.status_code == 400
    assert "10000 frames of 64 x 48 pixels" in done.json()["error"]["message"]
