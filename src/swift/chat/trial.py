"""A renderer on every shape; what came of it is kept, since it depends on the renderer alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from swift.chat.properties import PROPERTIES, Reference, Result, verify
from swift.chat.render import Renderer
from swift.chat.shapes import SHAPES, missing
from swift.errors import ResourceError

Tried = dict[str, list[Result]]
"""Shape -> what became of every property."""


def try_shapes(renderer: Renderer, reference: Reference | None) -> Tried:
    """Every property on every shape; one that the template cannot write is refused."""
    tried = {}
    for name, shape in SHAPES.items():
        why = missing(renderer, shape)
        tried[name] = (
            [Result(known, "refused", why) for known in PROPERTIES]
            if why
            else verify(renderer, reference, shape.conversation)
        )
    return tried


def kept_shapes(
    renderer: Renderer, reference: Callable[[], Reference | None], folder: Path
) -> Tried:
    """The same, from the file of an earlier call where there is one.

    Args:
        renderer: what is tried.
        reference: makes transformers' rendering, where it is needed.
        folder: of these files.

    Raises:
        ResourceError: the file cannot be written.
    """
    key = hashlib.sha256(f"{renderer.spec.fingerprint}:{_code()}".encode()).hexdigest()
    file = folder / f"{key[:40]}.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return {name: [Result(*result) for result in results] for name, results in said.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # there is none, or a broken one
    tried = try_shapes(renderer, reference())
    rows = {name: [(r.name, r.status, r.why) for r in results] for name, results in tried.items()}
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(rows), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise ResourceError(
            f"{folder}: {error.strerror}; set SWIFT_CACHE to a folder of yours"
        ) from None
    return tried


@cache
def _code() -> str:
    """Of everything in this folder: another renderer may give other results."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
