"""Images, videos, sounds and boxes: a fixture row -> the expected conversation, or a reason."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chat.templates import FAMILIES
from swift.chat.message import Box, Conversation, Media, Message, Ref
from swift.data.formats.form import formats, understand
from swift.data.readers import records
from swift.errors import DataError, RenderError

KNOWN = formats()
IMAGE, OTHER = Media("image", "a.png"), Media("image", "b.png")
VIDEO, SOUND = Media("video", "v.mp4"), Media("audio", "s.wav")
FRAMES = Media("video", ("1.png", "2.png"))
DATA = "data:image/png;base64,AAAA"


def talk(*parts: Any, answer: Any = "Hello") -> Conversation:
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts
    return Conversation((Message("user", content), Message("assistant", answer)))


def row(text: Any, answer: Any = "Hello", **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **columns}


ROWS: list[tuple[dict[str, Any], Conversation]] = [
    (row("<image>Hi", images=["a.png"]), talk(IMAGE, "Hi")),
    (row("Hi", images=["a.png"]), talk(IMAGE, "Hi")),
    (row("Hi", images="a.png"), talk(IMAGE, "Hi")),
    (row("Hi", image={"bytes": None, "path": "a.png"}), talk(IMAGE, "Hi")),
    (row("Hi", images=[{"url": "a.png"}]), talk(IMAGE, "Hi")),
    (row("Hi", images=[{"bytes": "AAAA", "path": "a.png"}]),
     talk(Media("image", "data:;base64,AAAA"), "Hi")),
    (row("Hi", images=[{"base64": "AAAA", "media_type": "image/png"}]),
     talk(Media("image", DATA), "Hi")),
    (row("Hi", images=[DATA]), talk(Media("image", DATA), "Hi")),
    (row("Hi", images=["a.png", "b.png"]), talk(IMAGE, OTHER, "Hi")),
    (row("x <image> y<image>", images=["a.png", "b.png"]), talk("x ", IMAGE, " y", OTHER)),
    (row("<image>", "<image>!", images=["a.png", "b.png"]), talk(IMAGE, answer=(OTHER, "!"))),
    (row("<image> and <video>", images=["a.png"], videos=["v.mp4"]), talk(IMAGE, " and ", VIDEO)),
    (row("<video>", audio="s.wav", video="v.mp4"), talk(SOUND, VIDEO)),
    (row("<video>", videos=[["1.png", "2.png"]]), talk(FRAMES)),
    (row("<audio>?", audios=["s.wav"]), talk(SOUND, "?")),
    (row("<image>Hi"), talk("<image>Hi")),
    (row("<image>Hi", images=[], videos=None), talk("<image>Hi")),
    (row("<video>Hi", images=["a.png"]), talk(IMAGE, "<video>Hi")),
    (row([{"type": "image"}, {"type": "text", "text": "Hi"}], images=["a.png"]), talk(IMAGE, "Hi")),
    (row([{"type": "image", "text": None, "image": None}, "Hi"], images=["a.png"]),
     talk(IMAGE, "Hi")),
    (row([{"type": "image", "image": "a.png"}, "Hi"]), talk(IMAGE, "Hi")),
    (row([{"type": "image_url", "image_url": {"url": DATA}}]), talk(Media("image", DATA))),
    (row([{"type": "image_url", "image_url": "a.png"}]), talk(IMAGE)),
    (row([{"type": "image", "source": {"type": "url", "url": "a.png"}}]), talk(IMAGE)),
    (row([{"type": "image", "path": "a.png"}]), talk(IMAGE)),
    (row([{"type": "video_url", "video_url": {"url": "v.mp4"}}]), talk(VIDEO)),
    (row([{"type": "video", "video": ["1.png", "2.png"]}]), talk(FRAMES)),
    (row([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
     talk(Media("audio", "data:audio/wav;base64,AAAA"))),
    ({"query": "Hi", "response": "Hello", "images": ["a.png"]}, talk(IMAGE, "Hi")),
    ({"image": "a.png", "question": "Hi", "answer": "Hello"}, talk(IMAGE, "Hi")),
    ({"instruction": "Hi", "input": "", "output": "Hello", "images": ["a.png"]}, talk(IMAGE, "Hi")),
    ({"conversations": [{"from": "human", "value": "Hi\n<image>"},
                        {"from": "gpt", "value": "Hello"}], "image": "a.png"},
     talk("Hi\n", IMAGE)),
    ({"image": "a.png", "text": "Hi", "answer": "Hello"}, talk(IMAGE, "Hi")),
    ({"image": "a.png", "caption": "Hello"}, talk(IMAGE)),
    ({"image": "a.png", "text": "Hello"}, talk(IMAGE)),
    ({"audio": {"path": "s.wav"}, "sentence": "Hello"}, talk(SOUND)),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "meaning"), ROWS)
def test_media_stand_where_they_are_marked(columns: dict[str, Any], meaning: Conversation) -> None:
    assert understand(columns, KNOWN) == meaning


def test_a_system_message_is_no_place_for_unmarked_media() -> None:
    found = understand({**row("Hi", images=["a.png"]), "system": "S"}, KNOWN)
    assert found == Conversation((Message("system", "S"), *talk(IMAGE, "Hi").messages))


def grounded(text: str, answer: str, **objects: Any) -> dict[str, Any]:
    return row(text, answer, images=["a.png", "b.png"], objects=objects)


TWO = [IMAGE, OTHER]
BOXES: list[tuple[dict[str, Any], Conversation]] = [
    (grounded("<image><image>Find <ref-object>", "<bbox><bbox>", ref=["a dog"],
              bbox=[[1, 2, 3, 4], [5.5, 6]]),
     talk(*TWO, "Find ", Ref("a dog"), answer=(Box((1, 2, 3, 4)), Box((5.5, 6))))),
    (grounded("Look", "<ref-object><bbox> and <ref-object>.", ref=["x", "<bbox>"],
              bbox=[[9, 8, 1, 2]], bbox_type="norm1", image_id=[1]),
     talk(*TWO, "Look",
          answer=(Ref("x"), Box((1, 2, 9, 8), "norm1", 1), " and ", Ref("<bbox>"), "."))),
    (grounded("Where?", "click(<bbox>)", ref=[], bbox=[[6, 2]]),
     talk(*TWO, "Where?", answer=("click(", Box((6, 2)), ")"))),
    (row("Hi", "<bbox>", objects={}), talk("Hi", answer="<bbox>")),
    (row("Hi", "<bbox>", image="a.png", objects=json.dumps({"bbox": [[1, 2]]})),
     talk(IMAGE, "Hi", answer=(Box((1, 2)),))),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "meaning"), BOXES)
def test_boxes(columns: dict[str, Any], meaning: Conversation) -> None:
    assert understand(columns, KNOWN) == meaning


HOLD = "images: {} given, {} marked with <image> in the messages; both should be the same"
WRONG: list[tuple[dict[str, Any], str]] = [
    (row("<image><image>", images=["a.png"]), HOLD.format(1, 2)),
    (row("<image>", images=["a.png", "b.png"]), HOLD.format(2, 1)),
    (row([{"type": "image"}]), HOLD.format(0, 1)),
    (row([{"type": "image"}, {"type": "image"}], images=["a.png"]), HOLD.format(1, 2)),
    (row("Hi", images=[5]), "images[0] should be a path, an address or an object, this is a num"),
    (row("Hi", images=[""]), "images[0] should be a path, an address or an object, this is empty"),
    (row("Hi", images=[["a.png"]]), "images[0] should be a path, an address or an object"),
    (row("Hi", videos=[["a.png", 5]]), "videos[0][1] should be a path"),
    (row("Hi", image=5), "image should be a path, an address or an object, this is a number"),
    (row("Hi", image=True), "image should be a path, an address or an object, this is true/false"),
    (row("Hi", image={"a": 1}), "image has none of url, path, bytes and base64"),
    (row("Hi", image={"bytes": [1, 2]}), "image.bytes should be the text of base64, this is"),
    (row("Hi", image={"bytes": "?"}), "image.bytes: not base64"),
    (row([{"type": "image", "image": 5}]), "messages[0].content[0].image should be a path"),
    (row([{"type": "image_url", "image_url": {"url": 5}}]),
     "messages[0].content[0].image_url has none of url"),
    (row([{"type": "picture"}]), "messages[0].content[0] has type 'picture'"),
    (row([{"type": ["image"]}]), "messages[0].content[0] has type ['image']"),
    ({"messages": [{"role": "assistant", "content": "a"}], "images": ["a.png"]},
     "there are media, and no user's message where they could stand"),
    ({"image": "a.png", "caption": 5}, "caption should be text, this is a number"),
    ({"image": "a.png", "text": 5, "answer": "a"}, "text should be text, this is a number"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2], [3, 4]]), "objects.bbox holds 2, the messages have 1"),
    (grounded("<ref-object>", "a", ref=[]), "objects.ref holds 0, the messages have 1"),
    (grounded("Hi", "a", ref=["x"]), "objects.ref holds 1, the messages have 0 <ref-object>"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2, 3]]), "objects.bbox[0] should be [x, y] or [x1, y1, x2"),
    (grounded("Hi", "<bbox>", bbox=[["a", 2]]), "objects.bbox[0][0] should be a number"),
    (grounded("Hi", "<bbox>", bbox=5), "objects.bbox should be a list, this is a number"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2]], image_id=[2]), "objects.bbox[0] is in an image that"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2]], image_id=[0, 1]), "objects.image_id holds 2, objec"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2]], bbox_type="x"), "objects.bbox_type should be real"),
    (grounded("Hi", "<bbox>", bbox=[[1, 2]], bbox_type=[]), "objects.bbox_type should be real"),
    (row("Hi", "<bbox>", objects={"bbox": [[1, 2]]}), "objects.bbox[0] is in an image that"),
    (row("Hi", objects=5), "objects should be a JSON object with ref and bbox"),
    (row("Hi", objects="{"), "objects: not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "why"), WRONG)
def test_wrong_media_name_their_column(columns: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(columns, KNOWN)
    assert str(caught.value).startswith(why)


def test_what_cannot_be_rendered_is_refused() -> None:
    renderer = FAMILIES["chatml"].renderer()
    with pytest.raises(RenderError, match=r"takes text alone"):
        renderer.render(talk("Hi", IMAGE))
    with pytest.raises(RenderError, match=r"takes text alone"):
        renderer.render(talk("Hi", answer=("Hello", IMAGE)))


def test_binary_values_of_a_table_are_data_urls(tmp_path: Path) -> None:
    image = {"bytes": b"\x89PNG\x00", "path": "a.png"}
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"question": "Hi", "answer": "Yes", "image": image}]), file
    )
    [(_, raw)] = records(file, "a.parquet")
    url = f"data:;base64,{base64.b64encode(image['bytes']).decode()}"
    assert understand(json.loads(raw), KNOWN) == talk(Media("image", url), "Hi", answer="Yes")
