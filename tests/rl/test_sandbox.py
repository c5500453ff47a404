"""What a model's code cannot do, tried."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from swift.errors import ResourceError
from swift.rl import sandbox
from swift.rl.sandbox import Limits, Ran, run

QUICK = Limits(time_s=1.0)


def usable() -> bool:
    try:
        run("pass")
    except ResourceError:
        return False
    return True


pytestmark = pytest.mark.skipif(not usable(), reason="the kernel has no Landlock or no seccomp")


def test_a_program_runs_reads_and_writes_in_its_folder() -> None:
    ran = run(
        "import math, json, re\n"
        "open('note', 'w').write('kept')\n"
        "print(open('note').read(), int(input()) + 1)",
        stdin="41",
    )
    assert (ran.ending, ran.code, ran.output) == ("done", 0, "kept 42\n")


def test_threads_and_libraries_work() -> None:
    source = "import threading, numpy\nt = threading.Thread(target=print, args=('hi',))\nt.start()"
    assert run(source).output == "hi\n"


def test_an_error_is_a_failure_with_its_text() -> None:
    ran = run("raise ValueError('no')")
    assert ran.ending == "failed" and "ValueError: no" in ran.output


@pytest.mark.parametrize("code", [0, 7])
def test_a_program_may_end_itself(code: int) -> None:
    ran = run(f"import os\nprint('a', flush=True)\nos._exit({code})\nprint('b')")
    assert (ran.code, ran.output) == (code, "a\n")


def refused(ran: Ran) -> bool:
    return ran.ending == "failed" and ("Permission" in ran.output or "not permitted" in ran.output)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing as m\np = m.Process(target=print)\np.start()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_no_other_process(source: str) -> None:
    before = len(os.listdir("/proc"))
    assert refused(run(source, limits=QUICK))
    assert len(os.listdir("/proc")) < before + 50


def test_threads_without_end_meet_the_memory() -> None:
    source = (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    started = time.monotonic()
    assert run(source, limits=QUICK).ending in ("failed", "time")
    assert time.monotonic() - started < 5


def test_no_socket_though_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert refused(run(source))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert refused(run("import socket\nsocket.socketpair()"))


@pytest.mark.parametrize(
    "who",
    ["os.getppid()", "1", "0", "-1", str(os.getpid())],
    ids=["parent", "first", "group", "all", "ours"],
)
def test_no_signal_to_anybody(who: str) -> None:
    assert refused(run(f"import os, signal\nos.kill({who}, signal.SIGKILL)"))


def test_a_signal_to_itself_is_its_own_end() -> None:
    assert run("import os\nos.abort()").code == -6


def test_nothing_outside_is_written_or_changed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("kept")
    mode = mine.stat().st_mode
    for source in (
        f"open({str(mine)!r}, 'w')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os\nos.remove({str(mine)!r})",
        f"import os\nos.rename({str(mine)!r}, 'here')",
        f"import os\nos.truncate({str(mine)!r}, 0)",
        f"import os\nos.link({str(mine)!r}, 'here')",
        f"import os\nos.symlink({str(mine)!r}, 'here')\nopen('here', 'a')",
        f"import os\nos.chmod({str(mine)!r}, 0)",
        f"import os\nos.utime({str(mine)!r})",
        f"import os\nos.mkdir({str(tmp_path / 'folder')!r})",
    ):
        assert run(source).ending == "failed", source
    assert mine.read_text() == "kept" and mine.stat().st_mode == mode
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("word")
    assert refused(run(f"print(open({str(secret)!r}).read())"))
    assert refused(run(f"import os\nprint(os.listdir({str(Path.home())!r}))"))
    assert "word" not in run("import os\nprint(dict(os.environ))").output
    assert run("import os\nprint(len(os.environ))").output.strip() in ("0", "1")  # LC_CTYPE


@pytest.mark.parametrize("source", ["while True: pass", "import time\ntime.sleep(60)"])
def test_time_ends(source: str) -> None:
    started = time.monotonic()
    assert run(source, limits=QUICK).ending == "time"
    assert time.monotonic() - started < 4


def test_closing_the_output_does_not_escape_the_clock() -> None:
    source = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)"
    assert run(source, limits=QUICK).ending == "time"


def test_output_without_end_is_cut() -> None:
    ran = run("while True: print('x' * 1000)", limits=Limits(output_bytes=10_000))
    assert ran.ending == "output" and len(ran.output) == 10_000


def test_memory_and_files_end() -> None:
    assert "MemoryError" in run("x = bytearray(1 << 30)").output
    assert "File too large" in run("open('x', 'wb').write(b'0' * (20 << 20))").output
    many = "files = [open('main.py') for _ in range(100)]"
    assert "Too many open files" in run(many).output


def test_limits_cannot_be_raised() -> None:
    source = "import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))"
    ran = run(source)
    assert ran.ending == "failed"


@pytest.mark.parametrize(
    "call", ["unshare(0x10000000)", "ptrace(0, 0, 0, 0)", "syscall(425, 1, 0)"]
)
def test_no_way_around(call: str) -> None:
    source = f"import ctypes\nprint(ctypes.CDLL(None, use_errno=True).{call}, ctypes.get_errno())"
    assert run(source).output == "-1 0\n" or run(source).output.startswith("-1")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')")
    assert not list(tmp_path.iterdir())


def test_many_at_once() -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(run(f"print({i})").output))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{i}\n" for i in range(8)]


def test_without_protection_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "confine.py").write_text(
        "import json, os, sys\ns = json.loads(sys.argv[1])\n"
        "os.write(s['report'], b'{\"seccomp\": false, \"landlock\": true}')\nsys.exit(3)"
    )
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    with pytest.raises(ResourceError, match="seccomp is missing"):
        run("print('ran')")
