"""Imports point down: the contract in pyproject.toml, and a walk that sees every import."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from swift.chat.load import load_renderer

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "swift"
CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
][0]
LAYERS = [[name.strip() for name in layer.split("|")] for layer in CONTRACT["layers"]]
HEIGHT = {name: -place for place, layer in enumerate(LAYERS) for name in layer}
LIGHT = ("config", "chat", "registry", "errors", "cli")


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, also those inside functions, but not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            yield node.lineno, node.module
            # `from swift import registry` names the room in its second half
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        yield from imports(node)


def upward(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that break the order of the layers."""
    here = room_of(module)
    found = []
    for line, name in imports(tree):
        there = room_of(name)
        if there == here or there not in HEIGHT:
            continue
        if HEIGHT[there] >= HEIGHT[here]:
            found.append(f"{module}:{line} imports {name}")
    return found


FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = [file for file in FILES if room_of(module_of(file)) in HEIGHT]


def test_the_contract_of_import_linter_holds() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    command = [lint, "--no-cache", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CONTRACT['name']} KEPT" in done.stdout


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(module_of(file)) for file in FILES}
    assert rooms - set(HEIGHT) == {"swift", "swift.__main__"}
    assert set(HEIGHT) <= rooms


def test_imports_point_down() -> None:
    broken = [
        line
        for file in ROOMS
        for line in upward(module_of(file), ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("swift.data.pack", "import swift.models.load"),
        ("swift.data.pack", "from swift import models"),
        ("swift.data.pack", "def f():\n    from swift.train.loop import fit"),
        ("swift.tune.lora", "class C:\n    def f(self):\n        import swift.losses.loss"),
        ("swift.errors", "try:\n    import swift.registry\nexcept ImportError:\n    pass"),
    ],
)
def test_the_walk_sees_an_import_that_points_up(module: str, code: str) -> None:
    assert len(upward(module, ast.parse(code))) >= 1


def test_the_walk_lets_imports_down_and_for_types_alone_pass() -> None:
    code = "from swift.data.pack import pack\nif TYPE_CHECKING:\n    import swift.train.loop"
    assert upward("swift.models.load", ast.parse(code)) == []


def test_light_rooms_never_import_torch() -> None:
    torch = [
        f"{module_of(file)}:{line}"
        for file in FILES
        if module_of(file).split(".")[1:2] and module_of(file).split(".")[1] in LIGHT
        for line, name in imports(ast.parse(file.read_text(encoding="utf-8")))
        if name.split(".")[0] == "torch"
    ]
    assert torch == []


ENCODE = """
import pickle, sys
from pathlib import Path
from swift.chat.render import Renderer
from swift.data.encode import EncodeSettings, encode_row
from swift.data.formats.form import formats
renderer = Renderer(pickle.loads(Path(sys.argv[1]).read_bytes()))
row = b'{"query": "a", "response": "b"}'
assert encode_row(row, renderer, EncodeSettings("chat"), formats())
print([name for name in ("torch", "swift.models") if name in sys.modules])
"""


def test_rows_become_tokens_without_torch(checkpoint: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.pickle"
    spec.write_bytes(pickle.dumps(load_renderer(checkpoint).spec))
    command = [sys.executable, "-c", ENCODE, str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
