"""A GGUF file becomes a checkpoint folder once: the same logits, the same tokens."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from swift.chat.load import load_renderer
from swift.errors import ConfigError
from swift.hub.locate import cache_dir, locate_model

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tensor_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *module, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(module)]}.weight"


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of a rotary head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def write_gguf(path: Path, model: torch.nn.Module) -> Path:
    """The tiny Llama as llama.cpp's converter writes it, in float32."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokenizer = tiny.make_tokenizer()
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([3 if id < 3 else 1 for id in range(len(words))])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny.CHATML)
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        if "q_proj" in name:
            weight = rotated(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = rotated(weight, config.num_key_value_heads)
        writer.add_tensor(tensor_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.make_model())


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    return locate_model(str(file))


def test_logits_equal_the_original(folder: Path) -> None:
    original, converted = tiny.make_model().eval(), AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(0, 400, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            converted.eval()(tokens).logits, original(tokens).logits, atol=1e-5, rtol=0
        )


def test_tokens_equal_the_original(folder: Path, checkpoint: Path) -> None:
    converted, original = load_renderer(folder), load_renderer(checkpoint)
    for text in (*tiny.TEXTS[:5], "<|im_start|>user\nHi<|im_end|>", "你好 🐦 12345\n\n x"):
        assert converted.tokenizer.encode(text).ids == original.tokenizer.encode(text).ids
    assert converted.stop_ids == original.stop_ids
    assert converted.spec.templates == original.spec.templates


def test_the_second_call_converts_nothing(file: Path, folder: Path) -> None:
    said: list[str] = []
    before = {path: os.stat(path).st_mtime_ns for path in folder.iterdir()}
    assert locate_model(str(file), say=said.append) == folder
    assert {path: os.stat(path).st_mtime_ns for path in folder.iterdir()} == before
    assert said == []
    assert not list(folder.parent.glob("*.part"))
    assert folder.parent == cache_dir() / "gguf"


def test_number_formats_are_kept_apart(file: Path, folder: Path) -> None:
    other = locate_model(str(file), dtype="bfloat16")
    assert other != folder
    assert json.loads((other / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_a_changed_file_is_converted_again(file: Path, folder: Path, tmp_path: Path) -> None:
    """Even one that differs in its middle alone."""
    changed = shutil.copy2(file, tmp_path / file.name)
    content = bytearray(changed.read_bytes())
    content[-150_000:-149_996] = np.float32(123.0).tobytes()
    changed.write_bytes(content)
    other = locate_model(str(changed))
    assert other != folder
    weights = AutoModelForCausalLM.from_pretrained(other).parameters()
    assert any((weight == 123.0).any() for weight in weights)


def test_a_conversion_that_was_broken_off_is_done_again(file: Path, tmp_path: Path) -> None:
    copy = shutil.copy(file, tmp_path / "broken-off.gguf")
    done = locate_model(str(copy))
    part = done.with_name(f"{done.name}.part")
    done.rename(part)
    (part / "config.json").unlink()
    assert locate_model(str(copy)) == done
    assert (done / "config.json").is_file()
    assert not part.exists()


@pytest.mark.parametrize("length", [0, 3, 4, 23, 100, 5000, 20_000, 100_000, -10])
def test_a_file_that_was_cut_off_is_refused(file: Path, tmp_path: Path, length: int) -> None:
    broken = tmp_path / "short.gguf"
    broken.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ConfigError, match=r"--model: .*short\.gguf cannot be read as GGUF: ."):
        locate_model(str(broken))
    assert not list((cache_dir() / "gguf").glob("short-*/config.json"))


def test_an_unknown_architecture_is_named(file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(file.read_bytes().replace(b"llama", b"lamba"))
    with pytest.raises(ConfigError, match="architecture lamba is not supported"):
        locate_model(str(odd))
