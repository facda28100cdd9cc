"""What the loaders return: parts by name, made of the arrays that another library has stored."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from xrnn.backends import host
from xrnn.convert.casting import rounded, wide
from xrnn.convert.conventions import Convention, Stored, decode
from xrnn.engine.compact import of_scales
from xrnn.layers.embedding import Embedding
from xrnn.layers.gru import GRU
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.layers.lstm import LSTM
from xrnn.layers.rnn import RNN
from xrnn.typing import Array, GivenDType, dtype_name

Kind = Literal["lstm", "gru", "rnn"]

LAYERS: Mapping[Kind, Any] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

LoadedPart = Layer[Any] | Embedding | Linear


class Loaded(dict[str, Any]):
    """Parts by name, and what their loader assumed.

    It is a dict of Layer, Embedding and Linear (for type checkers: of Any, because a file says
    which), and prints as a table.

    Attributes
    ----------
    notes : dict of str to list of str
        For each part the convention that it was read by, and what else is to be known: what a
        caller must give, such as initial states, and what the part leaves out, such as an
        activation function behind it.
    unused : dict of str to array
        What else the file holds, by name (NumPy): the weights of other modules.
    skipped : dict of str to str
        Name → why something that could be meant is in no part, and what to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, list[str]] = {}
        self.unused: dict[str, Array] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, part: LoadedPart, *notes: str) -> str:
        """Add a part under its name, or under that and a number if it is taken; give the name."""
        free = free_name(self, name)
        self[free], self.notes[free] = part, list(notes)
        return free

    def __missing__(self, name: object) -> Any:
        raise KeyError(
            f"there is no part {name!r:.80}; the parts are {', '.join(map(repr, self)) or 'none'}"
        )

    def __repr__(self) -> str:
        lines = []
        for name, part in self.items():
            lines += [f"{name!r}: {part!r}", *(f"    {note}" for note in self.notes[name])]
        lines += [f"skipped {name!r}: {why}" for name, why in self.skipped.items()]
        if self.unused:
            rest = [f"{name} {a.shape}" for name, a in self.unused.items()]
            more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
            lines.append(f"unused: {', '.join(rest[:8])}{more}")
        return "\n".join(lines) or "no parts"


def free_name(taken: Container[str], name: str) -> str:
    """The name, or that and a number if it is taken."""
    n, free = 2, name
    while free in taken:
        free, n = f"{name}_{n}", n + 1
    return free


def make_layer(
    kind: Kind,
    convention: Convention,
    cells: Sequence[Stored],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    reverse: bool = False,
    batch_first: bool = False,
    options: Mapping[str, Any] | None = None,
    states: Sequence[Sequence[Array]] | None = None,
    dtype: GivenDType | None = None,
    device: str = "cpu",
) -> Layer[Any]:
    """The layer with these weights.

    Parameters
    ----------
    kind : {"lstm", "gru", "rnn"}
        The layer.
    convention : Convention
        How the arrays are stored.
    cells : sequence of Stored
        One for each layer and direction, in the order of ``layer.parts()``.  The layer has biases
        if any of them has one; in the others these are zero.
    num_layers, bidirectional, reverse, batch_first, device
        As for the layers.
    options : mapping of str, optional
        Further options of `xrnn.LSTM`, `xrnn.GRU` or `xrnn.RNN`, such as ``clip``; ``reset`` only
        where the convention does not say it.
    states : sequence of (h, c) or (h,), optional
        The initial state of each of `cells`, (H,) each, which the layer gets as weights
        (``learn_state=True``).
    dtype : str, optional
        The dtype of the layer.  Default: that of the first matrix.

    Raises
    ------
    TypeError
        If the arrays are not of floating-point numbers.
    ValueError
        If the shapes do not fit together, an option is not one of the layer, or a number is too
        large for `dtype`.
    """
    W = cells[0].W
    I, rows = W.shape[::-1] if convention.layout == "rows" else W.shape
    reset = {"reset": convention.reset} if convention.reset else {}
    layer: Layer[Any] = LAYERS[kind](
        I,
        rows // len(convention.gates),
        num_layers,
        **(reset | dict(options or {})),
        bias=any(has_bias(convention, one) for one in cells),
        bidirectional=bidirectional,
        reverse=reverse,
        batch_first=batch_first,
        learn_state=states is not None,
        dtype=dtype_name(W.dtype) if dtype is None else dtype,
        device=device,
    )
    weights: dict[str, Array] = {}
    for n, ((_, suffix), one) in enumerate(zip(layer.parts(), cells, strict=True)):
        weights |= weights_of(layer, suffix, convention, one, states[n] if states else ())
    assign(layer, weights)
    return layer


def has_bias(convention: Convention, stored: Stored) -> bool:
    """Whether the cell has a bias, of its own or one that the library adds when it runs."""
    given = stored.b is not None or stored.recurrent_bias is not None
    return given or convention.forget_bias != 0


def weights_of(
    layer: Layer[Any],
    suffix: str,
    convention: Convention,
    stored: Stored,
    state: Sequence[Array] = (),
) -> dict[str, Array]:
    """The weights of one cell of a layer by name; biases that are not stored are zero."""
    dtype = dtype_name(layer.weights.placement.dtype)
    W, *others = [None if array is None else wide(array, dtype) for array in stored]
    found = decode(convention, layer.cell, Stored(W, *others))
    if layer.bias:
        for name in layer.cell.biases:
            if name not in found:
                shape = layer.weights.specs[f"{name}{suffix}"].shape
                found[name] = host.xp.zeros(shape, found["W"].dtype)
    found |= {f"{name}0": s for name, s in zip(layer.cell.states, state, strict=False)}
    return {f"{name}{suffix}": array for name, array in found.items()}


def assign(part: LoadedPart, arrays: Mapping[str, Array]) -> None:
    """Give a part weights (NumPy), rounded to its dtype and moved to its device."""
    placement = part.weights.placement
    dtype = dtype_name(placement.dtype)
    # Every weight must be given: none may keep the random numbers that it was made with.
    if odd := sorted(arrays.keys() ^ part.weights.keys()):
        raise ValueError(f"missing or unknown: {', '.join(odd)}")
    part.weights = {
        name: placement.from_host(rounded(name, array, dtype)) for name, array in arrays.items()
    }


def freeze_as(layer: Layer[Any], convention: Convention, scales: Sequence[Stored]) -> None:
    """Freeze a layer with the integers of 8 bits that its weights are, times these scales."""
    rows: dict[str, Array] = {}
    for (_, suffix), one in zip(layer.parts(), scales, strict=True):
        for name, column in decode(convention, layer.cell, one).items():
            rows[f"{name}{suffix}"] = column[:, 0]
    layer._parameters = of_scales(layer.weights, rows)


@contextmanager
def within(what: str) -> Iterator[None]:
    """Errors of the block begin with `what`, the file or the part that they are about, if it has a
    name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # Some kinds of ValueError, such as UnicodeEncodeError, are not made of a text alone.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}" if what else str(error)) from error
