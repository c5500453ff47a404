"""A tiny vision-language model from scratch answers questions about pictures: accuracy over time.

    pip install --no-deps easy-vqa==1.0
    python bench/easy_vqa.py                # about ten minutes on one core
    python bench/easy_vqa.py --speed        # questions per second: packs; pictures that are kept

easy-vqa has 38,575 questions about 4,000 pictures of one coloured shape (64 x 64 pixels, 13 answers)
to learn from, and 9,673 about 1,000 others to be tested on. ``swift sft`` trains a LLaVA of random
weights, tower and all, with a tokenizer made of the questions; every checkpoint is asked a random
sample of the test questions by ``swift infer``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

matplotlib.use("Agg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import tiny
from swift.chat.load import load_renderer
from swift.chat.media.settings import Keep, MediaSettings
from swift.chat.message import Media

SIDE, PATCH = 64, 8
WIDTH, LAYERS, TOWER_LAYERS = 96, 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]


def package() -> Path:
    """The folder of easy-vqa's data."""
    try:  # not found by its name: it is that of this file
        return Path(str(distribution("easy-vqa").locate_file("easy_vqa"))) / "data"
    except PackageNotFoundError:
        raise SystemExit("pip install --no-deps easy-vqa==1.0") from None


def questions(part: str) -> list[tuple[str, str, int]]:
    """Question, answer and number of the picture."""
    return [tuple(one) for one in json.loads((package() / part / "questions.json").read_text())]


def write(folder: Path, asked: int, seed: int) -> None:
    """The rows to learn from, and a random sample of the test questions."""
    test = questions("test")
    chosen = np.random.default_rng(seed).permutation(len(test))[:asked]
    for part, rows in (("train", questions("train")), ("test", [test[i] for i in chosen])):
        place = package() / part / "images"
        tiny.write_rows(folder / f"{part}.jsonl", [
            {"image": str(place / f"{number}.png"), "text": question, "answer": answer}
            for question, answer, number in rows
        ])  # fmt: skip


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every word of the questions and answers."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"user\n{question} assistant\n{answer}" for question, answer, _ in questions("train"))
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=CONTROL[1], eos_token=CONTROL[2],
        unk_token=CONTROL[0], pad_token=CONTROL[2], chat_template=tiny.CHATML,
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def save_model(folder: Path, seed: int) -> Path:
    """A LLaVA of random weights."""
    tokenizer = make_tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=tiny.CHATML,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=TOWER_LAYERS,
        num_attention_heads=4, image_size=SIDE, patch_size=PATCH,
        initializer_factor=3.0,  # CLIP's own is meant for widths of hundreds
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, vocab_size=len(tokenizer),
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=True, initializer_range=0.05,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(SIDE // PATCH) ** 2 + 1,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights")
    return folder


def swift(folder: Path, threads: int, *words: object) -> float:
    """Run a command; its seconds."""
    settings = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "SWIFT_CACHE": str(folder / "cache"),
    }  # fmt: skip
    begun = time.monotonic()
    command = [sys.executable, "-m", "swift", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - begun


def sft(folder: Path, threads: int, run: str, *words: object) -> float:
    """Train all weights; the seconds of the command."""
    return swift(
        folder, threads, "sft", "--model", "model", "--dataset", "train.jsonl", "--tuner_type",
        "full", "--freeze_vit", "false", "--freeze_aligner", "false", "--max_length", 256,
        "--report_to", "none", "--output_dir", run, *words,
    )  # fmt: skip


def metrics(folder: Path, run: str, name: str) -> list[Any]:
    """A metric of a run, line by line."""
    lines = map(json.loads, (folder / run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[name]) for line in lines if name in line]


def accuracy(folder: Path, threads: int, checkpoint: Path) -> float:
    """The share of the test questions that a checkpoint answers right."""
    answers = folder / f"{checkpoint.name}.jsonl"
    swift(
        folder, threads, "infer", "--model", checkpoint, "--val_dataset", "test.jsonl",
        "--result_path", answers, "--max_new_tokens", 4, "--max_batch_size", 64,
    )  # fmt: skip
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    return sum(line["response"] == line["labels"] for line in lines) / len(lines)


def learn(folder: Path, args: argparse.Namespace) -> None:
    """Train, ask every checkpoint, print and plot what they know."""
    sft(
        folder, args.threads, "run", "--learning_rate", args.rate, "--warmup_ratio", 0.05,
        "--per_device_train_batch_size", args.batch, "--gradient_accumulation_steps", 1,
        "--max_steps", args.steps, "--save_steps", args.steps // args.points, "--logging_steps", 50,
        "--save_only_model", "true",
    )  # fmt: skip
    begun = time_of(folder, 1)
    points = []
    checkpoints = (folder / "run").glob("checkpoint-*")
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2])):
        step = int(checkpoint.name.rpartition("-")[2])
        seconds = time_of(folder, step) - begun
        right = accuracy(folder, args.threads, checkpoint)
        points.append((seconds, right))
        print(f"step {step:5,}  {step * args.batch:7,} questions  {seconds:4.0f} s  {right:.3f}")
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(*zip(*points, strict=True), marker="o")
    axes.axhline(0.8, linestyle=":", color="grey")
    axes.set(xlabel="seconds of training", ylabel=f"accuracy on {args.asked:,} test questions")
    axes.set(title="easy-vqa, a LLaVA from scratch", ylim=(0, 1))
    figure.savefig(folder / "accuracy.png", dpi=120)
    print(f"{folder / 'accuracy.png'}")


