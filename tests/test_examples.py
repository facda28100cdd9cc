"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import xrnn

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(xrnn.__path__, "xrnn.")
    # Some import CuPy, one PyInstaller.
    if not module.name.endswith(
        ("__main__", "cuda.capture", "cuda.device", "cuda.nccl", "cuda.runtime", "hook-xrnn")
    )
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    if "onnx" in name:
        pytest.importorskip("onnx", reason="the examples write and read ONNX models")
    if name in ("xrnn.adapters.sklearn", "xrnn.adapters.sequences"):
        pytest.importorskip("sklearn", reason="the adapter is for scikit-learn")
    if name.startswith("xrnn.adapters.torch"):
        pytest.importorskip("torch", reason="the adapter is for PyTorch")
    if name.startswith(("xrnn.adapters.jax", "xrnn.backends.jax.")):
        pytest.importorskip("jax", reason="the adapter and the backend are for JAX")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_public_classes_have_examples() -> None:
    finder = doctest.DocTestFinder()
    for name in xrnn.__all__:
        value = getattr(xrnn, name)
        if callable(value) and name not in ("unroll_backward", "load"):  # shown with twins
            assert any(test.examples for test in finder.find(value)), name
