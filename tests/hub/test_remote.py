"""Hugging Face through a stand-in on this machine: the real client against a small server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from swift.errors import ConfigError, MissingExtra
from swift.hub.locate import locate_model

COMMIT = hashlib.sha1(b"commit").hexdigest()
LOCATE = """
import sys
from swift.cli import _complain
from swift.errors import SwiftError
from swift.hub.locate import locate_dataset, locate_model
name, kind, *more = sys.argv[1:]
locate = locate_model if kind == "model" else locate_dataset
try:
    print(locate(name, say=lambda text: print("say:", text, file=sys.stderr), **eval(more[0])))
except SwiftError as error:
    print(type(error).__name__, error)
"""


@dataclass
class Hub:
    """What the server holds."""

    files: dict[str, dict[str, bytes]]  # "models/owner/name" -> file -> content

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[0] == "api":
            return self._api("/".join(parts[1:4]), parts[4:])
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        files = self.files.get("/".join([kind, *parts[:2]]), {})
        content = files.get("/".join(parts[4:]))
        if parts[2] != "resolve" or content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        tag = hashlib.sha1(content).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, content

    def _api(self, repo: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if repo.endswith("/closed"):
            return 403, {"X-Error-Code": "GatedRepo"}, b'{"error": "gated"}'
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "not found"}'
        what, revision = rest or ("revision", "main")
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "no revision"}'
        files = self.files[repo]
        found: Any = {"id": repo.partition("/")[2], "sha": COMMIT, "siblings": []}
        if what == "tree":
            found = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in files.items()
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


@dataclass
class Server:
    hub: Hub
    url: str
    home: Path
    http: ThreadingHTTPServer

    def locate(self, name: str, kind: str = "model", **options: Any) -> tuple[str, list[str]]:
        """What a process of its own finds, and what it says meanwhile."""
        return self.run(LOCATE, name, kind, repr(options))

    def run(self, *words: str) -> tuple[str, list[str]]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home / "hf"),
            "SWIFT_CACHE": str(self.home / "swift"),
        }
        done = subprocess.run(
            [sys.executable, "-c", *words],
            capture_output=True,
            text=True,
            cwd=self.home,
            env={**environment, **own},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if line.startswith("say:")]
        return done.stdout.strip(), said

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path, checkpoint: Path) -> Iterator[Server]:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
    extra = {"README.md": b"# hi", "code.py": b"x = 1", "pytorch_model.bin": b"pickled"}
    plain = {name: content for name, content in files.items() if name != "model.safetensors"}
    hub = Hub(
        {
            "models/owner/tiny": {**files, **extra},
            "models/owner/old": {**plain, **extra},
            "models/owner/adapter": {"adapter_config.json": b"{}"},
            "datasets/owner/rows": {"data/train.jsonl": b'{"text": "a"}\n', "README.md": b"# hi"},
            "datasets/owner/parts": {
                f"{subset}/{split}.jsonl": f'{{"text": "{subset} {split}"}}\n'.encode()
                for subset in ("de", "en", "f[r]")
                for split in ("train", "test")
            },
        }
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    found = Server(hub, f"http://127.0.0.1:{http.server_port}", tmp_path, http)
    yield found
    found.stop()


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_model_is_fetched_once_and_found_without_the_server(
    server: Server, checkpoint: Path
) -> None:
    folder, said = server.locate("owner/tiny")
    assert names(folder) == names(str(checkpoint))
    for path in checkpoint.iterdir():
        assert (Path(folder) / path.name).read_bytes() == path.read_bytes()
    assert said == ["say: fetching owner/tiny from Hugging Face"]
    server.stop()
    assert server.locate("owner/tiny") == (folder, [])


def test_code_is_fetched_only_when_it_is_trusted(server: Server) -> None:
    folder, _ = server.locate("owner/tiny")
    assert "code.py" not in names(folder)
    folder, _ = server.locate("owner/tiny", code=True)
    assert "code.py" in names(folder)


def test_pickled_weights_are_fetched_only_where_there_are_no_others(server: Server) -> None:
    assert "pytorch_model.bin" not in names(server.locate("owner/tiny")[0])
    folder, _ = server.locate("owner/old")
    assert "pytorch_model.bin" in names(folder)
    # a fetch that was broken off before the weights is taken up
    (Path(folder) / "pytorch_model.bin").unlink()
    assert "pytorch_model.bin" in names(server.locate("owner/old")[0])


def test_a_revision(server: Server) -> None:
    assert names(server.locate("owner/tiny", revision="v1")[0]) >= {"config.json"}
    assert server.locate("owner/tiny", revision="v9")[0] == (
        "ConfigError --model: owner/tiny has no revision 'v9' on Hugging Face"
    )


def test_a_data_set(server: Server) -> None:
    folder, said = server.locate("owner/rows", "dataset")
    assert (Path(folder) / "data" / "train.jsonl").read_text() == '{"text": "a"}\n'
    assert said == ["say: fetching owner/rows from Hugging Face"]
    server.stop()
    assert server.locate("owner/rows", "dataset") == (folder, [])


SOURCES = """
import sys
from swift.data.source import open_sources
from swift.errors import SwiftError
from swift.hub.locate import locate_dataset
try:
    found = open_sources([sys.argv[1]], locate_dataset)
    root = locate_dataset(sys.argv[1].split(":")[0], lambda files: [])
    print("here", *sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()))
    print("read", *(source.path.relative_to(root) for source in found))
