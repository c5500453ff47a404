"""What a checkpoint learned with is known beside it, and a difference is named."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from processes import run
from swift.chat.load import for_others, load_renderer
from swift.chat.manifest import FILE, differences, manifest, text_of
from swift.chat.media.settings import MediaSettings


def test_what_a_run_writes_is_what_the_renderer_of_its_checkpoint_says(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows = tiny.write_rows(tmp_path / "chats.jsonl", tiny.chats(8))
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--system", "Be brief."]
    run([*words, "--max_steps", 1, "--output_dir", "run", "--report_to", "none"], tmp_path)
    folder = tmp_path / "run/checkpoint-1"
    renderer = load_renderer(folder)
    assert json.loads((folder / FILE).read_text()) == manifest(renderer, "Be brief.")
    assert differences(folder, renderer, "Be brief.") == []
    assert differences(folder, renderer, None) == [
        "the system prompt is not what checkpoint-1 learned with: 'Be brief.', now None"
    ]


def test_every_difference_is_named(checkpoint: Path, tmp_path: Path) -> None:
    renderer = load_renderer(checkpoint)
    (tmp_path / FILE).write_text(text_of(renderer, "a"))
    other = load_renderer(
        checkpoint, chat_template="vicuna", template_kwargs={"enable_thinking": True}, prefix="So"
    )
    found = " ".join(differences(tmp_path, other, "b"))
    for word in ("chat template", "told", "begins", "system prompt"):
        assert word in found
    assert "tokenizer is" not in found


def test_nothing_is_said_where_nothing_is_known(checkpoint: Path, tmp_path: Path) -> None:
    renderer = load_renderer(checkpoint)
    assert differences(tmp_path, renderer, None) == []
    (tmp_path / FILE).write_text("{")
    assert differences(tmp_path, renderer, None) == []
    assert differences(tmp_path / "none", renderer, None) == []


def test_media_that_are_read_otherwise_are_named(tmp_path: Path) -> None:
    eyes = tiny.save_vision_checkpoint(tmp_path / "eyes")
    learned = MediaSettings(fps=2.0, max_frames=8, max_pixels=900)
    before = manifest(load_renderer(eyes, media=learned), None)
    (tmp_path / FILE).write_text(json.dumps(before))
    served = for_others(load_renderer(eyes, media=learned), 1000, 1 << 20)
    assert differences(tmp_path, served, None) == []  # limits are no difference
    other = load_renderer(eyes, media=MediaSettings(fps=4.0, max_frames=8))
    name = tmp_path.name
    assert differences(tmp_path, other, None) == [
        f"--max_pixels is not what {name} learned with: 900, now None",
        f"--fps is not what {name} learned with: 2.0, now 4.0",
    ]
    del before["media"]["fps"], before["media"]["max_pixels"]  # as an older version wrote it
    (tmp_path / FILE).write_text(json.dumps(before))
    assert differences(tmp_path, other, None) == []


def test_limits_for_others_make_no_second_renderer(tmp_path: Path, checkpoint: Path) -> None:
    """The engine and what writes its prompts read a medium once between them."""
    text = load_renderer(checkpoint)
    assert for_others(text, 1000, 1 << 20) is text
    eyes = load_renderer(tiny.save_vision_checkpoint(tmp_path / "eyes"))
    narrow = for_others(eyes, 1000, 1 << 20)
    assert narrow is not eyes and for_others(narrow, 1000, 1 << 20) is narrow
