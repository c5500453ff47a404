"""Pictures in a request are what they are in a row of a data set: same tokens, same pixels."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
import torch
from fastapi import FastAPI
from PIL import ExifTags, Image
from serving import SayingEngine, chat, events, post, serve, user
from transformers.utils.import_utils import is_torchvision_available

import swift
import tiny
from contracts.processors import save_tiny
from swift.chat.load import for_others, load_renderer, load_tokenizer
from swift.chat.media.settings import MediaSettings
from swift.chat.message import Conversation
from swift.chat.render import Renderer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Request, Sampling
from swift.models.load import load_model

LIMITS = (1_000_000, 4 << 20)


class Seeing(SayingEngine):
    """Says something, whatever it sees."""

    abilities = SayingEngine.abilities | {Ability.MEDIA}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL: an image takes as many tokens as it is large."""
    place = tmp_path_factory.mktemp("eyes")
    save_tiny("qwen2_vl", place)
    (place / "tools.jinja").write_text(serving.HERMES)
    return place


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    found = load_renderer(folder, chat_template=str(folder / "tools.jinja"))
    return for_others(found, *LIMITS)


@pytest.fixture(scope="module")
def engine(renderer: Renderer) -> Seeing:
    return Seeing(renderer, "Yes.", context=4096)


@pytest.fixture(scope="module")
def app(engine: Seeing, renderer: Renderer) -> FastAPI:
    return serve(engine, renderer)


