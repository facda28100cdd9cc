"""Random initial weights."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.cells.base import Cell
from xrnn.cells.numbers import accept_number
from xrnn.engine.checks import Spec, check_choice
from xrnn.typing import Array, Init

INITS = ("orthogonal", "uniform")


class Part(NamedTuple):
    """One cell of a layer: its inputs and hidden units, the letter for its inputs in messages, and
    the ending of its weights' names."""

    I: int
    H: int
    letter: str
    suffix: str


def draw(
    cell: Cell[Any],
    I: int,
    H: int,
    *,
    bias: bool = True,
    init: Init = "orthogonal",
    forget_bias: float = 1.0,
    rng: Any = None,
) -> dict[str, Array]:
    """Draw the weights of one cell on the host, in float64.

    The caller then casts them and moves them to the device, so that a seed gives the same weights
    on every backend.

    Parameters
    ----------
    cell : Cell
        The cell that decides names and shapes.
    I, H : int
        Inputs and hidden units.
    bias : bool
        Whether there are biases.
    init : {"orthogonal", "uniform"}
        "orthogonal": every H×H block of U is a random orthogonal matrix (Saxe et al., 2014; with
        a projection every H×P block has orthonormal columns or rows), every block of W is Glorot
        uniform in ±√(6/(I+H)) (Glorot & Bengio, 2010), P in the same way in ±√(6/(P+H)), and all
        other weights are 0.  "uniform": all weights are uniform in ±1/√H, as in PyTorch.
        Gains (`Cell.ones`) are 1 with both.
    forget_bias : float
        With "orthogonal": the bias of a gate named f at the start (Jozefowicz et al., 2015).
    rng : int or numpy.random.Generator, optional
        The seed or generator.  Default: a new random seed.

    Returns
    -------
    dict of str to numpy.ndarray
        Names and shapes of ``cell.shapes(I, H, bias)``.

    Raises
    ------
    ValueError
        If `init` is unknown, or `forget_bias` is not a number.

    Examples
    --------
    >>> from xrnn.cells import LSTM
    >>> w = draw(LSTM, 3, 5, rng=0)
    >>> float(w["b"][5]), w["U"].shape  # the forget gate's bias; U
    (1.0, (20, 5))
    """
    check_init(cell.name, init, forget_bias)
    xp, random = host.xp, host.generator(rng)
    shapes = cell.shapes(I, H, bias)
    gains = {name: xp.ones(shapes[name]) for name in cell.ones}
    if init == "uniform":
        limit = H**-0.5
        drawn = {name: random.uniform(-limit, limit, shape) for name, shape in shapes.items()}
        return drawn | gains
    weights = {name: xp.zeros(shape) for name, shape in shapes.items()} | gains
    weights["W"] = _glorot(I, H, shapes["W"], random)
    if cell.recurrent:
        blocks = [_orthogonal(H, shapes["U"][1], random) for _ in cell.gates]
        weights["U"] = xp.concat(blocks)
    if cell.projection is not None:
        weights["P"] = _glorot(H, cell.projection, shapes["P"], random)
    if bias and "f" in cell.gates:
        k = cell.gates.index("f")
        weights["b"][k * H : (k + 1) * H] = forget_bias
    return weights


def draw_all(
    cell: Cell[Any], parts: list[Part], learn_state: bool, rng: Any, **options: Any
) -> dict[str, Array]:
    """Draw the weights of all cells of a layer, one cell after the other, and then the learned
    initial states: 0, or with "uniform" as all other weights.

    `options` are those of `draw`.
    """
    random = host.generator(rng)
    drawn = [(one.suffix, draw(cell, one.I, one.H, rng=random, **options)) for one in parts]
    found = {f"{name}{suffix}": w for suffix, part in drawn for name, w in part.items()}
    for one in parts if learn_state else ():
        limit = one.H**-0.5 if options["init"] == "uniform" else 0.0
        for state, n in zip(cell.states, cell.widths(one.H), strict=True):
            found[f"{state}0{one.suffix}"] = random.uniform(-limit, limit, n)
    return found


def check_init(kind: str, init: str, forget_bias: float) -> None:
    """Raise TypeError or ValueError unless `init` is known and `forget_bias` is a number."""
    check_choice(kind, "init", init, INITS)
    accept_number(f"{kind}: forget_bias", forget_bias, "a finite number", isfinite)


def specs(cell: Cell[Any], parts: list[Part], bias: bool, learn_state: bool) -> dict[str, Spec]:
    """The shape that every weight of a layer must have."""
    found = {}
    for one in parts:
        for name, shape in cell.shapes(one.I, one.H, bias).items():
            found[f"{name}{one.suffix}"] = Spec(shape, cell.letters(name, one.letter))
        if learn_state:
            sizes = zip(cell.states, cell.widths(one.H), cell.width_letters, strict=True)
            for state, n, letter in sizes:
                found[f"{state}0{one.suffix}"] = Spec((n,), f"({letter},)")
    return found


def check_learn_state(cell: Cell[Any]) -> None:
    """Raise ValueError if the initial state cannot be a weight, because its name is taken."""
    taken = [f"{state}0" for state in cell.states if f"{state}0" in cell.shapes(1, 1)]
    if taken:
        raise ValueError(
            f"{cell.name}: learn_state is True, and the cell has a weight {taken[0]}, as the "
            "learned initial state would be called; rename it"
        )


def _glorot(inputs: int, outputs: int, shape: tuple[int, ...], random: Any) -> Array:
    """A matrix of blocks that are Glorot uniform."""
    limit = (6 / (inputs + outputs)) ** 0.5
    return random.uniform(-limit, limit, shape)


def _orthogonal(rows: int, columns: int, random: Any) -> Array:
    """A random matrix with orthonormal columns, or rows where it is wider than high; uniform over
    all such matrices (Mezzadri, 2007)."""
    xp = host.xp
    Q, R = xp.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
    Q = Q * xp.sign(xp.linalg.diagonal(R))
    return Q if rows >= columns else Q.T
