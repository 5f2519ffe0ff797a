"""The repository keeps its own rules: layers, sizes, linters, what `make` promises."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.tools import missing, require_tool, run

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {
    "help",
    "setup",
    "demo",
    "test",
    "bench",
    "fuzz",
    "lint",
    "hosts",
    "guests",
    "verify-sensitivity",
    "verify-specificity",
    "clean",
}
LAYERS = (
    {"errors", "units", "extent", "binary", "source", "progress", "digest", "output", "copy"}
    | {"batches", "content_seed", "pipeline", "tuning", "codecs", "formats.base"},
    {"formats", "machine", "containers"},
    {"bundle"},
    {"runner"},
    {"hypervisors", "verify"},
    {"ops"},
    {"cli", "pytest_plugin"},
)
"""Lowest first. A module imports from its own layer or from one below.

``formats.base`` stands at the bottom: it is the contract by which the copy engine, which knows no
format, moves data from any reader to any writer.
"""
ENTRY_POINTS = {"__init__", "__main__"}
SHARED_FOLDER = "/".join(("..", "shared"))
MAX_LINES = 400


def tracked(pattern: str = "*") -> list[Path]:
    """Files that git knows here; a tree without git has no list to hold to the rules."""
    require_tool("git")
    if not (ROOT / ".git").exists():
        missing("the git repository", "run this test in a checkout")
    words = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--", pattern]
    names = run(words, cwd=ROOT).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def imports(path: Path) -> Iterator[str]:
    """The parts of vmpack that a module imports, anywhere in it, as ``LAYERS`` names them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vmpack":
            names = [f"vmpack.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            names = [node.module or ""]
        else:
            continue
        yield from (part(name.split(".")[1:]) for name in names if name.startswith("vmpack."))


def part(names: Sequence[str]) -> str:
    """The name in ``LAYERS`` of ``vmpack.NAMES``."""
    return "formats.base" if tuple(names[:2]) == ("formats", "base") else names[0]


def layer(name: str) -> int:
    """Position in ``LAYERS``, -1 for a part that stands in none."""
    return next((n for n, names in enumerate(LAYERS) if name in names), -1)


def part_of(path: Path) -> str:
    return part(path.relative_to(ROOT / "vmpack").with_suffix("").parts)


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in (ROOT / "vmpack").rglob("*.py")} - ENTRY_POINTS
    assert {name for name in parts if layer(name) < 0} == set()


def test_imports_go_one_way() -> None:
    wrong = []
    for path in (ROOT / "vmpack").rglob("*.py"):
        if part_of(path) in ENTRY_POINTS:
            continue
        wrong += [
            f"{path.relative_to(ROOT)} imports vmpack.{other}"
            for other in imports(path)
            if other not in ENTRY_POINTS and layer(other) > layer(part_of(path))
        ]
    assert wrong == []


def test_bundle_and_formats_do_not_know_configurations() -> None:
    for folder in ("bundle", "formats"):
        for path in (ROOT / "vmpack" / folder).rglob("*.py"):
            assert not set(imports(path)) & {"hypervisors", "runner", "verify"}, path


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """What a module calls when it is imported or used, and the line; not when it is a script."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node.lineno


def test_only_the_command_line_prints_and_exits() -> None:
    forbidden = {"print", "exit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in (ROOT / "vmpack").rglob("*.py")
        if part_of(path) not in {"cli", "__main__"}
        for name, line in calls(path)
        if name in forbidden
    ]
    assert wrong == []


def test_files_are_of_a_readable_size() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert {path.name: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_only_ci_names_the_folder_that_this_machine_has() -> None:
    wrong = []
    for path in tracked():
        if path.relative_to(ROOT).parts[0] == ".ci" or path.suffix == ".bin":
            continue
        text = path.read_bytes().decode(errors="replace")
        if SHARED_FOLDER in text or str(ROOT.parent) + "/" in text:
            wrong.append(str(path))
    assert wrong == []


def test_built_and_cached_files_are_ignored_by_git() -> None:
    require_tool("git")
    for name in (".venv/x", ".cache/x", "dist/x", "vmpack/__pycache__/x"):
        words = ["git", "-c", f"safe.directory={ROOT}", "check-ignore", "-q", name]
        assert run(words, cwd=ROOT, check=False).returncode == 0, name


def test_make_help_lists_every_target_and_is_the_default() -> None:
    require_tool("make")
    listed = run(["make", "help"], cwd=ROOT).stdout.decode()
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("  make")} == TARGETS
    assert run(["make"], cwd=ROOT).stdout.decode() == listed


def test_ci_calls_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1] == "make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_shell_scripts_parse() -> None:
    bash = require_tool("bash")
    scripts = [*(ROOT / "tools").glob("*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 4
    for script in scripts:
        run([bash, "-n", script])


def lint(*words: str) -> None:
    if importlib.util.find_spec(words[0]) is None:
        missing(words[0], "run `make setup`")
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("words", [("check", "."), ("format", "--check", ".")])
def test_ruff_has_nothing_to_say(words: tuple[str, ...]) -> None:
    lint("ruff", *words)


def test_mypy_has_nothing_to_say() -> None:
    lint("mypy", "-p", "vmpack", "-p", "fixtures", "-p", "tests")
