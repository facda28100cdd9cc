"""Zoneout, which any cell can have: units keep their old state at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any

from xrnn.cells.base import Cell, check_cell
from xrnn.cells.noise import Noise, rate_of
from xrnn.typing import Array, Contribution, Namespace, S, State, Weights


def zoneout_rates(kind: str, states: int, given: Any) -> tuple[float, ...]:
    """The probabilities for each state: given in a sequence, or alone where there is one state.

    The number 0 alone stands for no zoneout of any state.

    Raises
    ------
    TypeError, ValueError
        If there is not a number in [0, 1) for each state.
    """
    if states == 1 and not isinstance(given, tuple | list):
        return (rate_of(kind, "zoneout", given),)
    if isinstance(given, Real) and not isinstance(given, bool) and given == 0:
        return (0.0,) * states
    if not isinstance(given, tuple | list) or len(given) != states:
        must = f"hold {states} numbers" if states > 1 else "be a number"
        of_what = ", one for each state" if states > 1 else ""
        raise ValueError(f"{kind}: zoneout is {given!r:.80}; it must {must} in [0, 1){of_what}")
    return tuple(rate_of(kind, f"zoneout[{n}]", rate) for n, rate in enumerate(given))


@dataclass(frozen=True)
class Zoneout:
    """The options of `with_zoneout`: a cell, and a probability for each of its states."""

    cell: Cell[Any]
    rates: tuple[float, ...]

    def name(self, cell: str) -> str:
        """The name of the new cell, if that of the old one is `cell`."""
        return f"zoneout({cell}, {', '.join(map(str, self.rates))})"

    @property
    def identity(self) -> str:
        """As `Cell.identity`."""
        return self.name(self.cell.identity)


def with_zoneout(cell: Cell[S], *rates: float) -> Cell[S]:
    """A cell whose units keep their old state at random.

    s_t = z ⊙ s_{t-1} + (1 − z) ⊙ s̃_t

    for each state s, where s̃_t is what the cell computes from the states of the step before, and
    z is drawn anew for every step, sequence and unit: 1 with the probability of that state, else
    0.  In inference z is that probability itself.

    Source: Krueger et al. (2016), arXiv:1606.01305, eqs 4 and 5.

    Parameters
    ----------
    cell : Cell
        Any cell.
    *rates : float
        A probability in [0, 1) for each of ``cell.states``.

    Returns
    -------
    Cell
        The same one for the same arguments; `cell` itself if all are 0.

    Raises
    ------
    TypeError, ValueError
        If `cell` is no cell or has zoneout already, or there is not such a number for each of its
        states.

    Examples
    --------
    >>> from xrnn import cells
    >>> cells.with_zoneout(cells.LSTM, 0.05, 0.5)
    <cell zoneout(lstm, 0.05, 0.5)>
    """
    check_cell(cell)
    found = zoneout_rates(cell.name, len(cell.states), rates)
    if any(found) and {one.name for one in cell.noise} & set(_names(cell)):
        raise ValueError(f"{cell.name}: the cell has zoneout already; give the cell without it")
    return made(Zoneout(cell, found)) if any(found) else cell


@cache
def made(options: Zoneout) -> Cell[Any]:
    """The cell of these options."""
    inner, rates = options.cell, options.rates
    names = _names(inner)
    drawn = tuple(
        Noise(name, "keep", rate, k)
        for k, (name, rate) in enumerate(zip(names, rates, strict=True))
        if rate
    )
    given = dict(zip(names, rates, strict=True))
    inner_step, inner_backward, states = inner.step, inner.step_backward, len(rates)

    def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
        return _step(inner_step, given, ax, state, weights, xp=xp)

    def step_backward(
        dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]:
        return _step_backward(inner_backward, states, dstate, saved, weights, xp=xp)

    return Cell(
        name=options.name(inner.name),
        gates=inner.gates,
        states=inner.states,
        step=step,
        step_backward=step_backward,
        recurrent=inner.recurrent,
        extras=inner.extras,
        biases=inner.biases,
        bias_in_step=inner.bias_in_step,
        ones=inner.ones,
        projection=inner.projection,
        noise=(*inner.noise, *drawn),
        analytic=inner.analytic,
        options=options,
        maker=made,
    )


def _names(cell: Cell[Any]) -> tuple[str, ...]:
    """The names by which the step finds z, for each state."""
    return tuple(f"zoneout_{state}" for state in cell.states)


def _step(
    inner: Any,
    rates: dict[str, float],
    ax: Array,
    state: State,
    weights: Weights,
    *,
    xp: Namespace,
) -> tuple[State, Any]:
    new, saved = inner(ax, state, weights, xp=xp)
    zs = [
        weights[name] if name in weights else xp.full_like(s, rate)
        for (name, rate), s in zip(rates.items(), state, strict=True)
    ]
    mixed = [z * old + (1 - z) * s for z, old, s in zip(zs, state, new, strict=True)]
    return tuple(mixed), (*saved, *zs)


def _step_backward(
    inner: Any, states: int, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    zs = saved[len(saved) - states :]
    dnew = tuple((1 - z) * d for z, d in zip(zs, dstate, strict=True))
    dax, dprev, dweights = inner(dnew, saved[: len(saved) - states], weights, xp=xp)
    kept = [z * d + dp for z, d, dp in zip(zs, dstate, dprev, strict=True)]
    return dax, tuple(kept), dweights
