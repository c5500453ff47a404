"""The curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from swift.observe.sinks.jsonl import read

_TELLING = (
    "rewards/margins",
    "rewards/accuracies",
    "rewards/chosen",
    "kl",
    "token_accuracy",
    "accuracy",
    "top1",
)
"""Metrics beside the loss, the most telling first."""


def plot_loss(metrics: Path, picture: Path) -> None:
    """Draw the loss and what tells most beside it over steps, from a metrics.jsonl; nothing without
    two points.
    """
    lines = read(metrics)
    train = [line for line in lines if "train/loss" in line]
    if len(train) < 2:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ["loss", *[name for name in _TELLING if f"train/{name}" in train[-1]][:2]]
    figure = Figure(figsize=(4 * len(names), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for group, style in (("train", "-"), ("eval", "o-")):
            points = [
                (line["step"], line[f"{group}/{name}"])
                for line in lines
                if f"{group}/{name}" in line
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=group, markersize=4)
        axes.set_xlabel("step")
        axes.set_title(name.replace("_", " "))
        axes.grid(alpha=0.3)
    panels[0].legend()
    part = picture.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(picture)