def pixels(number: int, height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(number)
    return random.integers(0, 255, (height, width, channels), dtype=np.uint8)


def written(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(image: Image.Image) -> Image.Exif:
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def pictures() -> dict[str, Callable[[], bytes]]:
    """Every way to write a picture that is not three times eight bits."""
    plain = Image.fromarray(pixels(0))
    alpha = Image.fromarray(pixels(1, channels=4), "RGBA")
    several = [Image.fromarray(pixels(n)) for n in (2, 3, 4)]
    deep = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    palette = alpha.convert("RGB").quantize(16)
    more: dict[str, Any] = {"save_all": True, "append_images": several[1:], "duration": 100}
    return {
        "plain.png": lambda: written(plain, "PNG"),
        "alpha.png": lambda: written(alpha, "PNG"),
        "grey_alpha.png": lambda: written(alpha.convert("LA"), "PNG"),
        "palette.png": lambda: written(palette, "PNG", transparency=3),
        "deep.png": lambda: written(deep, "PNG"),
        "one_bit.png": lambda: written(plain.convert("1"), "PNG"),
        "turned.jpg": lambda: written(plain, "JPEG", exif=turned(plain)),
        "turned.png": lambda: written(plain, "PNG", exif=turned(plain)),
        "cmyk.jpg": lambda: written(plain.convert("CMYK"), "JPEG"),
        "moving.gif": lambda: written(several[0], "GIF", **more),
        "moving.webp": lambda: written(several[0], "WEBP", lossless=True, **more),
        "alpha.webp": lambda: written(alpha, "WEBP", lossless=True),
        "pages.tiff": lambda: written(several[0], "TIFF", **more),
        "plain.bmp": lambda: written(plain, "BMP"),
        "tall.png": lambda: written(Image.fromarray(pixels(5, 90, 20)), "PNG"),
    }


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def part(content: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(content, kind)}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def learned(folder: Path, row: dict[str, Any]) -> Conversation:
    """A row of a data set that names its pictures as files."""
    tiny.write_rows(folder / "rows.jsonl", [row])
    [found] = swift.load_dataset(str(folder / "rows.jsonl"))
    return found


def same(request: Request, row: Conversation, renderer: Renderer) -> None:
    """See that a model gets of a request what it gets of a row in training."""
    [sample] = renderer.render(row)
    assert sample.tokens[: len(request.tokens)] == request.tokens
    assert len(request.media) == len(sample.media) > 0
    own = renderer.marks.features([(request.tokens, request.media)])
    others = load_renderer(Path(renderer.spec.media.folder)).marks  # which has read nothing yet
    given = others.features([(sample.tokens, sample.media)])
    assert own.keys() == given.keys() and {"pixel_values", "image_grid_thw"} <= own.keys()
    assert all(np.array_equal(own[name], given[name]) for name in own)


@pytest.mark.parametrize("name", list(pictures()))
def test_a_picture_is_read_as_in_training(
    app: FastAPI, engine: Seeing, renderer: Renderer, tmp_path: Path, name: str
) -> None:
    content = pictures()[name]()
    (tmp_path / name).write_bytes(content)
    row = learned(tmp_path, {"image": name, "text": "What is it?", "answer": "A bird."})
    for kind in ("image/png", "image/jpeg", "application/octet-stream"):  # the content says it
        done = chat(app, messages=user([part(content, kind), text("What is it?")]))
        assert done.status_code == 200, done.text
        same(engine.seen[-1], row, renderer)
        assert done.json()["usage"]["prompt_tokens"] == len(engine.seen[-1].tokens)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (SVG, "SVG"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\x1f\x8b" + bytes(40), "gzip"),
        (pictures()["plain.png"]()[:2000], "PNG"),
        (pictures()["turned.jpg"]()[:900], "JPEG"),
        (pictures()["moving.webp"]()[:300], "WebP"),
        (b"", "empty"),
    ],
    ids=["svg", "pdf", "heic", "gzip", "cut png", "cut jpeg", "cut webp", "empty"],
)
def test_what_is_no_picture_is_refused_by_name(app: FastAPI, content: bytes, why: str) -> None:
    done = chat(app, messages=user([part(content)]))
    assert done.status_code == 400 and why in done.json()["error"]["message"], done.text
    assert len(done.text) < 600


@pytest.fixture
def three(tmp_path: Path) -> list[bytes]:
    """Three pictures of different sizes, also as files beside the rows."""
    made = []
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        made.append(written(Image.fromarray(pixels(number, 30 + 12 * number, 50)), "PNG"))
        (tmp_path / name).write_bytes(made[-1])
    return made


def test_several_pictures_in_several_turns(
    app: FastAPI, engine: Seeing, renderer: Renderer, three: list[bytes], tmp_path: Path
) -> None:
    a, b, c = map(part, three)
    messages = [
        {"role": "user", "content": [a, text("and"), b, text("alike?")]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": [text("This one"), c, a, text("then?")]},
    ]
    row = learned(tmp_path, {
        "messages": [
            {"role": "user", "content": "<image>and<image>alike?"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "This one<image><image>then?"},
            {"role": "assistant", "content": "Yes."},
        ],
        "images": ["a.png", "b.png", "c.png", "a.png"],
    })  # fmt: skip
    assert chat(app, messages=messages).status_code == 200
    same(engine.seen[-1], row, renderer)
    turns = [{"role": one["role"], "content": _blocks(one["content"])} for one in messages]
    done = post(app, "/v1/messages", {"messages": turns, "max_tokens": 9})
    assert done.json()["usage"]["input_tokens"] == len(engine.seen[-1].tokens)
    same(engine.seen[-1], row, renderer)
    items = [{"role": one["role"], "content": _inputs(one["content"])} for one in messages]
    done = post(app, "/v1/responses", {"input": items})
    assert done.json()["usage"]["input_tokens"] == len(engine.seen[-1].tokens)
    same(engine.seen[-1], row, renderer)
    other = [messages[0] | {"content": [b, text("and"), a, text("alike?")]}, *messages[1:]]
    assert chat(app, messages=other).status_code == 200
    with pytest.raises(AssertionError):
        same(engine.seen[-1], row, renderer)


def _blocks(content: Any) -> Any:
    """Anthropic's."""
    if isinstance(content, str):
        return content
    return [
        one
        if one["type"] == "text"
        else {"type": "image", "source": {
            "type": "base64", "media_type": "image/png",
            "data": one["image_url"]["url"].partition(",")[2],
        }}
        for one in content
    ]  # fmt: skip


def _inputs(content: Any) -> Any:
    """The responses'."""
    if isinstance(content, str):
        return content
    return [
        {"type": "input_text", "text": one["text"]}
        if one["type"] == "text"
        else {"type": "input_image", "image_url": one["image_url"]["url"]}
        for one in content
    ]


def test_pictures_that_tools_give(
    app: FastAPI, engine: Seeing, renderer: Renderer, three: list[bytes], tmp_path: Path
) -> None:
    a, b, _ = map(part, three)
    row = learned(tmp_path, {
        "messages": [
            {"role": "user", "content": "<image>What is near it?"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "look", "arguments": {"at": 3}}}]},
            {"role": "tool", "content": "Seen: <image>"},
            {"role": "assistant", "content": "Yes."},
        ],
        "images": ["a.png", "b.png"],
    })  # fmt: skip
    turns = [
        {"role": "user", "content": _blocks([a, text("What is near it?")])},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 3}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": _blocks([text("Seen: "), b])}]},
    ]  # fmt: skip
    done = post(app, "/v1/messages", {"messages": turns, "max_tokens": 9})
    assert done.status_code == 200, done.text
    same(engine.seen[-1], row, renderer)
    items = [
        {"role": "user", "content": _inputs([a, text("What is near it?")])},
        {"type": "function_call", "call_id": "t1", "name": "look", "arguments": '{"at": 3}'},
        {"type": "function_call_output", "call_id": "t1", "output": _inputs([text("Seen: "), b])},
    ]
    done = post(app, "/v1/responses", {"input": items})
    assert done.status_code == 200, done.text
    same(engine.seen[-1], row, renderer)


