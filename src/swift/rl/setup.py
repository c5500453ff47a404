"""The parts of a run that learns from rewards, put together as its recipe asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from swift import registry
from swift.chat.render import Renderer
from swift.config.learned import LearnedSection
from swift.config.policy import PolicySection
from swift.config.ppo import PpoSection
from swift.config.rewarded import brought_rewards
from swift.config.rollout import RolloutSection
from swift.config.runs import RlhfConfig
from swift.data.batch import Batch
from swift.data.prepare import Prepared
from swift.data.sample import Samples
from swift.data.stream import Order
from swift.errors import DataError, EngineLost, NoAnswers
from swift.losses.drawn import Draw
from swift.models.attention import Layout
from swift.models.heads import Head
from swift.models.load import dtype_name
from swift.rl import score
from swift.rl.chord import read_experts
from swift.rl.critic import critic_beside, critic_of
from swift.rl.engines import Answering, computing
from swift.rl.evaluation import Evaluation
from swift.rl.grpo import Measures, Rounds, Scored
from swift.rl.objective import PolicyObjective, read_drawn
from swift.rl.prompts import Asked
from swift.rl.recorded import Recorded
from swift.rl.rewards.model import judge_bytes, judges
from swift.rl.rollout import Rollout, check_prompts
from swift.rl.score import Judges
from swift.rl.supply import Supply
from swift.train import setup
from swift.train.checkpoint import Keeper
from swift.train.frozen import frozen_bytes
from swift.train.learner import Build, Learner
from swift.train.loop import Job
from swift.train.memory import Beside
from swift.train.plan import Shape, accumulation_of, budget_of, learning_rate_of, shape_of, steps_of
from swift.train.reference import reference_bytes, reference_of
from swift.train.session import Plan, Session
from swift.train.state import TrainState
from swift.tune.tuned import Tuned


def make_plan(session: Session, asked: Asked) -> Plan:
    """Cut the run into steps; an epoch answers every prompt ``num_generations`` times, and learns
    from each answer ``num_iterations`` times.
    """
    config, processes = rl_config(session), session.mesh.world.size
    assert isinstance(config.rlhf, PolicySection)
    times = config.rollout.num_generations * config.rlhf.num_iterations
    longest = asked.longest_told or config.rollout.max_completion_length
    lengths = np.repeat(np.array(asked.lengths) + longest, times)
    size, accumulation = config.train.batch_size, accumulation_of(config, processes)
    order = Order([[i] for i in range(len(lengths))], size, accumulation, processes)
    shape = shape_of(config, session.base, session.compute)
    most, device = int(lengths.max()), session.mesh.device
    beside = _beside(session, shape)
    budget = budget_of(config, shape, order, lengths, most, session.compute, device, beside)
    rate = learning_rate_of(config)
    return Plan(order, Order([]), steps_of(config, order), rate, most, shape, budget)


def _beside(session: Session, shape: Shape) -> Beside:
    """Models beside the policy: reference, judges, critic, an engine with weights of its own."""
    config, log = rl_config(session), session.log
    section, drawn = config.rlhf, config.rollout
    assert isinstance(section, PolicySection)
    with session.mesh.main_first():
        judging = [judge_bytes(path, config.model.hub, log) for path in config.reward.models]
    held = reference_bytes(session, section) + sum(judging)
    if drawn.place == "colocate" and not drawn.sleep_level:
        held += frozen_bytes(session, session.base)
    if not isinstance(section, PpoSection):
        return Beside(held)
    return critic_beside(session, section, shape.tuned.model, held)


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
    rewards = [*config.reward.funcs, *config.reward.models, *brought_rewards(config)]
    weights = config.reward.weights or [1.0] * len(rewards)
    pairs = zip(weights, rewards, strict=True)
    session.log("rewards: " + " + ".join(f"{weight:g} x {name}" for weight, name in pairs))
    setup.announce_memory(session, plan)


def rl_config(session: Session) -> RlhfConfig:
    """The configuration as the command that it belongs to has it."""
    assert isinstance(session.config, RlhfConfig)
    return session.config


def nothing_prepared(session: Session, asked: Asked) -> Prepared:
    """In place of samples: there are none before the first round."""
    return Prepared(Samples(), Samples(), asked.ledger, session.renderer.spec)


def measures_of(config: RlhfConfig, order: Order) -> Measures:
    """How rounds are cut.

    Raises:
        DataError: the answers of a round are not whole groups.
    """
    section = config.rlhf
    assert isinstance(section, PolicySection)
    dealt = section.num_mini_batches if isinstance(section, PpoSection) else 1
    micro = section.steps_per_generation or order.accumulation * dealt
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
    critic = None
    if isinstance(section, PpoSection):
        critic = critic_of(session, section, tuned, layout)
    phi = rl_config(session).chord.phi
    return PolicyObjective(section, draw, tuned.model, reference, critic, phi=phi)


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
    plan: Plan,
    folder: Path,
    source: Answering,
) -> Rounds:
    """The rounds of a run."""
    config, mesh = rl_config(session), session.mesh
    assert isinstance(config.rlhf, PolicySection)
    judging, weights = find_judges(session, config)
    module = learner.spread.module
    assert isinstance(module, PolicyObjective)
    measures = measures_of(config, plan.order)
    data = config.data
    return Rounds(
        supply=Supply(
            make_rollout(source, config, asked, session.renderer), judging, asked.questions,
            Order(range(len(asked.questions)), shuffle=data.shuffle, seed=data.seed),
            measures.generations, mesh, config.train.seed, source.give, source.rest, source.ahead,
        ),
        weights=weights,
        section=config.rlhf,
        measures=measures,
        lay=lambda samples: learner.collate(list(samples)),
        read=partial(ask, session, module, config.rlhf),
        mesh=mesh,
        seed=config.train.seed,
        record=folder / "completions.jsonl" if config.rollout.log_completions else None,
        experts=read_experts(session, config.chord, plan.order, learner.collate),
    )  # fmt: skip


def make_rollout(
    source: Answering, config: RlhfConfig, asked: Asked, renderer: Renderer
) -> Rollout | Recorded:
    """What answers: an engine; or the rows, where they do."""
    if asked.told:
        return Recorded(renderer, asked.told)
    check_prompts(source.engine, asked.questions, renderer)
    name, settings = config.rollout.environment, config.rollout.environment_settings
    make = None if name is None else partial(registry.load("environment", name), settings)
    return Rollout(source.engine, renderer, config.rollout, make)


def ask(session: Session, module: PolicyObjective, section: PolicySection, batch: Batch) -> Scored:
    """What policy and reference think of the learned tokens of a batch."""
    batch = batch.to(session.mesh.device)
    with computing(session, module):
        seen, value_N = module.read(batch)
        reference = None if section.reference_free else module.reference(batch).tolist()
    values = None if value_N is None else value_N.tolist()
    return Scored(
        seen.drawn.tolist(), seen.plain.tolist(), seen.entropy.tolist(), reference, values
    )


def find_judges(session: Session, config: RlhfConfig) -> tuple[Judges, list[float]]:
    """The reward functions and reward models of a run, and their weights."""
    section = score.filled(config.reward, config.rollout.max_completion_length)
    found = score.find(section)
    with session.mesh.main_first():
        found |= judges(section.models, session.mesh.device, config.model.hub, session.log)
    found |= score.find(section, brought_rewards(config))
    return Judges(found, section.timeout_s), section.weights or [1.0] * len(found)


def evaluating(session: Session, job: Job, rounds: Rounds, asked: Asked) -> Job:
    """The job, which learns in these rounds; where prompts are held out, their rewards evaluate."""
    config, section = rl_config(session), job.section
    job = replace(job, windows=rounds.windows)
    if not asked.held:
        return job
    if "best_metric" not in section.model_fields_set:
        section = section.model_copy(update={"best_metric": "reward"})
    drawn, m, live = config.rollout, rounds.measures, rounds.supply.rollout
    assert isinstance(live, Rollout)
    size = drawn.batch_size or m.answers(1)  # as many at once as in a round
    changes = {"temperature": drawn.eval_temperature, "batch_size": size}
    rollout = replace(live, section=drawn.model_copy(update=changes))
    measure = Evaluation(rounds.supply, rollout, asked.held, rounds.weights)
    return replace(job, section=section, measure=measure)


def make_keeper(
    session: Session,
    folder: Path,
    learner: Learner,
    plan: Plan,
    data: Prepared,
    asked: Asked,
    rounds: Rounds,
) -> Keeper:
    """What writes checkpoints, with where the run stands in its rounds."""
    config = rl_config(session)
    kept = setup.make_keeper(session, folder, learner, plan, data)
    order = {
        **kept.order,
        "prompts": asked.fingerprint,
        "num_generations": config.rollout.num_generations,
        "steps of a generation": rounds.measures.steps,
        "num_iterations": rounds.measures.iterations,
    }
    if rounds.experts is not None:
        order["experts"] = rounds.experts.samples.fingerprint
    module = learner.spread.module
    assert isinstance(module, PolicyObjective)
    beside = {} if module.critic is None else {"critic": module.critic}
    return replace(kept, order=order, flow=rounds, beside=beside)


@contextlib.contextmanager
def keeping(keeper: Keeper, state: TrainState) -> Iterator[None]:
    """Where nobody answers any more, what was learned until then is kept.

    Raises:
        EngineLost, NoAnswers: with the checkpoint that the run can go on from.
    """
    try:
        yield
    except (EngineLost, NoAnswers) as error:
        if not state.step:
            raise
        keeper.save(state)
        kept = keeper.folder / f"checkpoint-{state.step}"
        raise type(error)(f"{error}; --resume true goes on from {kept}") from None
