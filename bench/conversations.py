"""Conversations of mixed length for the benchmarks: the same file for the same arguments.

python bench/conversations.py 256 chats.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

WORDS = """the of and to in is that it for was on are as with his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about how up out
them then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very after
called just where most know bird wing summer river stone letter window garden market morning evening
question answer reason number letter paper travel music silver engine harbour mountain winter""".split()


def text(chance: random.Random, words: int) -> str:
    """Sentences of about so many words."""
    out: list[str] = []
    while words > 0:
        size = min(words, chance.randint(5, 14))
        sentence = " ".join(chance.choices(WORDS, k=size))
        out.append(sentence.capitalize() + chance.choice("..?"))
        words -= size
    return " ".join(out)


def conversation(chance: random.Random, longest: int) -> dict[str, object]:
    """One to three rounds; lengths from a few words to ``longest``, short ones more often."""
    rounds = chance.choice([1, 1, 1, 2, 3])
    budget = int(longest * chance.random() ** 1.5) + 12
    messages = []
    for _ in range(rounds):
        share = budget // rounds
        asked = max(3, int(share * chance.uniform(0.2, 0.6)))
        messages.append({"role": "user", "content": text(chance, asked)})
        messages.append({"role": "assistant", "content": text(chance, max(3, share - asked))})
    return {"messages": messages}


def write(count: int, path: Path, longest: int = 380, seed: int = 7) -> Path:
    """Write ``count`` conversations, one a line."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(json.dumps(conversation(chance, longest)) + "\n")
    return path


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
