"""``swift deploy``: a service that speaks the protocols of OpenAI and Anthropic."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from swift import registry
from swift.chat.load import for_others
from swift.chat.manifest import differences
from swift.config.model import UsedModelSection
from swift.config.runs import DeployConfig
from swift.data.source import check_inputs
from swift.errors import ConfigError
from swift.infer.load import load_talker, settle
from swift.infer.start import allowing
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World

registry.register("service", "check", "swift.serve.server:check", needs="fastapi", extra="serve")
registry.register("service", "serve", "swift.serve.server:serve", needs="fastapi", extra="serve")
registry.register("service", "served", "swift.serve.server:Served", needs="fastapi", extra="serve")


def run(config: DeployConfig, world: World) -> None:
    """Load a model and serve it."""
    quiet_libraries()
    log = Log(world.is_main)
    section, named = _named(config.model)
    model, before = settle(section)
    if not config.model.path and named and section.adapters == list(named.values())[:1]:
        model = model.model_copy(update={"adapters": []})
    check_inputs([model.path or ""], [*model.adapters, *named.values()], {})
    registry.load("service", "check")(config.serve)
    name = config.serve.name or _name(model)
    if config.dry_run:
        log(f"would load {model.path} and serve {', '.join((name, *named))}")
        return
    all_of_them = [*model.adapters, *named.values()]
    ranked = {kind: allowing(getattr(config, kind), all_of_them) for kind in ("vllm", "sglang")}
    servers = config.model_copy(update=ranked)
    body = int(config.serve.max_body_mb * (1 << 20))
    narrow = partial(for_others, max_image_pixels=config.serve.max_image_pixels, max_bytes=body)
    talker = load_talker(model, config.infer, device_of(world), log, servers, narrow)
    system = config.serve.system or before.get("data", "system")
    for folder in (*all_of_them, str(model.path)):
        for line in differences(Path(folder), talker.renderer, system):
            log.warn(line)
    turns = before.get("task", "kind") == "embedding"
    served = registry.load("service", "served")(talker, name, named, system, turns)
    registry.load("service", "serve")(served, config.serve, log)


def _named(section: UsedModelSection) -> tuple[UsedModelSection, dict[str, str]]:
    """Adapters by name, ``a=path``; one without a name becomes part of the model.

    Raises:
        ConfigError: a name is there twice, or named adapters are to be merged.
    """
    named: dict[str, str] = {}
    plain: list[str] = []
    for word in section.adapters:
        name, is_named, path = word.partition("=")
        if not is_named or Path(word).is_dir():
            plain.append(word)
        elif not name or not path or name in named:
            raise ConfigError(f"--adapters: {word}: write name=folder, each name once")
        else:
            named[name] = path
    if named and section.merge:
        raise ConfigError("--merge_lora: one adapter without a name can be merged, named ones not")
    if section.path is None and not plain:
        plain = list(named.values())[:1]  # it knows the model that all of them stand on
    return section.model_copy(update={"adapters": plain}), named


def _name(model: UsedModelSection) -> str:
    """The name of the model in requests."""
    said = (model.adapters[0] if model.adapters else str(model.path)).rstrip("/")
    path = Path(said.removeprefix("package:"))
    return path.name.removesuffix(".gguf")
