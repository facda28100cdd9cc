"""Optimizers for arrays of any backend, and what goes with them.

Each takes a tree of weights and the tree of their gradients.  A tree is a mapping of names to
arrays, like the weights of a layer, or a mapping of such mappings:
``{"rnn": layer.weights, "out": …}``.  Weights are updated in place if the library has arrays that
can be written to.

Everything is checked and computed before the first weight is changed: after an error weights, state
and number of steps are as before.  Weights and gradients of half precision (float16, bfloat16) are
for storage: norms, moments and the update are computed in float32, and the new weight is rounded
once.  What is too small for its dtype becomes 0 without a floating-point warning.

Learning rates that change (`cosine`, `warmup`, `Plateau`) are factors of a rate, which the caller
assigns: ``optimizer.lr = 1e-3 * cosine(step, 1000)``.  `accumulate` adds up the gradients of
several batches, and `Average` keeps a moving average of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import cache
from math import sqrt
from typing import Any, ClassVar

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.numbers import FINITE, FRACTION, POSITIVE, POSITIVE_FINITE, Bound, accept_number
from xrnn.engine.checks import check_library
from xrnn.learn.average import Average, accumulate
from xrnn.learn.schedules import Plateau, cosine, warmup
from xrnn.learn.trees import Tree, check_real, leaves, pairs, stored_for
from xrnn.recurrence.precision import accumulation_dtype, cast, widen
from xrnn.typing import Array, Namespace, dtype_name

__all__ = [
    "SGD",
    "Adam",
    "Average",
    "Optimizer",
    "Plateau",
    "accumulate",
    "clip_by_global_norm",
    "cosine",
    "warmup",
]


def clip_by_global_norm(dweights: Tree, limit: float) -> tuple[dict[str, Any], Array]:
    """Scale gradients so that the norm over all of them is at most `limit`.

    Parameters
    ----------
    dweights : tree of array
        The gradients.
    limit : float
        The largest norm of the result, above 0.  inf, or a limit that the dtype of the norm cannot
        hold, changes nothing.

    Returns
    -------
    clipped : tree of array
        New arrays; the gradients given are not written to.
    norm : array ()
        The norm before scaling, float32 for gradients of half precision.  It is not finite if a
        gradient is not finite; the gradients are then returned as they are, and the caller should
        skip the update.

    Raises
    ------
    TypeError
        If `limit` is not a number, or a gradient is not an array of real floating point, or the
        gradients are of different libraries.
    ValueError
        If `limit` is not above 0, or the tree holds no array.

    Examples
    --------
    >>> import numpy as np
    >>> clipped, norm = clip_by_global_norm({"W": np.array([3.0, 4.0])}, 1.0)
    >>> [round(g, 3) for g in clipped["W"].tolist()], float(norm)
    ([0.6, 0.8], 5.0)
    """
    limit = accept_number("limit", limit, *POSITIVE)
    arrays: list[Array] = []
    for path, holder, name in leaves(dweights, "dweights"):
        arrays.append(holder[name])
        check_real(f"the gradient of {path}", arrays[-1])
        check_library(f"the gradient of {path}", arrays[-1], "another", arrays[0])
    if not arrays:
        raise ValueError("dweights hold no gradient; give those of at least one weight")
    xp = backend_of(arrays[0]).xp
    with host.xp.errstate(all="ignore"):
        unit, root = _norm(arrays, xp=xp)
        norm = unit * root
        largest_limit = float(xp.finfo(norm.dtype).max)
        over = norm > limit if limit <= largest_limit else xp.zeros_like(norm, dtype=xp.bool)
        # Two factors, because the product of them may be too small for the dtype.
        divisor = xp.where(over, unit, xp.ones_like(unit))
        factor = xp.where(over, limit / root, xp.ones_like(root))
        return _scaled(dweights, divisor, factor, xp=xp), norm


def _norm(arrays: list[Array], *, xp: Namespace) -> tuple[Array, Array]:
    """Two factors of the norm over all arrays: the largest absolute value, and the rest.

    Divided by the largest, no square overflows.
    """
    dtype = xp.result_type(*(accumulation_dtype(g.dtype, xp=xp) for g in arrays))
    filled = [g for g in arrays if 0 not in g.shape]
    if not filled:
        one = xp.ones((), dtype=dtype, device=array_api_compat.device(arrays[0]))
        return one, xp.zeros_like(one)
    each = [xp.max(xp.abs(cast(g, dtype, xp=xp))) for g in filled]
    largest = xp.max(xp.stack(each))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    squares = [xp.sum((cast(g, dtype, xp=xp) / unit) ** 2) for g in filled]
    return unit, xp.sqrt(xp.sum(xp.stack(squares)))


def _scaled(tree: Tree, divisor: Array, factor: Array, *, xp: Namespace) -> dict[str, Any]:
    return {
        name: _scaled(value, divisor, factor, xp=xp)
        if isinstance(value, Mapping)
        else cast(widen(value, xp=xp) / divisor * factor, value.dtype, xp=xp)
        for name, value in tree.items()
    }


class Optimizer:
    """The base of `SGD` and `Adam`: the state for each weight, and the update of a tree.

    Attributes
    ----------
    lr : float
        The learning rate; assign to change it between updates.
    steps : int
        Updates made so far.
    state : dict of str to array
        The stored values for each weight, by slot and path (``"m.rnn.W_l0"``), float32 for
        weights of half precision.  `xrnn.save` writes it with the options and `steps`, so that
        training continues exactly.  When weights have moved to another library or device, the
        state follows at the next update.
    """

    slots: tuple[str, ...] = ()

    #: the options that are numbers, and what these must be; checked when they are assigned
    bounds: ClassVar[dict[str, Bound]] = {"lr": FINITE}

    def __init__(self, lr: float) -> None:
        self.lr = accept_number("lr", lr, *POSITIVE_FINITE)
        self.steps = 0
        self.state: dict[str, Array] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.bounds:
            value = accept_number(name, value, *self.bounds[name])
        super().__setattr__(name, value)

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this optimizer: all but `lr`,
        which training changes."""
        options = {name: getattr(self, name) for name in self.bounds if name != "lr"}
        return {"kind": "optimizer", "class": type(self).__name__, **options}

    def update(self, weights: MutableMapping[str, Any], dweights: Tree) -> None:
        """Change every weight by its gradient, in place where the library allows it.

        Parameters
        ----------
        weights : tree of array
            The weights, such as ``layer.weights``.  Each array once: for tied weights leave all
            names but one out, and add up their gradients.
        dweights : tree of array
            Their gradients, under the same names and of the same shapes.

        Raises
        ------
        ValueError
            If the trees do not have the same names and shapes or hold no array, a weight is
            read-only, or two weights are one array; nothing is changed then.
        TypeError
            If weights are frozen, or a weight or gradient is not of real floating point, or they
            are of different libraries or devices; nothing is changed then.
        """
        given = pairs(weights, dweights)
        state: dict[str, Array] = {}
        steps, moves = self.steps + 1, []
        with host.xp.errstate(under="ignore"):
            for path, holder, name, g in given:
                w = holder[name]
                xp = backend_of(w).xp
                dtype = accumulation_dtype(w.dtype, xp=xp)
                old = {s: stored_for(w, self.state, f"{s}.{path}", xp=xp) for s in self.slots}
                g = cast(g, dtype, xp=xp)
                move, new = self._move(widen(w, xp=xp), g, old, steps, xp=xp)
                moves.append((holder, name, move))
                state |= {f"{s}.{path}": a for s, a in new.items()}
        # From here on nothing can fail.
        with host.xp.errstate(all="ignore"):
            for holder, name, move in moves:
                w = holder[name]
                xp, dtype = backend_of(w).xp, w.dtype
                w -= move
                # In a library without changes in place w is now another array, perhaps wider.
                holder[name] = cast(w, dtype, xp=xp)
        # A new mapping: a state that was read before stays as it was.
        self.state = self.state | state
        self.steps = steps

    def _move(
        self, w: Array, g: Array, old: dict[str, Array], steps: int, *, xp: Namespace
    ) -> tuple[Array, dict[str, Array]]:
        """What is subtracted from w, and the new state, at the step of that number."""
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent: v ← momentum · v + g,  w ← w − lr · v.

    Parameters
    ----------
    lr : float
        The learning rate.
    momentum : float
        The fraction of the last direction that is kept (Polyak, 1964), in [0, 1).

    Raises
    ------
    TypeError
        If an option is not a number.
    ValueError
        If `lr` is not above 0 and finite, or the momentum is not in [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"W": np.array([1.0])}
    >>> SGD(0.1).update(weights, {"W": np.array([2.0])})
    >>> weights["W"].tolist()
    [0.8]
    """

    bounds: ClassVar[dict[str, Bound]] = {"lr": FINITE, "momentum": FRACTION}

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        super().__init__(lr)
        self.momentum = momentum

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("v",) if self.momentum else ()

    def _move(
        self, w: Array, g: Array, old: dict[str, Array], steps: int, *, xp: Namespace
    ) -> tuple[Array, dict[str, Array]]:
        if not self.momentum:
            return self.lr * g, {}
        v = self.momentum * old["v"] + g
        return self.lr * v, {"v": v}


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); with `weight_decay`, AdamW (Loshchilov & Hutter, 2019).

    m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
    w ← w − lr · ( m̂ / (√v̂ + ε) + weight_decay · w ),   m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ)

    Parameters
    ----------
    lr : float
        The learning rate.
    beta1, beta2 : float
        β₁, β₂ in [0, 1).
    eps : float
        ε ≥ 0.  It counts as at least the square root of the smallest normal number of the
        dtype: v, a square, cannot be told from 0 below it.
    weight_decay : float
        The weight decay of matrices, ≥ 0; vectors (biases, peepholes) do not decay.

    Raises
    ------
    TypeError
        If an option is not a number.
    ValueError
        If `lr` is not above 0 and finite, or another option is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"W": np.array([1.0])}
    >>> Adam(0.1).update(weights, {"W": np.array([2.0])})
    >>> [round(w, 6) for w in weights["W"].tolist()]
    [0.9]
    """

    slots = ("m", "v")
    bounds: ClassVar[dict[str, Bound]] = {
        "lr": FINITE,
        "beta1": FRACTION,
        "beta2": FRACTION,
        "eps": FINITE,
        "weight_decay": FINITE,
    }

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr)
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay

    def _move(
        self, w: Array, g: Array, old: dict[str, Array], steps: int, *, xp: Namespace
    ) -> tuple[Array, dict[str, Array]]:
        # In place, but for what was given: fresh memory would take longer than the arithmetic.
        m = self.beta1 * old["m"]
        m += (1 - self.beta1) * g
        square = g * g
        square *= 1 - self.beta2
        v = self.beta2 * old["v"]
        v += square
        root = xp.sqrt(v)
        root /= sqrt(1 - self.beta2**steps)
        root += max(self.eps, _least(dtype_name(w.dtype), xp))
        direction = m / (1 - self.beta1**steps)
        direction /= root
        if self.weight_decay and w.ndim > 1:
            direction += self.weight_decay * w
        direction *= self.lr
        return direction, {"m": m, "v": v}


@cache
def _least(dtype: str, xp: Namespace) -> float:
    """The square root of the smallest normal number of the dtype of that name."""
    return sqrt(float(xp.finfo(getattr(xp, dtype)).smallest_normal))
