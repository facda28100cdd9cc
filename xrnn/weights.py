"""The weights of one cell: draw, check, move, count."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from numbers import Integral
from typing import Any, Self

from xrnn.backends import Backend, Fixed, get, move
from xrnn.backends.cpu import generator, named_dtype
from xrnn.cells.base import Cell
from xrnn.typing import Array, Weights

INITS = ("orthogonal", "uniform")


def draw(
    cell: Cell,
    I: int,
    H: int,
    *,
    bias: bool = True,
    init: str = "orthogonal",
    forget_bias: float = 1.0,
    rng: Any = 0,
) -> dict[str, Array]:
    """Draw the weights of one cell on the host, in float64.

    They are drawn there and then cast and moved, so that a seed gives the same weights on
    every backend.

    Parameters
    ----------
    cell : Cell
        Whose weights.
    I, H : int
        Inputs and hidden units.
    bias : bool
        Whether there are biases.
    init : {"orthogonal", "uniform"}
        "orthogonal": every H×H block of U a random orthogonal matrix (Saxe et al., 2014),
        every block of W Glorot uniform, ±√(6/(I+H)) (Glorot & Bengio, 2010), the rest 0.
        "uniform": everything uniform in ±1/√H, as PyTorch draws it.
    forget_bias : float
        With "orthogonal": the bias of a gate named f at the start (Jozefowicz et al., 2015).
    rng : int or numpy.random.Generator
        Seed or source of the numbers.

    Returns
    -------
    dict of str to numpy.ndarray
        Names and shapes of ``cell.shapes(I, H, bias)``.

    >>> from xrnn.cells import LSTM
    >>> w = draw(LSTM, 3, 5)
    >>> float(w["b"][5]), w["U"].shape  # the forget gate's bias; U
    (1.0, (20, 5))
    """
    if init not in INITS:
        raise ValueError(f"init is {init!r}; it must be one of {', '.join(map(repr, INITS))}")
    xp, random = get("cpu").xp, generator(rng)
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


def _orthogonal(H: int, random: Any) -> Array:
    """A random orthogonal H×H matrix, uniform over the group (Mezzadri, 2007)."""
    xp = get("cpu").xp
    Q, R = xp.linalg.qr(random.normal(size=(H, H)))
    return Q * xp.sign(xp.linalg.diagonal(R))


def check_sizes(kind: str, **sizes: int) -> None:
    """Sizes are integers of at least 1; `kind` is what the message calls their owner."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{kind}: {name} is {value!r}; it must be an integer ≥ 1")


def check(cell: Cell, weights: Weights, I: int, H: int | None = None) -> int:
    """Check names and shapes against the cell; return H.

    Parameters
    ----------
    cell : Cell
        Whose weights they should be.
    weights : mapping of str to array
        Biases may be left out.
    I : int
        Inputs, as x has them.
    H : int, optional
        Hidden units, as h has them; default: as W has them.

    Raises
    ------
    ValueError
        If a weight is missing, unknown or of another shape.
    """
    expected = cell.shapes(1, 1)
    for name in weights:
        if name not in expected:
            raise ValueError(f"{cell.name}: unknown weight {name!r}; it has {', '.join(expected)}")
    for name in expected:
        if name not in weights and name not in cell.biases:
            raise ValueError(
                f"{cell.name}: weight {name} is missing; it must have shape {cell.letters(name)}"
            )
    source = f"h has {H} units"
    if H is None:
        H, source = weights["W"].shape[0] // len(cell.gates), f"W has {weights['W'].shape[0]} rows"
    for name, shape in cell.shapes(I, H).items():
        if name in weights and tuple(weights[name].shape) != shape:
            why = f"x has {I} inputs and {source}" if name == "W" else source
            raise ValueError(
                f"{cell.name}: {name} has shape {tuple(weights[name].shape)}; "
                f"it must be {cell.letters(name)} = {shape}, as {why}"
            )
    return H


def cast(weights: Weights, dtype: str, backend: Backend) -> dict[str, Array]:
    """Host weights as arrays of `backend` in `dtype`."""
    host_dtype = named_dtype(dtype)
    return {name: backend.from_host(w.astype(host_dtype)) for name, w in weights.items()}


class Weighted:
    """What holds weights by name; a layer, an embedding and a linear map do.

    Attributes
    ----------
    weights : dict of str to array
        Assign or update in place.
    """

    weights: dict[str, Array]

    def to(self, device: str) -> Self:
        """Move the weights to "cpu", "cuda" or another array library; return the holder.

        Raises
        ------
        ImportError
            If the library is not installed or finds no device; nothing is moved then.
        """
        backend = get(device)
        moved = {name: move(w, backend) for name, w in self.weights.items()}
        self.weights = Fixed(moved) if isinstance(self.weights, Fixed) else moved
        return self

    def freeze(self) -> Self:
        """Keep the weights from changing, for inference; return the holder.

        They become copies (NumPy's cannot be written to) in a mapping that cannot be
        assigned to.  So NumPy's native loops lay them out as products read them once, and not
        at every call: a `Layer.step` takes 0.4 to 0.8 of the time, to the same bits.  To change
        them again assign another dict: ``layer.weights = {name: w.copy() for …}``.

        Examples
        --------
        >>> import numpy as np, xrnn
        >>> layer = xrnn.LSTM(3, 5).freeze()
        >>> y, state = layer.step(np.ones((1, 3), "float32"))
        >>> layer.weights["W_l0"] *= 2
        Traceback (most recent call last):
        ValueError: output array is read-only
        """
        self.weights = Fixed(self.weights)
        return self


def count(weights: Mapping[str, Array]) -> int:
    """How many numbers the weights hold.

    >>> from xrnn.cells import LSTM
    >>> count(draw(LSTM, 3, 5))
    180
    """
    return sum(prod(w.shape) for w in weights.values())
