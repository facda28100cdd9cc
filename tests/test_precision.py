"""Sums of half precision: in float32, on every library that has 16-bit numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xrnn.backends import get, host
from xrnn.recurrence.precision import accumulation_dtype, rounded_sum, wide_sum, widen
from xrnn.typing import dtype_name


def halves(values: Any, dtype: str, device: str) -> Any:
    """The values on the device, in half precision; skips a library that has no such numbers."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
        if device == "readonly":
            pytest.skip("NumPy alone under another name has no bfloat16 of its own")
    if device == "array_api_strict":
        pytest.skip("the standard has no 16-bit numbers")
    return get(device).from_host(np.asarray(values).astype(host.named_dtype(dtype)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums(dtype: str, device: str) -> None:
    backend = get(device)
    xp, put = backend.xp, halves(np.full((4, 20000, 2), 0.25), dtype, device)
    assert dtype_name(widen(put, xp=xp).dtype) == "float32"
    assert float(wide_sum(put, xp=xp)) == 40000
    rows = wide_sum(put, axis=(0, 1), xp=xp)
    assert dtype_name(rows.dtype) == "float32"
    assert backend.to_host(rows).tolist() == [20000, 20000]
    rounded = rounded_sum(put, axis=1, xp=xp)
    assert rounded.dtype == put.dtype
    expected = np.full((4, 2), 5000).astype(host.named_dtype(dtype))
    np.testing.assert_array_equal(backend.to_host(rounded), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_other_dtypes_are_left_alone(dtype: str, device: str) -> None:
    backend = get(device)
    xp, put = backend.xp, get(device).from_host(np.ones((3, 2), dtype))
    assert widen(put, xp=xp) is put
    assert accumulation_dtype(put.dtype, xp=xp) == put.dtype
    assert wide_sum(put, xp=xp).dtype == rounded_sum(put, axis=0, xp=xp).dtype == put.dtype
    assert backend.to_host(rounded_sum(put, axis=0, xp=xp)).tolist() == [3, 3]
