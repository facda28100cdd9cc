"""Layer normalisation: the values of one row get mean 0 and variance 1, then a gain for each.

y = g ⊙ x̂,  x̂ = (x − μ) / √(s² + ε)                                            (1)
dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ ⊙ x̂)) / √(s² + ε),  dx̂ = dy ⊙ g,  dg = dy ⊙ x̂    (2)

μ and s² are mean and variance over the last axis.  Source: Ba, Kiros & Hinton (2016),
arXiv:1607.06450, eq. 4.
"""

from __future__ import annotations

from xrnn.typing import Array, Namespace

#: ε: of haste, which normalises whole products, and of TensorFlow Lite, which normalises gates
EPS = {"products": 1e-5, "gates": 1e-8}

#: what backward needs of forward: x̂ and 1 / √(s² + ε)
Normalised = tuple[Array, Array]


def normalise(x: Array, gain: Array, eps: float, *, xp: Namespace) -> tuple[Array, Normalised]:
    """y (1) of rows x (…, n), and what `normalise_backward` needs."""
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    unit = centred * scale
    return gain * unit, (unit, scale)


def normalise_backward(
    dy: Array, gain: Array, saved: Normalised, *, xp: Namespace
) -> tuple[Array, Array]:
    """dx and dg (…, n) of (2), the second not yet summed over the rows."""
    unit, scale = saved
    dunit = dy * gain
    along = xp.mean(dunit * unit, axis=-1, keepdims=True)
    return (dunit - xp.mean(dunit, axis=-1, keepdims=True) - unit * along) * scale, dy * unit
