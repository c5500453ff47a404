"""Find what a name stands for: a folder, a GGUF file, an installed package, a hub's repository."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from swift.errors import ConfigError
from swift.hub import gguf, remote
from swift.hub.catalog import catalog, close_to

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_PREFIXES = {"hf": "huggingface", "ms": "modelscope"}


def cache_dir() -> Path:
    """Where converted models and tokens are kept: $SWIFT_CACHE, else the user's cache folder."""
    if os.environ.get("SWIFT_CACHE"):
        return Path(os.environ["SWIFT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swift"


def locate_model(
    name: str,
    *,
    revision: str | None = None,
    hub: str = "auto",
    dtype: str = "float32",
    code: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """The local folder of a model, in the layout that transformers loads.

    Args:
        name: a folder, a ``.gguf`` file, ``package:<name>`` or a hub name.
        revision: branch, tag or commit on the hub.
        hub: ``auto``, ``huggingface`` or ``modelscope``.
        dtype: number format in which a GGUF file is written once it is dequantized.
        code: fetch Python files too (``trust_remote_code``).
        say: told what takes long.

    Raises:
        ConfigError: nothing is there, or it cannot be fetched.
    """
    path = find_model(name)
    if path is None:
        patterns = [*remote.MODEL_FILES, *(["*.py"] if code else [])]
        return _checkpoint(remote.fetch_model(name, revision, hub, patterns, say), name)
    return gguf.convert(path, cache_dir() / "gguf", dtype, say) if path.is_file() else path


def find_model(name: str) -> Path | None:
    """The folder or GGUF file of a model on this machine; None: it is a name on a hub.

    Raises:
        ConfigError: there is no model where the name points.
    """
    if name.startswith("package:"):
        name = str(_in_package(name.removeprefix("package:")))
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise ConfigError(f"--model: {name} is a file; give its folder, or a .gguf file")
    if path.exists():
        return path if path.is_file() else _checkpoint(path, name)
    if _looks_local(name):
        raise ConfigError(f"--model: {name} does not exist{_neighbour(path)}")
    return None


def find_adapter(name: str) -> Path:
    """The folder of an adapter.

    Raises:
        ConfigError: there is no adapter where the name points.
    """
    path = Path(name).expanduser()
    if not (path / "adapter_config.json").is_file():
        inside = sorted(path.glob("**/adapter_config.json")) if path.is_dir() else []
        hint = f"; did you mean {inside[-1].parent}?" if inside else ""
        raise ConfigError(f"--adapters: {name} holds no adapter_config.json{hint}")
    return path


def locate_dataset(
    name: str,
    choose: remote.Choice = lambda files: files,
    *,
    hub: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """The local file or folder of a data set.

    Args:
        name: a path, a name in the catalog, or a hub name, perhaps behind ``hf::`` or ``ms::``.
        choose: of the files on the hub those that are wanted.
        hub: ``auto``, ``huggingface`` or ``modelscope``.
        say: told what takes long.

    Raises:
        ConfigError: nothing is there, or it cannot be fetched.
    """
    path = find_dataset(name)
    if path is not None:
        return path
    hub, name = _on_hub(name, hub)
    try:
        record = cache_dir() / "hub" / f"{name.replace('/', '--')}.json"
        return remote.fetch_rows(name, hub, choose, record, say)
    except ConfigError as error:
        close = close_to(name) if "/" not in name else []
        hint = f"; the catalog has {', '.join(close)} (swift datasets)" if close else ""
        raise ConfigError(*(f"{problem}{hint}" for problem in error.problems)) from error


def _on_hub(name: str, hub: str) -> tuple[str, str]:
    """The hub and the id there that a name stands for."""
    prefix, mark, rest = name.partition("::")
    if mark:
        return _PREFIXES[prefix.lower()], rest
    entry = catalog().get(name)
    return entry.on(hub) if entry else (hub, name)


def find_dataset(name: str) -> Path | None:
    """The file or folder of a data set on this machine; None: it is a name on a hub.

    Raises:
        ConfigError: there is nothing where the name points.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    prefix, mark, _ = name.partition("::")
    if mark and prefix.lower() in _PREFIXES:
        return None
    if _looks_local(name) or path.suffix[1:2].isalpha():  # .jsonl; but OpenHermes-2.5 is a name
        raise ConfigError(f"--dataset: {name} does not exist{_neighbour(path)}")
    return None


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name)


def _neighbour(path: Path) -> str:
    """A hint at the nearest name beside a path that does not exist."""
    import difflib

    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _checkpoint(path: Path, name: str) -> Path:
    if (path / "config.json").is_file():
        return path
    if (path / "adapter_config.json").is_file():
        raise ConfigError(
            f"--model: {name} holds an adapter, not a model; give it as --adapters {name}"
        )
    inside = sorted(path.glob("checkpoint-*"), key=lambda found: (len(found.name), found.name))
    hint = f"; did you mean {inside[-1]}?" if inside else ""
    raise ConfigError(f"--model: {name} has no config.json, so it is not a model{hint}")


def _in_package(name: str) -> Path:
    """The model inside an installed package; ``name/file`` picks one of several."""
    package, _, wanted = name.partition("/")
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise ConfigError(
            f"--model: the package {package} is not installed: pip install {package}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    found += [Path(str(f.locate())).parent for f in files if f.name == "model.safetensors"]
    if wanted:
        found = [path for path in found if path.name == wanted]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"--model: package {package} should hold one model, found {names}"
            + ("; pick one with package:<name>/<file>" if found else "")
        )
    return found[0]
