"""Bound cells in L layers and D directions: forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from xrnn.backends import host
from xrnn.cells.noise import Noise
from xrnn.engine.bound_cell import BoundCell, Drawn, Pass, run_both
from xrnn.engine.bound_cell import backward as run_backward
from xrnn.engine.sums import Adding, adding
from xrnn.typing import Array, Gradients, State

#: for each layer the bound cells of its directions
Stack = list[tuple[BoundCell, ...]]


class Draws(Protocol):
    """The random numbers of a pass; see `xrnn.engine.random.Random`."""

    @property
    def dropout(self) -> float: ...

    @property
    def weight_drop(self) -> float: ...

    def between(self, k: int, shape: tuple[int, int, int]) -> Array: ...

    def of_cell(self, noise: Noise, k: int, d: int, shape: tuple[int, int, int]) -> Array: ...

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array: ...


def forward(
    stack: Stack,
    xs: Array,
    firsts: list[State],
    lengths: Array | None,
    *,
    random: Draws | None = None,
    keep: bool,
) -> tuple[Array, list[State], list[Pass], list[Array]]:
    """Run the layers, each over the outputs of the one below.

    Returns the outputs of the last layer; the last states; the passes (none without `keep`); and
    the dropout masks, one for each layer but the last (none without dropout).  States and passes
    are in the order of `firsts`: layer 0 forward, layer 0 reverse, layer 1 forward …
    """
    lasts: list[State] = []
    passes: list[Pass] = []
    masks: list[Array] = []
    for k, cells in enumerate(stack):
        drawn: list[Drawn | None] = [None] * len(cells)
        if random is not None:
            drawn = [_drawn(one, random, k, d, *xs.shape[:2]) for d, one in enumerate(cells)]
        if len(cells) == 1:
            found = [cells[0].run(xs, firsts[k], lengths, keep, *drawn)]
            xs = found[0][0]
        else:
            found = run_both(cells, xs, firsts[2 * k : 2 * k + 2], lengths, keep, drawn)
            xs = cells[0].xp.concat([ys for ys, _, _ in found], axis=-1)
        for _, last, one in found:
            lasts.append(last)
            if one is not None:
                passes.append(one)
        if random is not None and random.dropout and k + 1 < len(stack):
            masks.append(random.between(k, xs.shape))
            xs = dropped(xs, masks[-1])
    return xs, lasts, passes, masks


def _drawn(one: BoundCell, random: Draws, k: int, d: int, T: int, B: int) -> Drawn | None:
    """The random numbers of the cell of layer k in direction d, if there are any."""
    if not (one.cell.noise or random.weight_drop):
        return None
    over_U = random.over_weights(k, d, one.weights["U"].shape) if random.weight_drop else None
    return Drawn(
        {n.name: random.of_cell(n, k, d, (T, B, one.widths[n.state])) for n in one.cell.noise},
        over_U,
    )


#: run(passes, dys, dlasts, omit_dxs) → the gradients of one pass, or of both directions over the
#: same inputs
OfLayer = Callable[[list[Pass], list[Array | None], list[State], bool], list[Any]]


def backward(
    passes: list[Pass],
    masks: list[Array],
    D: int,
    dys: Array | None,
    dlasts: list[State],
    run: OfLayer = run_backward,
    *,
    omit_dxs: bool = False,
) -> list[Any]:
    """The gradients of every pass, from those of ys (T, B, D·n) and of the last states.

    They are what `run` gives for each layer, by default `xrnn.typing.Gradients`.  With `omit_dxs`
    the gradient of the inputs is None.
    """
    found: list[Any] = [None] * len(passes)
    for k in reversed(range(len(passes) // D)):
        part = slice(k * D, (k + 1) * D)
        n = passes[k * D].bound.widths[0]
        ds = [None if dys is None else dys[..., d * n : (d + 1) * n] for d in range(D)]
        omitted = omit_dxs and k == 0
        found[part] = run(passes[part], ds, dlasts[part], omitted)
        dxs = None if omitted else found[k * D][0]
        if D == 2 and not omitted:
            dxs = dxs + found[k * D + 1][0]
        dys = dropped(dxs, masks[k - 1]) if k and masks else dxs
    found[0] = (dys, *found[0][1:])
    return found


class Whole(NamedTuple):
    """What a run of all steps keeps for its backward pass; of D directions."""

    passes: list[Pass]
    masks: list[Array]
    D: int

    @property
    def few(self) -> int:
        """All states are held."""
        return 0

    def backward(
        self,
        dys: Array | None,
        dlasts: list[State],
        omit_dxs: bool = False,
        sums: list[Adding] | None = None,
    ) -> list[Gradients]:
        """As the function of this module; see `xrnn.engine.checkpoint.Run`."""
        given = (self.passes, self.masks, self.D, dys, dlasts)
        if sums is None:
            return backward(*given, omit_dxs=omit_dxs)
        found = backward(*given, adding(self.passes, sums), omit_dxs=omit_dxs)
        totals = [total.total(one) for total, one in zip(sums, self.passes, strict=True)]
        return [(*one[:2], total) for one, total in zip(found, totals, strict=True)]


@host.ignore_underflow
def dropped(a: Array, mask: Array) -> Array:
    """What a mask of `Draws.between` leaves of outputs, or of their gradients."""
    return a * mask
