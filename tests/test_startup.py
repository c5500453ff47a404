"""The command line before any work: what it imports, what it says, how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swift.cli import COMMANDS

HEAVY = (
    *("torch", "transformers", "numpy", "tokenizers", "pyarrow", "huggingface_hub"),
    *("gradio", "fastapi"),
)
CONFIGURED = ", ".join(name for name, command in COMMANDS.items() if command.config)
SPY = f"""
import sys
from swift.cli import main
code = main(sys.argv[1:])
print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def swift(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swift", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["sft", "--help"],
        ["rlhf", "--help"],
        ["infer", "--help"],
        ["inspect", "--help"],
        ["verify", "--help"],
        ["app", "--help"],
        ["trace", "--help"],
        ["schema", "sft"],
        ["completion", "bash"],
        ["sft", "--modle", "x"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    command = [sys.executable, "-c", SPY, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2)
    assert done.stderr.splitlines()[-1] == ""


def test_the_spy_sees_a_heavy_import() -> None:
    spy = SPY.replace("code =", "import numpy; code =")
    done = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=False)
    assert done.stderr.split() == ["numpy"]


def test_import_swift_costs_nothing() -> None:
    code = f"import sys, swift; dir(swift); print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_the_overview_names_every_command(words: list[str]) -> None:
    from swift.cli import COMMANDS

    done = swift(*words)
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert command.help in done.stdout


def test_version() -> None:
    import swift as package

    done = swift("--version")
    assert (done.returncode, done.stdout) == (0, f"swift {package.__version__}\n")


def test_help_of_a_command_names_every_setting_once() -> None:
    from swift.config.flags import spelling
    from swift.config.runs import SftConfig
    from swift.config.tree import leaves

    page = swift("sft", "--help").stdout
    heads = [line.split()[0] for line in page.splitlines() if line.startswith("  --")]
    assert sorted(heads) == sorted(spelling(leaf.path) for leaf in leaves(SftConfig))


def test_every_setting_has_help() -> None:
    from swift.cli import COMMANDS, _load
    from swift.config.tree import leaves

    for command in COMMANDS.values():
        if command.config:
            assert [leaf.path for leaf in leaves(_load(command.config)) if not leaf.help] == []


def test_help_of_one_section() -> None:
    done = swift("sft", "--help", "tuner")
    assert done.returncode == 0
    assert done.stdout.startswith("tuner: ")
    assert "--lora_rank" in done.stdout
    assert "--learning_rate" not in done.stdout


def test_help_of_an_unknown_section() -> None:
    done = swift("sft", "--help", "tunr")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "swift sft: there is no section tunr; "
        "it has model, tuner, data, optimizer, schedule, train, parallel, run, task"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sfft"], "swift: there is no command 'sfft'; did you mean sft?"),
        (["xyz"], "swift: there is no command 'xyz'; swift --help lists the commands"),
        (["web-ui"], "swift: web-ui is known from ms-swift, not supported yet"),
        (["web_ui"], "swift: web-ui is known from ms-swift, not supported yet"),
        (["megatron", "sft"], "swift: megatron is known from ms-swift, not supported yet"),
        (["schema"], f"swift schema: needs one of: {CONFIGURED}"),
        (["schema", "sfd"], f"swift schema: needs one of: {CONFIGURED}"),
        (["completion", "tcsh"], "swift completion: needs one of: bash, zsh, fish"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_clear_line(words: list[str], said: str) -> None:
    done = swift(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")


def test_underscores_and_hyphens_in_commands_are_the_same() -> None:
    assert swift("merge_lora", "--help").stdout == swift("merge-lora", "--help").stdout != ""


def test_problems_are_listed_one_a_line_with_their_number() -> None:
    done = swift("sft", "--modle", "x", "--lora_rank", "many")
    assert done.returncode == 2
    title, *lines = done.stderr.splitlines()
    assert title == f"swift sft: {len(lines)} problems"
    assert [line.split(":")[0].strip() for line in lines] == [
        "--modle",
        "--model",
        "--lora_rank",
        "--dataset",
    ]


def test_schema_is_json() -> None:
    schema = json.loads(swift("schema", "sft").stdout)
    assert schema["title"] == "SftConfig"


@pytest.mark.parametrize("words", [["--help"], ["sft", "--help"], ["schema", "sft"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_silent(words: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "swift", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_looks_at_the_command_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("command: pt\nmodel: {path: x}\ndata: {train: [], packng: true}\n")
    done = swift("check", str(file))
    assert done.returncode == 2
    assert "did you mean data.packing?" in done.stderr


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in words)
    call = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _swift; "
    call += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "swift.bash"
    file.write_text(swift("completion", "bash").stdout)
    return file


def test_bash_accepts_the_completion_script(bash_script: Path) -> None:
    done = subprocess.run(["bash", "-n", bash_script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands(bash_script: Path) -> None:
    assert complete(bash_script, "swift", "s") == ["sft", "sample", "schema"]
    assert complete(bash_script, "swift", "merge") == ["merge-lora"]


def test_bash_completes_flags_of_the_command(bash_script: Path) -> None:
    assert complete(bash_script, "swift", "sft", "--lora_r") == ["--lora_rank"]
    assert complete(bash_script, "swift", "infer", "--lora_r") == []
    assert complete(bash_script, "swift", "check", "--lora_r") == ["--lora_rank"]


@pytest.mark.parametrize(
    ("flag", "start", "words"),
    [
        ("--tuner_type", "", ["lora", "full"]),
        ("--truncation_strategy", "cut", ["cut-left", "cut-right"]),
        ("--gradient_checkpointing", "", ["true", "false", "auto"]),
        ("--resume", "", ["true", "false"]),
        ("--packing", "t", ["true"]),
    ],
)
def test_bash_completes_the_words_of_a_choice(
    bash_script: Path, flag: str, start: str, words: list[str]
) -> None:
    assert complete(bash_script, "swift", "sft", flag, start) == words


def test_bash_completes_what_schema_and_completion_take(bash_script: Path) -> None:
    assert complete(bash_script, "swift", "completion", "") == ["bash", "zsh", "fish"]
    assert complete(bash_script, "swift", "schema", "p") == ["pt"]


def test_bash_completes_files_elsewhere(bash_script: Path) -> None:
    folder = bash_script.parent
    found = complete(bash_script, "swift", "sft", f"{folder}/sw")
    assert found == [str(bash_script)]


def test_zsh_and_fish_scripts_carry_the_same_words() -> None:
    assert "--lora_rank" in swift("completion", "zsh").stdout
    fish = swift("completion", "fish").stdout
    assert "-l tuner_type -x -a 'lora full'" in fish
