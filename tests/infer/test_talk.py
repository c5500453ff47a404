from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swift.chat.load import load_renderer, load_tokenizer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Sampling
from swift.infer.talk import Talker, Terminal
from swift.models.load import load_model

QUOTES = '"""'


@pytest.fixture(scope="module")
def talker(checkpoint: Path) -> Talker:
    import torch

    engine = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    return Talker(load_renderer(checkpoint), engine, Sampling(6))


def talk(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, *typed: str, streaming: bool = True
) -> Terminal:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in typed)))
    terminal = Terminal(talker, streaming=streaming)
    terminal.run()
    return terminal


def test_a_conversation_keeps_its_history(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = talk(talker, monkeypatch, "Hello", "", "And now?")
    assert [m.role for m in terminal.history] == ["user", "assistant"] * 2
    shown = capsys.readouterr().out.splitlines()
    assert "\n".join(str(m.content) for m in terminal.history[1::2]) == "\n".join(shown)


def test_several_lines_are_one_message(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = talk(talker, monkeypatch, QUOTES, "first", "  second", QUOTES)
    assert terminal.history[0].content == "first\n  second"


def test_commands(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = talk(
        talker, monkeypatch, "Hello", "/system You are a bird.", "/nonsense", "/help", "Hi",
        "/clear", "Again", "/quit", "never read", streaming=False,
    )  # fmt: skip
    assert terminal.system == "You are a bird."
    assert [m.content for m in terminal.history if m.role == "user"] == ["Again"]
    shown = capsys.readouterr().out
    assert "there is no command /nonsense" in shown and "/clear   forget" in shown


def test_a_prompt_that_is_too_long_does_not_end_the_chat(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = talk(talker, monkeypatch, "word " * 3000, "Hi")
    assert [m.content for m in terminal.history if m.role == "user"] == ["Hi"]
    assert "context holds 512" in capsys.readouterr().out


def test_the_chat_in_a_pseudo_terminal(checkpoint: Path, tmp_path: Path) -> None:
    """A real terminal: prompt, answer, Ctrl-D."""
    import os
    import pty

    main, child = pty.openpty()
    words = [sys.executable, "-m", "swift", "infer", "--model", str(checkpoint)]
    process = subprocess.Popen(
        [*words, "--max_new_tokens", "4"], stdin=child, stdout=child, stderr=child, cwd=tmp_path
    )
    os.close(child)
    seen = b""

    def read_until(mark: bytes) -> None:
        nonlocal seen
        while mark not in seen:
            seen += os.read(main, 4096)

    read_until(b"> ")
    os.write(main, b"Hello\n")
    seen = b""
    read_until(b"\n> ")
    os.write(main, b"\x04")
    assert process.wait(60) == 0
    os.close(main)
