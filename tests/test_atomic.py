"""Files are replaced as a whole: whatever happens, the old or the new content is there."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import crashes
import pytest
from copies import CHECKOUT, ROOT

from xrnn.engine import atomic

OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the old content, in a folder of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(OLD)
    return folder / "file"


def names(file: Path) -> list[str]:
    return sorted(p.name for p in file.parent.iterdir())


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode("ünï 文.bin".encode())  # the letters, where names are UTF-8
    for content in (OLD, NEW, b""):
        atomic.replace(path, content)
        assert path.read_bytes() == atomic.read(str(path)) == content
    assert names(path) == [path.name]


@pytest.mark.parametrize("kind", [*crashes.ERRORS, pytest.param("kill", marks=crashes.FORK)])
@pytest.mark.parametrize("present", [True, False], ids=["replaced", "new"])
def test_a_fault_at_each_call_leaves_the_old_file_or_the_new(
    file: Path, kind: str, present: bool
) -> None:
    def prepare() -> None:
        file.write_bytes(OLD)
        if not present:
            file.unlink()

    kept = 0
    for fault in crashes.faults(prepare, lambda: atomic.replace(file, NEW), kind):
        fault()
        found = file.read_bytes() if file.exists() else None
        assert found in (OLD if present else None, NEW), fault
        kept += found != NEW
        if fault.raised is not None:
            assert names(file) == (["file"] if found else []), f"{fault} left something behind"
        if isinstance(fault.raised, OSError):
            assert str(file.parent) in str(fault.raised), f"{fault}: the error names no file"
        atomic.replace(file, NEW)
        assert names(file) == ["file"], f"{fault}: the next call left something behind"
        assert file.read_bytes() == NEW
    assert kept > 3


@CHECKOUT
def test_nothing_else_writes_files() -> None:
    """Whatever xrnn writes is written by this module, and so as a whole."""
    writing = re.compile(
        r"write_(text|bytes)\(|\bopen\([^)]*[\"'][rwax]b?\+?[\"']|"
        r"os\.(open|write|rename|replace|fdopen)\(|savefig\((?!figure|out|picture)|save_file|mkstemp"
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("xrnn", "backends")
        for path in (ROOT / folder).rglob("*.py")
        if any(
            writing.search(line) and "devnull" not in line and '"rb"' not in line
            for line in path.read_text("utf-8").splitlines()
        )
    }
    # A run is locked by its folder or, where folders have no locks, by a file without content.
    assert {name for name in found if "xrnn/backends" not in name} == {
        "xrnn/charlm/run.py",
        "xrnn/engine/atomic.py",
    }


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not flushed here")
def test_the_file_is_flushed_before_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a crash of the machine could leave the new name with half of the content."""
    fsync, rename, seen = os.fsync, os.replace, []

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        mode = os.fstat(descriptor).st_mode
        seen.append("folder" if stat.S_ISDIR(mode) else f"{os.fstat(descriptor).st_size} bytes")

    def replace(*given: Path) -> None:
        rename(*given)
        seen.append("name")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    atomic.replace(file, NEW)
    assert seen == [f"{len(NEW)} bytes", "name", "folder"]


def test_an_error_says_what_happened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError) as caught:
        atomic.replace(file, NEW)
    assert caught.value.errno == 28
    assert caught.value.filename == str(file)
    assert "No space left on device; what was there is unchanged" in str(caught.value)


