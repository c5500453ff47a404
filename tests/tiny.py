"""A real tokenizer and real models, small enough to make on the spot; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swift.data.sample import Sample

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "Who are you? My name is Apus and I was made by the Swift project.",
    "Swifts fly for months without landing; they eat, drink and sleep on the wing.",
    "Add two and three: five. Subtract one from ten: nine. Please answer briefly!",
    "system user assistant\nYou are a helpful assistant.\n",
] * 4


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens with ChatML's control tokens and template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )


def make_config(**changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    return LlamaConfig(**{**settings, **changes})


def make_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(make_config(**changes))


def save_checkpoint(folder: Path, **changes: Any) -> Path:
    """A checkpoint folder with weights, tokenizer and template."""
    make_model(**changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_vision_checkpoint(
    folder: Path, template: str = CHATML, marks: tuple[str, ...] = (), **changes: Any
) -> Path:
    """A LLaVA whose images of 32 x 32 take 17 tokens, with its processor."""
    from transformers import (  # seconds that text models need not spend
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *marks]})
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=make_config(vocab_size=len(tokenizer), **changes),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=17,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_audio_checkpoint(folder: Path, template: str | None = None, **changes: Any) -> Path:
    """A Qwen2-Audio that hears up to two seconds, with its processor: 25 tokens a second."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = make_tokenizer()
    marks = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    ears = WhisperFeatureExtractor(feature_size=32, chunk_length=2, sampling_rate=16_000)
    processor = Qwen2AudioProcessor(ears, tokenizer, chat_template=template)
    audio = {
        "num_mel_bins": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64, "d_model": 32, "max_source_positions": 100,
    }  # fmt: skip
    config = Qwen2AudioConfig(
        audio_config=audio,
        text_config=make_config(vocab_size=len(tokenizer), **changes).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(count: int) -> list[dict[str, Any]]:
    """Conversations of different lengths; every third has two rounds, every fifth a system turn."""
    rows = []
    for i in range(count):
        turns = [
            {"role": "user", "content": f"Question {i}: " + "what is it? " * (1 + i % 7)},
            {"role": "assistant", "content": f"Answer {i}. " + "It is so. " * (1 + i % 4)},
        ]
        if i % 3 == 0:
            turns += [
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": f"Then {i * 7}."},
            ]
        if i % 5 == 0:
            turns.insert(0, {"role": "system", "content": "Answer briefly."})
        rows.append({"messages": turns})
    return rows


def samples(*lengths: int, seed: int = 0, vocabulary: int = 400) -> list[Sample]:
    """Samples of random tokens; weights are 0, 1 and others, and the last token is learned."""
    random = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(lengths):
        weights = random.choice(np.float32([0, 1, 1, 0.3, 2.5]), length)
        weights[-1] = 1
        tokens = random.integers(3, vocabulary, length, dtype=np.int32)
        made.append(Sample(tokens, weights, f"row {i}"))
    return made
