"""A checkpoint becomes a model in one copy, or an error that says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, T5Config, T5Model

import tiny
from contracts.tiny_config import tiny_config
from swift.errors import ConfigError
from swift.models.load import (
    DTYPES,
    context_length,
    dtype_name,
    load_config,
    load_model,
    load_shape,
    resolve_dtype,
)

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in float32."""
    tiny.make_model().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_weight_arrives_in_the_format_asked_for(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(folder, dtype)
    expected = tiny.make_model().state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name].to(dtype)), name


def test_the_model_is_that_of_plain_transformers(folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_model(folder, torch.float32)
    assert not ours.training
    with torch.no_grad():
        assert torch.equal(ours(input_ids=TOKENS).logits, plain(input_ids=TOKENS).logits)


def test_the_padding_token_learns_like_any_other(folder: Path) -> None:
    """It is the stop token in many checkpoints; torch gives padding no gradient."""
    assert AutoModelForCausalLM.from_pretrained(folder).model.embed_tokens.padding_idx == 2
    for model in (load_model(folder, torch.float32), load_shape(folder, torch.float32)):
        assert model.get_input_embeddings().padding_idx is None
    model = load_model(folder, torch.float32)
    model.model(input_ids=torch.tensor([[5, 2, 7]])).last_hidden_state[0, 1].sum().backward()
    assert model.get_input_embeddings().weight.grad[2].norm() > 0


def test_missing_weights_are_an_error_naming_them(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 2 weights .*layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder, torch.float32)


def test_weights_of_another_size_are_an_error_naming_one(folder: Path) -> None:
    edit_config(folder, intermediate_size=100)
    with pytest.raises(ConfigError, match=r"down_proj\.weight has .* \(48, 96\), .* \(48, 100\)"):
        load_model(folder, torch.float32)


def test_an_encoder_with_a_language_head_is_not_a_causal_model(tmp_path: Path) -> None:
    config = tiny_config("bert")
    config.is_decoder = False
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"--model: .* is not a causal language model"):
        load_model(tmp_path, torch.float32)


def test_an_architecture_without_a_language_model_is_not_one_either(tmp_path: Path) -> None:
    settings = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=50, **settings)).save_pretrained(tmp_path)
    for load in (load_model, load_shape):
        with pytest.raises(ConfigError, match=r"--model: .* is not a causal language model"):
            load(tmp_path, torch.float32)


def test_a_body_without_its_head_is_an_error_naming_the_head(tmp_path: Path) -> None:
    AutoModel.from_config(tiny.make_config(tie_word_embeddings=False)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks 1 weights .*lm_head\.weight"):
        load_model(tmp_path, torch.float32)


def test_a_folder_without_weights_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no weights \(model\.safetensors\)"):
        load_model(folder, torch.float32)


def test_a_file_cut_short_is_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=f"--model: {folder} cannot be loaded"):
        load_model(folder, torch.float32)


def test_settings_that_are_absent_broken_or_unknown_are_errors(folder: Path) -> None:
    edit_config(folder, model_type="tomorrow")
    with pytest.raises(ConfigError, match="tomorrow"):
        load_config(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=f"--model: {folder} cannot be loaded"):
        load_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=f"--model: {folder} cannot be loaded"):
        load_config(folder)


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def remote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that brings its own code."""
    (folder / "modeling_own.py").write_text(REMOTE)
    map_ = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit_config(folder, model_type="own", architectures=["OwnModel"], auto_map=map_)
    modules = str(folder / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def test_code_in_a_checkpoint_is_run_only_when_trusted(remote: Path) -> None:
    for load in (load_model, load_shape):
        with pytest.raises(ConfigError, match="if you trust it: --trust_remote_code true"):
            load(remote, torch.float32)
        assert not (remote / "modules").exists()
    with pytest.raises(ConfigError, match="if you trust it: --trust_remote_code true"):
        load_config(remote)


def test_trusted_code_is_run(remote: Path) -> None:
    model = load_model(remote, torch.float32, trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert torch.equal(model.lm_head.weight, tiny.make_model().lm_head.weight)
    shape = load_shape(remote, torch.float32, trust_remote_code=True)
    assert type(shape).__name__ == "OwnModel"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shape_has_names_sizes_and_format_but_no_memory(folder: Path, dtype: torch.dtype) -> None:
    shape, real = load_shape(folder, dtype), load_model(folder, dtype)
    assert {n: (p.shape, p.dtype) for n, p in shape.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in real.named_parameters()
    }
    assert {p.device.type for p in shape.parameters()} == {"meta"}
    assert shape.lm_head.weight is shape.model.embed_tokens.weight


def test_words_for_number_formats() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) == torch.float32
    for name, dtype in DTYPES.items():
        assert resolve_dtype(name, cpu) == dtype
        assert dtype_name(dtype) == name


def test_context_length_is_that_of_the_language_model() -> None:
    assert context_length(tiny.make_config()) == 512
    assert context_length(tiny_config("gemma3")) == 128
    assert context_length(tiny_config("mamba")) is None


MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from swift.models.load import DTYPES, load_model

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

dtype = DTYPES[sys.argv[3]]
load_model(Path(sys.argv[1]), dtype)  # what imports and first calls take
base, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
model = load_model(Path(sys.argv[2]), dtype)
done = True
thread.join()
print((peak - base) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """190 MiB of float32."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4}
    tiny.make_model(vocab_size=16_000, **sizes).save_pretrained(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_makes_no_second_copy(folder: Path, large: Path, dtype: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(folder), str(large), dtype]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(out.stdout.split()[-1]) <= 1.35
