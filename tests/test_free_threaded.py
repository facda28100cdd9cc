"""The build on a free-threaded Python, which has no limited API."""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from xrnn.backends.cpu import extension

BUILD = Path(__file__).parent.parent / "backends" / "cpu" / "native" / "build.py"


@pytest.mark.skipif(not BUILD.exists(), reason="not a checkout")
@pytest.mark.parametrize("free_threaded", [False, True])
def test_the_limited_api_is_used_where_there_is_one(
    free_threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What setuptools is told; a build takes minutes."""
    setuptools = pytest.importorskip("setuptools")
    build_ext = pytest.importorskip("setuptools.command.build_ext").build_ext
    bdist_wheel = pytest.importorskip("setuptools.command.bdist_wheel").bdist_wheel
    value = sysconfig.get_config_var

    def get_config_var(name: str) -> Any:
        return int(free_threaded) if name == "Py_GIL_DISABLED" else value(name)

    monkeypatch.setattr(sysconfig, "get_config_var", get_config_var)
    for command in (build_ext, bdist_wheel):
        monkeypatch.setattr(command, "finalize_options", lambda self: None)
    build = runpy.run_path(str(BUILD))
    module = setuptools.Extension("_native", [], py_limited_api=True)
    distribution = setuptools.Distribution({"ext_modules": [module]})
    build["BuildExt"](distribution).finalize_options()
    assert module.py_limited_api is not free_threaded
    wheel = build["Wheel"](distribution)
    wheel.finalize_options()
    assert wheel.py_limited_api == (False if free_threaded else "cp311")


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
def test_the_extension_does_not_bring_the_lock_back() -> None:
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: None)
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python always has the lock")
    assert is_enabled() is False
