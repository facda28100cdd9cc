"""Optimizers for arrays of any backend.

Each takes a tree of weights and the tree of their gradients.  A tree is a mapping of names to
arrays, like the weights of a layer, or a mapping of such mappings:
``{"rnn": layer.weights, "out": …}``.  Weights are updated in place if the library has arrays that
can be written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from xrnn.backends import backend_of
from xrnn.engine.checks import check_library
from xrnn.engine.parameters import Parameters
from xrnn.typing import Array, is_floating

Tree = Mapping[str, Any]


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(path, mapping that holds it, its name there) of every array of a tree."""
    if not isinstance(tree, Mapping):
        raise TypeError(
            f"{prefix.rstrip('.') or 'a tree'} is a {type(tree).__name__}; it must be a mapping of "
            "names to arrays, or of names to such mappings"
        )
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tree, name


def clip_by_global_norm(dweights: Tree, limit: float) -> tuple[dict[str, Any], Array]:
    """Scale gradients so that the norm over all of them is at most `limit`.

    Parameters
    ----------
    dweights : tree of array
        The gradients.
    limit : float
        The largest norm of the result.

    Returns
    -------
    clipped : tree of array
        New arrays; the gradients given are not written to.
    norm : array ()
        The norm before scaling.  It is not finite if a gradient is not finite; the caller
        should then skip the update.

    Raises
    ------
    ValueError
        If `limit` is not above 0.
    IndexError
        If the tree holds no array.

    Examples
    --------
    >>> import numpy as np
    >>> clipped, norm = clip_by_global_norm({"W": np.array([3.0, 4.0])}, 1.0)
    >>> [round(g, 3) for g in clipped["W"].tolist()], float(norm)
    ([0.6, 0.8], 5.0)
    """
    if not limit > 0:
        raise ValueError(f"limit is {limit}; it must be > 0")
    arrays = [holder[name] for _, holder, name in leaves(dweights)]
    if not arrays:
        raise ValueError("dweights hold no gradient; give those of at least one weight")
    xp = backend_of(arrays[0], "the gradient").xp
    # Divided by the largest first, so that no square overflows (the limit of float16 is 65504).
    largest = xp.max(xp.stack([xp.max(xp.abs(g)) for g in arrays]))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    norm = unit * xp.sqrt(xp.sum(xp.stack([xp.sum((g / unit) ** 2) for g in arrays])))
    scale = limit / xp.where(norm > limit, norm, xp.ones_like(norm) * limit)
    return _scaled(dweights, scale), norm


def _scaled(tree: Tree, scale: Array) -> dict[str, Any]:
    return {
        name: _scaled(value, scale) if isinstance(value, Mapping) else value * scale
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
        The stored values for each weight, by slot and path (``"m.rnn.W_l0"``).  Save it with
        `steps` to continue training exactly.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, lr: float) -> None:
        if not lr > 0:
            raise ValueError(f"lr is {lr}; it must be > 0")
        self.lr = lr
        self.steps = 0
        self.state: dict[str, Array] = {}

    def update(self, weights: MutableMapping[str, Any], dweights: Tree) -> None:
        """Change every weight by its gradient, in place where the library allows it.

        Parameters
        ----------
        weights : tree of array
            The weights, such as ``layer.weights``.
        dweights : tree of array
            Their gradients, under the same names and of the same shapes.

        Raises
        ------
        ValueError
            If the trees do not have the same names and shapes, or a weight is read-only; nothing
            is changed then.
        TypeError
            If weights are frozen, or a weight or gradient is not of floating point, or they are
            of different libraries; nothing is changed then.
        """
        mine = {path: (holder, name) for path, holder, name in leaves(weights)}
        theirs = {path: holder[name] for path, holder, name in leaves(dweights)}
        if set(mine) != set(theirs):
            odd = ", ".join(sorted(set(mine) ^ set(theirs)))
            raise ValueError(f"weights and dweights differ in {odd}; they must have the same names")
        for path, (holder, name) in mine.items():
            if isinstance(holder, Parameters):
                holder.check_changeable()
            _check_pair(path, holder[name], theirs[path])
            if tuple(holder[name].shape) != tuple(theirs[path].shape):
                raise ValueError(
                    f"the gradient of {path} has shape {tuple(theirs[path].shape)}; "
                    f"it must be {tuple(holder[name].shape)}"
                )
        self.steps += 1
        for path, (holder, name) in mine.items():
            w, g = holder[name], theirs[path]
            xp = backend_of(w, path).xp
            for slot in self.slots:
                if f"{slot}.{path}" not in self.state:
                    self.state[f"{slot}.{path}"] = xp.zeros_like(w)
            w -= self.lr * self._direction(path, w, g, xp)
            holder[name] = w

    def _direction(self, path: str, w: Array, g: Array, xp: Any) -> Array:
        raise NotImplementedError


def _check_pair(path: str, w: Array, g: Array) -> None:
    """Raise unless w can be changed by its gradient g."""
    backend = backend_of(w, path)
    check_library(f"the gradient of {path}", g, path, w)
    for name, a in ((path, w), (f"the gradient of {path}", g)):
        if not is_floating(a.dtype, xp=backend.xp):
            raise TypeError(f"{name} is {a.dtype}; it must be real floating point")
    if not getattr(getattr(w, "flags", None), "writeable", True):
        raise ValueError(f"{path} is read-only; give a copy of it: weights[name] = w.copy()")


class SGD(Optimizer):
    """Gradient descent: v ← momentum · v + g,  w ← w − lr · v.

    Parameters
    ----------
    lr : float
        The learning rate.
    momentum : float
        The fraction of the last direction that is kept (Polyak, 1964).

    Raises
    ------
    ValueError
        If `lr` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"W": np.array([1.0])}
    >>> SGD(0.1).update(weights, {"W": np.array([2.0])})
    >>> weights["W"].tolist()
    [0.8]
    """

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        super().__init__(lr)
        self.momentum = momentum
        self.slots = ("v",) if momentum else ()

    def _direction(self, path: str, w: Array, g: Array, xp: Any) -> Array:
        if not self.momentum:
            return g
        v = self.momentum * self.state[f"v.{path}"] + g
        self.state[f"v.{path}"] = v
        return v


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); with `weight_decay`, AdamW (Loshchilov & Hutter, 2019).

    m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
    w ← w − lr · ( m̂ / (√v̂ + ε) + weight_decay · w ),   m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ)

    Parameters
    ----------
    lr : float
        The learning rate.
    beta1, beta2, eps : float
        β₁, β₂, ε.
    weight_decay : float
        The weight decay of matrices; vectors (biases, peepholes) do not decay.

    Raises
    ------
    ValueError
        If `lr` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"W": np.array([1.0])}
    >>> Adam(0.1).update(weights, {"W": np.array([2.0])})
    >>> [round(w, 6) for w in weights["W"].tolist()]
    [0.9]
    """

    slots = ("m", "v")

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

    def _direction(self, path: str, w: Array, g: Array, xp: Any) -> Array:
        m = self.beta1 * self.state[f"m.{path}"] + (1 - self.beta1) * g
        v = self.beta2 * self.state[f"v.{path}"] + (1 - self.beta2) * (g * g)
        self.state[f"m.{path}"], self.state[f"v.{path}"] = m, v
        m_hat = m / (1 - self.beta1**self.steps)
        v_hat = v / (1 - self.beta2**self.steps)
        direction = m_hat / (xp.sqrt(v_hat) + self.eps)
        return direction + self.weight_decay * w if self.weight_decay and w.ndim > 1 else direction
