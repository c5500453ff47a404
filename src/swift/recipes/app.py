"""``swift app``: a page in the browser to talk with a model."""

from __future__ import annotations

from swift import registry
from swift.config.app import AppConfig
from swift.observe.log import Log
from swift.parallel.world import World

registry.register("page", "serve", "swift.app.serve:serve", needs="gradio", extra="app")


def run(config: AppConfig, world: World) -> None:
    """Show a page over a server: one that is started as ``swift deploy``, or one that runs."""
    log = Log(world.is_main)
    serve = registry.load("page", "serve")
    if config.dry_run:
        model = config.model.path or "the model of the adapter"
        beneath = config.app.base_url or f"swift deploy with {model}"
        log(f"would show a page at {config.app.server_name}:{config.app.server_port} "
            f"over {beneath}")  # fmt: skip
        return
    serve(config, log)
