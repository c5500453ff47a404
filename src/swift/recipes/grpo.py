"""``swift rlhf --rlhf_type grpo`` and its relatives: learn from rewards."""

from __future__ import annotations

from swift.config.policy import PolicySection
from swift.config.runs import RlhfConfig
from swift.infer.engine import Engine
from swift.parallel.world import World
from swift.rl import setup as rl
from swift.rl.engines import answering
from swift.rl.prompts import read_prompts
from swift.train import setup
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome
from swift.train.session import training_session


def run(config: RlhfConfig, world: World, engine: Engine | None = None) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say; ``config.rlhf`` is a policy section.
        world: which process this is.
        engine: answers in place of the model that learns.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    assert isinstance(config.rlhf, PolicySection)
    with training_session(config, world) as session:
        asked = read_prompts(session)
        plan = rl.make_plan(session, asked)
        rl.announce(session, plan, asked)
        if config.dry_run:
            return None
        data = rl.nothing_prepared(session, asked)
        with setup.run_folder(session, plan) as (folder, checkpoint):
            session.log(f"run: {folder}")
            learner = build_learner(session, plan, data, checkpoint, rl.build(config.rlhf))
            with answering(session, learner, engine) as source:
                rounds = rl.make_rounds(session, learner, asked, plan, folder, source)
                keeper = rl.make_keeper(session, folder, learner, plan, data, asked, rounds)
                begun = setup.training(session, plan, data, learner, keeper, checkpoint)
                with begun as (job, state), rl.keeping(keeper, state):
                    reason = fit(rl.evaluating(session, job, rounds, asked), state)
        return setup.finish(session, folder, state, reason)
