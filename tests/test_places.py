"""xrnn imports and runs wherever Python puts it: without sources, in a zip file, without a home
directory, with a cache that is broken, under an old locale.  Its import reads no data."""

from __future__ import annotations

import compileall
import json
import os
import zipfile
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT, copy_package, run

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

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write")
    def test_a_folder_without_rights(self, file: Path) -> None:
        file.parent.chmod(0o500)
        assert self.asked() == 1
        file.parent.chmod(0)
        assert self.asked() == 1
        file.parent.chmod(0o700)


OLD_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": ""}


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    ascii_only = f"import sys; assert sys.getfilesystemencoding() != 'x'\n{PROGRAM}"
    where(ROOT, ascii_only, env=OLD_LOCALE, cwd=tmp_path)


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
