"""``swift rlhf --rlhf_type gkd``: learn what a teacher believes of every token."""

from __future__ import annotations

from swift.config.distill import GkdSection
from swift.config.runs import RlhfConfig
from swift.infer.engine import Engine
from swift.parallel.world import World
from swift.recipes.check import show
from swift.rl import distill
from swift.rl.setup import build
from swift.train import setup
from swift.train.distill import teacher_bytes
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.memory import Beside
from swift.train.outcome import Outcome
from swift.train.session import make_plan, training_session


def run(config: RlhfConfig, world: World, engine: Engine | None = None) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say; ``config.rlhf`` is of distillation.
        world: which process this is.
        engine: writes the student's answers in place of the model that learns.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    section = config.rlhf
    assert isinstance(section, GkdSection)
    with training_session(config, world) as session:
        data = setup.prepare_data(session, section.task)
        plan = make_plan(session, data, Beside(teacher_bytes(session, section)))
        if config.dry_run:
            show(session, plan, data)
            return None
        with setup.run_folder(session, plan) as (folder, checkpoint):
            setup.announce(session, plan, data, folder)
            distill.announce(session)
            learner = build_learner(session, plan, data, checkpoint, build(section))
            lessons = distill.make_lessons(session, learner, folder, engine)
            keeper = setup.make_keeper(session, folder, learner, plan, data)
            with setup.training(session, plan, data, learner, keeper, checkpoint) as (job, state):
                reason = fit(distill.with_lessons(job, lessons, session, plan, data), state)
        if count := lessons.unanswered:
            session.log(f"{count} prompts left no room for an answer: the rows' were learned")
        return setup.finish(session, folder, state, reason)