class TestPlaces:
    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"make the folder .*missing first"):
            atomic.replace(tmp_path / "missing" / "file", NEW)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError, match="this is a folder; give the name of a file"):
            atomic.replace(tmp_path, NEW)
        with pytest.raises(ValueError, match="is a folder or a device"):
            atomic.read(tmp_path)

    def test_the_name_of_a_folder(self, file: Path) -> None:
        for given in (f"{file}/", f"{file.parent}/new/", ""):
            with pytest.raises(IsADirectoryError, match="this is a folder; give the name of"):
                atomic.replace(given, NEW)
        assert [p.name for p in file.parent.iterdir()] == [file.name]
        assert file.read_bytes() == OLD

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
    def test_a_pipe_is_neither_replaced_nor_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="this is a device or a pipe"):
            atomic.replace(tmp_path / "pipe", NEW)
        assert (tmp_path / "pipe").is_fifo()
        with pytest.raises(ValueError, match="is a folder or a device"):
            atomic.read(tmp_path / "pipe")

    def test_a_device_is_not_replaced(self) -> None:
        with pytest.raises(OSError, match="this is a device or a pipe"):
            atomic.replace(os.devnull, NEW)
        with pytest.raises(ValueError, match="is a folder or a device"):
            atomic.read(os.devnull)

    def test_a_name_of_255_bytes(self, tmp_path: Path) -> None:
        for letter in ("x", "文"):
            # As bytes: the encoding of the file system may have no such character.
            name = letter.encode() * (255 // len(letter.encode()))
            path = tmp_path / os.fsdecode(name)
            atomic.replace(path, NEW)
            assert path.read_bytes() == NEW

    def test_a_folder_without_rights(self, unprivileged: Path) -> None:
        (unprivileged / "file").write_bytes(OLD)
        unprivileged.chmod(0o500)
        with pytest.raises(PermissionError, match="what was there is unchanged"):
            atomic.replace(unprivileged / "file", NEW)
        assert (unprivileged / "file").read_bytes() == OLD

    def test_a_folder_that_may_be_written_but_not_read(self, unprivileged: Path) -> None:
        unprivileged.chmod(0o300)
        atomic.replace(unprivileged / "file", NEW)
        assert atomic.read(unprivileged / "file") == NEW

    def test_a_file_of_another_user(self, unprivileged: Path) -> None:
        """The folder decides who may replace it; who does becomes its owner."""
        if os.getuid() != 0:
            pytest.skip("only root makes files of others")
        os.seteuid(0)
        (unprivileged / "file").write_bytes(OLD)
        (unprivileged / "file").chmod(0o644)
        os.seteuid(54321)
        atomic.replace(unprivileged / "file", NEW)
        found = (unprivileged / "file").stat()
        assert (found.st_uid, found.st_mode & 0o777) == (54321, 0o644)


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
class TestModesAndLinks:
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400, 0o755])
    def test_the_mode_is_kept(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        atomic.replace(file, NEW)
        assert file.stat().st_mode & 0o7777 == mode
        assert file.read_bytes() == NEW

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOTSUP])
    def test_where_owners_cannot_be_set(
        self, file: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A container may have no number for the owner, a file system no owners at all."""

        def refuse(*arguments: Any) -> None:
            raise OSError(number, os.strerror(number))

        file.chmod(0o600)
        monkeypatch.setattr(os, "chown", refuse)
        atomic.replace(file, NEW)
        assert (file.stat().st_mode & 0o7777, file.read_bytes()) == (0o600, NEW)

    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_a_new_file_has_the_usual_mode(self, tmp_path: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            atomic.replace(tmp_path / "file", NEW)
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o666 & ~mask

    def test_what_is_private_is_never_open_to_others(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen, write = [], os.write

        def watched(descriptor: int, data: bytes) -> int:
            seen.append(os.fstat(descriptor).st_mode & 0o077)
            return write(descriptor, data)

        file.chmod(0o600)
        monkeypatch.setattr(os, "write", watched)
        atomic.replace(file, NEW)
        assert seen == [0]

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may")
    def test_the_owner_is_kept(self, file: Path) -> None:
        os.chown(file, 12345, 12346)
        atomic.replace(file, NEW)
        assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)

    def test_a_link_stays_and_its_target_is_replaced(self, file: Path, tmp_path: Path) -> None:
        targets = [Path("folder/file"), file, tmp_path / "link0", Path("folder/new")]
        for n, target in enumerate(targets):
            link = tmp_path / f"link{n}"
            link.symlink_to(target)
            atomic.replace(link, NEW)
            assert link.is_symlink()
            assert link.read_bytes() == NEW
            file.write_bytes(OLD)
        assert names(file) == ["file", "new"]

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(OSError, match="symbolic link"):
            atomic.replace(tmp_path / "link", NEW)

    def test_a_link_at_the_name_of_the_unfinished_file_is_not_followed(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_bytes(b"mine")
        (file.parent / f".file.{'0' * 16}.part").symlink_to(victim)
        tokens = iter(["0" * 16, "1" * 16])
        monkeypatch.setattr("secrets.token_hex", lambda n: next(tokens))
        with pytest.raises(FileExistsError):
            atomic.replace(file, NEW)
        assert victim.read_bytes() == b"mine"
        assert file.read_bytes() == OLD


@crashes.FORK
class TestLeftovers:
    def test_those_of_other_files_stay(self, file: Path) -> None:
        others = [".file.part", ".file.0123.part", f".other.{'0' * 16}.part", "file.part"]
        for name in others:
            (file.parent / name).write_bytes(b"")
        (file.parent / f".file.{'0' * 16}.part").write_bytes(b"half")
        atomic.replace(file, NEW)
        assert names(file) == sorted([*others, "file"])

    def test_that_of_a_writer_that_lives_stays(self, file: Path) -> None:
        with atomic._new_part(file, 0o666) as part:
            assert atomic.lock(part.fileno())
            atomic.replace(file, NEW)
            assert Path(part.name).exists()
        atomic.replace(file, NEW)
        assert names(file) == ["file"]

    def test_one_taken_for_a_leftover_before_it_is_locked(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another writer removes the file between its making and its locking."""
        lock, turns = atomic.lock, []

        def late(descriptor: int) -> bool:
            turns.append(descriptor)
            if len(turns) == 1:
                for part in file.parent.glob(".*.part"):
                    part.unlink()
            if len(turns) == 2:
                raise BlockingIOError
            return lock(descriptor)

        monkeypatch.setattr(atomic, "lock", late)
        atomic.replace(file, NEW)
        assert len(turns) == 3
        assert file.read_bytes() == NEW


def test_many_threads_write_and_read_one_file(file: Path) -> None:
    whole = [bytes([n]) * 100_000 for n in range(4)]
    torn: list[object] = []
    done = threading.Event()

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                atomic.replace(file, content)
        except BaseException as error:
            torn.append(error)

    def read() -> None:
        while not done.is_set():
            found = atomic.read(file)
            if found not in whole:
                torn.append(found[:10])

    file.write_bytes(whole[0])
    writers = [threading.Thread(target=write, args=[content]) for content in whole]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert torn == []
    assert names(file) == ["file"]


#: writes one file again and again, each time another content of one letter
WRITER = """
import sys, string
from xrnn.engine import atomic
print("ready", flush=True)
while True:
    for letter in string.ascii_letters:
        atomic.replace(sys.argv[1], letter.encode() * 100_000)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL of POSIX")
def test_processes_that_write_one_file_and_are_killed(file: Path) -> None:
    words = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for _ in range(200):
            found = atomic.read(file)
            assert found == OLD or (len(found) == 100_000 and len(set(found)) == 1)
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
    atomic.replace(file, NEW)
    assert names(file) == ["file"]
