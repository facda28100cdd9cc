"""Files that are written and read as a whole: everything that xrnn writes is written here.

A file is written under another name in the same folder, flushed to the disk, and renamed when it is
complete.  So whatever happens (a crash, a full disk, several writers at once), the old or the new
content is there, and never a mixture.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: the bytes of one system call
CHUNK = 1 << 24

#: Windows translates line ends without it
BINARY = getattr(os, "O_BINARY", 0)


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, replacing what is there completely or, after an error, not at all.

    The mode of a file that is already there is kept, and its owner where the system allows that.
    If the path is a symbolic link, the file that it leads to is replaced; other hard links to a
    file keep the old content.  Several threads or processes may write to one path: each writes a
    whole file, and the last one stays.

    A writer that is killed leaves an unfinished file behind, ``.NAME.RANDOM.part``.  The next call
    for this path removes it.  (Windows has no locks that tell whether its writer lives; there it
    stays.)

    Parameters
    ----------
    path : path
        The file.
    content : bytes
        All that it is to hold.

    Raises
    ------
    OSError
        If the file cannot be written; the error names the path.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace(f"{folder}/note", b"old")
    ...     replace(f"{folder}/note", b"new")
    ...     bytes(read(f"{folder}/note"))
    b'new'
    """
    target = Path(os.path.realpath(path))
    try:
        if not os.path.basename(path):  # "model/", of which realpath takes the last letter
            raise IsADirectoryError(errno.EISDIR, "this is a folder; give the name of a file")
        before = _present(target)
        _remove_leftovers(target)
        while not _write_and_rename(target, before, content):
            pass
    except OSError as error:
        words = f"{error.strerror or error}; what was there is unchanged"
        raise OSError(error.errno or errno.EIO, words, os.fspath(path)) from error
    _flush_folder(target.parent)


def read(path: str | os.PathLike[str], size: int | None = None) -> bytes:
    """The content of a regular file, or its first `size` bytes, at one moment of its replacements.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is a folder, a device or a pipe (which could be read for ever).
    """
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is a folder or a device; it must be a file")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall() if size is None else file.read(size)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Take the lock of an open file or folder, without waiting.

    The lock ends when the descriptor is closed, at the latest with the process.

    Returns
    -------
    bool
        Whether it was taken: False if the system or the file system has no locks.

    Raises
    ------
    BlockingIOError
        If another process or another descriptor holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until nobody else has a turn in this folder, but not longer than a second."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(100):
            try:
                lock(descriptor)
                break
            except BlockingIOError:
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _present(target: Path) -> os.stat_result | None:
    """What is at the place of the file now; an OSError if it is something else than a file."""
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        if target.parent.is_dir():
            return None
        words = f"No such file or directory: make the folder {target.parent} first"
        raise FileNotFoundError(errno.ENOENT, words) from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "this is a folder; give the name of a file")
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "this symbolic link leads to itself")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "this is a device or a pipe; give the name of a file")
    return found


def _write_and_rename(target: Path, before: os.stat_result | None, content: bytes) -> bool:
    """Write a new file and give it the name of the target.

    Returns False if nothing was written, because another writer took the file for a leftover.
    """
    with _new_part(target, 0o666 if before is None else 0o600) as file:
        try:
            if not _locked(file):
                return False
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file.fileno(), rest[:CHUNK]) :]
            if before is not None:
                _keep_mode(file.name, before)
            os.fsync(file.fileno())
            if fcntl is None:  # Windows renames no open file
                file.close()
            os.replace(file.name, target)
        except BaseException:
            file.close()
            with suppress(OSError):
                os.unlink(file.name)
            raise
    return True


def _new_part(target: Path, mode: int) -> FileIO:
    """A new file beside the target; a file or a link that has its name already is an error."""
    name = target.with_name(f"{_stem(target)}{secrets.token_hex(8)}.part")
    return FileIO(name, "x", opener=lambda path, flags: os.open(path, flags, mode))


def _locked(part: FileIO) -> bool:
    """Lock the file, so that others see that its writer lives; False if it is theirs to remove."""
    try:
        lock(part.fileno())
    except BlockingIOError:
        return False
    try:
        os.lstat(part.name)
    except FileNotFoundError:
        return False
    return True


def _keep_mode(part: str, before: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(part, before.st_uid, before.st_gid)
    os.chmod(part, stat.S_IMODE(before.st_mode) & 0o777)


def _stem(target: Path) -> str:
    """How the names of unfinished files begin; cut, because a name has at most 255 bytes."""
    return f".{target.name[:50]}."


def _remove_leftovers(target: Path) -> None:
    """Remove the unfinished files of writers that have ended."""
    pattern = re.compile(re.escape(_stem(target)) + r"[0-9a-f]{16}\.part")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if pattern.fullmatch(name):
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(part: Path) -> None:
    """Remove a file if nobody holds its lock."""
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if lock(descriptor):
                os.unlink(part)
        finally:
            os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Flush the new name to the disk, where the system can flush folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Other errors say that a folder cannot be read or flushed here, not that the disk failed.
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            words = f"{error.strerror}; the new file is there, but may not outlast a crash"
            raise OSError(error.errno, words, os.fspath(folder)) from error
