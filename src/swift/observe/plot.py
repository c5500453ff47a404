"""The curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from swift.observe.sinks.jsonl import read


def plot_loss(metrics: Path, picture: Path) -> None:
    """Draw loss and token accuracy over steps from a metrics.jsonl; nothing without two points."""
    lines = read(metrics)
    train = [line for line in lines if "train/loss" in line]
    if len(train) < 2:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    for axes, name in ((loss, "loss"), (accuracy, "token_accuracy")):
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
    loss.legend()
    part = picture.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(picture)
