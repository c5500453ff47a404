"""curl, over HTTPS, drives every route."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from serving import serve, user
from test_process import listening

from swift.chat.load import load_renderer, load_tokenizer
from swift.infer.backends.transformers import TransformersEngine
from swift.models.load import load_model
from swift.serve.keys import Caller, Keys
from swift.serve.record import Recorder

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl"
)
KEY = "sk-of-the-operator"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate for 127.0.0.1 that it signed itself."""
    place = tmp_path_factory.mktemp("tls")
    key, certificate = place / "key.pem", place / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += [
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=swift",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(
        [*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return key, certificate


def test_every_route_over_https(
    checkpoint: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(load_model(checkpoint, torch.float32), settings).save_pretrained(tmp_path / "a")  # type: ignore[arg-type]
    engine = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    app = serve(
        engine, load_renderer(checkpoint), keys=Keys({KEY: Caller("op", admin=True)}, Caller("-")),
        recorder=Recorder(tmp_path / "asked.jsonl", 1 << 20),
    )  # fmt: skip
    key, own = map(str, certificate)
    called: set[str] = set()

    def curl(route: str, body: Any = None, *words: str) -> str:
        url = route if route.startswith("http") else address.replace("http:", "https:") + route
        called.add(route)
        command = ["curl", "-sS", "--fail-with-body", "--cacert", own, url, *words]
        command += ["-H", f"Authorization: Bearer {KEY}"]
        if body is not None:
            command += ["--json", json.dumps(body)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (route, done.stdout, done.stderr)
        return done.stdout

    with listening(app, ssl_keyfile=key, ssl_certfile=own) as address:
        for route in ("/health", "/ready", "/v1/models", "/v1/models/tiny", "/metrics"):
            assert curl(route)
        document = json.loads(curl("/openapi.json"))
        chat = json.loads(
            curl("/v1/chat/completions", {"model": "tiny", "messages": user("Hi"), "max_tokens": 4})
        )
        assert chat["usage"]["completion_tokens"] == 4
        streamed = curl(
            "/v1/chat/completions",
            {"model": "tiny", "messages": user("Hi"), "max_tokens": 4, "stream": True},
            "-N",
        )
        assert streamed.startswith("data: {") and streamed.endswith("data: [DONE]\n\n")
        assert json.loads(
            curl("/v1/completions", {"model": "tiny", "prompt": "Hi", "max_tokens": 4})
        )["choices"]
        assert json.loads(
            curl("/v1/responses", {"model": "tiny", "input": "Hi", "max_output_tokens": 4})
        )["output"]
        assert json.loads(
            curl("/v1/messages", {"model": "tiny", "messages": user("Hi"), "max_tokens": 4})
        )["usage"]
        assert json.loads(
            curl("/v1/messages/count_tokens", {"model": "tiny", "messages": user("Hi")})
        )
        assert json.loads(curl("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]}))["data"][
            1
        ]["embedding"]
        tokens = json.loads(curl("/tokenize", {"model": "tiny", "prompt": "Who are you?"}))[
            "tokens"
        ]
        assert json.loads(curl("/detokenize", {"model": "tiny", "tokens": tokens})) == {
            "prompt": "Who are you?"
        }

        def post(route: str, **body: Any) -> Any:
            return json.loads(curl(route, body))

        assert post("/v1/feedback", id=chat["id"], good=True)["written"] == ["asked.kto.jsonl"]
        post("/v1/load_lora_adapter", lora_name="a", lora_path=str(tmp_path / "a"))
        assert [m["id"] for m in json.loads(curl("/v1/models"))["data"]] == ["tiny", "a"]
        assert post("/v1/unload_lora_adapter", lora_name="a")["deleted"]
        refused = subprocess.run(
            ["curl", "-s", "--cacert", own, address.replace("http:", "https:") + "/v1/models"],
            capture_output=True,
        )
        assert json.loads(refused.stdout)["error"]["code"] == "invalid_api_key"
    engine.close()
    assert set(document["paths"]) <= {r.replace("models/tiny", "models/{name}") for r in called}
