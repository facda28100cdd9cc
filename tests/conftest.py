"""What every test shares: the libraries under test, and a cache folder of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before NumPy is imported.  The products of the tests are small: more threads would gain nothing,
# and keep cores busy that other processes need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import readonly

import xrnn
from xrnn.backends import get, register

register("readonly", readonly.BACKEND)

# Programs that tests start import the xrnn that is tested, and not what lies in the current folder:
# the sources of an sdist have no backends inside them.
os.environ["PYTHONSAFEPATH"] = "1"
before = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(xrnn.__file__).parent.parent), *([before] if before else [])]
)

HAVE_JAX = importlib.util.find_spec("jax") is not None
if HAVE_JAX:
    import jax

    jax.config.update("jax_enable_x64", True)


def _torch() -> Any:
    absent = importlib.util.find_spec("torch") is None
    return pytest.param("torch", marks=pytest.mark.skipif(absent, reason="torch is not installed"))


def _cuda() -> Any:
    try:
        get("cuda")
        reason = ""
    except ImportError as error:
        reason = str(error)
    return pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(reason), reason=reason)]
    )


DEVICES = [
    *map(pytest.param, ("cpu", "readonly", "array_api_strict")),
    _torch(),
    _cuda(),
    # An optional dependency of nobody: it is tested where it happens to be installed.
    *([pytest.param("jax")] if HAVE_JAX else []),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every library that the mathematics runs on."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verification of a kernel is remembered from, or for, anything outside the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP is not ignored, as it is in a process that `nohup` has started."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who has no special rights, who runs the test."""
    if not hasattr(os, "seteuid"):
        pytest.skip("this system has no rights of users")
    folder, root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    if root:
        os.chown(folder, 54321, 54321)
        os.seteuid(54321)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)
