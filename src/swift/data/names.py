"""What a name of data says: ``owner/name:subset/split#500``, ``data/*.jsonl``, and its files."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.data.readers import kind_of, known, packed
from swift.errors import ConfigError

_SPLITS = {
    "train": "train|training",
    "test": "test|testing",
    "validation": "val|valid|validation|dev|eval",
}
# A folder with a part for training, by the names that hubs use, means that part.
_IS_SPLIT = {
    split: re.compile(rf"(?<![a-z])({words})(?![a-z])", re.I) for split, words in _SPLITS.items()
}
_EVERYTHING = ("all", "default")
_SHARD = re.compile(r"[-_.]?\d{3,}(-of-\d+)?(-[0-9a-f]{8,})?$")
_OWN_FILES = re.compile(  # what libraries keep beside the rows
    r"(^|/)(\.|(state|dataset_info|dataset_infos|dataset_dict)\.json$|cache-[0-9a-f]+\.arrow$)"
)
_ABOUT = re.compile(r"(^|/)(readme|license)(\.\w+)?\.(md|txt)$", re.I)
_MOST = 20  # names that an error lists


@dataclass(frozen=True)
class Name:
    """What stands where: ``path:part/part#take``."""

    path: str
    parts: tuple[str, ...] = ()
    take: int | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for all files that look like it."""
        return glob.has_magic(self.path) and not Path(self.path).expanduser().exists()


def split_name(name: str) -> tuple[str, int | None]:
    """``chats.jsonl#500`` -> (``chats.jsonl``, 500).

    Raises:
        ConfigError: what follows the # is not a number above 0.
    """
    path, mark, count = name.rpartition("#")
    if not mark or Path(name).expanduser().exists():
        return name, None
    if not count.isdecimal() or int(count) == 0:
        raise ConfigError(f"--dataset: {name}: write the number of rows after the #, as in x#500")
    return path, int(count)


def parse(name: str) -> Name:
    """Take a name apart; a path that exists is itself, whatever is written in it.

    Raises:
        ConfigError: what follows the # is not a number, or nothing follows the colon.
    """
    bare, take = split_name(name)
    if ":" not in bare or Path(bare).expanduser().exists():
        return Name(bare, (), take)
    colons = [at.start() for at in re.finditer("(?<!:):(?!:)", bare)]  # but not of hf::owner/name
    if not colons:
        return Name(bare, (), take)
    there = (at for at in reversed(colons) if at and Path(bare[:at]).expanduser().exists())
    at = next(there, colons[0])
    parts = tuple(part.strip() for part in bare[at + 1 :].split("/"))
    if not at or not all(parts):
        raise ConfigError(f"--dataset: {name}: write what to take after the :, as in x:subset/test")
    return Name(bare[:at], parts, take)


def matching(name: Name) -> list[Path]:
    """The data files that a pattern stands for.

    Raises:
        ConfigError: there are none, or parts of them are asked for.
    """
    pattern = name.path
    if name.parts:
        raise ConfigError(f"--dataset: {pattern} is a pattern; only a folder has parts (:)")
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    files = sorted(path for path in map(Path, found) if path.is_file())
    if not files:
        raise ConfigError(f"--dataset: no file matches {pattern}")
    files = [path for path in files if kind_of(path)]
    if not files:
        raise ConfigError(f"--dataset: {pattern} matches no data file ({known()})")
    return files


def files_of(name: Name, path: Path, subset: str | None = None) -> list[Path]:
    """The data files of a file or folder that a name asks for.

    Args:
        name: with the parts that are asked for.
        path: where it lies on this machine.
        subset: taken where the name says none and there is such a one.

    Raises:
        ConfigError: it is no data file, holds none, or has no such part.
    """
    if path.is_file():
        if name.parts:
            raise ConfigError(f"--dataset: {name.path} is one file; only a folder has parts (:)")
        if kind_of(path) is None:
            raise ConfigError(
                f"--dataset: {path}: known files are {known()}, "
                f"those of lines and text also packed ({packed()})"
            )
        return [path]
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return [found[file] for file in choose(name, sorted(found), subset)]


def choose(name: Name, files: Sequence[str], subset: str | None = None) -> list[str]:
    """Of the files of a folder, by their paths in it, the data files that a name asks for.

    Raises:
        ConfigError: there are none, or there is no such part.
    """
    names = _rows(files)
    if not names:
        raise ConfigError(f"--dataset: {name.path} holds no data file ({known()})")
    split = next((s for part in name.parts[-1:] if (s := _split(part))), None)
    parts = name.parts[:-1] if split else name.parts
    if not parts and subset and _named(subset, names):
        parts = (subset,)
    return _of_split(name, _subsets(name, names, parts), split)


def _rows(files: Sequence[str]) -> list[str]:
    """The files that hold rows."""
    data = [file for file in files if kind_of(Path(file)) and not _OWN_FILES.search(file)]
    return [file for file in data if not _ABOUT.search(file)] or data


def _split(part: str) -> str | None:
    return next((s for s, look in _IS_SPLIT.items() if look.fullmatch(part)), None)


def _subsets(name: Name, files: list[str], parts: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for part in parts:
        found = _named(part, files)
        if not found and part.lower() in _EVERYTHING:
            found = files
        if not found:
            raise ConfigError(f"--dataset: {name.path} has no {part!r}; {_there(files)}")
        chosen.update(found)
    return [file for file in files if file in chosen] if parts else files


def _named(part: str, files: Sequence[str]) -> list[str]:
    """The files with a folder or whole file name like that; else with a part of a name."""
    exact = [
        file
        for file in files
        if part.lower() in (one.lower() for one in (*_folders(file), _plain(file)))
    ]
    word = re.compile(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", re.I)
    return exact or [file for file in files if word.search(file)]


def _of_split(name: Name, files: list[str], split: str | None) -> list[str]:
    found = {s: [f for f in files if look.search(f)] for s, look in _IS_SPLIT.items()}
    if split in (None, "train"):
        held_out = {*found["test"], *found["validation"]} if found["train"] else set()
        if split and not found["train"] and (found["test"] or found["validation"]):
            raise ConfigError(f"--dataset: {name.path} has no {name.parts[-1]!r}; {_there(files)}")
        return [file for file in files if file not in held_out]
    if not found[split]:
        raise ConfigError(f"--dataset: {name.path} has no {name.parts[-1]!r}; {_there(files)}")
    return found[split]


def _there(files: Sequence[str]) -> str:
    """What a person can ask for."""
    subsets = {part for file in files for part in (*_folders(file), _plain(file))}
    subsets = {part for part in subsets if part and part != "data" and not _split(part)}
    splits = [split for split, look in _IS_SPLIT.items() if any(map(look.search, files))]
    shown = sorted(subsets)[:_MOST]
    more = f" and {len(subsets) - _MOST} more" if len(subsets) > _MOST else ""
    has = [f"subsets {', '.join(shown)}{more}"] if shown else []
    has += [f"splits {', '.join(splits)}"] if splits else []
    return "it has " + ("; ".join(has) or "no parts")


def _folders(file: str) -> list[str]:
    return file.split("/")[:-1]


def _plain(file: str) -> str:
    """A file's name without its kind, its number among several, and the split."""
    stem = file.rpartition("/")[2]
    while kind_of(Path(stem)):
        stem = stem.rpartition(".")[0]
    stem = _SHARD.sub("", stem)
    for look in _IS_SPLIT.values():
        stem = re.sub(rf"^{look.pattern}[-_.]|[-_.]?{look.pattern}$", "", stem, flags=re.I)
    return stem
