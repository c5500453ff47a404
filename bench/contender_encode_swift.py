"""From a file of rows to packed batches as ``swift sft --packing true`` does; run by bench/encode.py.

python bench/contender_encode_swift.py MODEL DATA OUT.json PROCESSES LENGTH BATCH
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path


def cpu() -> float:
    """Seconds of processor time of this process and of those that it has ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    model, data, out, processes, length, batch = sys.argv[1:]
    from swift.chat.load import load_renderer
    from swift.config.data import ConversationsSection
    from swift.data.prepare import Workshop, prepare
    from swift.data.stream import Order, group, steps
    from swift.hub.locate import cache_dir, locate_dataset

    section = ConversationsSection(train=[data], processes=int(processes))
    spec = load_renderer(Path(model)).spec
    used, begun = cpu(), time.perf_counter()
    clock = {"start": begun}
    folder = cache_dir() / "tokens"
    workshop = Workshop(section, spec, "chat", int(length), folder, locate_dataset)
    samples = prepare(workshop, section.train).train
    clock["encode"] = time.perf_counter()
    packs = group(samples, int(length))
    order = Order(packs, int(batch))
    clock["group"] = time.perf_counter()
    tokens = learned = batches = 0
    first = 0.0
    for step in steps(samples, order, first=0, last=order.steps_per_epoch):
        for made in step:
            first = first or time.perf_counter()
            tokens += made.count
            learned += len(made.targets_N)
            batches += 1
    clock["batches"] = time.perf_counter()
    times = list(clock.values())
    taken = [end - start for start, end in pairwise(times)]
    found = {
        "cpu": cpu() - used,
        "parts": dict(zip(list(clock)[1:], taken, strict=True)),
        "first_batch": first - begun, "kept": len(samples), "tokens": tokens,
        "learned": learned, "packs": len(packs), "batches": batches,
        "fill": tokens / (len(packs) * int(length)),
    }  # fmt: skip
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
