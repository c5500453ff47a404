"""What is said before the start, against what is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from swift import registry
from swift.config.parse import from_values
from swift.config.runs import SftConfig
from swift.data.batch import Batch, batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.models.attention import PACKED, run_body
from swift.models.load import load_model
from swift.train.memory import count_saved
from swift.train.plan import learning_rate_of, max_length_of, shape_of, steps_of


def config(checkpoint: Path, **settings: object) -> SftConfig:
    return from_values(SftConfig, "sft", {"model": str(checkpoint), "dataset": "x", **settings})


def some_batch(length: int) -> Batch:
    import numpy as np

    tokens = np.arange(5, 5 + length + 1, dtype=np.int32) % 300
    return batch(pack([Sample(tokens, np.ones(length + 1, np.float32), "here")]))


class Body(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Batch) -> torch.Tensor:
        return run_body(self.model, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_the_shape_promises_is_what_the_model_keeps(checkpoint: Path, kind: str) -> None:
    settings = config(checkpoint, tuner_type=kind)
    shape = shape_of(settings, checkpoint, torch.float32)
    model = load_model(checkpoint, torch.float32)
    tuned = registry.build(settings.tuner, model, [], "")
    model.set_attn_implementation(PACKED)
    kept = count_saved(Body(tuned.model.train()), some_batch(192)) / 192
    assert shape.probe.kept == pytest.approx(kept, rel=0.05)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.learning == learning
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_gradient_checkpointing_keeps_what_is_promised(checkpoint: Path) -> None:
    model = load_model(checkpoint, torch.float32)
    model.set_attn_implementation(PACKED)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = count_saved(Body(model.train()), some_batch(192)) / 192
    probe = shape_of(config(checkpoint, tuner_type="full"), checkpoint, torch.float32).probe
    layer = probe.kept / 3  # the promise includes the layer that is being computed again
    assert kept <= probe.recomputed <= kept + 1.2 * layer


def test_auto_computes_activations_again_only_when_they_do_not_fit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.data.stream import Order
    from swift.train import plan

    settings = config(checkpoint, per_device_train_batch_size=4, tuner_type="full")
    shape = shape_of(settings, checkpoint, torch.float32)
    lengths = torch.full((8,), 500).numpy()
    cpu = torch.device("cpu")

    def decide(free: int) -> bool:
        monkeypatch.setattr(plan, "free_bytes", lambda device: free)
        monkeypatch.setattr(plan, "held_bytes", lambda device: 0)
        order = Order([(i,) for i in range(8)], 4)
        made = plan.budget_of(settings, shape, order, lengths, 512, torch.float32, cpu)
        assert made.fits == (made.estimate.total < 0.9 * free)
        return made.again

    needed = shape.parameters * 16 + shape.probe.activations(2000, again=False)
    assert not decide(3 * needed)
    assert decide(needed)


def test_defaults_that_depend_on_others(checkpoint: Path) -> None:
    assert learning_rate_of(config(checkpoint)) == 1e-4
    assert learning_rate_of(config(checkpoint, tuner_type="full")) == 1e-5
    assert learning_rate_of(config(checkpoint, learning_rate=0.5)) == 0.5
    assert max_length_of(config(checkpoint), checkpoint) == 512
    assert max_length_of(config(checkpoint, max_length=64), checkpoint) == 64


@pytest.mark.parametrize(
    ("samples", "processes", "settings", "steps"),
    [
        (40, 1, {}, 9),  # 16 samples a step, 3 an epoch, 3 epochs
        (40, 4, {"per_device_train_batch_size": 8}, 6),  # 32 samples a step on 4 processes
        (41, 1, {"gradient_accumulation_steps": 4, "num_train_epochs": 2}, 22),
        (41, 1, {"gradient_accumulation_steps": 4, "num_train_epochs": 0.5}, 6),
        (41, 1, {"gradient_accumulation_steps": 4, "dataloader_drop_last": "true"}, 30),
        (40, 1, {"max_steps": 5}, 5),
    ],
)
def test_steps(
    checkpoint: Path, samples: int, processes: int, settings: dict[str, object], steps: int
) -> None:
    import numpy as np

    from swift.data.sample import Samples
    from swift.train.plan import order_of

    some = config(checkpoint, **settings)
    filled = Samples([], *(np.zeros(samples, np.int32) for _ in range(5)))
    assert steps_of(some, order_of(some, filled, 512, processes)) == steps


def width(picture: Path) -> int:
    return int.from_bytes(picture.read_bytes()[16:20], "big")


def test_a_picture_of_the_run(tmp_path: Path) -> None:
    import json

    from swift.observe.plot import plot_loss

    lines = [{"step": i, "train/loss": 1 / i, "train/token_accuracy": 0.1 * i} for i in range(1, 9)]
    lines.append({"step": 8, "eval/loss": 0.2, "eval/token_accuracy": 0.7})
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 9, "tr')
    plot_loss(file, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 5000
    narrow = width(tmp_path / "loss.png")
    rewards = {"train/rewards/margins": 1.0, "train/rewards/accuracies": 0.5}
    file.write_text("\n".join(json.dumps(line | rewards) for line in lines))
    plot_loss(file, tmp_path / "loss.png")
    assert width(tmp_path / "loss.png") == narrow * 3 / 2
    file.write_text(json.dumps(lines[0]))
    plot_loss(file, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_tiny_is_what_the_tests_say_it_is(checkpoint: Path) -> None:
    assert tiny.make_tokenizer().eos_token_id == tiny.make_config().eos_token_id == 2
