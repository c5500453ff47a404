"""One tool from a base model to a service.

The names below are the Python API; each is imported on first use, so that ``import swift`` costs
nothing and needs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = (
    *("Chat", "InferConfig", "MergeConfig", "PtConfig", "RlhfConfig", "Run", "SftConfig"),
    *("merge", "pt", "rlhf", "sft"),
)

__all__ = ["__version__", *_API]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("swift.api"), name)
    raise AttributeError(f"module 'swift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
