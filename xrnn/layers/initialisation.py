"""Random initial weights."""

from __future__ import annotations

from math import isfinite
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import Cell
from xrnn.engine.checks import check_choice
from xrnn.engine.parameters import Spec
from xrnn.engine.values import accept_number
from xrnn.typing import Array, Init

INITS = ("orthogonal", "uniform")


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
        "orthogonal": every H×H block of U is a random orthogonal matrix (Saxe et al., 2014),
        every block of W is Glorot uniform in ±√(6/(I+H)) (Glorot & Bengio, 2010), and all
        other weights are 0.  "uniform": all weights are uniform in ±1/√H, as in PyTorch.
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
    if init == "uniform":
        limit = H**-0.5
        return {name: random.uniform(-limit, limit, shape) for name, shape in shapes.items()}
    weights = {name: xp.zeros(shape) for name, shape in shapes.items()}
    limit = (6 / (I + H)) ** 0.5
    weights["W"] = random.uniform(-limit, limit, shapes["W"])
    if cell.recurrent:
        blocks = [_orthogonal(H, random) for _ in cell.gates]
        weights["U"] = xp.concat(blocks)
    if bias and "f" in cell.gates:
        k = cell.gates.index("f")
        weights["b"][k * H : (k + 1) * H] = forget_bias
    return weights


def draw_all(
    cell: Cell[Any], parts: list[tuple[int, str]], H: int, rng: Any, **options: Any
) -> dict[str, Array]:
    """Draw the weights of all cells of a layer, one cell after the other.

    `parts` are, for each cell, its inputs and the ending of its weights' names; `options` are
    those of `draw`.
    """
    random = host.generator(rng)
    drawn = [(suffix, draw(cell, I, H, rng=random, **options)) for I, suffix in parts]
    return {f"{name}{suffix}": w for suffix, part in drawn for name, w in part.items()}


def check_init(kind: str, init: str, forget_bias: float) -> None:
    """Raise TypeError or ValueError unless `init` is known and `forget_bias` is a number."""
    check_choice(kind, "init", init, INITS)
    accept_number(f"{kind}: forget_bias", forget_bias, "a finite number", isfinite)


def specs(
    cell: Cell[Any], parts: list[tuple[str, int, str]], H: int, bias: bool
) -> dict[str, Spec]:
    """The shape that every weight of a layer must have.

    `parts` are, for each cell, the ending of its weights' names and its inputs, in numbers and
    letters.
    """
    return {
        f"{name}{suffix}": Spec(shape, cell.letters(name, letter))
        for suffix, I, letter in parts
        for name, shape in cell.shapes(I, H, bias).items()
    }


def _orthogonal(H: int, random: Any) -> Array:
    """A random orthogonal H×H matrix, uniform over the group (Mezzadri, 2007)."""
    xp = host.xp
    Q, R = xp.linalg.qr(random.normal(size=(H, H)))
    return Q * xp.sign(xp.linalg.diagonal(R))
