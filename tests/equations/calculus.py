"""Derivatives of a derivation's own formulas by complex steps, exact to rounding error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEP = 1e-30


def derivative(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """∂f/∂x, of shape (*f(x).shape, *x.shape); f must be analytic."""
    parts = []
    for place in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[place] += 1j * STEP
        parts.append(np.imag(f(moved)) / STEP)
    return np.stack(parts, axis=-1).reshape(*parts[0].shape, *x.shape)


def jacobian(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """The matrix ∂f_i/∂x_j of a column by a column."""
    return derivative(f, x)[:, 0, :, 0]


def gradient(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """The derivative of a (1, 1), in the shape of x."""
    return derivative(f, x).reshape(x.shape)
