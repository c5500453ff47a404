"""Run the contract of tests/contracts on every causal language model that transformers knows.

    nice python bench/architectures.py            # all, to docs/architectures.md
    python bench/architectures.py llama mamba     # some, to the terminal
    python bench/architectures.py --multimodal    # all that read media, to their own page

Each in a process of its own, for a minute at most.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging  # noqa: E402

from contracts import architecture, learning, multimodal  # noqa: E402
from contracts.tiny_multimodal import multimodal_types  # noqa: E402

MEDIA = "--multimodal" in sys.argv
POINTS = multimodal.POINTS if MEDIA else architecture.POINTS
build = multimodal.build if MEDIA else architecture.build
LIMIT_S = 60
Row = dict[str, str]


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines else repr(error)
    text = re.sub(rf"{tempfile.gettempdir()}/\S+", "the folder", text)
    return f"{type(error).__name__}: {text}".replace("|", "/")[:200]


def examine(model_type: str, found: Connection) -> None:
    """Send the result of every point as it is there."""
    torch.set_num_threads(1)
    try:
        build(model_type)
    except Exception as error:
        found.send(("built", f"no: {_reason(error)}"))
        return
    found.send(("built", "yes"))
    for point, check in POINTS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.send((point, check(build(model_type), Path(folder))))
            except Exception as error:
                found.send((point, f"no: {_reason(error)}"))
    if MEDIA:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.send(("rows", learning.learns(model_type, Path(folder))))
            except Exception as error:
                found.send(("rows", f"no: {_reason(error)}"))


def run(model_type: str) -> Row:
    """The results of one type, as far as it came."""
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=examine, args=(model_type, send))
    process.start()
    process.join(LIMIT_S)
    row: Row = {}
    if process.is_alive():
        process.kill()
        process.join()
        row["ended"] = f"no: took more than {LIMIT_S} s"
    elif process.exitcode:
        row["ended"] = f"no: the process ended with {process.exitcode}"
    send.close()
    while receive.poll():
        try:
            point, result = receive.recv()
        except EOFError:
            break
        row[point] = result
    return row


def verdict(row: Row) -> str:
    """One word for a type, or the reason why there is none."""
    if row.get("built", "no") != "yes":
        return "not built"
    if any("not a causal language model" in result for result in row.values()):
        return "refused"
    if any("does not read a text alone" in result for result in row.values()):
        return "refused"
    failed = [point for point in POINTS if row.get(point, "no").startswith("no")]
    return f"fails: {', '.join(failed)}" if failed else "kept"


def _failures(name: str, row: Row) -> list[str]:
    """A line for every reason, with the points that fail for it."""
    points: dict[str, list[str]] = {}
    for point in POINTS:
        result = row.get(point, row.get("ended", "no: unknown"))
        if result.startswith("no"):
            points.setdefault(result.removeprefix("no: "), []).append(point)
    return [f"| `{name}` | {', '.join(found)} | {why} |" for why, found in points.items()]


def table(rows: dict[str, Row]) -> str:
    """The report as Markdown."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(verdict(row).split(":")[0], []).append(name)
    kept, packed = groups.get("kept", []), 0
    lines = []
    for name in kept:
        row = rows[name]
        packed += row["layout"].endswith(", packed")
        lines.append(f"| `{name}` | " + " | ".join(row[point] for point in POINTS) + " |")
    parts = [
        "# Architectures",
        f"Every type of causal language model in transformers {transformers.__version__} as a tiny "
        "random model in float32 on the CPU, under the contract of `tests/contracts/architecture.py`"
        f" (torch {torch.__version__}, peft {peft.__version__}). "
        "Made by `python bench/architectures.py`.",
        "- **anatomy**: layers, body, head and embeddings are found by asking the model.\n"
        "- **head**: our head behind the body gives the model's own logits.\n"
        "- **layout**: loss and gradients of three samples in the layout chosen are the sums of "
        "those of each alone, by transformers' own attention; the layout is named.\n"
        "- **save**: saved and loaded, by us and by plain transformers, it is the same model under "
        "the same names.\n"
        "- **lora**: an adapter starts as nothing, learns alone, and merges without loss.",
        f"Of {len(rows)} types **{len(kept)} keep all of it** ({packed} of them packed, "
        f"{len(kept) - packed} in padded rows); {len(groups.get('refused', []))} are encoders that "
        f"are refused as what they are; {len(groups.get('fails', []))} fail in a point; of "
        f"{len(groups.get('not built', []))} no tiny model can be made.",
        "| type | "
        + " | ".join(POINTS)
        + " |\n"
        + "|---" * (1 + len(POINTS))
        + "|\n"
        + "\n".join(lines),
    ]
    if refused := groups.get("refused"):
        names = ", ".join(f"`{name}`" for name in refused)
        parts += ["## Not causal", f"A position sees those behind it; loading says so: {names}."]
    if failing := groups.get("fails"):
        lines = [line for name in failing for line in _failures(name, rows[name])]
        parts += [
            "## Not all of it",
            "| type | point | why |\n|---|---|---|\n" + "\n".join(lines),
            "Where only the layout differs, the attention ranks the keys of the whole row and reads "
            "the best (`index_topk`, `keep_window_size`): what it reads depends on what else is in "
            "the row. An adapter of which weights are missing is one that PEFT wrote and does not "
            "find again under the names it gave them.",
        ]
    if unmade := groups.get("not built"):
        parts += ["## No tiny model", "| type | why |\n|---|---|\n" + "\n".join(
            f"| `{name}` | {rows[name].get('built', rows[name].get('ended', ''))[4:]} |"
            for name in unmade
        )]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _unknown(row: Row) -> bool:
    """Whether all that fails, fails because the contract cannot give it media."""
    failed = [row[p] for p in POINTS if row.get(p, "no").startswith("no") and p in row]
    return all("no way is known to give it" in why for why in failed)


