"""``swift rlhf --rlhf_type gkd``: learn what a teacher believes of every token."""

from __future__ import annotations

from swift.chat.load import renderer_for
from swift.config.distill import GkdSection
from swift.config.runs import RlhfConfig
from swift.infer.engine import Engine
from swift.observe.log import Log, quiet_libraries
from swift.observe.metrics import check_report
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.recipes.check import show
from swift.rl import distill
from swift.rl.setup import build
from swift.train import setup
from swift.train.folder import open_run
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome, outcome
from swift.train.session import make_plan, open_session
from swift.train.stop import StopRequest


def run(config: RlhfConfig, world: World, engine: Engine | None = None) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say; ``config.rlhf`` is of distillation.
        world: which process this is.
        engine: writes the student's answers in place of the model that learns.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    assert isinstance(config.rlhf, GkdSection)
    quiet_libraries()
    check_report(config.report)
    log = Log(world.is_main)
    with open_mesh(world, config.parallel) as mesh, StopRequest() as stopping:
        session = open_session(config, mesh, log)
        renderer = renderer_for(session.base, config.model)
        data = setup.prepare_data(session, renderer, config.rlhf.task)
        plan = make_plan(session, data)
        if config.dry_run:
            show(session, plan, data, renderer)
            return None
        with setup.explaining_memory(plan):
            folder, checkpoint = mesh.share(open_run(config) if world.is_main else None)
            setup.announce(session, plan, data, folder)
            distill.announce(session)
            learner = build_learner(session, plan, data, checkpoint, build(config.rlhf))
            lessons = distill.make_lessons(session, learner, renderer, folder, engine)
            keeper = setup.make_keeper(session, folder, learner, plan, data)
            state = setup.start(session, folder, checkpoint, keeper, data)
            with setup.recording(session, folder, state, plan) as outlets:
                job = setup.make_job(session, learner, keeper, plan, data, stopping, outlets)
                reason = fit(distill.with_lessons(job, lessons, session, plan, data), state)
            setup.close_flow(session, folder, data)
        if lessons.unanswered:
            log(f"{lessons.unanswered} prompts left no room for an answer: the rows' were learned")
        result = outcome(folder, state, reason)
        if world.is_main:
            result.announce(log)
        return result
