"""Flat flags of policy training beyond GRPO: PPO's critic, CHORD, recorded answers, turns."""

from __future__ import annotations

from typing import Any

from swift.config.flag import Flag, Several, alias, flag, words

_SCHEDULER = words(gym_scheduler=Several({"rollout.gym": True}))


def _game(name: Any) -> Several:
    return Several({"rollout.environment": name, "rollout.gym": True})


RL: dict[str, Flag] = {
    # the critic of PPO
    "num_ppo_epochs": alias("rlhf.num_iterations"),
    "cliprange": alias("rlhf.epsilon"),
    "kl_coef": alias("rlhf.beta"),
    "num_mini_batches": flag("rlhf.num_mini_batches"),
    "gamma": flag("rlhf.gamma"),
    "lam": flag("rlhf.lam"),
    "vf_coef": flag("rlhf.vf_coef"),
    "cliprange_value": flag("rlhf.cliprange_value"),
    "whiten_rewards": flag("rlhf.whiten_rewards"),
    "missing_eos_penalty": flag("rlhf.missing_eos_penalty"),
    "value_model": flag("rlhf.value_model"),
    "local_rollout_forward_batch_size": alias("rollout.batch_size"),
    # the experts of CHORD
    "chord_sft_dataset": flag("chord.dataset"),
    "chord_sft_per_device_train_batch_size": flag("chord.batch_size"),
    "chord_mu_peak": flag("chord.mu_peak"),
    "chord_mu_valley": flag("chord.mu_valley"),
    "chord_mu_warmup_steps": flag("chord.mu_warmup_steps"),
    "chord_mu_decay_steps": flag("chord.mu_decay_steps"),
    "chord_enable_phi_function": flag("chord.phi"),
    # turns
    "multi_turn_scheduler": alias("rollout.environment", _SCHEDULER),
    "gym_env": alias("rollout.environment", _game),
    "use_gym_env": flag("reward.environment"),
    # answers that were given before
    "recorded": flag("rollout.recorded"),
}
