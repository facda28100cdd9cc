"""The law of the derivative: backward equals the numeric derivative of forward."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from xrnn.backends import host
from xrnn.cells import Cell
from xrnn.certify.distance import worse
from xrnn.certify.trial import Parts, Results, Trial, each, leaves
from xrnn.typing import Array

#: the gradients of the outputs and of the last states that an objective has
Subset = tuple[Array | None, Parts]


def derivative(trial: Trial) -> float | None:
    """Law 1.  It does not apply where rounding decides on the sides of kinks."""
    if trial.undecided:
        return None
    inputs, names = trial.inputs, trial.cell.states
    alone = [
        (None, tuple(d if n == k else None for n, d in enumerate(inputs.dlast)))
        for k in range(len(names))
    ]
    subsets = [(inputs.dys, (None,) * len(names)), *alone, (inputs.dys, inputs.dlast)]
    exact = [
        _gradients(trial.run(inputs._replace(dys=dys, dlast=dlast)), inputs.state is not None)
        for dys, dlast in subsets
    ]
    worst = 0.0
    for n, (name, like) in enumerate(exact[0].items()):
        direction = host.generator(100 + n).normal(size=like.shape)
        # One moved pass serves all subsets: they differ in what its results are multiplied by.
        slopes = _slopes(trial, name, direction, subsets)
        for gradients, numeric in zip(exact, slopes, strict=True):
            products = gradients[name].astype("float64") * direction
            scale = max(abs(numeric), float(abs(products).sum()), 1e-30)
            worst = worse(worst, abs(float(products.sum()) - numeric) / scale)
    return worst


def _gradients(out: Results, with_state: bool) -> dict[str, Array]:
    """The gradient of each argument that the numeric derivative moves."""
    states = {f"state {n}": d for n, d in enumerate(leaves(out.dfirst))} if with_state else {}
    return {"xs": out.dxs, **out.dweights, **states}


def runs_in_complex(cell: Cell[Any]) -> bool:
    """Whether the step of a cell also runs in complex numbers.

    A cell with options does so even where it has kinks: it is analytic on each side of them.
    """
    inner = getattr(cell.made, "cell", cell)  # of zoneout
    return bool(inner.analytic or inner.made is not None)


def _slopes(trial: Trial, name: str, direction: Array, subsets: list[Subset]) -> list[float]:
    """d/de of ⟨ys, dys⟩ + ⟨last, dlast⟩ as the argument `name` moves by e · direction, for each
    (dys, dlast) of `subsets`.

    By a complex step, which is exact to rounding, where the cell runs in complex numbers; else by
    differences.
    """
    if runs_in_complex(trial.cell):
        e = 1e-30
        moved = _moved(trial, name, direction * (1j * e), "complex128")
        return [float(_objective(trial, *moved, *given).imag) / e for given in subsets]
    e = 1e-6
    ahead = _moved(trial, name, direction * e, "float64")
    behind = _moved(trial, name, -direction * e, "float64")
    return [
        float(_objective(trial, *ahead, *given) - _objective(trial, *behind, *given)) / (2 * e)
        for given in subsets
    ]


def _moved(trial: Trial, name: str, move: Array, dtype: str) -> tuple[Array, Parts]:
    """The outputs and last states in `dtype`, with `move` added to the argument `name`."""

    def shifted(a: Array, path: str) -> Array:
        return a.astype(dtype) + (move if path == name else 0)

    to_host, inputs = trial.backend.to_host, trial.inputs
    weights = {k: shifted(to_host(w), k) for k, w in trial.layer.weights.items()}
    count = itertools.count()
    state = each(lambda a: shifted(a, f"state {next(count)}"), inputs.state)
    there = trial.on_device(inputs._replace(xs=shifted(inputs.xs, "xs"), state=state))
    if dtype == "complex128" and not trial.cell.analytic:
        trial = replace(trial, cell=replace(trial.cell, analytic=True))
    how: Any = {"seed": trial.seed, **there.steps}
    layer = trial.make_layer(weights)
    ys, last, _ = layer.forward(there.xs, there.state, there.lengths, **how)
    return to_host(ys), each(to_host, last)


def _objective(trial: Trial, ys: Array, last: Parts, dys: Array | None, dlast: Parts) -> Any:
    """⟨ys, dys⟩ + ⟨last, dlast⟩, without those that are None."""
    wanted = tuple([s for s, d in zip(last, dlast, strict=True) if d is not None])
    pairs = list(zip(leaves(wanted), leaves(dlast), strict=True))
    if dys is not None:
        valid = ~trial.silent()
        pairs.append((ys[valid], dys[valid]))
    return sum((a * b.astype("float64")).sum() for a, b in pairs)
