"""``swift rlhf``: learn from preferences; from rewards see grpo.py, from a teacher gkd.py."""

from __future__ import annotations

from swift.config.distill import GkdSection
from swift.config.policy import PolicySection
from swift.config.runs import RlhfConfig
from swift.parallel.world import World
from swift.recipes import gkd, grpo
from swift.recipes.check import show
from swift.train import setup
from swift.train.alignment import objective
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome
from swift.train.precomputed import ask_before, beside_of
from swift.train.session import make_plan, training_session


def run(config: RlhfConfig, world: World) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say; ``config.rlhf`` chooses the objective.
        world: which process this is.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    section = config.rlhf
    if isinstance(section, PolicySection):
        return grpo.run(config, world)
    if isinstance(section, GkdSection):
        return gkd.run(config, world)
    with training_session(config, world) as session:
        data = setup.prepare_data(session, section.task)
        plan = make_plan(session, data, beside_of(session, section))
        if config.dry_run:
            show(session, plan, data)
            return None
        with setup.run_folder(session, plan) as (folder, checkpoint):
            setup.announce(session, plan, data, folder)
            learner = build_learner(session, plan, data, checkpoint, objective(section))
            data = ask_before(session, section, learner, data)
            keeper = setup.make_keeper(session, folder, learner, plan, data)
            with setup.training(session, plan, data, learner, keeper, checkpoint) as (job, state):
                reason = fit(job, state)
        return setup.finish(session, folder, state, reason)
