"""Words and files -> one checked configuration, or every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swift.config.distill import GkdSection
from swift.config.parse import from_values, read
from swift.config.rollout import RolloutSection
from swift.config.runs import InferConfig, MergeConfig, PtConfig, RlhfConfig, SftConfig
from swift.config.tuner import FullSection, LoraSection
from swift.errors import ConfigError
from swift.train.folder import dump_config

NEEDED = ["--model", "m", "--dataset", "d.jsonl"]
ROOTS = {"sft": SftConfig, "pt": PtConfig, "infer": InferConfig, "export": MergeConfig}


def sft(*words: str) -> Any:
    return read(SftConfig, "sft", [*NEEDED, *words])[0]


def notes_of(*words: str) -> list[str]:
    return read(SftConfig, "sft", [*NEEDED, *words])[1]


def problems_of(*words: str, command: str = "sft", needed: list[str] = NEEDED) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(ROOTS[command], command, [*needed, *words])
    return caught.value.problems


@pytest.fixture
def yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes run.yaml (or another) into the working folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "run.yaml") -> str:
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


# Words


def test_defaults() -> None:
    config = sft()
    assert config == SftConfig.model_validate(
        {"model": {"path": "m"}, "data": {"train": ["d.jsonl"]}}
    )
    assert isinstance(config.tuner, LoraSection)
    assert (config.train.epochs, config.data.overflow, config.output) == (3.0, "drop", None)


@pytest.mark.parametrize(
    "words",
    [
        ["--lora_rank", "16"],
        ["--lora-rank", "16"],
        ["--lora_rank=16"],
        ["--lora-rank=16"],
        ["--tuner.rank", "16"],
        ["--tuner.rank=16"],
        ["--lora_rank", "4", "--lora_rank", "16"],
        ["--tuner_type", "lora", "--lora_rank", "16"],
        ["--lora_rank", "16", "--tuner.kind", "lora"],
    ],
    ids=" ".join,
)
def test_spellings_of_one_setting(words: list[str]) -> None:
    assert sft(*words).tuner.rank == 16


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--packing"], True),
        (["--packing", "true"], True),
        (["--packing", "True"], True),
        (["--packing=false"], False),
        (["--packing", "--strict"], True),
        ([], False),
    ],
    ids=str,
)
def test_a_bare_flag_means_true(words: list[str], value: bool) -> None:
    assert sft(*words).data.packing is value


@pytest.mark.parametrize("flag", ["bf16", "use_hf", "resume", "gradient_checkpointing", "dry_run"])
def test_every_flag_that_knows_true_may_be_bare(flag: str) -> None:
    assert sft(f"--{flag}") == sft(f"--{flag}", "true") != sft()


@pytest.mark.parametrize("flag", ["output_dir", "lora_rank", "deepspeed", "target_modules"])
def test_a_bare_flag_that_needs_a_value_is_refused(flag: str) -> None:
    assert problems_of(f"--{flag}") == [f"--{flag}: needs a value"]


def test_an_unset_variable_of_a_script_is_refused() -> None:
    assert problems_of("--dataset", "") == ["--dataset: '' is empty"]
    assert problems_of("--model=", "--output_dir", "") == [
        "--model: '' is empty",
        "--output_dir: '' is empty",
    ]


def test_lists_are_separated_by_spaces() -> None:
    config = sft("--dataset", "a.jsonl#500", "b.csv", "--target_modules", "q_proj", "v_proj")
    assert config.data.train == ["a.jsonl#500", "b.csv"]
    assert config.tuner.targets == ["q_proj", "v_proj"]


def test_one_value_for_a_list_is_a_list_of_one() -> None:
    assert sft("--target_modules", "all-linear").tuner.targets == ["all-linear"]


def test_several_values_for_one_are_refused() -> None:
    assert problems_of("--learning_rate", "1e-4", "1e-5") == [
        "--learning_rate: several values (1e-4 1e-5) is not a number"
    ]


def test_mappings_are_json() -> None:
    assert sft("--columns", '{"问题": "query", "b": "response"}').data.columns == {
        "问题": "query",
        "b": "response",
    }
    assert problems_of("--columns", '{"a":')[0].startswith("--columns: '{\"a\":': not valid JSON")
    assert problems_of("--columns", '{"a": 1}') == ["--columns: 1 is not text"]


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["--save_total_limit", "-1"], "train.keep", None),
        (["--save_total_limit=-1"], "train.keep", None),
        (["--max_steps", "-1"], "train.max_steps", None),
        (["--max_steps", "7"], "train.max_steps", 7),
        (["--learning_rate", "1e-4"], "optimizer.learning_rate", 1e-4),
        (["--report_to", "none"], "report", []),
        (["--report", "none"], "report", []),
        (["--report_to", "wandb", "tensorboard"], "report", ["wandb", "tensorboard"]),
        (["--torch_dtype", "bf16"], "model.dtype", "bfloat16"),
        (["--attn_impl", "flash_attention_2"], "model.attention", "flash"),
        (["--truncation_strategy", "left"], "data.overflow", "cut-left"),
        (["--truncation_strategy", "delete"], "data.overflow", "drop"),
        (["--optim", "adamw_torch_fused"], "optimizer.kind", "adamw"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "schedule.kind", "wsd"),
        (["--deepspeed", "zero2"], "parallel.shard", "gradients"),
        (["--deepspeed", "zero3"], "parallel.shard", "parameters"),
        (["--deepspeed", "zero3"], "parallel.offload", False),
        (["--deepspeed", "zero3_offload"], "parallel.shard", "parameters"),
        (["--deepspeed", "zero3_offload"], "parallel.offload", True),
        (["--resume_from_checkpoint", "x/checkpoint-5"], "train.resume", "x/checkpoint-5"),
        (["--resume", "false"], "train.resume", False),
        (["--use_hf", "false"], "model.hub", "modelscope"),
        (["--metric_for_best_model", "eval_loss"], "train.best_metric", "loss"),
        (["--gradient_checkpointing", "false"], "train.gradient_checkpointing", False),
        (["--tuner", "full"], "tuner.kind", "full"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_words_of_ms_swift_are_rewritten(words: list[str], path: str, value: Any) -> None:
    found: Any = sft(*words)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert problems_of("--max_length", "-5") == ["--max_length: -5 is below 2"]


# Problems


def test_every_problem_at_once() -> None:
    assert problems_of(
        "--tuner.rank", "x", "--lora_alpha", "-1", "--packing", "maybe", "--warmup_ratio", "2",
        "--num_train_epochs", "nan", "--lora_dropout", "1", "--modle", "x", "--rlhf_type", "dpo",
        "--torch_dtype", "int8", "--seed", "1.5",
    ) == [
        "--rlhf_type: swift sft has no such setting",
        "--modle: swift sft has no such setting; did you mean --model?",
        "--torch_dtype: 'int8' is not one of auto, float32, bfloat16, float16",
        "--tuner.rank: 'x' is not a whole number",
        "--lora_alpha: -1 is not above 0.0",
        "--lora_dropout: 1 is not below 1.0",
        "--packing: 'maybe' is neither true nor false",
        "--warmup_ratio: 2 is above 1.0",
        "--num_train_epochs: 'nan' is not a finite number",
        "--seed: '1.5' is not a whole number",
    ]  # fmt: skip


def test_what_is_needed() -> None:
    assert problems_of(needed=[]) == [
        "--model: is needed: a hub name, a folder, a .gguf file or package:<name>",
        "--dataset: is needed: files such as chats.jsonl, or hub names",
    ]
    assert problems_of(command="infer", needed=[]) == [
        "--model: is needed, or --adapters output/run/checkpoint-N"
    ]
    assert problems_of(command="export", needed=["--adapters", "x"]) == [
        "--merge_lora: nothing to export: add --merge_lora true"
    ]
    assert problems_of(command="export", needed=["--model", "x", "--merge_lora"]) == [
        "--adapters: is needed: --adapters output/run/checkpoint-N"
    ]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--datset", "x"], "did you mean --dataset?"),
        (["--lora_rnak", "8"], "did you mean --lora_rank?"),
        (["--model.pth", "x"], "did you mean --model.path?"),
        (["--trian.epochs", "3"], "did you mean --train.epochs?"),
        (["--tuner.rnk", "8"], "did you mean --tuner.rank?"),
        (["--tuner_type", "lroa"], "did you mean lora?"),
        (["--truncation_strategy", "splitt"], "did you mean split?"),
        (["--lr_scheduler_type", "cosin"], "did you mean cosine?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_did_you_mean(words: list[str], hint: str) -> None:
    [problem] = problems_of(*words)
    assert problem.endswith(f"; {hint}")


def test_nothing_is_meant_by_something_quite_different() -> None:
    assert problems_of("--zzzz", "1") == ["--zzzz: swift sft has no such setting"]


def test_a_setting_of_another_command() -> None:
    assert problems_of("--max_new_tokens", "5") == [
        "--max_new_tokens: swift sft has no such setting"
    ]


def test_a_word_that_is_no_flag() -> None:
    assert problems_of("lora", needed=[]) == ["lora: not a configuration file; flags start with --"]


def test_float16_overflows_in_training() -> None:
    why = "float16 overflows in training; use bfloat16 or float32"
    assert problems_of("--torch_dtype", "float16") == [f"--torch_dtype: {why}"]
    assert problems_of("--fp16") == [f"--fp16: {why}"]
    assert read(InferConfig, "infer", ["--model", "m", "--torch_dtype", "float16"])


# Flags with nothing to switch, flags of later


def test_an_idle_flag_is_noted() -> None:
    assert notes_of("--lazy_tokenize", "true", "--padding_free", "false") == [
        "--lazy_tokenize true: nothing to switch here: tokens are made once and cached on disk",
        "--padding_free false: nothing to switch here: batches never carry padding",
    ]


def test_an_idle_flag_with_another_value_is_refused() -> None:
    assert problems_of("--init_weights", "pissa", "--num_beams", "4") == [
        "--init_weights pissa: known from ms-swift, not supported yet (adapters start as identity)",
        "--num_beams 4: known from ms-swift, not supported yet (one answer is followed)",
    ]


def test_a_flag_of_later_says_so() -> None:
    assert problems_of("--neftune_noise_alpha", "5", "--quant_bits", "4") == [
        "--neftune_noise_alpha: known from ms-swift, not supported yet",
        "--quant_bits: known from ms-swift, not supported yet (quantization)",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--tuner_type", "full", "--lora_rank", "8"],
        ["--lora_rank", "8", "--tuner_type", "full"],
    ],
    ids=" ".join,
)
def test_a_flag_of_another_kind_is_noted(words: list[str], yaml_file: Any) -> None:
    expected = ["--lora_rank: not used with tuner.kind full"]
    assert notes_of(*words) == expected
    assert sft(*words).tuner == FullSection()
    file = yaml_file("tuner: {kind: lora, rank: 4}\n")
    assert read(SftConfig, "sft", [file, *NEEDED, *words])[1] == expected


def test_a_flag_of_the_default_kind_is_noted_too() -> None:
    assert notes_of("--freeze_parameters", "lm_head") == [
        "--freeze_parameters: not used with tuner.kind lora"
    ]


# Files


def test_precedence_is_defaults_then_files_left_to_right_then_flags(yaml_file: Any) -> None:
    first = yaml_file("train: {epochs: 1, batch_size: 2, save_every: 5}\n", "a.yaml")
    second = yaml_file("train: {epochs: 2, batch_size: 3}\n", "b.yaml")
    config, _ = read(SftConfig, "sft", [first, second, *NEEDED, "--num_train_epochs", "7"])
    train = config.train
    assert (train.epochs, train.batch_size, train.save_every, train.log_every) == (7, 3, 5, 5)
    config, _ = read(SftConfig, "sft", [second, first, *NEEDED])
    assert (config.train.epochs, config.train.batch_size) == (1, 2)


def test_files_may_be_given_by_flag(yaml_file: Any) -> None:
    first = yaml_file("train: {epochs: 1}\n", "a.yaml")
    second = yaml_file("train: {epochs: 2}\n", "b.yaml")
    config, _ = read(SftConfig, "sft", [*NEEDED, "--config", first, second, "--packing"])
    assert (config.train.epochs, config.data.packing) == (2, True)


def test_a_file_in_sections_with_dotted_paths_or_flat_keys_of_ms_swift(yaml_file: Any) -> None:
    sections = yaml_file(
        "model: {path: m, dtype: bfloat16}\n"
        "tuner: {kind: lora, rank: 16, targets: all-linear}\n"
        'data: {train: ["d.jsonl#5000"], max_length: 4096}\n'
        "optimizer: {kind: adamw, learning_rate: 1e-4}\n"
        "output: runs/x\n",
        "sections.yaml",
    )
    flat = yaml_file(
        "model: m\ntorch_dtype: bfloat16\ntuner_type: lora\nlora_rank: 16\n"
        "target_modules: [all-linear]\ndataset: d.jsonl#5000\nmax-length: 4096\n"
        "learning_rate: 1e-4\noptim: adamw_torch\noutput_dir: runs/x\n",
        "flat.yaml",
    )
    dotted = yaml_file(
        "model.path: m\nmodel.dtype: bfloat16\ntuner: lora\ntuner.rank: 16\n"
        "data.train: d.jsonl#5000\ndata.max_length: 4096\noptimizer.learning_rate: 1e-4\n"
        "output: runs/x\n",
        "dotted.yaml",
    )
    configs = [read(SftConfig, "sft", [file])[0] for file in (sections, flat, dotted)]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].tuner.rank == 16
    assert configs[0].optimizer.learning_rate == 1e-4


def test_no_is_a_word_in_a_file(yaml_file: Any) -> None:
    config, _ = read(SftConfig, "sft", [yaml_file("train: {save: no, evaluate: no}\n"), *NEEDED])
    assert (config.train.save, config.train.evaluate) == ("no", "no")


def test_booleans_of_a_file(yaml_file: Any) -> None:
    file = yaml_file("data: {packing: true, strict: yes, shuffle: off, cache: False}\n")
    data = read(SftConfig, "sft", [file, *NEEDED])[0].data
    assert (data.packing, data.strict, data.shuffle, data.cache) == (True, True, False, False)


@pytest.mark.parametrize("said", ["report: none", "report: [none]", "report_to: none"])
def test_no_tracker_in_a_file(yaml_file: Any, said: str) -> None:
    assert read(SftConfig, "sft", [yaml_file(f"{said}\n"), *NEEDED])[0].report == []


def test_another_kind_starts_its_section_anew(yaml_file: Any) -> None:
    file = yaml_file("tuner: {kind: lora, rank: 4, alpha: 1}\n")
    config, notes = read(SftConfig, "sft", [file, *NEEDED, "--tuner_type", "full"])
    assert (config.tuner, notes) == (FullSection(), [])
    config, _ = read(SftConfig, "sft", [file, *NEEDED, "--tuner_type", "lora", "--lora_alpha", "2"])
    assert (config.tuner.rank, config.tuner.alpha) == (4, 2)


def test_what_kinds_share_outlives_a_change_of_kind(yaml_file: Any) -> None:
    file = yaml_file("schedule: {kind: cosine, warmup_steps: 7, min_ratio: 0.1}\n")
    config, _ = read(SftConfig, "sft", [file, *NEEDED, "--lr_scheduler_type", "constant"])
    assert config.schedule.model_dump() == {
        "kind": "constant",
        "warmup_ratio": 0.0,
        "warmup_steps": 7,
    }


def test_a_kind_alone_in_a_second_file_keeps_what_the_first_says(yaml_file: Any) -> None:
    first = yaml_file("tuner: {kind: lora, rank: 4}\n", "a.yaml")
    second = yaml_file("tuner: lora\n", "b.yaml")
    assert read(SftConfig, "sft", [first, second, *NEEDED])[0].tuner.rank == 4


FILES = [
    ("train: {epochs: 1}\ntrain: {save: no}", "2: train was set in line 1 already"),
    ("train:\n  epochs: 1\n  epochs: 2", "3: train.epochs was set in line 2 already"),
    ("lora_rank: 8\nlora_rank: 16", "2: lora_rank was set in line 1 already"),
    (
        "data:\n  columns:\n    a: query\n    a: response",
        "4: data.columns.a was set in line 3 already",
    ),
    ("train:\n  epochs: 1\n  epocs: 2", "3: train.epocs: there is no such setting; "
     "did you mean train.epochs?"),
    ("tuner:\n  kind: lora\n  rnk: 4", "3: tuner.rnk: there is no such setting; "
     "did you mean tuner.rank?"),
    ("\ntuner: {kind: full, rank: 4}", "2: tuner.rank: there is no such setting with this kind; "
     "it belongs to tuner.kind lora"),
    ("\ntuner:\n  kind: lor", "3: tuner.kind: 'lor' is not one of lora, full; did you mean lora?"),
    ("\ntrain:\n  epochs: long", "3: train.epochs: 'long' is not a number"),
    ("\n\nlearning-rate: fast", "3: learning_rate: 'fast' is not a number"),
    ("train: 5", "1: train: 5 is not a section; write its settings below it"),
    ("trian: {epochs: 5}", "1: trian: swift sft has no such setting; did you mean train?"),
    ("tuner: [1]", "1: tuner: several values (1): needs a mapping with a `kind`"),
    ("ENV: {A: 1}", "1: ENV is not read; set variables before the command"),
    ("command: pt", "1: this is a configuration of swift pt"),
    ("beta: 0.1", "1: beta: swift sft has no such setting"),
    ("galore_rank: true",
     "1: galore_rank: known from ms-swift, not supported yet "
     "(GaLore, LISA, ReFT, LLaMAPro and other tuners)"),
    ("5: 3", "1: 5: swift sft has no such setting"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), FILES)
def test_a_problem_in_a_file_has_its_line(yaml_file: Any, text: str, problem: str) -> None:
    assert problems_of(needed=[yaml_file(text), *NEEDED]) == [f"run.yaml:{problem}"]


BROKEN = [
    ("train: {epochs: [1,2]\n", ":2: not YAML: expected ',' or '}', but got '<stream end>'"),
    ("train:\n\tepochs: 1", ":2: not YAML: found character '\\t' that cannot start any token"),
    ("a: b: c", ":1: not YAML: mapping values are not allowed here"),
    ("? [a]\n: 3", ":1: not YAML: found unhashable key"),
    ("a: \x00", ": not YAML: unacceptable character #x0000: special characters are not allowed"),
    ("[" * 3000, ": not YAML: nested too deeply"),
    ("[1, 2]", ": needs settings such as `model: {path: ...}`"),
    ("", ": needs settings such as `model: {path: ...}`"),
]


@pytest.mark.parametrize(("text", "problem"), BROKEN, ids=[text[:20] for text, _ in BROKEN])
def test_a_broken_file_is_the_only_problem(yaml_file: Any, text: str, problem: str) -> None:
    assert problems_of(needed=[yaml_file(text)]) == [f"run.yaml{problem}"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    absent, folder, binary = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    folder.mkdir()
    binary.write_bytes(b"\xff\xfe\x00a")
    assert problems_of(needed=[str(absent), str(folder), str(binary), "--modle", "m"]) == [
        f"{absent}: No such file or directory",
        f"{folder}: Is a directory",
        f"{binary}: not UTF-8 text",
        "--modle: swift sft has no such setting; did you mean --model?",
    ]


def test_a_file_that_refers_to_itself(yaml_file: Any) -> None:
    [problem] = problems_of(needed=[yaml_file("model: &x {path: *x}\ndata: {train: a}\n")])
    assert problem.startswith("run.yaml:1: model.path: ")


def test_json_is_read_too(yaml_file: Any) -> None:
    file = yaml_file('{"train": {"epochs": 1, "save": "no"}}', "run.json")
    assert read(SftConfig, "sft", [file, *NEEDED])[0].train.epochs == 1


# Saved and read again


@pytest.mark.parametrize(
    ("root", "command", "words"),
    [
        (SftConfig, "sft", []),
        (PtConfig, "pt", []),
        (
            SftConfig,
            "sft",
            ["--tuner_type", "full", "--save_strategy", "no", "--report_to", "none", "--columns",
             '{"no": "query", "问": "response"}', "--lr_scheduler_type", "wsd", "--max_steps", "5",
             "--system", "yes: {{NAME}}\n#", "--model_name", "小鹰", "Swift", "--adam_epsilon",
             "1e-10", "--deepspeed", "zero3_offload", "--gradient_checkpointing", "true"],
        ),
    ],
    ids=["sft", "pt", "everything"],
)  # fmt: skip
def test_the_saved_configuration_reads_back_equal(
    tmp_path: Path, root: Any, command: str, words: list[str]
) -> None:
    config, _ = read(root, command, [*NEEDED, *words])
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    again, notes = read(root, command, [str(file)])
    assert (again, notes) == (config, [])


# From Python


def test_from_values_equals_the_command_line() -> None:
    config = from_values(
        SftConfig,
        "sft",
        {"model": "m", "dataset": ["d.jsonl"], "lora_rank": 16, "data.packing": True,
         "train": {"epochs": 1}, "learning_rate": 1e-4},
    )  # fmt: skip
    words = ["--lora_rank", "16", "--packing", "--num_train_epochs", "1", "--learning_rate", "1e-4"]
    assert config == sft(*words)


def test_from_values_takes_sections_and_paths() -> None:
    config = from_values(
        SftConfig,
        "sft",
        {"model": Path("a/b"), "dataset": [Path("d.jsonl")], "tuner": FullSection(freeze=["x"])},
    )
    assert (config.model.path, config.data.train) == ("a/b", ["d.jsonl"])
    assert config.tuner == FullSection(freeze=["x"])


def test_keys_of_servers_are_taken_and_not_written() -> None:
    teacher = GkdSection(
        teacher_model_server="http://x", teacher_model_server_key="secret", logits_topk=3
    )
    rollout = RolloutSection(mode="server", server_url=["http://y"], server_key="secret")
    values = {"model": "m", "dataset": "d", "rlhf": teacher, "rollout": rollout}
    config = from_values(RlhfConfig, "rlhf", values)
    assert isinstance(config.rlhf, GkdSection)
    assert config.rlhf.teacher_model_server_key == config.rollout.server_key == "secret"
    assert "secret" not in dump_config(config)


def test_from_values_lists_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        from_values(SftConfig, "sft", {"modle": "m", "dataset": "d", "lora_rank": "x"})
    assert caught.value.problems == [
        "modle: swift sft has no such setting; did you mean model?",
        "--model: is needed: a hub name, a folder, a .gguf file or package:<name>",
        "lora_rank: 'x' is not a whole number",
    ]


def test_a_configuration_is_frozen_and_knows_its_names() -> None:
    config = sft()
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 5
    with pytest.raises(ValueError, match="epocs"):
        SftConfig.model_validate(
            {"model": {"path": "m"}, "data": {"train": ["d"]}, "train": {"epocs": 1}}
        )
