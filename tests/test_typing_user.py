"""Type checkers find a user's mistakes, each on its line, and nothing in a right program."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT, run

pytestmark = CHECKOUT

FOLDER = ROOT / "tests" / "typing"
MISTAKES, RIGHT = FOLDER / "mistakes.py", FOLDER / "right.py"

#: (file, line) → what a checker says of it
Found = dict[tuple[Path, int], str]


def said(*words: str) -> str:
    """What a checker prints, from the root, where its configuration lies."""
    command = [sys.executable, "-m", *words, f"{MISTAKES}", f"{RIGHT}"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def by_mypy() -> Found:
    found = {}
    # mypy reports what it finds in imported modules too: these are checked on their own.
    for line in said("mypy", "--strict", "--no-pretty", "--no-color-output").splitlines():
        error = re.match(r"(.+?):(\d+): error: (.+)", line)
        if error and ROOT / error[1] in (MISTAKES, RIGHT):
            found[ROOT / error[1], int(error[2])] = error[3]
    return found


def by_pyright() -> Found:
    report = json.loads(said("pyright", "--outputjson", "--pythonpath", sys.executable))
    return {
        (Path(one["file"]), one["range"]["start"]["line"] + 1): one["message"]
        for one in report["generalDiagnostics"]
    }


CHECKERS = {"mypy": by_mypy, "pyright": by_pyright}


@cache
def found_by(checker: str) -> Found:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    # The package pyright fetches the program itself when it is first used.
    version = subprocess.run([sys.executable, "-m", checker, "--version"], capture_output=True)
    if version.returncode:
        pytest.skip(f"{checker} does not start here")
    return CHECKERS[checker]()


@pytest.fixture(params=CHECKERS)
def found(request: pytest.FixtureRequest) -> Found:
    """What each checker finds in both files."""
    return found_by(request.param)


def test_every_mistake_is_found(found: Found) -> None:
    lines = dict(enumerate(MISTAKES.read_text("utf-8").splitlines(), start=1))
    marked = {n for n, line in lines.items() if line.endswith("  # error")}
    missed = [lines[n] for n in sorted(marked) if (MISTAKES, n) not in found]
    assert missed == []
    assert len(marked) > 20
    others = {n: what for (file, n), what in found.items() if file == MISTAKES and n not in marked}
    assert others == {}


def test_a_right_program_has_no_errors(found: Found) -> None:
    assert {n: what for (file, n), what in found.items() if file == RIGHT} == {}


def test_the_right_program_runs(tmp_path: Path) -> None:
    run(ROOT, f"{RIGHT}", cwd=tmp_path)
