"""``swift rollout``: a server that answers for a run of ``swift rlhf``."""

from __future__ import annotations

from swift import registry
from swift.config.flags import spelling
from swift.config.rollout_server import RolloutServerConfig
from swift.data.source import check_inputs
from swift.infer.load import fetch
from swift.infer.updatable import load_updatable
from swift.models.load import resolve_dtype
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World

registry.register(
    "service", "rollout", "swift.serve.rollout:serve_rollout", needs="fastapi", extra="serve"
)
_TEMPLATE = ("chat_template", "thinking", "template_kwargs", "response_prefix")


def run(config: RolloutServerConfig, world: World) -> None:
    """Load a model, and answer by the weights that come."""
    quiet_libraries()
    log = Log(world.is_main)
    section = config.model
    for name in _TEMPLATE:
        if name in section.model_fields_set:
            log.warn(f"{spelling(f'model.{name}')}: not used: prompts come as token ids")
    serve = registry.load("service", "rollout")
    check_inputs([section.path], [], {})
    if config.dry_run:
        log(f"would load {section.path} and answer with {config.infer.backend}")
        return
    device = device_of(world)
    dtype = resolve_dtype(section.dtype, device)
    base = fetch(section, dtype, log)
    engine = load_updatable(
        config.infer.backend, base, section, config.vllm, dtype, device, config.infer.max_model_len
    )
    serve(engine, section.path, config.serve, log)
