"""One process per device: here, or under torch's elastic launcher.

The only place that reads RANK, WORLD_SIZE, LOCAL_RANK, NPROC_PER_NODE and their kin.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Any

from swift.errors import ConfigError, SwiftError
from swift.parallel.world import World

_GRACE_S = 600  # a process that was told to end may take this long to save


def world() -> World:
    """The place of this process among all of the run."""
    return World(
        rank=int(os.environ.get("RANK", 0)),
        size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    )


def is_main() -> bool:
    """Whether this process is the one that speaks."""
    return world().is_main


def run(name: str, recipe: str, config: Any, words: list[str], *, spread: bool) -> int:
    """Run a recipe in this process, or as several processes when the environment asks for it.

    Args:
        name: the command.
        recipe: ``module:function``.
        config: for the recipe.
        words: the command line behind the command, for the processes to be started.
        spread: whether the command may run as several processes.

    Returns:
        The exit code.
    """
    if spread and "RANK" not in os.environ and _processes() * _nodes() > 1:
        return _start_processes([name, *words])
    module, _, attribute = recipe.partition(":")
    here = world()
    try:
        getattr(import_module(module), attribute)(config, here)
    except Exception as error:
        time.sleep(_patience(error, here))
        raise
    return 0


def _patience(error: Exception, here: World) -> int:
    """Seconds to wait before an error is shown, so that of several processes the right one speaks.

    The launcher ends all processes as soon as one has ended. An error of the user is shown by the
    first process; one that has lost its peers leaves the word to the peer that failed.
    """
    if here.size == 1:
        return 0
    if isinstance(error, SwiftError):
        return 0 if here.is_main else 5
    lost = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")
    return 15 if isinstance(error, RuntimeError) and any(word in str(error) for word in lost) else 0


def _processes() -> int:
    return _number("NPROC_PER_NODE", 1)


def _nodes() -> int:
    return _number("NNODES", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"{name}={text}: should be a number of at least 1")
    return int(text)


def _start_processes(words: list[str]) -> int:
    """Start the processes of this machine and wait for them."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    alone = "MASTER_ADDR" not in os.environ and _nodes() == 1
    options = ["--nproc-per-node", str(_processes()), "--shutdown-timeout", str(_GRACE_S)]
    if alone:
        options += ["--standalone"]
    else:
        for variable in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            if os.environ.get(variable):
                options += [f"--{variable.lower().replace('_', '-')}", os.environ[variable]]
    for name in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // _processes())))
    try:
        run(get_args_parser().parse_args([*options, "-m", "swift", *words]))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), 1)
    except SignalException as error:
        print(f"stopped by signal {error.sigval}", file=sys.stderr)
        return 128 + int(error.sigval)
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
