"""Repositories of Hugging Face and ModelScope, fetched once into those libraries' own caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swift.errors import ConfigError, MissingExtra

MODEL_FILES = (
    "*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.bin.index.json"
)  # fmt: skip
_LINES = ("jsonl", "ndjson", "json", "csv", "tsv", "txt")
_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
DATA_FILES = ("*.parquet", "*.arrow", *(f"*.{kind}{end}" for kind in _LINES for end in _PACKED))


def fetch(
    name: str,
    kind: str,
    revision: str | None,
    hub: str,
    patterns: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    """The local copy of a hub's repository.

    Args:
        name: ``owner/name``.
        kind: ``model`` or ``dataset``.
        revision: branch, tag or commit.
        hub: ``auto`` (Hugging Face), ``huggingface`` or ``modelscope``.
        patterns: files that are wanted.
        say: told what is fetched.

    Raises:
        ConfigError: it does not exist, is closed to you, or the hub cannot be reached.
        MissingExtra: ModelScope is asked for and its package is not installed.
    """
    if hub == "modelscope":
        return _modelscope(name, kind, revision, patterns, say)
    return _huggingface(name, kind, revision, patterns, say)


def _huggingface(
    name: str, kind: str, revision: str | None, patterns: Sequence[str], say: Callable[[str], None]
) -> Path:
    from huggingface_hub import errors

    flag = "--model" if kind == "model" else "--dataset"
    options: dict[str, Any] = {"repo_type": kind, "revision": revision}
    try:
        return _snapshot(name, patterns, local_files_only=True, **options)
    except (errors.LocalEntryNotFoundError, errors.CacheNotFound):
        say(f"fetching {name} from Hugging Face")
    except errors.HFValidationError:
        raise ConfigError(f"{flag}: {name!r} is neither a file nor a hub name") from None
    try:
        return _snapshot(name, patterns, **options)
    except errors.GatedRepoError:
        why = "is closed: accept its terms on its page, then `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = "is neither a local path nor on Hugging Face (try --use_hf false for ModelScope)"
    except errors.RevisionNotFoundError:
        why = f"has no revision {revision!r} on Hugging Face"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError):
        why = "is not a local path, and Hugging Face cannot be reached"
    except OSError as error:
        why = f"is not a local path, and fetching it from Hugging Face failed: {error}"
    raise ConfigError(f"{flag}: {name} {why}")


def _snapshot(name: str, patterns: Sequence[str], **options: Any) -> Path:
    """A repository in the library's cache; pickled weights only where there are no safetensors."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=list(patterns), **options))
    if options["repo_type"] == "model" and not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(name, allow_patterns=[*patterns, "*.bin"], **options))
    return folder


def _modelscope(
    name: str, kind: str, revision: str | None, patterns: Sequence[str], say: Callable[[str], None]
) -> Path:
    try:
        from modelscope import dataset_snapshot_download, snapshot_download
    except ModuleNotFoundError as error:
        if error.name != "modelscope":
            raise
        raise MissingExtra("modelscope", "modelscope", f"{name} from ModelScope") from None
    say(f"fetching {name} from ModelScope")
    get = snapshot_download if kind == "model" else dataset_snapshot_download
    try:
        return Path(get(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # modelscope raises requests' and its own errors, untyped
        flag = "--model" if kind == "model" else "--dataset"
        raise ConfigError(f"{flag}: {name} cannot be fetched from ModelScope: {error}") from error
