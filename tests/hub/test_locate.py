"""What a name stands for: folders, files, installed packages; and what it cannot stand for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swift.errors import ConfigError
from swift.hub.locate import cache_dir, locate_dataset, locate_model


def refusal(name: object) -> str:
    with pytest.raises(ConfigError) as caught:
        locate_model(str(name))
    [problem] = caught.value.problems
    return problem


def test_a_folder_is_itself(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_model(str(checkpoint)) == checkpoint
    monkeypatch.chdir(checkpoint.parent)
    assert locate_model(checkpoint.name) == Path(checkpoint.name)
    assert locate_model(f"./{checkpoint.name}/") == Path(checkpoint.name)


def test_the_home_folder_is_spelled_with_a_tilde(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert locate_model(f"~/{checkpoint.name}") == checkpoint


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint-9").mkdir(parents=True)
    assert refusal(run) == (
        f"--model: {run} has no config.json, so it is not a model; "
        f"did you mean {run / 'checkpoint-9'}?"
    )
    (run / "checkpoint-10").mkdir()
    assert refusal(run).endswith(f"did you mean {run / 'checkpoint-10'}?")
    (run / "adapter_config.json").touch()
    assert refusal(run) == (
        f"--model: {run} holds an adapter, not a model; give it as --adapters {run}"
    )


def test_a_path_that_does_not_exist(checkpoint: Path, tmp_path: Path) -> None:
    near = checkpoint.with_name("tiny-lama")
    assert refusal(near) == f"--model: {near} does not exist; did you mean {checkpoint}?"
    far = tmp_path / "nowhere" / "x"
    assert refusal(far) == f"--model: {far} does not exist: there is no folder {far.parent}"
    assert refusal("./zzzz") == "--model: ./zzzz does not exist"
    assert refusal("a/b/c/d").startswith("--model: a/b/c/d does not exist")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert refusal(file) == f"--model: {file} is a file; give its folder, or a .gguf file"


def install(site: Path, name: str, files: dict[str, Path | None]) -> None:
    """An installed distribution as pip lays it out, with its record of files."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    for path, source in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        if source:
            shutil.copy(source, site / path)
        else:
            (site / path).touch()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_with_a_checkpoint(site: Path, checkpoint: Path) -> None:
    files = {f"acme_model/data/{file.name}": file for file in checkpoint.iterdir()}
    install(site, "acme-model", {"acme_model/__init__.py": None, **files})
    assert locate_model("package:acme-model") == site / "acme_model" / "data"
    assert locate_model("package:acme_model") == site / "acme_model" / "data"


def test_a_package_with_several_models(site: Path) -> None:
    install(site, "acme-two", {"acme_two/a.gguf": None, "acme_two/b.gguf": None})
    assert refusal("package:acme-two") == (
        "--model: package acme-two should hold one model, found a.gguf, b.gguf; "
        "pick one with package:<name>/<file>"
    )
    picked = refusal("package:acme-two/b.gguf")  # it is found, but empty
    assert picked.startswith(f"--model: {site / 'acme_two' / 'b.gguf'} cannot be read as GGUF")
    assert "found none" in refusal("package:acme-two/c.gguf")


def test_a_package_without_a_model(site: Path) -> None:
    install(site, "acme-none", {"acme_none/__init__.py": None})
    assert refusal("package:acme-none") == (
        "--model: package acme-none should hold one model, found none"
    )
    assert refusal("package:no-such-package") == (
        "--model: the package no-such-package is not installed: pip install no-such-package"
    )


def test_a_data_file_or_folder_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.touch()
    assert locate_dataset(str(file)) == file
    assert locate_dataset(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["chatz.jsonl", "./chatz.jsonl"])
def test_a_data_file_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "chats.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        locate_dataset(name)
    assert caught.value.problems == [f"--dataset: {name} does not exist; did you mean chats.jsonl?"]


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("SWIFT_CACHE")
    assert cache_dir() == tmp_path / "b" / "swift"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "c" / ".cache" / "swift"
