"""Where media lie: every place is read, or refused with words that help."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swift.chat.media import MediaSettings, open_image, read_bytes, size_of
from swift.errors import ConfigError, DataError


def image() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (31, 18), (9, 8, 7)).save(stream, "PNG")
    return stream.getvalue()


PNG = image()


def put(folder: Path, content: bytes, name: str) -> str:
    (folder / name).write_bytes(content)
    return name


def test_a_path_is_looked_for_beside_the_rows_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, here = tmp_path / "rows", tmp_path / "here"
    for folder in (rows, here):
        folder.mkdir()
    put(rows, b"rows", "both")
    put(here, b"here", "both")
    put(here, b"only", "one")
    monkeypatch.chdir(here)
    assert read_bytes("both", rows) == b"rows"
    assert read_bytes("both") == b"here"
    assert read_bytes("one", rows) == b"only"
    assert read_bytes(str(rows / "both")) == b"rows"
    with pytest.raises(DataError, match=r"^none.png: does not exist; looked in .*rows and .*here$"):
        read_bytes("none.png", rows)


@pytest.mark.parametrize("name", ["a b.png", "100%.png", "a#b?c.png", "鸟.png"])
def test_a_file_url_and_a_path_name_the_same_file(tmp_path: Path, name: str) -> None:
    put(tmp_path, b"x", name)
    assert read_bytes((tmp_path / name).as_uri()) == b"x"
    assert read_bytes(f"file://localhost{(tmp_path / name).as_uri()[7:]}") == b"x"
    assert read_bytes(name, tmp_path) == b"x"


def test_a_data_url_holds_the_medium(tmp_path: Path) -> None:
    text = base64.b64encode(PNG).decode()
    assert read_bytes(f"data:image/png;base64,{text}") == PNG
    assert read_bytes(f"DATA:;base64,{text[:40]}\n{text[40:]}") == PNG
    assert (np.asarray(open_image(f"data:image/png;base64,{text}")) == [9, 8, 7]).all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "no source"),
        ("  ", "no source"),
        ("data:image/png,abc", "not of the form data:image/png;base64,"),
        ("data:image/png;base64", "not of the form"),
        ("data:image/png;base64,###", "not base64"),
        ("data:image/png;base64,iVB", "not base64"),
        ("data:image/png;base64,", "empty"),
        ("s3://bucket/a.png", "neither a path nor"),
        ("ftp://host/a.png", "neither a path nor"),
        ("file://server/share/a.png", r"another computer \(server\)"),
        ("file://[/a.png", "not readable"),
        ("a\0b.png", "does not exist|not readable"),
        ("x" * 5000, r"\(5000 characters\)"),
        ("\ud800.png", "does not exist|not readable"),
        ("/dev/null", "not an ordinary file"),
        ("https://example.com/a.png", "give --allow_remote_media true"),
        ("HTTP://example.com/a.png", "give --allow_remote_media true"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(source: str, words: str) -> None:
    for take in (read_bytes, open_image, size_of):
        with pytest.raises(DataError, match=words) as caught:
            take(source)
        str(caught.value).encode()


def test_a_long_data_url_is_cut_in_the_error() -> None:
    with pytest.raises(DataError) as caught:
        open_image(f"data:image/png;base64,{base64.b64encode(bytes(3000)).decode()}")
    assert len(str(caught.value)) < 400
    assert "... (4022 characters): " in str(caught.value)


def test_folders_empty_files_dead_links_and_large_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    put(tmp_path, b"", "empty")
    put(tmp_path, bytes(11), "large")
    for name, words in (
        *(("folder", "a folder; name the file in it"), ("link", "a link to nothing")),
        *(("empty", r"empty \(0 bytes\)"), ("large", "11 bytes, more than max_bytes=10")),
    ):
        with pytest.raises(DataError, match=f"^{name}: {words}"):
            read_bytes(name, tmp_path, max_bytes=10)
    with pytest.raises(DataError, match="more than max_bytes=2"):
        read_bytes("data:;base64,AAAAAAAA", max_bytes=2)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        MediaSettings(fps=0, max_frames=2, min_frames=3, sampling_rate=-1, max_audio_s=np.nan)
    assert len(caught.value.problems) == 4


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(PNG) + 5 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(PNG if self.path != "/endless" else bytes(1 << 18))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_an_address_is_read_when_asked_for(server: str) -> None:
    take = partial(read_bytes, allow_remote=True, max_bytes=1 << 16)
    assert take(f"{server}/a b.png") == PNG
    assert take(f"{server}/to?/other") == PNG
    for address, words in (
        ("/missing", "the server answers 404"),
        ("/short", f"the server sent {len(PNG)} of {len(PNG) + 5} bytes"),
        ("/endless", "more than max_bytes=65536"),
        ("/to?ftp://127.0.0.1/x", "leads to ftp"),
        ("/to?file:///etc/hosts", "leads to file|not allowed"),
        ("/to?/to?/to", "cannot be downloaded|the server answers"),
    ):
        with pytest.raises(DataError, match=words):
            take(server + address)
    with pytest.raises(DataError, match="--allow_remote_media"):
        read_bytes(f"{server}/a.png")
    with pytest.raises(DataError, match="cannot be downloaded"):
        take("http://127.0.0.1:1/a.png")
    with pytest.raises(DataError, match="cannot be downloaded"):
        take("http:///a.png")
