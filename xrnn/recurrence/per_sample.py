"""The gradient of a weight for each sequence alone, and its norm, from what steps add to it.

dw_b = Σ_t c_tb                                              (1)   for a vector weight
dW_b = Σ_t r_tb o_tbᵀ = R_bᵀ O_b                             (2)   for a matrix, from R_b (T, m)
                                                                   and O_b (T, k)
‖dW_b‖² = Σ_ts (r_tb · r_sb) (o_tb · o_sb)                   (3)   without forming dW_b

(2) takes T m k multiplications for each sequence, (3) T² (m + k), so (3) is for short sequences and
large matrices.  In (3) numbers cancel where the steps do: then it has fewer digits than (2).

Source: (3) Goodfellow, "Efficient per-example gradient computations" (2015); over time: Li et al.,
"Large language models can be strong differentially private learners" (2022).
"""

from __future__ import annotations

from math import prod

from xrnn.recurrence.precision import wide_sum, widen
from xrnn.typing import Array, Contribution, Namespace

#: so many numbers of gradients are formed at once where only their norms are wanted
NUMBERS = 2**22


def gradients(part: Contribution, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """The gradient of a weight of a shape for each sequence, (B, *shape).

    `part` is a contribution of arrays (T, B, n).

    >>> import numpy as np
    >>> rows, operands = np.array([[[1.0]], [[2.0]]]), np.array([[[3.0, 4.0]], [[5.0, 6.0]]])
    >>> gradients(((rows, operands),), (1, 2), xp=np).tolist()
    [[[13.0, 16.0]]]
    """
    if not isinstance(part, tuple):
        found = wide_sum(part, axis=0, xp=xp)  # (1)
        return xp.reshape(found, (part.shape[1], *shape))
    blocks = [
        xp.permute_dims(rows, (1, 2, 0)) @ xp.permute_dims(operands, (1, 0, 2))  # (2)
        for rows, operands in part
    ]
    return xp.concat(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def norms(part: Contribution, shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """The Euclidean norm of the same gradient for each sequence, (B,).

    >>> import numpy as np
    >>> rows, operands = np.array([[[3.0]]]), np.array([[[1.0, 0.0]]])
    >>> norms(((rows, operands),), (1, 2), xp=np).tolist()
    [3.0]
    """
    if not isinstance(part, tuple):
        return norm_of(gradients(part, shape, xp=xp), xp=xp)
    each = []
    for rows, operands in part:
        T, B, m = rows.shape
        k = operands.shape[2]
        if T * (m + k) < m * k:
            each.append(_by_products(rows, operands, xp=xp))
            continue
        several, found = max(1, NUMBERS // max(1, m * k)), []
        for b in range(0, B, several):
            some = slice(b, min(b + several, B))
            formed = gradients(((rows[:, some, :], operands[:, some, :]),), (m, k), xp=xp)
            found.append(norm_of(formed, xp=xp))
        each.append(xp.concat(found) if found else rows[0, :, 0])
    return norm_of(xp.stack(each, axis=1), xp=xp)


def norm_of(a: Array, *, xp: Namespace) -> Array:
    """The Euclidean norm of all but the first axis, of numbers of any size."""
    flat = widen(xp.reshape(a, (a.shape[0], prod(a.shape[1:]))), xp=xp)
    if 0 in flat.shape:
        return xp.sum(flat, axis=1)
    scale = _scale(flat, 1, xp=xp)
    return scale[:, 0] * xp.sqrt(xp.sum((flat / scale) ** 2, axis=1))


def _by_products(rows: Array, operands: Array, *, xp: Namespace) -> Array:
    """(3)."""
    (R, of_rows), (O, of_operands) = (_scaled(a, xp=xp) for a in (rows, operands))
    products = (R @ xp.matrix_transpose(R)) * (O @ xp.matrix_transpose(O))
    total = xp.sum(products, axis=(1, 2))
    # Rounding could make it less than 0.
    total = xp.where(total > 0, total, xp.zeros_like(total))
    return of_rows * of_operands * xp.sqrt(total)


def _scaled(a: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """An array (T, B, n) as (B, T, n), divided by the largest modulus of each sequence (B,); and
    these."""
    a = xp.permute_dims(a, (1, 0, 2))
    scale = _scale(a, (1, 2), xp=xp)
    return a / scale, scale[:, 0, 0]


def _scale(a: Array, axes: int | tuple[int, ...], *, xp: Namespace) -> Array:
    """The largest modulus over the axes, which are kept; 1 where it is 0 or not finite."""
    largest = xp.max(xp.abs(a), axis=axes, keepdims=True)
    usable = (largest > 0) & xp.isfinite(largest)
    return xp.where(usable, largest, xp.ones_like(largest))