def test_a_mark_that_a_client_writes_stays_text(
    app: FastAPI, engine: Seeing, renderer: Renderer, three: list[bytes]
) -> None:
    mark = renderer.marks.mark
    plain = chat(app, messages=user([text("Look: "), part(three[0])]))
    spelled = chat(app, messages=user([text(f"Look: {mark}"), part(three[0])]))
    assert plain.status_code == spelled.status_code == 200
    [before, after] = engine.seen[-2:]
    id = renderer.tokenizer.encode(mark).ids[0]
    assert before.tokens.count(id) == after.tokens.count(id)


def test_limits_of_pixels_are_those_of_training(folder: Path, engine: Seeing) -> None:
    """What a checkpoint remembers of ``--max_pixels``."""
    large = written(Image.fromarray(pixels(9, 100, 300)), "PNG")
    sizes = {}
    for name, settings in (
        ("own", MediaSettings()),
        ("few", MediaSettings(max_pixels=1100)),
        ("many", MediaSettings(max_pixels=40_000)),
    ):
        renderer = for_others(load_renderer(folder, media=settings), *LIMITS)
        done = chat(serve(engine, renderer), messages=user([part(large)]))
        assert done.status_code == 200, done.text
        sizes[name] = done.json()["usage"]["prompt_tokens"]
    assert sizes["few"] < sizes["own"] < sizes["many"]


@pytest.fixture(scope="module")
def real(folder: Path, renderer: Renderer) -> Iterator[FastAPI]:
    model = load_model(folder, torch.float32)
    engine = TransformersEngine(model, load_tokenizer(folder), marks=lambda: renderer.marks)
    yield serve(engine, renderer, sampling=Sampling(8, 0.0))
    engine.close()


def test_all_protocols_give_one_answer(
    real: FastAPI, renderer: Renderer, three: list[bytes], tmp_path: Path
) -> None:
    content = [part(three[0]), text("and"), part(three[1]), text("?")]
    whole = chat(real, messages=user(content)).json()
    said = whole["choices"][0]["message"]["content"]
    body = {"messages": user(_blocks(content)), "max_tokens": 8}
    blocks = post(real, "/v1/messages", body).json()["content"]
    assert "".join(one["text"] for one in blocks) == said
    output = post(real, "/v1/responses", {"input": user(_inputs(content))}).json()["output"]
    assert output[-1]["content"][0]["text"] == said
    done = chat(real, messages=user(content), stream=True)
    deltas = [one["choices"][0]["delta"] for one in events(done) if one and one["choices"]]
    assert "".join(one.get("content") or "" for one in deltas) == said
    counted = post(real, "/v1/messages/count_tokens", {"messages": user(_blocks(content))})
    assert counted.json()["input_tokens"] == whole["usage"]["prompt_tokens"]


def test_many_at_once_get_what_each_gets_alone(real: FastAPI, three: list[bytes]) -> None:
    """Pictures are prepared in threads; what one request reads is no other's."""
    kinds = [read() for read in pictures().values()] + three
    bodies = [user([part(one), text("What is it?")]) for one in kinds]

    def ask(messages: Any) -> Any:
        done = chat(real, messages=messages, logprobs=True, max_tokens=3).json()
        logprobs = done["choices"][0]["logprobs"]["content"]
        return done["usage"]["prompt_tokens"], [one["logprob"] for one in logprobs]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(ask, bodies * 2))
    for number, messages in enumerate(bodies):
        size, believed = ask(messages)
        for found in together[number :: len(bodies)]:
            assert found == (size, pytest.approx(believed, abs=1e-4))


def test_a_video_that_needs_a_package_says_so(app: FastAPI) -> None:
    if is_torchvision_available():
        pytest.skip("torchvision is installed")
    body = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    done = chat(app, messages=user([body]))
    assert done.status_code == 400 and "torchvision" in done.json()["error"]["message"]


def test_what_is_not_said_right_is_named(app: FastAPI, three: list[bytes]) -> None:
    source = {"type": "base64", "media_type": "video/mp4", "data": "AAAA"}
    for path, body, where in (
        ("/v1/messages", {"messages": user([{"type": "image", "source": source}]),
                          "max_tokens": 3}, "media_type"),
        ("/v1/messages", {"messages": user([{"type": "video", "source": source}]),
                          "max_tokens": 3}, "messages"),
        ("/v1/responses", {"input": user([{"type": "input_file", "file_data": "AAAA"}])}, "input"),
        ("/v1/chat/completions", {"messages": user([{"type": "image_url", "image_url": "a"}])},
         "image_url"),
        ("/v1/chat/completions", {"messages": [
            {"role": "assistant", "content": [part(three[0])]}, *user("a")]}, "content"),
    ):  # fmt: skip
        done = post(app, path, body)
        assert done.status_code == 400 and where in json.dumps(done.json()["error"]), done.text
