"""Sums of gradients over batches, and averages of weights over updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from xrnn.backends import backend_of, host
from xrnn.cells.numbers import FRACTION, Bound, accept_number
from xrnn.engine.checks import check_library
from xrnn.learn.trees import Tree, check_holder, check_real, leaves, stored_for
from xrnn.recurrence.precision import cast, widen
from xrnn.typing import Array

#: what the share of a batch must be
ANY_FINITE: Bound = ("finite", lambda x: abs(x) < float("inf"))


def accumulate(total: Tree | None, dweights: Tree, factor: float = 1.0) -> dict[str, Any]:
    """The sum of gradients over several batches: ``total + factor * dweights``.

    Parameters
    ----------
    total : tree of array or None
        The sum so far; None before the first batch.
    dweights : tree of array
        The gradients of one more batch, under the same names and of the same shapes.
    factor : float
        What they are multiplied by: the part of the batch in all positions, where the loss is
        the mean over all of them.

    Returns
    -------
    tree of array
        New arrays, float32 for gradients of half precision; optimizers take them as they are.

    Raises
    ------
    TypeError
        If a gradient is not an array of real floating point, both are not of one library, or
        `factor` is not a number.
    ValueError
        If the trees differ in names or shapes, or `factor` is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> total = None
    >>> for part in (1.0, 3.0):
    ...     total = accumulate(total, {"W": np.full(2, part)}, factor=0.5)
    >>> total["W"].tolist()
    [2.0, 2.0]
    """
    factor = accept_number("factor", factor, *ANY_FINITE)
    new = {path: holder[name] for path, holder, name in leaves(dweights, "dweights")}
    for path, g in new.items():
        check_real(f"the gradient of {path}", g)
    if total is not None:
        _check_alike(dict(_paths(total, "total")), new)
    with host.xp.errstate(all="ignore"):
        return _sum(total, dweights, factor)


def _paths(tree: Tree, what: str) -> Iterator[tuple[str, Array]]:
    yield from ((path, holder[name]) for path, holder, name in leaves(tree, what))


def _check_alike(total: Mapping[str, Array], dweights: Mapping[str, Array]) -> None:
    if odd := sorted(set(total) ^ set(dweights)):
        raise ValueError(
            f"total and dweights differ in {', '.join(odd)}; they must have the same names"
        )
    for path, g in dweights.items():
        check_real(f"total {path}", total[path])
        check_library(f"the gradient of {path}", g, "total", total[path])
        if tuple(g.shape) != tuple(total[path].shape):
            raise ValueError(
                f"the gradient of {path} has shape {tuple(g.shape)}; it must be that of total, "
                f"{tuple(total[path].shape)}"
            )


def _sum(total: Any, dweights: Tree, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, g in dweights.items():
        before = None if total is None else total[name]
        if isinstance(g, Mapping):
            found[name] = _sum(before, g, factor)
        else:
            xp = backend_of(g).xp
            found[name] = widen(g, xp=xp) * factor
            if before is not None:
                found[name] = found[name] + widen(before, xp=xp)
    return found


class Average:
    """A moving average of weights, which often generalises better than the weights themselves.

    a ← decay · a + (1 − decay) · w after each update; the first update takes the weights.

    Parameters
    ----------
    decay : float
        In [0, 1); about 1 / (1 − decay) updates are averaged over.

    Attributes
    ----------
    steps : int
        Updates made so far.
    state : dict of str to array
        The average of each weight by path (``"rnn.W_l0"``), float32 for weights of half precision.
        `xrnn.save` writes it with `steps`, so that averaging continues exactly.  When weights have
        moved to another library or device, it follows at the next update.

    Raises
    ------
    TypeError
        If `decay` is not a number.
    ValueError
        If it is not in [0, 1).

    References
    ----------
    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992).

    Examples
    --------
    >>> import numpy as np
    >>> weights, average = {"W": np.array([1.0])}, Average(0.75)
    >>> average.update(weights)
    >>> weights["W"] += 4
    >>> average.update(weights)
    >>> with average.swapped(weights):
    ...     print(weights["W"])
    [2.]
    >>> weights["W"]
    array([5.])
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = accept_number("decay", decay, *FRACTION)
        self.steps = 0
        self.state: dict[str, Array] = {}

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this average."""
        return {"kind": "average", "decay": self.decay}

    def update(self, weights: Tree) -> None:
        """Take the weights into the average; call it after each update of the optimizer.

        Parameters
        ----------
        weights : tree of array
            The same names and shapes at each call.

        Raises
        ------
        TypeError
            If a weight is not an array of real floating point.
        ValueError
            If the tree holds no array, or names or shapes are not those of the average; nothing
            is changed then.

        Examples
        --------
        >>> import xrnn
        >>> layer, average = xrnn.GRU(3, 5), Average(0.99)
        >>> average.update(layer.weights)
        """
        new: dict[str, Array] = {}
        with host.xp.errstate(all="ignore"):
            for path, w in _paths(weights, "weights"):
                check_real(path, w)
                xp = backend_of(w).xp
                if path in self.state:
                    a = stored_for(w, self.state, path, xp=xp)
                    new[path] = a + (1 - self.decay) * (widen(w, xp=xp) - a)
                else:
                    new[path] = xp.asarray(widen(w, xp=xp), copy=True)
        if self.steps:
            self._check_names(new)
        elif not new:
            raise ValueError("weights hold no array; give those of a layer: layer.weights")
        self.state, self.steps = new, self.steps + 1

    def copy_to(self, weights: MutableMapping[str, Any]) -> None:
        """Put the averages in the place of the weights, in the dtypes of these.

        Parameters
        ----------
        weights : tree of array
            The same names and shapes as the average.

        Raises
        ------
        TypeError
            If weights are frozen or in no mapping that can be changed; nothing is changed then.
        ValueError
            If nothing was averaged yet, or names or shapes are not those of the average; nothing
            is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> weights, average = {"W": np.array([1.0])}, Average(0.5)
        >>> average.update({"W": np.array([3.0])})
        >>> average.copy_to(weights)
        >>> weights["W"].tolist()
        [3.0]
        """
        for holder, name, a in self._averages(weights):
            holder[name] = a

    @contextmanager
    def swapped(self, weights: MutableMapping[str, Any]) -> Iterator[None]:
        """A context in which the averages stand in the place of the weights, such as to evaluate.

        After it the weights are as they were before, whatever was done to them in between.

        Parameters
        ----------
        weights : tree of array
            The same names and shapes as the average.

        Raises
        ------
        TypeError, ValueError
            As of `copy_to`.
        """
        given = [(holder, name, holder[name]) for holder, name, _ in self._averages(weights)]
        try:
            self.copy_to(weights)
            yield
        finally:
            for holder, name, w in given:
                holder[name] = w

    def _averages(self, weights: Any) -> list[tuple[Any, str, Array]]:
        """(mapping that holds a weight, its name there, its average) after all checks."""
        if not self.steps:
            raise ValueError("weights were not averaged yet; call average.update(weights) first")
        found, names = [], {}
        for path, holder, name in leaves(weights, "weights"):
            w = names[path] = holder[name]
            check_holder(path, holder, w)
            if path in self.state:
                xp = backend_of(w).xp
                a = cast(stored_for(w, self.state, path, xp=xp), w.dtype, xp=xp)
                found.append((holder, name, xp.asarray(a, copy=True)))
        self._check_names(names)
        return found

    def _check_names(self, names: Mapping[str, Any]) -> None:
        if odd := sorted(set(names) ^ set(self.state)):
            raise ValueError(
                f"weights and their average differ in {', '.join(odd)}; they must have the same "
                "names"
            )
