"""xrnn imports and runs wherever Python puts it: without sources, in a zip file, without a home
directory, with a cache that is broken, under an old locale.  Its import reads no data."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import crashes
import pytest
from copies import CHECKOUT, ROOT, copy_package, run

from xrnn.engine import atomic, verify

pytestmark = CHECKOUT

#: forward and backward by a kernel; prints where xrnn lies and what ran
PROGRAM = """
import warnings
warnings.simplefilter("error")
import numpy as np
import xrnn
layer = xrnn.LSTM(3, 5)
xs = np.ones((7, 2, 3), "float32")
ys, state, tape = layer.forward(xs)
layer.backward(tape, ys)
assert xrnn.certify(dtype="float64", cells=[xrnn.cells.MinGRU]).passed
print(xrnn.__file__)
print(layer.path(xs.shape)["_l0"])
"""

NATIVE = any((ROOT / "backends" / "cpu").glob("_native*"))


def where(path: Path, program: str = PROGRAM, **options: object) -> tuple[str, str]:
    """Run the program with `path` on the path of modules: where xrnn lies, and what ran."""
    home, how = run(path, "-W", "error", "-c", program, **options).splitlines()  # type: ignore[arg-type]
    return home, how


def test_without_sources(tmp_path: Path) -> None:
    folder = copy_package(tmp_path / "compiled")
    assert compileall.compile_dir(folder, quiet=1, legacy=True)
    for source in folder.rglob("*.py"):
        source.unlink()
    home, how = where(folder)
    assert home == str(folder / "xrnn" / "__init__.pyc")
    assert how.startswith("native loop" if NATIVE else "whole sequences in NumPy")


def test_in_a_zip_file(tmp_path: Path) -> None:
    """There the native extension cannot be loaded from: NumPy serves."""
    folder, archive = copy_package(tmp_path / "folder", "*.so", "*.pyd"), tmp_path / "xrnn.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, path.relative_to(folder))
    home, how = where(archive, cwd=tmp_path)
    assert home == str(archive / "xrnn" / "__init__.py")
    assert how == "whole sequences in NumPy"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may be others")
def test_a_user_without_a_name_or_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started under a number."""
    pwd = pytest.importorskip("pwd")
    known = {entry.pw_uid for entry in pwd.getpwall()}
    uid = next(n for n in range(54321, 65000) if n not in known)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    # The effective user stays: the interpreter may lie where no other user can read it.
    program = f"import os; os.setresuid({uid}, -1, -1); assert os.getuid() == {uid}\n{PROGRAM}"
    where(ROOT, program, cwd=tmp_path)
    assert [*tmp_path.iterdir()] == []


#: asks for the kernel of LSTM twice, in two processes; prints how often it was compared
COUNTING = """
import numpy as np
from xrnn.engine import verify
asked = []
difference = verify.difference
verify.difference = lambda *given: asked.append(given) or difference(*given)
import warnings
warnings.simplefilter("error")
import xrnn
print(xrnn.LSTM(3, 5).path((7, 2, 3))["_l0"])
print(len(asked))
"""

CACHES = {
    "deep": "[" * 100_000,
    "nested": "[" * 600 + "]" * 600,
    "cut short": '["test | ',
    "no JSON": "\0\0\0",
    "another type": '{"a": 1}',
    "a number": "1",
    "other items": '[null, 1, ["a"], {"b": []}]',
    "empty": "",
}


