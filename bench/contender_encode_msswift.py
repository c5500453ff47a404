"""ms-swift's way from a file of rows to packed batches; run by bench/encode.py in its environment.

python bench/contender_encode_msswift.py MODEL DATA OUT.json PROCESSES LENGTH BATCH

The calls of its SwiftSft (pipelines/train/sft.py) for a run with packing: lengths of all rows first,
packs from them, and each row encoded again when its batch is made. Its command asks for flash
attention where it packs, its data sets do not.
"""

from __future__ import annotations

import json
import resource
import sys
import time


def cpu() -> float:
    """Seconds of processor time of this process and of those that it has ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    model, data, out, processes, length, batch = sys.argv[1:]
    processes = int(processes)
    from swift.dataset import load_dataset
    from swift.dataset.packing import PackingDataset
    from swift.dataset.utils import AddLengthPreprocessor, LazyLLMDataset
    from swift.model import get_processor
    from swift.template import get_template
    from torch.utils.data import DataLoader

    taken: dict[str, float] = {}
    processor = get_processor(model, model_type="llama")
    template = get_template(
        processor,
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        int(length),
        template_type="chatml",
    )
    template.set_mode("train")
    used, begun = cpu(), time.perf_counter()
    rows, _ = load_dataset([data], num_proc=processes)
    taken["read"] = time.perf_counter() - begun
    begun = time.perf_counter()
    lengths = AddLengthPreprocessor(template=template)(rows, num_proc=processes, batch_size=1000)
    taken["encode"] = time.perf_counter() - begun
    begun = time.perf_counter()
    lazy = LazyLLMDataset(lengths, template.encode, random_state=42)
    packs = PackingDataset(template, lazy, num_proc=processes)
    taken["group"] = time.perf_counter() - begun
    begun = time.perf_counter()
    first = tokens = learned = batches = 0
    loader = DataLoader(
        packs,
        int(batch),
        shuffle=True,
        collate_fn=template.data_collator,
        num_workers=0 if processes == 1 else processes,
    )
    for made in loader:
        first = first or time.perf_counter() - begun
        starts = int((made["position_ids"] == 0).sum())
        tokens += made["input_ids"].numel() - starts
        learned += int((made["labels"] != -100).sum())
        batches += 1
    taken["batches"] = time.perf_counter() - begun
    total = sum(taken.values())
    found = {
        "cpu": cpu() - used,
        "parts": taken, "first_batch": total - taken["batches"] + first, "kept": len(lengths),
        "tokens": tokens, "learned": learned, "packs": len(packs), "batches": batches,
        "fill": (tokens + len(lengths)) / (len(packs) * int(length)),
    }  # fmt: skip
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
