"""``swift rlhf --rlhf_type grpo``: whole runs, how they are cut, resumed, and what they survive."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from processes import fail, run, start
from swift import registry
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.message import Conversation, Message
from swift.config.parse import read
from swift.config.policy import DapoSection
from swift.config.runs import RlhfConfig
from swift.errors import ResourceError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Completion, Request
from swift.losses.drawn import Draw, drawn_logprob
from swift.models.load import load_model
from swift.parallel.world import World
from swift.recipes import grpo
from swift.rl.environment import Step

KINDS = ["grpo", "dapo", "dr_grpo", "gspo", "sapo", "cispo", "rloo", "reinforce_plus_plus"]
PLUGIN = """
from swift import registry
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]
registry.register("reward", "vowels", f"{__name__}:vowels")
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Add {i} and two.", "solution": str(i + 2)} for i in range(12)]
    (tmp_path / "plug.py").write_text(PLUGIN)
    return tiny.write_rows(tmp_path / "p.jsonl", rows)


def vowels(completions: list[str], **columns: Any) -> list[float | None]:
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]


@pytest.fixture(autouse=True)
def rewards() -> Iterator[None]:
    registry.register("reward", "test_vowels", f"{__name__}:vowels")
    yield
    registry._ENTRIES["reward"].pop("test_vowels")


Learn = Callable[..., Path]


@pytest.fixture
def learn(checkpoint: Path, prompts: Path, tmp_path: Path) -> Learn:
    """Run in this process; returns the last checkpoint."""

    def learn(name: str, engine: Any = None, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "model": {"path": str(checkpoint), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(prompts)], "processes": 1},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 8, "accumulation": 1, "max_steps": 2, "log_every": 1},
            "rlhf": {"kind": "grpo"},
            "rollout": {"num_generations": 4, "max_completion_length": 8},
            "reward": {"funcs": ["test_vowels"]},
            "report": "none",
            "output": str(tmp_path / name),
        }
        for section, values in changes.items():
            old = settings.get(section)
            settings[section] = {**old, **values} if isinstance(old, dict) else values
        result = grpo.run(RlhfConfig.model_validate(settings), World(), engine)
        assert result is not None
        return Path(result.checkpoint)

    return learn


