"""The parts of a run that learns from rewards, put together as its recipe asks for them."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from swift import registry
from swift.chat.load import load_tokenizer
from swift.chat.render import Renderer
from swift.config.learned import LearnedSection
from swift.config.policy import PolicySection
from swift.config.reward import RewardSection
from swift.config.rollout import RolloutSection
from swift.config.runs import RlhfConfig
from swift.data.batch import Batch
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import formats
from swift.data.formats.meaning import Prompt, kind_of
from swift.data.ledger import Ledger
from swift.data.prepare import Prepared
from swift.data.sample import Samples
from swift.data.source import open_sources, read
from swift.data.stream import Order
from swift.errors import DataError
from swift.hub.locate import locate_dataset
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Completion, Engine, Request
from swift.losses.drawn import Draw
from swift.models.attention import Layout
from swift.models.heads import Head
from swift.models.kernels import fast_linear
from swift.models.load import dtype_name
from swift.rl import score
from swift.rl.grpo import Measures, Rounds, Scored
from swift.rl.objective import PolicyObjective, read_drawn
from swift.rl.rewards.model import judging
from swift.rl.rollout import Question, Rollout, check_prompts
from swift.rl.score import Judges
from swift.train import setup
from swift.train.checkpoint import Keeper
from swift.train.learner import Build, Learner
from swift.train.plan import budget_of, learning_rate_of, max_length_of, shape_of, steps_of
from swift.train.reference import reference_of
from swift.train.session import Plan, Session
from swift.tune.tuned import Tuned


@dataclass(frozen=True)
class Asked:
    """The prompts of a run."""

    questions: list[Question]
    lengths: list[int]  # of the prompts, in tokens
    ledger: Ledger

    @property
    def fingerprint(self) -> str:
        """Equal for equal prompts in equal order."""
        digest = hashlib.sha256()
        for question, length in zip(self.questions, self.lengths, strict=True):
            digest.update(f"{question.place}:{length}:{question.asked.messages}".encode())
        return digest.hexdigest()


def read_prompts(session: Session, renderer: Renderer) -> Asked:
    """Read the rows; those whose prompt is longer than max_length are dropped and counted.

    Raises:
        DataError: no row can be used.
    """
    config, section = session.config, session.config.data
    settings = EncodeSettings.of("prompt", section, config.external_plugins)
    most = max_length_of(config, session.base)
    known, asked = formats("prompt"), Asked([], [], Ledger())
    with session.mesh.main_first():
        locate = partial(locate_dataset, hub=config.model.hub, say=session.log)
        sources = open_sources(section.train, locate)
    for block in read(sources, section.seed):
        account = asked.ledger.account(block.source.name)
        for line, raw in zip(block.lines, block.rows, strict=True):
            account.rows += 1
            place = block.source.place(line)
            try:
                meaning = read_row(raw, settings, known, block.source.path.parent)
                if not isinstance(meaning, Prompt):
                    raise DataError(f"a {kind_of(meaning)} is no prompt")
                said = meaning.conversation
                tokens = renderer.prompt(said.messages, said.tools, said.template_kwargs)
            except (DataError, RecursionError) as error:
                if section.strict:
                    raise DataError(f"{place}: {error}") from None
                account.fail(place, str(error))
                continue
            if len(tokens) > most:
                account.dropped["too long"] += 1
                account.note(f"{place}: too long")
                continue
            account.kept += 1
            asked.questions.append(Question(said, meaning.extra, place))
            asked.lengths.append(len(tokens))
    for text in asked.ledger.losses():
        session.log(text)
    if not asked.questions:
        raise DataError("--dataset: no row is a prompt that can be used")
    return asked


def make_plan(session: Session, asked: Asked) -> Plan:
    """Cut the run into steps; an epoch answers every prompt ``num_generations`` times."""
    config, processes = rl_config(session), session.mesh.world.size
    k, longest = config.rollout.num_generations, config.rollout.max_completion_length
    size = config.train.batch_size
    accumulation = config.train.accumulation or max(1, math.ceil(16 / (size * processes)))
    lengths = np.repeat(np.array(asked.lengths) + longest, k)
    order = Order([[i] for i in range(len(lengths))], size, accumulation, processes)
    shape = shape_of(config, session.base, session.compute)
    most, device = int(lengths.max()), session.mesh.device
    return Plan(
        order, Order([]), steps_of(config, order), learning_rate_of(config), most, shape,
        budget_of(config, shape, order, lengths, most, session.compute, device),
    )  # fmt: skip


def announce(session: Session, plan: Plan, asked: Asked) -> None:
    """Say what is about to happen."""
    config, order = rl_config(session), plan.order
    k = config.rollout.num_generations
    measures = measures_of(config, order)
    answers = measures.answers(order.processes)
    session.log(
        f"{config.model.path}: {plan.shape.parameters / 1e6:,.1f}M parameters, "
        f"{plan.shape.learning / 1e6:,.2f}M learn ({config.tuner.kind}); "
        f"{dtype_name(session.compute)} on {session.mesh.device.type}"
    )
    session.log(
        f"{len(asked.questions):,} prompts of up to {max(asked.lengths):,} tokens; "
        f"{config.rlhf.kind}: {answers // k} prompts x {k} answers a generation, learned from in "
        f"{measures.steps * measures.iterations} steps; {plan.steps:,} steps"
    )
    rewards = [*config.reward.funcs, *config.reward.models]
    weights = config.reward.weights or [1.0] * len(rewards)
    pairs = zip(weights, rewards, strict=True)
    session.log("rewards: " + " + ".join(f"{weight:g} x {name}" for weight, name in pairs))


def rl_config(session: Session) -> RlhfConfig:
    """The configuration as the command that it belongs to has it."""
    assert isinstance(session.config, RlhfConfig)
    return session.config


def nothing_prepared(asked: Asked, renderer: Renderer) -> Prepared:
    """In place of samples: there are none before the first round."""
    return Prepared(Samples(), Samples(), asked.ledger, renderer.spec)


def measures_of(config: RlhfConfig, order: Order) -> Measures:
    """How rounds are cut.

    Raises:
        DataError: the answers of a round are not whole groups.
    """
    section = config.rlhf
    assert isinstance(section, PolicySection)
    micro = section.steps_per_generation or order.accumulation
    if micro % order.accumulation:
        raise DataError(
            f"--steps_per_generation: {micro} is no multiple of the {order.accumulation} "
            "micro-batches of a step (gradient_accumulation_steps)"
        )
    made = Measures(
        order.batch_size, order.accumulation, micro // order.accumulation, section.num_iterations,
        config.rollout.num_generations, config.rollout.max_completion_length,
    )  # fmt: skip
    answers = made.answers(order.processes)
    if answers % made.generations:
        raise DataError(
            f"--num_generations: {made.generations} answers to a prompt do not divide the "
            f"{answers} of a generation ({order.batch_size} per device x {micro} micro-batches x "
            f"{order.processes} processes)"
        )
    return made


def draw_of(section: RolloutSection) -> Draw:
    """How tokens are drawn."""
    return Draw(section.temperature, section.top_k, section.top_p, section.min_p)


def objective(
    section: PolicySection, session: Session, tuned: Tuned, layout: Layout
) -> PolicyObjective:
    """The policy loss, with the reference that it asks."""
    draw = draw_of(rl_config(session).rollout)

    def as_drawn(model: PreTrainedModel, head: Head, batch: Batch) -> torch.Tensor:
        return read_drawn(model, head, batch, draw).drawn

    reference = reference_of(session, section, tuned, layout, as_drawn)
    return PolicyObjective(section, draw, tuned.model, reference)


def build(section: LearnedSection) -> Build:
    """What makes the objective of a run."""

    def make(session: Session, tuned: Tuned, layout: Layout) -> nn.Module:
        made: nn.Module = registry.build(section, session, tuned, layout)
        return made

    return make


def make_rounds(
    session: Session,
    learner: Learner,
    asked: Asked,
    renderer: Renderer,
    plan: Plan,
    folder: Path,
    engine: Engine | None = None,
) -> Rounds:
    """The rounds of a run, which answer with the live weights unless another engine is given."""
    config, mesh = rl_config(session), session.mesh
    assert isinstance(config.rlhf, PolicySection)
    if engine is None:
        engine = live_engine(session, learner.tuned.model, renderer, partial(computing, session))
    check_prompts(engine, asked.questions, renderer)
    name, settings = config.rollout.environment, config.rollout.environment_settings
    make = None if name is None else partial(registry.load("environment", name), settings)
    judges, weights = find_judges(session, config.reward, config.rollout)
    module = learner.spread.module
    assert isinstance(module, PolicyObjective)
    collate = replace(learner.collate, share=False)
    return Rounds(
        rollout=Rollout(engine, renderer, config.rollout, make),
        judges=judges,
        weights=weights,
        questions=asked.questions,
        order=Order(
            range(len(asked.questions)), shuffle=config.data.shuffle, seed=config.data.seed
        ),
        section=config.rlhf,
        measures=measures_of(config, plan.order),
        lay=lambda samples: collate(list(samples)),
        read=partial(ask, session, module, config.rlhf),
        mesh=mesh,
        seed=config.train.seed,
        record=folder / "completions.jsonl" if config.rollout.log_completions else None,
    )


@contextlib.contextmanager
def computing(session: Session) -> Iterator[None]:
    """Computing as a training step does, without gradients."""
    mixed = session.compute != torch.float32
    format = torch.autocast(session.mesh.device.type, session.compute, enabled=mixed)
    with torch.no_grad(), format, fast_linear():
        yield


def live_engine(
    session: Session,
    model: PreTrainedModel,
    renderer: Renderer,
    within: Callable[[], contextlib.AbstractContextManager[None]],
) -> LiveEngine:
    """An engine on a model of this run, whose computing ``within`` surrounds."""
    code = session.config.model.trust_remote_code
    words = load_tokenizer(session.base, trust_remote_code=code)
    return LiveEngine(TransformersEngine(model, words, marks=lambda: renderer.marks), within)


class LiveEngine:
    """An engine on the weights that learn, which computes in the number format of training."""

    def __init__(
        self,
        engine: Engine,
        within: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        """Take an engine, and what surrounds its computing."""
        self._engine, self._within = engine, within
        self.abilities, self.context = engine.abilities, engine.context

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`."""
        with self._within():
            return self._engine.generate(requests, on_token)


