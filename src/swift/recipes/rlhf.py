"""``swift rlhf``: learn from preferences; from rewards see grpo.py, from a teacher gkd.py."""

from __future__ import annotations

from swift.chat.load import renderer_for
from swift.config.distill import GkdSection
from swift.config.policy import PolicySection
from swift.config.runs import RlhfConfig
from swift.observe.log import Log, quiet_libraries
from swift.observe.metrics import check_report
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.recipes import gkd, grpo
from swift.recipes.check import show
from swift.train import setup
from swift.train.alignment import objective
from swift.train.folder import open_run
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome, outcome
from swift.train.precomputed import ask_before
from swift.train.session import make_plan, open_session
from swift.train.stop import StopRequest


def run(config: RlhfConfig, world: World) -> Outcome | None:
    """Train, and say where the result is.

    Args:
        config: everything a user may say; ``config.rlhf`` chooses the objective.
        world: which process this is.

    Returns:
        What the run leaves behind; None after a dry run.
    """
    if isinstance(config.rlhf, PolicySection):
        return grpo.run(config, world)
    if isinstance(config.rlhf, GkdSection):
        return gkd.run(config, world)
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
            learner = build_learner(session, plan, data, checkpoint, objective(config.rlhf))
            data = ask_before(session, config.rlhf, learner, data)
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