def time_of(folder: Path, step: int) -> float:
    """When a step was done, or the last one before it that is in the metrics."""
    return max(time for at, time in metrics(folder, "run", "time") if at <= step)


def speed(folder: Path, args: argparse.Namespace) -> None:
    """Questions per processor second in several layouts, of about as many questions a step."""
    one = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", TOGETHER]
    all_at_once = ["--per_device_train_batch_size", TOGETHER, "--gradient_accumulation_steps", 1]
    packs = [
        "--packing", "true", "--packing_length", TOGETHER * LENGTH,
        "--gradient_accumulation_steps", 1,
    ]  # fmt: skip
    layouts: dict[str, list[object]] = {
        "one by one": one,
        "in packs": packs,
        "in batches": all_at_once,
    }
    sft(folder, 1, "tokens", "--max_steps", 1, "--save_strategy", "no")  # made once, for all runs
    for name in args.layouts or layouts:
        measure(folder, args.measured, name, layouts[name])
    prepare(folder)


TOGETHER = 24  # questions a step
LENGTH = 86  # positions of a question with its picture, on average


def measure(folder: Path, measured: int, name: str, words: list[object]) -> None:
    """Processor time of one thread, so that other work on the machine does not count.

    It is the difference between a long and a short run: starts do not count either.
    """
    spent, asked = [], []
    for steps in (5, 5 + measured):
        run = f"{name.replace(' ', '-').replace(',', '')}-{steps}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        sft(
            folder, 1, run, "--max_steps", steps, "--logging_steps", 1, "--save_strategy", "no",
            *words,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        # every question has two learned tokens: its answer and the end of it
        learned = metrics(folder, run, "train/learned_tokens")
        asked.append(sum(tokens for _, tokens in learned) / 2)
    questions = asked[1] - asked[0]
    per_s = questions / (spent[1] - spent[0])
    print(f"{name:24} {questions / measured:5.1f} questions a step, {per_s:6.1f} questions/s")


def prepare(folder: Path) -> None:
    """Pictures per processor second: made anew, and kept in either place."""
    kept = tempfile.mkdtemp(dir=folder)
    pictures = [Media("image", str(package() / f"train/images/{i}.png")) for i in range(PICTURES)]
    for name, keep in (
        ("made anew", Keep(0)),
        ("made anew, put on disk", Keep(0, kept)),
        ("from disk", Keep(0, kept)),
        ("from memory", Keep()),
    ):
        marks = load_renderer(folder / "model", media=MediaSettings(keep=keep)).marks
        if name == "from memory":
            marks.texts(pictures)
        marks.texts(pictures[:1])
        begun = time.process_time()
        marks.texts(pictures)
        spent = time.process_time() - begun
        print(f"{name:24} {PICTURES / spent:7.0f} pictures/s")


PICTURES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/easy-vqa"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--asked", type=int, default=2000, help="test questions, at random")
    parser.add_argument("--points", type=int, default=4, help="checkpoints that are asked")
    parser.add_argument("--speed", action="store_true", help="measure layouts instead")
    parser.add_argument("--measured", type=int, default=40, help="steps that --speed measures")
    parser.add_argument("--layouts", nargs="*", help="those that --speed measures")
    args = parser.parse_args()
    folder = args.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, args.asked, args.seed)
    save_model(folder / "model", args.seed)
    if args.speed:
        speed(folder, args)
    else:
        learn(folder, args)


if __name__ == "__main__":
    main()
