"""The command table and what every command has in common.

Commands are strings here; nothing heavier than the standard library is imported before one is
chosen, and no torch before it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from swift import __version__
from swift.errors import ConfigError, SwiftError


@dataclass(frozen=True)
class Command:
    """A name on the command line: its help line, its configuration, its recipe."""

    help: str
    config: str = ""  # "module:Class"
    recipe: str = ""  # "module:function", called with (config, world)
    group: str = ""
    distributed: bool = False  # may run as several processes
    preset: tuple[str, ...] = ()  # flags put before the user's


COMMANDS = {
    "sft": Command(
        "fine-tune on conversations, or for classes, embeddings, rankings",
        "swift.config.runs:SftConfig", "swift.recipes.sft:run",
        "Train", distributed=True,
    ),
    "pt": Command(
        "go on with pre-training on plain text", "swift.config.runs:PtConfig",
        "swift.recipes.pt:run", "Train", distributed=True,
    ),
    "rlhf": Command(
        "learn from preferences (dpo, kto, rm ...), rewards (grpo, rloo ...) or a teacher (gkd)",
        "swift.config.runs:RlhfConfig", "swift.recipes.rlhf:run", "Train", distributed=True,
    ),
    "check": Command("say what a configuration would do, without training", group="Train"),
    "inspect": Command(
        "show what will be learned, token by token, without training",
        "swift.config.runs:InspectConfig", "swift.recipes.inspect:run", "Train",
    ),
    "verify": Command(
        "prove that a checkpoint's template is learned as it will be used",
        "swift.config.runs:VerifyConfig", "swift.recipes.verify:run", "Train",
    ),
    "trace": Command(
        "list the rows that a step of a run learned from: swift trace RUN --step 120",
        "swift.config.runs:TraceConfig", "swift.recipes.trace:run", "Train",
    ),
    "infer": Command(
        "chat in the terminal, or answer a whole data set", "swift.config.runs:InferConfig",
        "swift.recipes.infer:run", "Use",
    ),
    "sample": Command(
        "draw answers, judge them, write the best as rows to learn from",
        "swift.config.sample:SampleConfig", "swift.recipes.sample:run", "Use",
    ),
    "deploy": Command(
        "serve over HTTP as OpenAI and Anthropic do", "swift.config.runs:DeployConfig",
        "swift.recipes.deploy:run", "Use",
    ),
    "app": Command(
        "a page in the browser to chat, compare adapters, judge answers",
        "swift.config.app:AppConfig", "swift.recipes.app:run", "Use",
    ),
    "rollout": Command(
        "answer for swift rlhf --vllm_mode server, by the weights that it sends",
        "swift.config.rollout_server:RolloutServerConfig", "swift.recipes.rollout:run", "Use",
    ),
    "merge-lora": Command(
        "make one model of base and adapter", "swift.config.runs:MergeConfig",
        "swift.recipes.merge:run", "Use", preset=("--merge_lora", "true"),
    ),
    "export": Command(
        "write a model (--merge_lora true) or tokens (--to_cached_dataset true)",
        "swift.config.runs:MergeConfig", "swift.recipes.merge:run", "Use",
    ),
    "datasets": Command(
        "public data sets with a short name: swift datasets [words to look for]", group="Help"
    ),
    "schema": Command(
        "the JSON schema of a command's configuration: swift schema sft", group="Help"
    ),
    "completion": Command(
        "completion for a shell: swift completion bash|zsh|fish", group="Help"
    ),
}  # fmt: skip

TEXTS = {
    "inspect": "swift.config.runs:InspectTextsConfig",
    "tokens": "swift.config.runs:CachedTextsConfig",
}
"""The configuration of a command that looks at data, when it is plain text: swift inspect pt."""

TOKENS = Command(
    "write the tokens of data, to learn from elsewhere", "swift.config.runs:CachedConfig",
    "swift.recipes.tokens:run",
)  # fmt: skip
"""What ``swift export`` does with ``--to_cached_dataset``."""

LATER = ("eval", "web-ui", "megatron")
"""Commands of ms-swift that are known and not supported yet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0 done, 1 failed while running, 2 wrong input, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()  # here, where a reader that has gone can still be caught
        return code
    except ConfigError as error:
        _complain(words, error.problems)
        return error.exit_code
    except SwiftError as error:
        _complain(words, [str(error)])
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `swift sft --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(f"swift {__version__}")
        return 0
    name, rest = words[0].replace("_", "-"), words[1:]
    if name not in COMMANDS:
        raise ConfigError(_unknown(name))
    if "--help" in rest or "-h" in rest:
        return _help(name, rest)
    if name in _PLAIN:
        return _PLAIN[name](rest)
    if name == "check":
        name, rest = _checked(rest)
        rest = [*rest, "--dry_run"]
    if name == "trace" and rest and not rest[0].startswith("-"):
        rest = ["--run", *rest]
    return _run(name, rest)


def _run(name: str, words: list[str]) -> int:
    """Read a configuration and run the recipe."""
    command, words = _meant(name, words)
    read = import_module("swift.config.parse").read
    config, notes = read(_load(command.config), name, [*command.preset, *words])
    launch = import_module("swift.launch")
    if launch.is_main():
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return int(launch.run(name, command.recipe, config, words, spread=command.distributed))


def _checked(words: list[str]) -> tuple[str, list[str]]:
    """The command that ``swift check`` stands for: named, or said by the file, else sft."""
    if words and words[0] in COMMANDS:
        return words[0], words[1:]
    for word in words:
        if word.endswith((".yaml", ".yml")) and os.path.isfile(word):
            with open(word, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("command:"):
                        said = line.removeprefix("command:").strip()
                        return (said if said in COMMANDS else "sft"), words
    return "sft", words


def _meant(name: str, words: list[str]) -> tuple[Command, list[str]]:
    """The command that words mean, and those that are left: some look at data as another does."""
    command, texts = COMMANDS[name], TEXTS.get(name)
    if name == "export" and any(w.replace("-", "_").startswith("__to_cached") for w in words):
        command, texts = TOKENS, TEXTS["tokens"]
    if texts is None:
        return command, words
    trains, rest = _checked(words)
    if trains not in ("sft", "pt"):
        return command, words
    return (replace(command, config=texts) if trains == "pt" else command), rest


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _overview() -> str:
    lines = ["swift: one tool from a base model to a service", "", "usage: swift <command> ..."]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", group]
        lines += [
            f"  {name:<12} {command.help}"
            for name, command in COMMANDS.items()
            if command.group == group
        ]
    lines += [
        "",
        "A configuration comes from flags, from YAML, or both: swift sft run.yaml --lora_rank 16",
        "Every command explains itself:   swift sft --help     one section: swift sft --help tuner",
        "Several processes on a machine:  NPROC_PER_NODE=2 swift sft ...",
    ]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    if name in LATER:
        return f"{name} is known from ms-swift, not supported yet"
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "swift --help lists the commands"
    return f"there is no command {name!r}; {hint}"


def _help(name: str, words: list[str]) -> int:
    command = COMMANDS[name]
    if not command.config:
        print(f"swift {name}: {command.help}")
        return 0
    command, words = _meant(name, words)
    chosen = [word for word in words if not word.startswith("-")]
    render = import_module("swift.config.help").render
    color = sys.stdout.isatty()
    print(render(_load(command.config), name, command.help, chosen, color=color))
    return 0


def _configured() -> list[str]:
    return [name for name, command in COMMANDS.items() if command.config]


def _schema(words: list[str]) -> int:
    import json

    names = _configured()
    if len(words) != 1 or words[0] not in names:
        raise ConfigError(f"needs one of: {', '.join(names)}")
    print(json.dumps(_load(COMMANDS[words[0]].config).model_json_schema(), indent=2))
    return 0


def _completion(words: list[str]) -> int:
    shells = import_module("swift.config.completion")
    if len(words) != 1 or words[0] not in shells.SHELLS:
        raise ConfigError(f"needs one of: {', '.join(shells.SHELLS)}")
    roots = {name: _load(COMMANDS[name].config) for name in _configured()}
    roots["check"] = roots["sft"]  # what it checks unless told otherwise
    arguments = {"schema": _configured(), "completion": shells.SHELLS}
    print(shells.script(words[0], {name: roots.get(name) for name in COMMANDS}, arguments))
    return 0


def _datasets(words: list[str]) -> int:
    return int(import_module("swift.recipes.datasets").run(words))


_PLAIN = {"schema": _schema, "completion": _completion, "datasets": _datasets}
"""Commands that take words, not a configuration."""


def _complain(words: list[str], problems: list[str]) -> None:
    """Print what is wrong; of several processes the first one speaks."""
    name = words[0] if words and words[0] in COMMANDS else ""
    title = f"swift {name}".strip()
    if len(problems) == 1:
        text = f"{title}: {problems[0]}"
    else:
        text = f"{title}: {len(problems)} problems\n" + "\n".join(f"  {line}" for line in problems)
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
