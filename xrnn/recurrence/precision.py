"""Half precision is for storage: what is summed up in it is summed up in float32.

float16 ends at 65504, and a sum of float16 numbers stops growing at 2048 times what is added;
bfloat16 already at 256 times.  So sums, means, norms and moments of such arrays are computed in
float32, and rounded once where the result is to have the dtype of the array.
"""

from __future__ import annotations

from typing import Any

from xrnn.typing import Array, Namespace, dtype_name

#: the dtypes that numbers are stored in, but that nothing is summed up in
HALF = ("float16", "bfloat16")


def accumulation_dtype(dtype: Any, *, xp: Namespace) -> Any:
    """The dtype in which numbers of `dtype` are summed: float32 for 16 bits, else their own.

    >>> import numpy as np
    >>> accumulation_dtype(np.dtype("float16"), xp=np), accumulation_dtype(np.float64, xp=np)
    (<class 'numpy.float32'>, <class 'numpy.float64'>)
    """
    return xp.float32 if dtype_name(dtype) in HALF else dtype


def widen(a: Array, *, xp: Namespace) -> Array:
    """The array in its `accumulation_dtype`; the array itself if it already has it.

    >>> import numpy as np
    >>> widen(np.ones(2, "float16"), xp=np)
    array([1., 1.], dtype=float32)
    """
    return xp.astype(a, xp.float32) if dtype_name(a.dtype) in HALF else a


def cast(a: Array, dtype: Any, *, xp: Namespace) -> Array:
    """The array in a dtype; the array itself if it already has it.

    >>> import numpy as np
    >>> cast(np.ones(2), np.float32, xp=np)
    array([1., 1.], dtype=float32)
    """
    return a if a.dtype == dtype else xp.astype(a, dtype)


def wide_sum(a: Array, *, axis: int | tuple[int, ...] | None = None, xp: Namespace) -> Array:
    """The sum over the axes, computed in the `accumulation_dtype` and returned in it.

    >>> import numpy as np
    >>> float(wide_sum(np.ones(4096, "float16"), xp=np))
    4096.0
    """
    return xp.sum(a, axis=axis, dtype=accumulation_dtype(a.dtype, xp=xp))


def rounded_sum(a: Array, *, axis: int | tuple[int, ...], xp: Namespace) -> Array:
    """The sum over some of the axes, computed in the `accumulation_dtype`, in the dtype of a.

    >>> import numpy as np
    >>> rounded_sum(np.full((20000, 2), 0.1, "float16"), axis=0, xp=np).tolist()
    [2000.0, 2000.0]
    """
    return xp.astype(wide_sum(a, axis=axis, xp=xp), a.dtype, copy=False)
