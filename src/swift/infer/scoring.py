"""Checkpoints that give scores: an adapter merged into its base, and what they say of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from swift.chat.render import Renderer
from swift.data.encode import EncodeSettings, compact_row
from swift.data.formats.form import formats
from swift.data.source import Source, read
from swift.errors import ConfigError, DataError
from swift.hub.locate import locate_model
from swift.infer.batch import answered
from swift.infer.load import trained
from swift.models.anatomy import scores_tokens, size
from swift.models.load import load_model, load_shape
from swift.tune.lora import Scores, load_adapter, scores_in


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter alone."""
    return (path / "adapter_config.json").is_file()


def load_scoring(path: Path) -> PreTrainedModel:
    """A model that gives scores, in float32.

    Raises:
        ConfigError, CheckpointError: the folder holds none.
    """
    base, found = _made_of(path)
    if is_adapter(path):
        model = load_model(base, torch.float32, scores=found.count, each_token=found.each_token)
        merged: PreTrainedModel = load_adapter(model, str(path)).merge_and_unload()
        merged.config.problem_type = trained(str(path)).problem or merged.config.problem_type
        return merged
    auto: Any = (
        AutoModelForTokenClassification if found.each_token else AutoModelForSequenceClassification
    )
    made: PreTrainedModel = auto.from_pretrained(path, dtype=torch.float32)
    return made


def scoring_bytes(path: Path) -> int:
    """Bytes of the weights of such a model."""
    base, found = _made_of(path)
    shape = load_shape(base, torch.float32, scores=found.count, each_token=found.each_token)
    return size(shape.parameters())


def _made_of(path: Path) -> tuple[Path, Scores]:
    """The folder of the weights that an adapter stands beside, or of all weights; and what the
    model gives.
    """
    if is_adapter(path):
        settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        return locate_model(settings["base_model_name_or_path"]), scores_in(path)
    config = AutoConfig.from_pretrained(path)
    tagging = any(n.endswith("ForTokenClassification") for n in config.architectures or [])
    return path, Scores(config.num_labels, tagging)


def on(model: PreTrainedModel, device: torch.device) -> Any:
    """A model on a device, as it judges: without dropout."""
    moved: Any = model
    return moved.to(device).eval()


def score_all(
    model: PreTrainedModel,
    renderer: Renderer,
    sources: Sequence[Source],
    settings: EncodeSettings,
    seed: int,
    result: Path,
) -> tuple[int, int]:
    """What a model says of rows, into ``result``; rows found there already are passed over.

    Args:
        model: on its device, in evaluation mode.
        renderer: of its checkpoint.
        sources: of the rows, with labels or without.
        settings: how rows are read.
        seed: of the rows that are drawn.
        result: a JSONL file, one line a row.

    Returns:
        Rows scored, and rows that could not be.

    Raises:
        ConfigError: it judges the steps of answers.
    """
    if scores_tokens(model):
        raise ConfigError(
            f"--model: {model.name_or_path} judges the steps of answers: swift sample --prm_model"
        )
    done = answered(result)
    result.parent.mkdir(parents=True, exist_ok=True)
    scored = failed = 0
    number = -1
    with result.open("a", encoding="utf-8") as file:
        for block in read(sources, seed):
            for at, raw in zip(block.lines, block.rows, strict=True):
                number += 1
                if number in done:
                    continue
                line: dict[str, Any] = {"row": number}
                try:
                    folder = block.source.path.parent
                    line |= _said(model, _texts(raw, renderer, settings, folder))
                    scored += 1
                except (DataError, RecursionError) as error:
                    line |= {"place": block.source.place(at), "error": str(error)}
                    failed += 1
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return scored, failed


def _texts(
    raw: bytes, renderer: Renderer, settings: EncodeSettings, folder: Path
) -> tuple[bool, list[list[int]]]:
    """The tokens of a row, read as in training: of a text, or (true) of a query with each of its
    documents. A label is not needed.

    Raises:
        DataError: the row cannot be read.
    """
    try:
        row = json.loads(raw)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None
    kind = "classification"
    if isinstance(row, dict) and isinstance(row.get("documents"), list):
        kind, row = "ranking", {**row, "labels": [0] * len(row["documents"])}
    elif isinstance(row, dict):
        row = {**{k: v for k, v in row.items() if k != "labels"}, "label": 0}
    asked = replace(settings, kind=kind)
    [one] = compact_row(json.dumps(row).encode(), renderer, asked, formats(kind), folder)
    ends = list(accumulate(one.parts or (len(one.tokens),)))
    begins = [0, *ends[:-1]]
    return kind == "ranking", [list(one.tokens[a:b]) for a, b in zip(begins, ends, strict=True)]


@torch.no_grad()
def _said(model: PreTrainedModel, read: tuple[bool, list[list[int]]]) -> dict[str, Any]:
    """What outputs mean: scores of documents, a class, several classes, or numbers."""
    ranking, texts = read
    device = next(model.parameters()).device
    outputs = [model(input_ids=torch.tensor([t], device=device)).logits[0] for t in texts]
    if ranking:
        return {"scores": [float(one[0]) for one in outputs]}
    [output_C] = outputs
    kind, count = model.config.problem_type, model.config.num_labels
    if kind == "regression" or count == 1:
        numbers = output_C.tolist()
        return {"score": numbers[0]} if count == 1 else {"scores": numbers}
    if kind == "multi_label_classification":
        chances = output_C.sigmoid().tolist()
        labels = [i for i, chance in enumerate(chances) if chance > 0.5]
        return {"labels": labels, "probabilities": chances}
    return {"label": int(output_C.argmax()), "probabilities": output_C.softmax(-1).tolist()}
