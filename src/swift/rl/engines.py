"""What answers the prompts of a run, and how it comes by the weights that learn.

Three places: the very model that learns (live), an engine in this process with weights of its own
(colocate), servers of ``swift rollout`` (server). All are an ``Engine``; the two with weights of
their own are given them, name by name and adapters merged, before every generation.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.chat.load import load_tokenizer
from swift.config.flags import spelling
from swift.config.policy import PolicySection
from swift.config.rollout import RolloutSection
from swift.config.runs import RlhfConfig
from swift.errors import ConfigError
from swift.infer.backends.rollout import RolloutServers, address_of
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Completion, Engine, Request, RestingEngine
from swift.infer.updatable import load_updatable
from swift.models.kernels import fast_linear
from swift.train.learner import Learner
from swift.train.session import Session
from swift.tune.weights import current_weights

Within = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Answering:
    """An engine, and how it comes by the weights of a run."""

    engine: Engine
    give: Callable[[int], None]  # hands over the weights of this moment, as the n-th of the run
    rest: Callable[[], None]  # behind a generation: the device belongs to learning again
    ahead: int = 0  # generations that may be drawn while an earlier one is learned from


@contextlib.contextmanager
def answering(
    session: Session, learner: Learner, engine: Engine | None = None
) -> Iterator[Answering]:
    """What answers in a run; it ends with the run.

    Args:
        session: of the run.
        learner: what learns.
        engine: answers in place of what the configuration names, with weights that stay.

    Raises:
        ConfigError: it cannot be had, or cannot do what the run needs.
        EngineLost: a server cannot be reached.
    """
    config = session.config
    assert isinstance(config, RlhfConfig)
    section = config.rollout
    _note(session, config)
    with contextlib.ExitStack() as stack:
        if engine is not None:
            found = Answering(engine, _nothing, _nothing)
        elif section.place == "live":
            found = _live(session, learner, section.max_model_len)
        elif section.place == "server":
            found = stack.enter_context(_served(session, section, learner))
        else:
            found = stack.enter_context(_colocated(session, config, learner))
        if found.ahead and Ability.LOGPROBS not in found.engine.abilities:
            raise ConfigError(
                "--async_generate: the engine tells no log-probabilities, and without them nothing "
                "can be learned from answers of older weights"
            )
        yield found


def _note(session: Session, config: RlhfConfig) -> None:
    """Say what has no effect, and what is a risk."""
    section = config.rollout
    if section.place != "colocate" or section.backend != "vllm":
        for name in sorted(config.vllm.model_fields_set):
            path = f"vllm.{name}"
            session.log.warn(f"{spelling(path)}: not used: vLLM does not run in this process")
    if session.mesh.device.type == "cpu" and (section.offload_model or section.offload_optimizer):
        session.log.warn("--offload_model, --offload_optimizer: nothing to move: all is on the CPU")
    if section.place != "server":
        for name in sorted(section.model_fields_set):
            if name.startswith("server_"):
                path = f"rollout.{name}"
                session.log.warn(f"{spelling(path)}: not used: no server answers")
    if section.max_model_len is not None and section.place == "server":
        session.log.warn("--vllm_max_model_len: not used: say it to swift rollout")
    assert isinstance(config.rlhf, PolicySection)
    if section.asynchronous and not config.rlhf.correction:
        session.log.warn(
            "--async_generate with --rollout_importance_sampling_mode none: that answers come from "
            "older weights is not corrected"
        )


def _nothing(times: int = 0) -> None:
    """The weights are there already, and nothing makes room for anything."""


def _live(session: Session, learner: Learner, most: int | None) -> Answering:
    model = learner.tuned.model
    live = live_engine(session, model, partial(computing, session, model))
    if most is not None:
        live.context = min(most, live.context or most)
    return Answering(live, _nothing, _nothing)


def live_engine(session: Session, model: PreTrainedModel, within: Within) -> Surrounded:
    """An engine on a model of this run, whose computing ``within`` surrounds."""
    code = session.config.model.trust_remote_code
    words = load_tokenizer(session.base, trust_remote_code=code)
    engine = TransformersEngine(model, words, marks=lambda: session.renderer.marks)
    return Surrounded(engine, within)


@contextlib.contextmanager
def _colocated(session: Session, config: RlhfConfig, learner: Learner) -> Iterator[Answering]:
    section, device = config.rollout, session.mesh.device
    vllm = config.vllm
    if section.backend == "vllm" and session.mesh.world.size > 1:
        raise ConfigError(
            "--vllm_mode colocate: with several processes each would start vLLM on the same "
            "device; start swift rollout --infer_backend vllm, and say --vllm_mode server"
        )
    if section.sleep_level:
        vllm = vllm.model_copy(update={"enable_sleep_mode": True})
    with torch.random.fork_rng():  # the run's random numbers are those that it has without
        engine = load_updatable(
            section.backend, session.base, config.model, vllm, session.compute, device,
            section.max_model_len, lambda: session.renderer.marks,
        )  # fmt: skip

    away = partial(move, learner, model=section.offload_model, optimizer=section.offload_optimizer)

    def give(times: int) -> None:
        if section.sleep_level:
            cast("RestingEngine", engine).wake()
        engine.update_weights(current_weights(learner.tuned, session.compute))
        away(torch.device("cpu"))

    def rest() -> None:
        if section.sleep_level:
            cast("RestingEngine", engine).sleep()
        away(device)

    ahead = section.max_staleness if section.asynchronous else 0
    try:
        if section.sleep_level:
            cast("RestingEngine", engine).sleep()
        yield Answering(Surrounded(engine, fast_linear), give, rest, ahead)
    finally:
        engine.close()


def move(learner: Learner, device: torch.device, *, model: bool, optimizer: bool) -> None:
    """Move the model that learns, or what its optimizer knows, to a device."""
    if optimizer:
        for state in learner.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim():  # counts of steps stay
                    state[name] = value.to(device)
    if model:
        for tensor in (*learner.spread.module.parameters(), *learner.spread.module.buffers()):
            tensor.data = tensor.data.to(device)


@contextlib.contextmanager
def _served(session: Session, section: RolloutSection, learner: Learner) -> Iterator[Answering]:
    places = [
        address_of(url, section.server_key, section.server_timeout_s, section.answer_timeout_s)
        for url in section.addresses
    ]
    engine = RolloutServers(places)
    run = session.mesh.share(uuid.uuid4().hex[:12])

    def give(times: int) -> None:
        version = f"{run}-{times}"
        if session.mesh.world.is_main:
            engine.update(current_weights(learner.tuned, session.compute), version)
        engine.version = version

    session.log(f"answers come from {', '.join(section.addresses)}")
    try:
        ahead = section.max_staleness if section.asynchronous else 0
        yield Answering(engine, give, _nothing, ahead)
    finally:
        engine.close()


@contextlib.contextmanager
def computing(session: Session, model: nn.Module) -> Iterator[None]:
    """Computing as a training step does, without gradients."""
    mixed = session.compute != torch.float32
    format = torch.autocast(session.mesh.device.type, session.compute, enabled=mixed)
    with torch.no_grad(), format, fast_linear(model):
        yield


class Surrounded:
    """An engine whose computing happens within something: a number format, faster kernels."""

    def __init__(self, engine: Engine, within: Within) -> None:
        """Take an engine, and what surrounds its computing."""
        self._engine, self._within = engine, within
        self.abilities, self.context = engine.abilities, engine.context

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`."""
        with self._within():
            return self._engine.generate(requests, on_token)
