"""What a vLLM server answers, word for word: the questions, and how the answers are recorded.

``python -m infer.record_vllm URL > tests/infer/vllm_replies.json`` asks a server of the model of
``contracts.vllm_setups.SIZES`` that is called ``model``; ``contracts/test_vllm.py`` asks it again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import httpx2 as httpx

from swift.infer.backends.dialects import VLLM
from swift.infer.engine import Request, Sampling

PROMPT = [5, 6, 7, 8, 9]
ASKED = {
    "whole": (Request(PROMPT, Sampling(3, logprobs=2, prompt_logprobs=True, prompt_top=2)), False),
    "unlikely": (Request(PROMPT, Sampling(2, 2.0, seed=1, logprobs=2)), False),
    "stopped": (Request(PROMPT, Sampling(9, stop_ids=(267,))), False),
    "stream": (Request(PROMPT, Sampling(3, logprobs=1)), True),
    "refused": (Request(PROMPT, Sampling(3, logprobs=99)), False),
    "refused stream": (Request(PROMPT, Sampling(3, logprobs=99)), True),
}


def record(client: httpx.Client) -> dict[str, Any]:
    """Status and answer of each question, an answer being JSON or a list of events."""
    found = {}
    for name, (request, stream) in ASKED.items():
        answer = client.post(VLLM.path, json=VLLM.ask(request, "model", stream), timeout=60)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        events = [line if line == "[DONE]" else json.loads(line) for line in lines]
        said = events if stream else answer.json()
        found[name] = {"status": answer.status_code, "said": said}
    return found


if __name__ == "__main__":
    json.dump(record(httpx.Client(base_url=sys.argv[1])), sys.stdout, indent=1)
    print()