except SwiftError as error:
    print(error)
"""


def test_of_a_data_set_only_what_is_asked_for(server: Server) -> None:
    def opened(name: str) -> list[str]:
        return server.run(SOURCES, name)[0].splitlines()

    assert opened("owner/parts:de/test") == ["here de/test.jsonl", "read de/test.jsonl"]
    assert opened("owner/parts:de/test") == ["here de/test.jsonl", "read de/test.jsonl"]
    assert opened("owner/parts:en") == [
        "here de/test.jsonl en/train.jsonl",
        "read en/train.jsonl",
    ]
    assert opened("owner/parts:f[r]/train")[1] == "read f[r]/train.jsonl"
    assert opened("owner/parts:it") == [
        "--dataset: owner/parts has no 'it'; it has subsets de, en, f[r]; splits train, test"
    ]
    assert opened("owner/parts")[1] == "read de/train.jsonl en/train.jsonl f[r]/train.jsonl"
    server.stop()
    assert opened("owner/parts:en")[1] == "read en/train.jsonl"  # what is here needs no hub
    [refusal] = opened("owner/parts:en/test")
    assert refusal.endswith("is not a local path, and Hugging Face cannot be reached")


def test_what_cannot_be_had_is_one_line(server: Server) -> None:
    assert server.locate("owner/closed")[0] == (
        "ConfigError --model: owner/closed is closed: accept its terms on its page, "
        "then `hf auth login`"
    )
    assert server.locate("owner/absent")[0] == (
        "ConfigError --model: owner/absent is neither a local path nor on Hugging Face "
        "(try --use_hf false for ModelScope)"
    )
    assert server.locate("owner/absent", "dataset")[0].startswith(
        "ConfigError --dataset: owner/absent is neither a local path nor on Hugging Face"
    )
    assert server.locate("owner/adapter")[0] == (
        "ConfigError --model: owner/adapter holds an adapter, not a model; "
        "give it as --adapters owner/adapter"
    )
    server.stop()
    assert server.locate("owner/tiny")[0] == (
        "ConfigError --model: owner/tiny is not a local path, and Hugging Face cannot be reached"
    )


def test_a_name_that_no_hub_can_have() -> None:
    with pytest.raises(ConfigError, match=r"--model: 'a\.\.b' is neither a file nor a hub name"):
        locate_model("a..b")


@pytest.mark.skipif(find_spec("modelscope") is not None, reason="modelscope is installed")
def test_modelscope_without_its_package_names_the_command() -> None:
    with pytest.raises(MissingExtra) as caught:
        locate_model("owner/tiny", hub="modelscope")
    assert str(caught.value) == (
        "owner/tiny from ModelScope needs modelscope: pip install 'swift-llm[modelscope]'"
    )
