"""Copies of the checkout, in which a test may add files, and programs that run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CHECKOUT = pytest.mark.skipif(
    not (ROOT / "xrnn" / "backends").is_dir(),
    reason="no sources that can be imported lie beside the tests (an sdist has no links)",
)

#: what belongs to the tree
PARTS = ("xrnn", "backends", "tests", "benchmarks", ".github", "pyproject.toml", "README.md")

#: what running the tests leaves behind
LEFTOVERS = ("__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", "results")


def copy_tree(target: Path) -> Path:
    """Copy the checkout, its links as links and the native extension with it."""
    target.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns(*LEFTOVERS)
            shutil.copytree(source, target / part, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, target / part)
    return target


def copy_package(target: Path, *ignored: str) -> Path:
    """Copy the package alone into a folder, its backends inside it, as it is installed."""
    patterns = shutil.ignore_patterns(*LEFTOVERS, "native", "backends", *ignored)
    shutil.copytree(ROOT / "xrnn", target / "xrnn", ignore=patterns)
    shutil.copytree(ROOT / "backends", target / "xrnn" / "backends", ignore=patterns)
    return target


def differences(tree: Path) -> set[str]:
    """The files of a copied tree that are not as in the checkout, or not there."""
    mine, theirs = _files(ROOT), _files(tree)
    return {
        name
        for name in mine.keys() | theirs.keys()
        if name not in mine
        or name not in theirs
        or mine[name].read_bytes() != theirs[name].read_bytes()
    }


def _files(root: Path) -> dict[str, Path]:
    files = [root / part for part in PARTS if (root / part).is_file()]
    for part in PARTS:
        files += [p for p in (root / part).rglob("*") if p.is_file()]
    named = {p.relative_to(root).as_posix(): p for p in files}
    return {n: p for n, p in named.items() if not set(LEFTOVERS) & set(Path(n).parts)}


def run(path: Path, *words: str, env: dict[str, str] | None = None, **options: object) -> str:
    """What ``python WORDS`` prints with `path` first on its path; an error if it fails."""
    given: dict[str, object] = {"cwd": path, "timeout": 120, **options}
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-P", *words],
        env={**os.environ, "PYTHONPATH": str(path), **(env or {})},
        **{"capture_output": True, "text": True, "encoding": "utf-8", **given},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return str(done.stdout)
