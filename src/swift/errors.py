"""What can go wrong in a user's hands. Every message says where, what, and what to write instead.

The command line prints these without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations


class SwiftError(Exception):
    """Something that the user can mend."""

    exit_code = 2


class ConfigError(SwiftError):
    """The configuration cannot be used; ``problems`` holds all of it, one line each."""

    def __init__(self, *problems: str) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problems))


class DataError(SwiftError):
    """A file or a row cannot be read or understood."""


class RenderError(DataError):
    """A conversation cannot be turned into tokens, or not provably right."""


class CheckpointError(SwiftError):
    """A checkpoint cannot be written or read."""

    exit_code = 1


class ResourceError(SwiftError):
    """Memory, disk or a device is not enough."""

    exit_code = 1


class NoAnswers(ResourceError):
    """Not one answer could be generated in a whole round."""


class ServerError(SwiftError):
    """A server that generates for us fails, or answers what is not understood."""

    exit_code = 1


class EngineLost(ServerError):
    """The engine that answers for a run is gone."""


class OtherWeights(EngineLost):
    """The engine that answers for a run is there again, with weights that are not the run's."""


class PropertyError(SwiftError):
    """What must hold for every rendered conversation does not."""

    exit_code = 1


class MissingExtra(SwiftError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'swift-llm[{extra}]'")