def ask(session: Session, module: PolicyObjective, section: PolicySection, batch: Batch) -> Scored:
    """What policy and reference think of the learned tokens of a batch."""
    batch = batch.to(session.mesh.device)
    with computing(session):
        seen = module.read(batch)
        reference = None if section.reference_free else module.reference(batch).tolist()
    return Scored(seen.drawn.tolist(), seen.plain.tolist(), seen.entropy.tolist(), reference)


def find_judges(
    session: Session, section: RewardSection, drawn: RolloutSection
) -> tuple[Judges, list[float]]:
    """The reward functions and reward models of a run, and their weights."""
    longest = drawn.max_completion_length
    filled = section.model_copy(
        update={
            "cosine_max_len": section.cosine_max_len or longest,
            "soft_max_length": section.soft_max_length or longest,
        }
    )
    found = score.find(filled)
    hub, device = session.config.model.hub, session.mesh.device
    for path in section.models:
        with session.mesh.main_first():
            found[f"model {Path(path).name}"] = judging(path, device, hub, session.log)
    return Judges(found, section.timeout_s), section.weights or [1.0] * len(found)


def make_keeper(
    session: Session, folder: Path, learner: Learner, plan: Plan, asked: Asked, rounds: Rounds
) -> Keeper:
    """What writes checkpoints, with where the run stands in its rounds."""
    config = rl_config(session)
    data = nothing_prepared(asked, rounds.rollout.renderer)
    kept = setup.make_keeper(session, folder, learner, plan, data)
    order = {
        **kept.order,
        "prompts": asked.fingerprint,
        "num_generations": config.rollout.num_generations,
        "steps of a generation": rounds.measures.steps,
        "num_iterations": rounds.measures.iterations,
    }
    return replace(kept, order=order, flow=rounds)
