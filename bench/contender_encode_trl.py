"""TRL's way from a file of rows to packed batches; run by bench/encode.py in its own environment.

python bench/contender_encode_trl.py MODEL DATA OUT.json PROCESSES LENGTH BATCH

Its own SFTTrainer prepares the rows and deals out the batches; the model is one of a few kilobytes.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from typing import Any

# the checkpoint's own template, with TRL's marks around what the assistant says
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def cpu() -> float:
    """Seconds of processor time of this process and of those that it has ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    model, data, out, processes, length, batch = sys.argv[1:]
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    taken: dict[str, float] = {}

    class Clocked(SFTTrainer):
        """Notes how long the preparation takes."""

        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            found = super()._prepare_dataset(*args, **kwargs)
            taken["encode"] = time.perf_counter() - begun
            return found

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    small = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    network = LlamaForCausalLM(small)
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=int(batch), max_length=int(length),
        packing=True, packing_strategy="bfd", assistant_only_loss=True, use_cpu=True, bf16=False,
        dataset_num_proc=int(processes) if int(processes) > 1 else None, report_to="none",
    )  # fmt: skip
    used, begun = cpu(), time.perf_counter()
    rows = load_dataset("json", data_files=data, split="train")
    taken["read"] = time.perf_counter() - begun
    trainer = Clocked(model=network, processing_class=tokenizer, train_dataset=rows, args=settings)
    begun = time.perf_counter()
    first = tokens = learned = batches = kept = 0
    for made in trainer.get_train_dataloader():
        first = first or time.perf_counter() - begun
        # every sample's positions count from 0; its first token is predicted by nothing
        starts = int((made["position_ids"] == 0).sum())
        kept += starts
        tokens += made["input_ids"].numel() - starts
        learned += int((made["labels"] != -100).sum())
        batches += 1
    taken["batches"] = time.perf_counter() - begun
    packs = len(trainer.train_dataset)
    total = sum(taken.values())
    found = {
        "cpu": cpu() - used,
        "parts": taken, "first_batch": total - taken["batches"] + first, "kept": kept,
        "tokens": tokens, "learned": learned, "packs": packs, "batches": batches,
        "fill": (tokens + kept) / (packs * int(length)),
    }  # fmt: skip
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