class TestCache:
    """Whatever stands where verifications are remembered: the kernel is verified anew."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "cache" / "xrnn" / "verified.json"
        file.parent.mkdir(parents=True)
        return file

    def asked(self, **options: object) -> int:
        _, asked = where(ROOT, COUNTING, timeout=60, **options)
        return int(asked)

    def test_a_verification_is_remembered(self, file: Path) -> None:
        assert [self.asked(), self.asked()] == [1, 0]
        assert len(json.loads(file.read_text("utf-8"))) == 1

    @pytest.mark.parametrize("content", CACHES.values(), ids=list(CACHES))
    def test_what_cannot_be_read_is_written_anew(self, content: str, file: Path) -> None:
        file.write_text(content, "utf-8")
        assert [self.asked(), self.asked()] == [1, 0]

    def test_bytes_that_are_no_text(self, file: Path) -> None:
        file.write_bytes(b'["\xff\xfe"]')
        assert [self.asked(), self.asked()] == [1, 0]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
    def test_a_fifo_is_not_waited_for(self, file: Path) -> None:
        os.mkfifo(file)
        assert self.asked() == 1

    def test_a_folder_in_the_place_of_the_file(self, file: Path) -> None:
        file.mkdir()
        assert [self.asked(), self.asked()] == [1, 1]
        assert [p.name for p in file.parent.iterdir()] == [file.name]

    def test_a_place_that_cannot_be_written_to(self, file: Path, tmp_path: Path) -> None:
        file.parent.rmdir()
        file.parent.write_text("a file in the place of the folder")
        assert self.asked() == 1
        assert self.asked(env={"XDG_CACHE_HOME": os.devnull}) == 1

    @pytest.mark.parametrize("mode", [0o500, 0o300, 0])
    def test_a_folder_without_rights(
        self, unprivileged: Path, monkeypatch: pytest.MonkeyPatch, mode: int
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(unprivileged))
        verify._remember("key")
        (unprivileged / "xrnn").chmod(mode)
        verify._remember("another")
        (unprivileged / "xrnn").chmod(0o700)
        assert verify._remembered() == ["key"]

    def test_a_place_that_is_no_absolute_path(self, file: Path, tmp_path: Path) -> None:
        folder = tmp_path / "work"
        folder.mkdir()
        home = {"XDG_CACHE_HOME": "relative", "HOME": str(tmp_path / "home")}
        assert [self.asked(env=home, cwd=folder) for _ in range(2)] == [1, 0]
        assert (tmp_path / "home" / ".cache" / "xrnn" / "verified.json").is_file()
        assert self.asked(env=home | {"HOME": "relative"}, cwd=folder) == 1
        assert [*folder.iterdir()] == []

    def test_those_of_others_are_kept(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Several processes or threads add to it at once."""
        keys = [f"key {n}" for n in range(8)]
        threads = [threading.Thread(target=verify._remember, args=[key]) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(verify._remembered()) == keys
        assert [p.name for p in file.parent.iterdir()] == [file.name]

    def test_a_writer_that_hangs_is_not_waited_for(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with atomic.turn(file.parent):
            verify._remember("key")
        assert verify._remembered() == ["key"]

    @pytest.mark.parametrize("kind", [*crashes.ERRORS, pytest.param("kill", marks=crashes.FORK)])
    def test_a_fault_at_each_call(self, file: Path, kind: str) -> None:
        """A full disk, or an end in the middle: what was remembered stays so."""
        for fault in crashes.faults(
            lambda: file.write_text('["old"]', "utf-8"), lambda: verify._remember("new"), kind
        ):
            fault()
            assert fault.raised is None or kind == "Ctrl-C", fault
            assert verify._remembered() in (["old"], ["old", "new"]), fault
            verify._remember("next")
            assert verify._remembered()[-1] == "next"
            assert [p.name for p in file.parent.iterdir()] == [file.name], fault

    def test_other_items_are_dropped(self, file: Path) -> None:
        file.write_text('[null, "a", 3, ["b"]]', "utf-8")
        verify._remember("c")
        assert json.loads(file.read_text("utf-8")) == ["a", "c"]


OLD_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": ""}


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    ascii_only = f"import sys; assert sys.getfilesystemencoding() != 'x'\n{PROGRAM}"
    where(ROOT, ascii_only, env=OLD_LOCALE, cwd=tmp_path)


@pytest.mark.parametrize("charset", ["CP1252", "GBK"])
def test_a_locale_of_another_encoding(charset: str, tmp_path: Path) -> None:
    name = f"en_US.{charset}"
    words = ["localedef", "-c", "-f", charset, "-i", "en_US", str(tmp_path / name)]
    if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True).returncode > 1:
        pytest.skip(f"localedef makes no locale with {charset} here")
    env = {"LOCPATH": str(tmp_path), "LC_ALL": name, "PYTHONUTF8": "0"}
    seen = run(ROOT, "-c", "import locale; print(locale.getencoding())", env=env, cwd=tmp_path)
    assert seen.strip().replace("-", "").lower() not in ("utf8", "ascii")
    where(ROOT, env=env, cwd=tmp_path)


#: imports every module, with an error where a text is read in the encoding of the locale
EVERYTHING = """
import importlib, pkgutil
import xrnn, xrnn.backends
from xrnn.backends.cpu import loops
others = ("cuda", "jax", "__main__", "hook-xrnn", "adapters.")
for module in pkgutil.walk_packages(xrnn.__path__, "xrnn."):
    if not any(name in module.name for name in others):
        importlib.import_module(module.name)
loops.source()
xrnn.save("m", xrnn.LSTM(3, 5), {"name": "ü"})
xrnn.load("m", xrnn.LSTM(3, 5))
"""


def test_no_text_is_read_in_the_encoding_of_the_locale(tmp_path: Path) -> None:
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    run(ROOT, *strict, "-c", EVERYTHING + PROGRAM, cwd=tmp_path)


#: prints every file that is opened while xrnn is imported and is no code
LISTENING = """
import os, sys

def listen(event, given):
    if event != "open":
        return
    path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes)) else str(given[0])
    if not path.endswith((".py", ".pyc", ".so", ".pyd")) and not os.path.isdir(path):
        print(path)

sys.addaudithook(listen)
import xrnn
"""


def test_importing_reads_no_data(tmp_path: Path) -> None:
    """No cache, no vectors, no page: what a program does not ask for costs it nothing."""
    opened = run(ROOT, "-c", LISTENING, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert opened.splitlines() == []
