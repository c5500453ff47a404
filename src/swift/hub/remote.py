"""Repositories of Hugging Face and ModelScope, fetched once into those libraries' own caches."""

from __future__ import annotations

import glob
import json
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

Choice = Callable[[list[str]], Sequence[str]]
"""Of the files of a repository those that are wanted."""


def fetch_model(
    name: str,
    revision: str | None,
    hub: str,
    patterns: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    """The local copy of a model's repository.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit.
        hub: ``auto`` (Hugging Face), ``huggingface`` or ``modelscope``.
        patterns: files that are wanted.
        say: told what is fetched.

    Raises:
        ConfigError: it does not exist, is closed to you, or the hub cannot be reached.
        MissingExtra: ModelScope is asked for and its package is not installed.
    """
    if hub == "modelscope":
        return _modelscope(name, "model", revision, patterns, say)
    return _huggingface(name, revision, patterns, say)


def fetch_rows(
    name: str, hub: str, choose: Choice, record: Path, say: Callable[[str], None]
) -> Path:
    """The local copy of a data set's repository, with the files that are wanted of it.

    Args:
        name: ``owner/name``.
        hub: as in :func:`fetch_model`; of ModelScope every data file is fetched.
        choose: of the repository's files those that are wanted.
        record: a file that remembers what the repository holds, so that the hub need not be asked
            again for files that are here.
        say: told what is fetched.

    Raises:
        ConfigError: as :func:`fetch_model`, and what ``choose`` raises.
    """
    if hub == "modelscope":
        return _modelscope(name, "dataset", None, DATA_FILES, say)
    folder = _recorded(record, choose)
    if folder is not None:
        return folder
    return _explained(lambda: _chosen(name, choose, record, say), name, "--dataset", None)


def _recorded(record: Path, choose: Choice) -> Path | None:
    """The local copy, when all that is wanted is there."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        folder, files = Path(content["folder"]), list(content["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = all((folder / file).is_file() for file in choose(files))
    return folder if there else None


def _chosen(name: str, choose: Choice, record: Path, say: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, errors, snapshot_download

    api = HfApi()
    try:
        commit = api.repo_info(name, repo_type="dataset").sha
        files = api.list_repo_files(name, revision=commit, repo_type="dataset")
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise
    except Exception as error:  # the client lets errors of its HTTP library through, untyped here
        try:  # what another program fetched, of which there is no record
            return _snapshot(name, DATA_FILES, repo_type="dataset", local_files_only=True)
        except errors.LocalEntryNotFoundError:
            raise errors.LocalEntryNotFoundError(str(error)) from None
    wanted = [glob.escape(file) for file in choose(files)]
    say(f"fetching {name} from Hugging Face")
    folder = Path(
        snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=wanted)
    )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"folder": str(folder), "files": files}), encoding="utf-8")
    return folder


def _huggingface(
    name: str, revision: str | None, patterns: Sequence[str], say: Callable[[str], None]
) -> Path:
    from huggingface_hub import errors

    options: dict[str, Any] = {"repo_type": "model", "revision": revision}
    try:
        return _snapshot(name, patterns, local_files_only=True, **options)
    except (errors.LocalEntryNotFoundError, errors.CacheNotFound):
        say(f"fetching {name} from Hugging Face")
    except errors.HFValidationError:
        pass  # explained below
    return _explained(lambda: _snapshot(name, patterns, **options), name, "--model", revision)


def _explained(get: Callable[[], Path], name: str, flag: str, revision: str | None) -> Path:
    """What is got, or why not."""
    from huggingface_hub import errors

    try:
        return get()
    except errors.HFValidationError:
        raise ConfigError(f"{flag}: {name!r} is neither a file nor a hub name") from None
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
