"""The environment variables of xrnn: each says something clear, or is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xrnn.backends import environment
from xrnn.backends.cpu import extension

ROOT = Path(__file__).parent.parent


def ran(**variables: str) -> subprocess.CompletedProcess[str]:
    """`xrnn info` with these variables."""
    return subprocess.run(
        [sys.executable, "-m", "xrnn", "info"],
        env={k: v for k, v in os.environ.items() if not k.startswith("XRNN_")} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("default", [False, True])
def test_a_switch_says_yes_or_no(default: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRNN_SWITCH", raising=False)
    assert environment.switch("XRNN_SWITCH", default) == default
    said: dict[bool, tuple[str, ...]] = {
        True: ("1", "true", "YES", " On "),
        False: ("0", "False", "no", "oFF"),
    }
    said[default] += ("", "  ")
    for answer, words in said.items():
        for word in words:
            monkeypatch.setenv("XRNN_SWITCH", word)
            assert environment.switch("XRNN_SWITCH", default) == answer, word
    for wrong in ("2", "ja", "nope", "00", "-1"):
        monkeypatch.setenv("XRNN_SWITCH", wrong)
        with pytest.raises(ValueError, match=rf"XRNN_SWITCH is '{wrong}'; it must be 1, true, "):
            environment.switch("XRNN_SWITCH", default)


@pytest.mark.parametrize("word", ["false", "OFF"])
def test_the_native_loops_are_off(word: str) -> None:
    done = ran(XRNN_NATIVE=word)
    assert "the native loops are off (XRNN_NATIVE)" in done.stdout
    assert "native loop," not in done.stdout


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
@pytest.mark.parametrize("word", ["", "on"])
def test_the_native_loops_are_on(word: str) -> None:
    assert "native loop," in ran(XRNN_NATIVE=word).stdout


@pytest.mark.parametrize(
    ("variable", "wrong", "words"),
    [
        ("XRNN_NATIVE", "perhaps", "1, true, yes, on (on), or 0, false, no, off (off)"),
        ("XRNN_NUM_THREADS", "-1", "a whole number, at least 1"),
        ("XRNN_ISA", "mmx", "one of "),
    ],
)
def test_what_says_nothing_clear_is_refused(variable: str, wrong: str, words: str) -> None:
    if variable == "XRNN_ISA" and extension.ABSENT:
        pytest.skip(extension.ABSENT)
    done = ran(**{variable: wrong})
    assert done.returncode == 2
    told = f"xrnn: error: the environment variable {variable} is '{wrong}'; it must be {words}"
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


def test_every_variable_is_read_in_one_place() -> None:
    if not (ROOT / "backends").is_dir():
        pytest.skip("not a checkout")
    folders = [ROOT / "xrnn", ROOT / "backends"]
    sources = [p for f in folders for p in f.rglob("*") if p.suffix in {".py", ".c", ".h"}]
    assert len(sources) > 50
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for read in re.findall(r'(?:environ(?:\.get\(|\[)|getenv\()["\w]*', text):
            assert "XRNN_" not in read, path
            assert "OPT_IN" not in read, path
