"""What the sections of a run that learns from rewards say of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift import registry
from swift.config.alignment import RlhfSection
from swift.config.policy import PolicySection
from swift.config.ppo import PpoSection

if TYPE_CHECKING:
    from swift.config.runs import RlhfConfig

_RIGHT = ("", "")


def brought_rewards(config: RlhfConfig) -> list[str]:
    """Rewards that episodes bring with them, behind those that are named."""
    reward, rollout = config.reward, config.rollout
    bare = not reward.funcs and not reward.models
    if rollout.recorded:
        return ["recorded"] if bare else []
    if rollout.environment is None or "environment" in reward.funcs:
        return []
    usual = bare or rollout.gym
    added = usual if reward.environment is None else reward.environment
    return ["environment"] if added else []


def answered_once(given: Any) -> Any:
    """A critic needs no group: each prompt is answered once, unless it is said otherwise."""
    if not isinstance(given, dict) or not isinstance(given.get("rollout", {}), dict):
        return given
    rlhf = given.get("rlhf")
    kind = rlhf.get("kind") if isinstance(rlhf, dict) else getattr(rlhf, "kind", rlhf)
    known = registry.entries(RlhfSection).get(str(kind))
    if known is None or not issubclass(known.section or object, PpoSection):
        return given
    return {**given, "rollout": {"num_generations": 1, **given.get("rollout", {})}}


def misfit(config: RlhfConfig) -> tuple[str, str]:
    """What cannot be, as a setting's path and the reason; empty: all fits."""
    if not isinstance(config.rlhf, PolicySection):
        if config.chord.dataset:
            return "chord.dataset", "belongs to training from rewards: --rlhf_type grpo"
        return _RIGHT
    judged = _judged(config)
    return judged if judged[0] else _learned(config, config.rlhf)


def _judged(config: RlhfConfig) -> tuple[str, str]:
    reward, rollout = config.reward, config.rollout
    named = [*reward.funcs, *reward.models, *brought_rewards(config)]
    if not named:
        return "reward.funcs", "is needed: --reward_funcs accuracy"
    if reward.weights and len(reward.weights) != len(named):
        count = len(reward.weights)
        return "reward.weights", f"{count} for {len(named)} rewards; say one for each"
    if reward.environment and rollout.environment is None:
        return "reward.environment", "there is no environment that could give rewards"
    if rollout.gym and rollout.environment is None:
        why = "gym_scheduler names nothing that reacts to answers; add --gym_env NAME"
        return "rollout.environment", why
    if rollout.recorded and rollout.place != "live":
        return (
            "rollout.recorded",
            "answers of rows need no engine; leave out use_vllm and vllm_mode",
        )
    if rollout.recorded and rollout.environment:
        return "rollout.recorded", "answers of rows are not played; leave out environment"
    return _RIGHT


def _learned(config: RlhfConfig, section: PolicySection) -> tuple[str, str]:
    data = config.data
    steps, accumulation = section.steps_per_generation, config.train.accumulation
    if data.streaming or data.cached:
        path = "data.streaming" if data.streaming else "data.cached"
        return path, "prompts are read whole, as texts"
    if config.rollout.recorded and (data.val or data.split):
        path = "data.val" if data.val else "data.split"
        return path, "recorded answers need no engine, and an evaluation would"
    if config.parallel.shard != "none":
        return (
            "parallel.shard",
            "the model answers while it learns, so each process holds all of it",
        )
    if steps and steps % (accumulation or steps):
        why = f"{steps} is no multiple of gradient_accumulation_steps, {accumulation}"
        return "rlhf.steps_per_generation", why
    if config.rollout.num_generations < 2 and not section.critic:
        return "rollout.num_generations", "an answer is compared with others: 2 or more"
    if config.rollout.recorded and section.critic:
        return "rollout.recorded", "answers are compared with each other; --rlhf_type rloo"
    if config.rollout.recorded and section.dynamic_sample:
        return "rlhf.dynamic_sample", "recorded answers stay what they are; say false"
    return _RIGHT
