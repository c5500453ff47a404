"""Completion scripts for shells, made from the same table of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swift.config.flags import spelling
from swift.config.section import Section
from swift.config.tree import leaves

SHELLS = ("bash", "zsh", "fish")


def script(
    shell: str, roots: Mapping[str, type[Section] | None], arguments: Mapping[str, Sequence[str]]
) -> str:
    """A script that completes commands, their flags and the words that a flag chooses from.

    Args:
        shell: one of ``SHELLS``.
        roots: the configuration of every command that has one.
        arguments: the words that a command without one chooses from.
    """
    flags = {name: sorted(_flags(root)) if root else [] for name, root in roots.items()}
    choices = {flag: words for root in roots.values() if root for flag, words in _choices(root)}
    said = {name: " ".join(words) for name, words in arguments.items()}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](flags, choices, said)


def _flags(root: type[Section]) -> list[str]:
    return [spelling(leaf.path) for leaf in leaves(root)]


def _choices(root: type[Section]) -> list[tuple[str, str]]:
    return [(spelling(leaf.path), " ".join(leaf.words)) for leaf in leaves(root) if leaf.words]


def _bash(
    flags: Mapping[str, list[str]], choices: Mapping[str, str], arguments: Mapping[str, str]
) -> str:
    cases = "\n".join(
        f"        {name}) flags='{' '.join(known)}' words='{arguments.get(name, '')}' ;;"
        for name, known in flags.items()
    )
    words = "\n".join(f"        {flag}) words='{w}' ;;" for flag, w in choices.items())
    return f"""_swift() {{
    local flags='' words='' current="${{COMP_WORDS[COMP_CWORD]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{" ".join(flags)}' -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{words}
    esac
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    elif [[ "$current" == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -F _swift swift"""


def _zsh(
    flags: Mapping[str, list[str]], choices: Mapping[str, str], arguments: Mapping[str, str]
) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(flags, choices, arguments)


def _fish(
    flags: Mapping[str, list[str]], choices: Mapping[str, str], arguments: Mapping[str, str]
) -> str:
    lines = [f"complete -c swift -n __fish_use_subcommand -a {name}" for name in flags]
    for name, names in flags.items():
        for flag in names:
            words = f" -x -a '{choices[flag]}'" if flag in choices else ""
            long = flag.removeprefix("--")
            lines.append(
                f"complete -c swift -n '__fish_seen_subcommand_from {name}' -l {long}{words}"
            )
    for name, words in arguments.items():
        lines.append(f"complete -c swift -n '__fish_seen_subcommand_from {name}' -x -a '{words}'")
    return "\n".join(lines)