def _rows(row: Row) -> str:
    found = row.get("rows", "no")
    return "-" if found.startswith("no") else found


MEDIA_POINTS = (
    "- **parts**: towers, aligner and language model are found by asking the model, and a text "
    "reaches no tower and no aligner with a gradient; the numbers are parameters.\n"
    "- **media**: an image, or a sound, reaches its tower, the aligner and the language model.\n"
    "- **batch**: two samples with media in one batch of ours, in the layout named, give the "
    "hidden states and the gradients of each alone in transformers' own call; media are made by "
    "hand.\n"
    "- **freeze**: with all weights, exactly those of the parts that are not frozen learn.\n"
    "- **save**: saved and loaded, by us and by plain transformers, it is the same model under "
    "the same names.\n"
    "- **lora**: an adapter on any choice of parts is in those only, starts as nothing, and "
    "merges without loss; the numbers are its layers in the language model, everywhere, in "
    "the towers, in the aligner.\n"
    "- **rows**: with transformers' own processor of the architecture, images from files and "
    "texts in one batch give the gradients of each sample alone in transformers' own call, over "
    "all weights; a step with adapters and one with all weights lowers the loss and leaves frozen "
    "parts as they are; what is saved, adapters merged, transformers loads as the same model. "
    "`-`: see the last table (`tests/contracts/learning.py`)."
)


def media_table(rows: dict[str, Row]) -> str:
    """The same for those that read media."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(verdict(row).split(":")[0], []).append(name)
    kept, failing = groups.get("kept", []), groups.get("fails", [])
    lines = [
        f"| `{name}` | "
        + " | ".join([*(rows[name][point] for point in POINTS), _rows(rows[name])])
        + " |"
        for name in kept
    ]
    texts = [name for name in failing if _unknown(rows[name])]
    learned = [name for name, row in rows.items() if _rows(row) != "-"]
    packed = sum(rows[name]["rows"] == "packed" for name in learned)
    parts = [
        "# Architectures that read media",
        f"Every type of model in transformers {transformers.__version__} that reads images, video or "
        "audio and writes text, as a tiny random model in float32 on the CPU, under the contract of "
        f"`tests/contracts/multimodal.py` (torch {torch.__version__}, peft {peft.__version__}). "
        "Made by `python bench/architectures.py --multimodal`.",
        MEDIA_POINTS,
        f"Of {len(rows)} types **{len(kept)} keep all of the contract**; {len(texts)} more keep all "
        "that does not need media, which the contract does not know how to give them; "
        f"{len(failing) - len(texts)} fail in something else; {len(groups.get('refused', []))} are "
        "no causal language models, or read no text alone, and are refused; of "
        f"{len(groups.get('not built', []))} no tiny model can be made here. "
        f"**{len(learned)} learn from rows with images with their real processor** "
        f"({packed} in packs, {len(learned) - packed} in padded rows).",
        "| type | " + " | ".join([*POINTS, "rows"]) + " |\n" + "|---" * (2 + len(POINTS)) + "|\n"
        + "\n".join(lines),
    ]  # fmt: skip
    if refused := groups.get("refused"):
        parts += ["## Refused", ", ".join(f"`{name}`" for name in refused)]
    if failing:
        lines = [line for name in failing for line in _failures(name, rows[name])]
        head = "| type | point | why |\n|---|---|---|\n"
        parts += ["## Not all of it", head + "\n".join(lines)]
        if more := [name for name in failing if name in learned]:
            names = ", ".join(f"`{name}` ({rows[name]['rows']})" for name in more)
            parts += [f"Of these, with their real processor rows learn of: {names}."]
    if unmade := groups.get("not built"):
        parts += ["## No tiny model", "| type | why |\n|---|---|\n" + "\n".join(
            f"| `{name}` | {rows[name].get('built', rows[name].get('ended', ''))[4:]} |"
            for name in unmade
        )]  # fmt: skip
    without = [
        f"| `{name}` | {row['rows'].removeprefix('no: ')} |"
        for name, row in rows.items()
        if _rows(row) == "-" and row.get("rows")
    ]
    parts += ["## Rows that do not learn with the real processor here"]
    parts += ["| type | why |\n|---|---|\n" + "\n".join(without)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    named = [name for name in sys.argv[1:] if name != "--multimodal"]
    known = multimodal_types() if MEDIA else list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    chosen = named or known
    rows = {}
    for number, name in enumerate(chosen, 1):
        rows[name] = run(name)
        print(f"{number}/{len(chosen)} {name}: {verdict(rows[name])}", flush=True)
    text = media_table(rows) if MEDIA else table(rows)
    if named:
        print(text)
    else:
        page = "multimodal-architectures.md" if MEDIA else "architectures.md"
        (ROOT / "docs" / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
