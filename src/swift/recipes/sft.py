"""``swift sft``: fine-tune on conversations, or on the rows of another task."""

from __future__ import annotations

from typing import Literal

from swift.config.runs import SftConfig, TrainingConfig
from swift.config.task import WritingSection
from swift.parallel.world import World
from swift.recipes.check import show
from swift.train import setup
from swift.train.alignment import objective
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome
from swift.train.session import make_plan, training_session


def run(
    config: TrainingConfig, world: World, kind: Literal["text"] | None = None
) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say.
        world: which process this is.
        kind: rows are plain text (``swift pt``). Default: as the task says.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    task = config.task if isinstance(config, SftConfig) else WritingSection()
    with training_session(config, world) as session:
        data = setup.prepare_data(session, kind or task.task)
        plan = make_plan(session, data)
        if config.dry_run:
            show(session, plan, data)
            return None
        with setup.run_folder(session, plan) as (folder, checkpoint):
            setup.announce(session, plan, data, folder)
            learner = build_learner(session, plan, data, checkpoint, objective(task))
            keeper = setup.make_keeper(session, folder, learner, plan, data)
            with setup.training(session, plan, data, learner, keeper, checkpoint) as (job, state):
                reason = fit(job, state)
        return setup.finish(session, folder, state, reason)
