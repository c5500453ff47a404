"""What a user reads when something is wrong, and the exit code that a script sees."""

from __future__ import annotations

import pytest

from swift import errors
from swift.cli import main
from swift.errors import ConfigError, MissingExtra, SwiftError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_every_error_is_one_of_ours_with_an_exit_code() -> None:
    assert all(issubclass(kind, SwiftError) and kind.exit_code in (1, 2) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_command_line_prints_one_without_traceback(
    kind: type[SwiftError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = MissingExtra("vllm", "vllm", "'fast'") if kind is MissingExtra else kind("a.jsonl:1: x")

    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr("swift.cli._dispatch", fail)
    assert main(["sft"]) == kind.exit_code
    assert capsys.readouterr().err == f"swift sft: {error}\n"


def test_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("swift.cli._dispatch", interrupt)
    assert main(["sft"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_problems_are_kept_apart() -> None:
    error = ConfigError("one", "two")
    assert (error.problems, str(error)) == (["one", "two"], "one\ntwo")
