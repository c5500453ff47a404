"""``swift sft``: fine-tune on conversations, or on the rows of another task."""

from __future__ import annotations

from typing import Literal

from swift.chat.load import renderer_for
from swift.config.runs import SftConfig, TrainingConfig
from swift.config.task import WritingSection
from swift.observe.log import Log, quiet_libraries
from swift.observe.metrics import check_report
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.recipes.check import show
from swift.train import setup
from swift.train.alignment import objective
from swift.train.folder import open_run
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome, outcome
from swift.train.session import make_plan, open_session
from swift.train.stop import StopRequest


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
    quiet_libraries()
    check_report(config.report)
    log = Log(world.is_main)
    task = config.task if isinstance(config, SftConfig) else WritingSection()
    with open_mesh(world, config.parallel) as mesh, StopRequest() as stopping:
        session = open_session(config, mesh, log)
        renderer = renderer_for(session.base, config.model)
        data = setup.prepare_data(session, renderer, kind or task.task)
        plan = make_plan(session, data)
        if config.dry_run:
            show(session, plan, data, renderer)
            return None
        with setup.explaining_memory(plan):
            folder, checkpoint = mesh.share(open_run(config) if world.is_main else None)
            setup.announce(session, plan, data, folder)
            learner = build_learner(session, plan, data, checkpoint, objective(task))
            keeper = setup.make_keeper(session, folder, learner, plan, data)
            state = setup.start(session, folder, checkpoint, keeper, data)
            with setup.recording(session, folder, state, plan) as outlets:
                reason = fit(
                    setup.make_job(session, learner, keeper, plan, data, stopping, outlets), state
                )
            setup.close_flow(session, folder, data)
        result = outcome(folder, state, reason)
        if world.is_main:
            result.announce(log)
        return result
