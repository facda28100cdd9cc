"""The build on a free-threaded Python, which has no limited API."""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from xrnn.backends.cpu import extension

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not a checkout")


@pytest.mark.parametrize("free_threaded", [False, True])
def test_the_limited_api_is_used_where_there_is_one(
    free_threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What setuptools is told; a build takes minutes."""
    setuptools = pytest.importorskip("setuptools")
    build_ext = pytest.importorskip("setuptools.command.build_ext").build_ext
    told: dict[str, Any] = {}
    value = sysconfig.get_config_var

    def get_config_var(name: str) -> Any:
        return int(free_threaded) if name == "Py_GIL_DISABLED" else value(name)

    monkeypatch.setattr(sysconfig, "get_config_var", get_config_var)
    monkeypatch.setattr(setuptools, "setup", lambda **how: told.update(how))
    monkeypatch.setattr(build_ext, "finalize_options", lambda self: None)
    runpy.run_path(str(ROOT / "setup.py"))
    wheel = told["options"].get("bdist_wheel", {})
    assert wheel == ({} if free_threaded else {"py_limited_api": "cp311"})
    module = setuptools.Extension("_native", [], py_limited_api=True)
    distribution = setuptools.Distribution({"ext_modules": [module]})
    told["cmdclass"]["build_ext"](distribution).finalize_options()
    assert module.py_limited_api is not free_threaded


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
def test_the_extension_does_not_bring_the_lock_back() -> None:
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: None)
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python always has the lock")
    assert is_enabled() is False