def metrics(checkpoint: Path) -> list[dict[str, Any]]:
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def difference(a: Path, b: Path) -> float:
    one, other = weights(a), weights(b)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_run_from_the_command_line(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    words = ["rlhf", "--rlhf_type", "grpo", "--model", checkpoint, "--dataset", prompts]
    words += ["--external_plugins", "plug.py", "--reward_funcs", "vowels", "number"]
    words += ["--reward_weights", 1, 0.5, "--num_generations", 4, "--max_completion_length", 8]
    words += ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    words += ["--max_steps", 2, "--logging_steps", 1, "--report_to", "none", "--temperature", 0.9]
    words += ["--log_completions", "true", "--output_dir", "run", "--learning_rate", "1e-3"]
    text = run(words, tmp_path)
    assert "2 prompts x 4 answers a generation" in text
    assert "rewards: 1 x vowels + 0.5 x number" in text
    assert "memory: about " in text
    lines = [json.loads(x) for x in (tmp_path / "run/completions.jsonl").read_text().splitlines()]
    assert len(lines) == 16 and set(lines[0]["rewards"]) == {"vowels", "number"}
    for start_of in range(0, 16, 4):  # advantages of a group have the mean 0
        assert abs(sum(line["advantage"] for line in lines[start_of : start_of + 4])) < 1e-6
    found = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert found["train/mismatch"] < 1e-4 and found["train/correction"] == pytest.approx(
        1, abs=1e-3
    )
    assert found["train/completion_length"] <= 8 and found["train/fault/engine"] == 0
    again = ["rlhf", "--config", "run/config.yaml", "--output_dir", "again"]
    run(again, tmp_path)  # what was resolved runs again, to the same numbers
    a, b = (tmp_path / f"{name}/completions.jsonl" for name in ("run", "again"))
    assert a.read_text() == b.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_preset_runs(learn: Learn, kind: str) -> None:
    last = metrics(learn(kind, rlhf={"kind": kind, "overlong_filter": False}))[-1]
    assert math.isfinite(last["train/loss"]) and last["train/grad_norm"] > 0


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo", "gspo", "rloo"])
def test_a_step_means_the_same_however_it_is_cut(learn: Learn, kind: str) -> None:
    rlhf = {"kind": kind, "dynamic_sample": False, "overlong_filter": False}
    whole = learn("whole", rlhf=rlhf)
    cut = learn("cut", rlhf=rlhf, train={"batch_size": 2, "accumulation": 4})
    padded = learn("padded", rlhf=rlhf, model={"attention": "eager"})
    # one float32 rounding through Adam: a gradient near 0 decides a whole step of the learning rate
    norm = metrics(whole)[0]["train/grad_norm"]
    # 3e-7 of it: the last bits of a float32, where the norm is large
    assert metrics(cut)[0]["train/grad_norm"] == pytest.approx(norm, abs=1e-5, rel=3e-7)
    assert abs(metrics(whole)[0]["train/loss"] - metrics(cut)[0]["train/loss"]) < 1e-6
    assert abs(norm - metrics(padded)[0]["train/grad_norm"]) < 1e-4
    assert difference(whole, cut) < 1e-4


def test_two_processes_are_one(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    words = ["rlhf", "--rlhf_type", "grpo", "--model", checkpoint, "--dataset", prompts]
    words += ["--external_plugins", "plug.py", "--reward_funcs", "vowels", "--max_steps", 2]
    words += ["--num_generations", 4, "--max_completion_length", 8, "--tuner_type", "full"]
    words += ["--logging_steps", 1, "--report_to", "none", "--log_completions", "true"]
    words += ["--learning_rate", "1e-3", "--torch_dtype", "float32"]
    one = start([*words, "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
                 "--output_dir", "one"], tmp_path)  # fmt: skip
    assert one.wait() == 0, one.text()
    two = start([*words, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2,
                 "--output_dir", "two"], tmp_path, processes=2)  # fmt: skip
    assert two.wait() == 0, two.text()
    a, b = (metrics(tmp_path / name / "checkpoint-2") for name in ("one", "two"))
    for first, second in zip(a, b, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/reward", "train/completion_length"):
            assert first[name] == pytest.approx(second[name], abs=1e-4), name


def test_several_steps_and_iterations_share_a_generation(learn: Learn) -> None:
    done = learn(
        "several", rlhf={"kind": "grpo", "steps_per_generation": 2, "num_iterations": 2},
        rollout={"log_completions": True}, train={"max_steps": 8, "batch_size": 4},
    )  # fmt: skip
    lines = (done.parent / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1] * 8 + [5] * 8
    found = metrics(done)
    assert found[0]["train/kl"] == 0  # the policy is the reference yet
    assert found[3]["train/loss"] != found[1]["train/loss"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_resumed_run_is_the_same_to_the_bit(learn: Learn, at: int, tmp_path: Path) -> None:
    rlhf = {"kind": "grpo", "steps_per_generation": 2, "num_iterations": 2}
    train = {"max_steps": 6, "batch_size": 4, "save_every": at}
    whole = learn("whole", rlhf=rlhf, train=train)
    part = whole.parent / f"checkpoint-{at}"
    again = learn("again", rlhf=rlhf, train={**train, "resume": str(part)})
    assert again == whole  # the same folder, written anew
    fresh = learn("fresh", rlhf=rlhf, train={**train, "save_every": 500})
    assert difference(again, fresh) == 0


def test_groups_without_signal_are_replaced(learn: Learn, checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint)
    stop = min(renderer.stop_ids)

    class Dull:
        """All answers to the first prompts are alike."""

        abilities, context, asked = frozenset[Any](), None, 0

        def generate(self, requests: Any, on_token: Any = None) -> list[Completion]:
            found = []
            for _ in requests:
                letter = "a" if self.asked < 8 or self.asked % 2 else "b"
                found.append(Completion([*renderer.tokenizer.encode(letter).ids, stop], "stop"))
                self.asked += 1
            return found

    engine = Dull()
    one = metrics(learn("dynamic", engine, rlhf={"kind": "dapo"}, train={"max_steps": 1}))[0]
    assert engine.asked == 16  # two prompts in place of two
    assert one["train/groups_resampled"] == 2 and one["train/groups_without_signal"] == 0
    assert one["train/grad_norm"] > 0
    engine.asked = -1000
    dull = {"kind": "dapo", "max_resample_times": 2}
    none = metrics(learn("dull", engine, rlhf=dull, train={"max_steps": 1}))[0]
    assert none["train/groups_resampled"] == 4 and none["train/groups_without_signal"] == 1
    assert none["train/grad_norm"] == 0  # all rewards are equal: nothing is learned, nothing breaks


class Biased:
    """A real engine on weights of its own, which draws at a temperature times ``factor`` and adds
    ``wrong`` to the log-probabilities that it reports.
    """

    def __init__(self, checkpoint: Path, factor: float, wrong: float = 0.0) -> None:
        model = load_model(checkpoint, torch.float32, device=torch.device("cpu"))
        self._engine = TransformersEngine(model, load_tokenizer(checkpoint))
        self.abilities, self.context = self._engine.abilities, self._engine.context
        self._model, self._factor, self._wrong = model, factor, wrong
        self.seen: list[tuple[Completion, Request]] = []

    @torch.no_grad()
    def logits(self, request: Request, completion: Completion) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every token of an answer: the logits before it, and itself."""
        ids = torch.tensor([[*request.tokens, *completion.tokens]])
        count = len(completion.tokens)
        return self._model(input_ids=ids).logits[0, -count - 1 : -1], ids[0, -count:]

    def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
        drawn = [
            replace(
                r, sampling=replace(r.sampling, temperature=r.sampling.temperature * self._factor)
            )
            for r in requests
        ]
        found = self._engine.generate(drawn)
        self.seen += zip(found, requests, strict=True)
        return [
            replace(
                one,
                logprobs=[x + self._wrong for x in one.logprobs or []],
                drawn_logprobs=[x + self._wrong for x in one.drawn_logprobs or []],
            )
            for one in found
        ]


def test_a_mismatch_is_seen_and_corrected(learn: Learn, checkpoint: Path) -> None:
    right = metrics(learn("right", Biased(checkpoint, 1), train={"max_steps": 1}))[0]
    assert right["train/mismatch"] < 1e-5
    assert right["train/correction"] == pytest.approx(1, abs=1e-5)
    # an engine that thinks its tokens e^0.3 likelier than the trainer does
    wrong = metrics(learn("wrong", Biased(checkpoint, 1, 0.3), train={"max_steps": 1}))[0]
    assert wrong["train/mismatch"] == pytest.approx(0.3, abs=1e-4)
    assert wrong["train/correction"] == pytest.approx(math.exp(-0.3), abs=1e-4)
    off = metrics(
        learn("off", Biased(checkpoint, 1, 0.3), train={"max_steps": 1},
              rlhf={"kind": "grpo", "correction": None})
    )[0]  # fmt: skip
    assert off["train/grad_norm"] == pytest.approx(
        wrong["train/grad_norm"] * math.exp(0.3), rel=1e-3
    )


DRAWS = [
    {"temperature": 0.7},
    {"top_k": 9},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 60, "top_p": 0.9, "min_p": 0.02},
]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_ratio_is_one_under_every_draw_and_exact_when_wrong(
    learn: Learn, checkpoint: Path, draw: dict[str, float]
) -> None:
    one = {"max_steps": 1}
    right = metrics(learn("right", Biased(checkpoint, 1), rollout=draw, train=one))[0]
    assert right["train/correction"] == pytest.approx(1, abs=1e-5)
    # drawn at twice the temperature: the weights are pi(asked) / pi(drawn), token by token
    rlhf = {"kind": "grpo", "correction_threshold": 1e9}
    told = {"rollout": draw, "train": one, "rlhf": rlhf}
    hot = Biased(checkpoint, 2)
    wrong = metrics(learn("wrong", hot, **told))[0]
    expected = []
    for completion, request in hot.seen:
        drawn = Draw(**draw)  # type: ignore[arg-type]
        twice = replace(drawn, temperature=drawn.temperature * 2)
        logits, tokens = hot.logits(request, completion)
        ratio = drawn_logprob(logits, tokens, drawn) - drawn_logprob(logits, tokens, twice)
        expected += ratio.exp().tolist()
    mean = sum(expected) / len(expected)
    assert wrong["train/correction"] == pytest.approx(mean, rel=1e-3)
    assert abs(mean - 1) > 1e-3


class Echo:
    """Says something to every answer, twice."""

    def __init__(self) -> None:
        self.left = 3

    def reset(self, asked: Conversation, columns: Any) -> Conversation:
        return asked

    def step(self, answer: Message) -> Step:
        self.left -= 1
        if not self.left:
            return Step(reward=float(len(str(answer.content)) % 3))
        return Step((Message("user", "And then?"),), done=False)


def test_of_several_turns_only_the_models_tokens_are_learned(
    learn: Learn, checkpoint: Path
) -> None:
    registry.register("environment", "test_echo", f"{__name__}:echo")
    stop = min(load_renderer(checkpoint).stop_ids)

    class Ending(Biased):
        """Ends every answer, so that there is a next turn."""

        def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
            found = []
            for one, request in zip(super().generate(requests), requests, strict=True):
                tokens = [*one.tokens[:-1], stop]
                logits, ids = self.logits(request, replace(one, tokens=tokens))
                values = drawn_logprob(logits, ids, Draw()).tolist()
                found.append(Completion(tokens, "stop", values, drawn_logprobs=values))
            return found

    done = learn(
        "turns", Ending(checkpoint, 1), train={"max_steps": 1}, reward={"funcs": ["environment"]},
        rollout={"environment": "test_echo", "max_completion_length": 5},
    )  # fmt: skip
    found = metrics(done)[0]
    # the trainer finds the log-probabilities of every token of every turn where it expects them
    assert found["train/mismatch"] < 1e-5
    assert found["train/completion_length"] > 5 and found["train/grad_norm"] > 0


def echo(settings: Any) -> Echo:
    return Echo()


def test_a_failing_engine_is_survived_until_it_gives_nothing(
    learn: Learn, checkpoint: Path
) -> None:
    real = Biased(checkpoint, 1)

    class Failing(Biased):
        left = 3

        def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
            if len(requests) > 1:
                raise RuntimeError("lost")
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError("lost")
            return real.generate(requests)

    found = metrics(learn("some", Failing(checkpoint, 1), train={"max_steps": 1}))[0]
    assert found["train/fault/engine"] == 3 and math.isfinite(found["train/loss"])

    class Dead(Biased):
        def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
            raise RuntimeError("gone")

    said = r"not one of 8 answers .*8 x engine.*; the engine said: RuntimeError\('gone'\)$"
    with pytest.raises(ResourceError, match=said):
        learn("dead", Dead(checkpoint, 1))

    class Dying(Biased):
        """Answers twice."""

        left = 2

        def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("gone")
            return real.generate(requests)

    train = {"max_steps": 4}
    with pytest.raises(ResourceError, match=r"goes on from .*dying/checkpoint-2$"):
        learn("dying", Dying(checkpoint, 1), train=train)
    resumed = {**train, "resume": True}
    again = learn("dying", Biased(checkpoint, 1), train=resumed)
    assert difference(again, learn("fresh", Biased(checkpoint, 1), train=train)) == 0


def test_cut_answers_can_be_left_out(learn: Learn) -> None:
    for aggregate in ("sample", "token"):
        rlhf = {"kind": "grpo", "overlong_filter": True, "beta": 0.0, "aggregate": aggregate}
        one = metrics(learn(aggregate, rlhf=rlhf, rollout={"max_completion_length": 1}))[0]
        assert one["train/cut_off"] == 1 and one["train/grad_norm"] == 0


def test_the_likeliest_tokens_can_be_left_out(learn: Learn) -> None:
    plain = metrics(learn("all", train={"max_steps": 1}))[0]
    some = {"kind": "grpo", "top_entropy_quantile": 0.2}
    part = metrics(learn("part", rlhf=some, train={"max_steps": 1}))[0]
    assert part["train/grad_norm"] != plain["train/grad_norm"]
    split = metrics(learn("split", rlhf=some, train={"max_steps": 1, "batch_size": 2,
                                                     "accumulation": 4}))[0]  # fmt: skip
    assert split["train/grad_norm"] == pytest.approx(part["train/grad_norm"], abs=1e-5)


def test_an_adapter_learns_against_the_model_without_it(learn: Learn) -> None:
    done = learn("lora", tuner={"kind": "lora", "rank": 4}, train={"max_steps": 3})
    found = metrics(done)
    assert found[0]["train/kl"] == 0 and found[2]["train/kl"] > 0
    assert (done / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_generations", "3"], "--num_generations: 3 answers to a prompt do not divide"),
        (["--split_dataset_ratio", "0.99"], "leaves nothing to learn from"),
        (["--reward_funcs"], "needs a value"),
        (["--importance_sampling_level", "words"], "'words'"),
        (["--steps_per_generation", "3", "--gradient_accumulation_steps", "2"], "no multiple"),
    ],
)
def test_what_cannot_be_is_said(
    checkpoint: Path, prompts: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    base = ["rlhf", "--rlhf_type", "grpo", "--model", checkpoint, "--dataset", prompts]
    base += ["--external_plugins", "plug.py", "--reward_funcs", "number", "--num_generations", 4]
    code, text = fail([*base, *words], tmp_path)
    assert code == 2 and message in text, text


def test_flags_of_ms_swift_mean_what_they_meant() -> None:
    def section(**given: Any) -> Any:
        base = {"model": {"path": "x"}, "data": {"train": ["x"]}, "reward": {"funcs": ["number"]}}
        return RlhfConfig.model_validate({**base, "rlhf": {"kind": "grpo", **given}}).rlhf

    cispo = section(loss_type="cispo", epsilon_high=5)
    assert (cispo.gate, cispo.aggregate) == ("cispo", "token")
    rloo = section(advantage="leave_one_out")
    assert (rloo.scale_rewards, rloo.kl_in_reward) == ("none", True)
    assert section(advantage="leave_one_out", kl_in_reward=False).kl_in_reward is False
    assert section(scale_rewards="gdpo").advantage == "gdpo"
    assert section(scale_rewards=True).scale_rewards == "group"
    words = ["--rlhf_type", "dapo", "--model", "m", "--dataset", "d", "--reward_funcs", "number"]
    words += ["--loss_type", "sapo", "--scale_rewards", "false", "--advantage_estimator", "grpo"]
    words += ["--rollout_importance_sampling_mode", "none", "--importance_sampling_level", "token"]
    words += ["--temperature", "0.9", "--top_k", "50", "--stop_words", "Observation:"]
    config, _ = read(RlhfConfig, "rlhf", words)
    assert isinstance(config, RlhfConfig) and isinstance(config.rlhf, DapoSection)
    assert (config.rlhf.gate, config.rlhf.aggregate) == ("sapo", "sample")
    assert (config.rlhf.scale_rewards, config.rlhf.correction) == ("none", None)
    assert (config.rollout.temperature, config.rollout.top_k) == (0.9, 50)
