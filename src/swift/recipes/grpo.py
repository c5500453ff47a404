"""``swift rlhf --rlhf_type grpo`` and its relatives: learn from rewards."""

from __future__ import annotations

from swift.chat.load import renderer_for
from swift.config.policy import PolicySection
from swift.config.runs import RlhfConfig
from swift.infer.engine import Engine
from swift.observe.log import Log, quiet_libraries
from swift.observe.metrics import check_report
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.rl import setup as rl
from swift.rl.engines import answering
from swift.rl.prompts import read_prompts
from swift.train import setup
from swift.train.folder import open_run
from swift.train.learner import build_learner
from swift.train.loop import fit
from swift.train.outcome import Outcome, outcome
from swift.train.session import open_session
from swift.train.stop import StopRequest


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
    quiet_libraries()
    check_report(config.report)
    log = Log(world.is_main)
    with open_mesh(world, config.parallel) as mesh, StopRequest() as stopping:
        session = open_session(config, mesh, log)
        renderer = renderer_for(session.base, config.model)
        asked = read_prompts(session, renderer)
        plan = rl.make_plan(session, asked)
        rl.announce(session, plan, asked)
        if config.dry_run:
            return None
        data = rl.nothing_prepared(asked, renderer)
        with setup.explaining_memory(plan):
            folder, checkpoint = mesh.share(open_run(config) if world.is_main else None)
            log(f"run: {folder}")
            learner = build_learner(session, plan, data, checkpoint, rl.build(config.rlhf))
            with answering(session, learner, renderer, engine) as source:
                rounds = rl.make_rounds(session, learner, asked, renderer, plan, folder, source)
                keeper = rl.make_keeper(session, folder, learner, plan, asked, rounds)
                state = setup.start(session, folder, checkpoint, keeper, data)
                with setup.recording(session, folder, state, plan) as outlets:
                    job = setup.make_job(session, learner, keeper, plan, data, stopping, outlets)
                    job = rl.evaluating(session, job, rounds, asked)
                    with rl.keeping(keeper, state):
                        reason = fit(job, state)
        result = outcome(folder, state, reason)
        if world.is_main:
            result.announce(log)
        return result
