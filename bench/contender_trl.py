"""TRL's SFTTrainer on the benchmark's terms; run by bench/sft.py in an environment of its own.

python bench/contender_trl.py MODEL DATA OUT.json packed|plain THREADS STEPS
"""

from __future__ import annotations

import json
import sys
import time

import torch

MODEL, DATA, OUT, LAYOUT, THREADS, STEPS = sys.argv[1:]
torch.set_num_threads(int(THREADS))

from datasets import load_dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

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


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(time.time())


tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.chat_template = TEMPLATE
clock = Clock()
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
    processing_class=tokenizer,
    train_dataset=load_dataset("json", data_files=DATA, split="train"),
    peft_config=LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    args=SFTConfig(
        output_dir=OUT + ".trl",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        max_steps=int(STEPS),
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_length=512,
        packing=LAYOUT == "packed",
        assistant_only_loss=True,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=42,
    ),
    callbacks=[clock],
)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
with open(OUT, "w") as file:
    json.dump({"ends": clock.ends, "losses": losses}, file)
