"""What every test shares: the libraries under test, and a cache folder of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import readonly

from xrnn.backends import get, register

register("readonly", readonly.BACKEND)

if importlib.util.find_spec("jax"):
    import jax

    jax.config.update("jax_enable_x64", True)


def _optional(device: str) -> Any:
    library = device.partition(".")[0]
    absent = importlib.util.find_spec(library) is None
    return pytest.param(
        device, marks=pytest.mark.skipif(absent, reason=f"{library} is not installed")
    )


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
    "cpu",
    "readonly",
    "array_api_strict",
    _optional("torch"),
    _optional("jax.numpy"),
    _cuda(),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every library that the mathematics runs on."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proof of a fast path is remembered from, or for, anything outside the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
