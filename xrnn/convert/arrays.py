"""`from_arrays`: a layer from the arrays of any other format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.base import Cell, check_cell, check_flags
from xrnn.cells.numbers import accept_number
from xrnn.convert.casting import wide
from xrnn.convert.conventions import Convention, Polarity, Stored, peephole_gates
from xrnn.convert.loaded import assign, has_bias, weights_of
from xrnn.engine.checks import check_choice
from xrnn.layers.layer import Layer
from xrnn.typing import Array, GivenDType, S

#: another letter of a gate → xrnn's, the first of which that the cell has is meant
SYNONYMS: Mapping[str, str] = {"c": "gn", "j": "g", "h": "n", "u": "z", "f": "u"}

#: an array, or one array for each gate in the order of `gates`
GivenGates = Array | Sequence[Array]


def from_arrays(
    cell: Cell[S],
    W: GivenGates,
    U: GivenGates | None,
    b: GivenGates | None = None,
    *,
    recurrent_bias: GivenGates | None = None,
    peephole: GivenGates | None = None,
    projection: Array | None = None,
    state: Sequence[Array] | Array | None = None,
    gates: str | None = None,
    transposed: bool | None = None,
    z: Polarity = "keeps",
    forget_bias: float = 0.0,
    batch_first: bool = False,
    reverse: bool = False,
    dtype: GivenDType | None = None,
    device: str = "cpu",
) -> Layer[S]:
    """A layer of one cell with weights in a format of your own.

    Wherever an array has gates, a sequence of arrays, one for each gate, is accepted too.

    Parameters
    ----------
    cell : Cell
        The equations, such as `xrnn.cells.LSTM`, `xrnn.cells.gru_with(reset="before")`.
    W : array (G·H, I), or (I, G·H) if `transposed`
        The weights of the inputs.
    U : array (G·H, H), or (H, G·H) if `transposed`; None for a cell without it
        The weights of the outputs of the step before.
    b : array (G·H,), optional
        The bias, or that of the inputs.  Without any bias the layer has none.
    recurrent_bias : array (G·H,), optional
        A second bias, next to U.  They are added up, except for the candidate of a GRU with the
        reset gate after the product, which keeps its part as v.
    peephole : array, optional
        The peepholes, (3·H,): those of all `gates` but g, in that order.
    projection : array (P, H), or (H, P) if `transposed`, optional
        What makes h of the H hidden units, for a cell with ``proj_size=P``.
    state : sequence of array (H,), optional
        A trained initial state, one array for each of ``cell.states``; it becomes weights of the
        layer (``learn_state=True``).  Default: the layer starts from zeros.
    gates : str, optional
        The letters of the gates, in the order of their blocks: "ifgo" for an LSTM, in which c and
        j are other letters for g; "rzn" for a GRU, in which u stands for z, and c or h for n; "un"
        for an MGU, in which f stands for u.
        Default: the order of ``cell.gates``.
    transposed : bool, optional
        Whether the matrices are (I, G·H), (H, G·H) and (H, P).  It must be said where the shape of
        U does not tell.
    z : {"keeps", "takes"}
        What z = 1 does in a GRU: h = z ⊙ h_prev + (1 − z) ⊙ n "keeps" the old state, h = (1 − z) ⊙
        h_prev + z ⊙ n "takes" the candidate.
    forget_bias : float
        What the other format adds to the bias of the gate f when it runs.
    batch_first, reverse, device
        As for `xrnn.Layer`.
    dtype : str, optional
        The dtype of the layer.  Default: that of W.

    Returns
    -------
    Layer
        With one layer and one direction.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If a shape does not fit, the layout is not clear, or the cell has no such weights or gates.

    Notes
    -----
    The page ``conventions.md`` of the guide has the conventions of many libraries, and shows how
    several layers and two directions become one layer.

    Examples
    --------
    Weights in the layout of a TensorFlow 1 ``BasicLSTMCell``: one matrix (I + H, 4·H) for both
    products, gates i j f o, and 1 added to the bias of f:

    >>> import numpy as np, xrnn
    >>> kernel, bias = np.ones((3 + 5, 20), "float32"), np.zeros(20, "float32")
    >>> xrnn.convert.from_arrays(
    ...     xrnn.cells.LSTM, kernel[:3], kernel[3:], bias,
    ...     gates="ijfo", transposed=True, forget_bias=1.0,
    ... )
    <Layer(lstm, 3, 5): lstm>
    """
    check_cell(cell)
    order = _accept_gates(cell, gates)
    shift = accept_number(f"{cell.name}: forget_bias", forget_bias, "a finite number", isfinite)
    check_choice(cell.name, "z", z, ("keeps", "takes"))
    _check_options(cell, U, peephole, projection, shift, z)
    columns = _is_transposed(cell, W, U, b, transposed)
    peepholes = "".join(k for k in order if k in peephole_gates(cell))
    convention = Convention(
        order,
        layout="columns" if columns else "rows",
        z=z,
        forget_bias=shift,
        peepholes=peepholes,
    )
    axis = int(columns)
    stored = Stored(
        _joined(cell, "W", W, order, 2, axis),
        None if U is None else _joined(cell, "U", U, order, 2, axis),
        None if b is None else _joined(cell, "b", b, order),
        None if recurrent_bias is None else _joined(cell, "recurrent_bias", recurrent_bias, order),
        None if peephole is None else _joined(cell, "peephole", peephole, peepholes),
        None if projection is None else _array(cell, "projection", projection, 2),
    )
    I, H = _sizes(cell, stored, columns)
    initial = _initial_state(cell, state, H)
    layer: Layer[S] = Layer(
        cell,
        I,
        H,
        bias=has_bias(convention, stored),
        batch_first=batch_first,
        reverse=reverse,
        learn_state=state is not None,
        dtype=stored.W.dtype if dtype is None else dtype,
        device=device,
    )
    assign(layer, weights_of(layer, "_l0", convention, stored, initial))
    return layer


def _accept_gates(cell: Cell[Any], gates: Any) -> str:
    """The order of the gates, in the letters of the cell."""
    if gates is None:
        return "".join(cell.gates)
    letters = []
    for k in gates if isinstance(gates, str) else ():
        meant = [m for m in SYNONYMS.get(k, "") if m in cell.gates]
        letters.append(meant[0] if meant and k not in cell.gates else k)
    if sorted(letters) != sorted(cell.gates):
        raise ValueError(
            f"{cell.name}: gates is {gates!r:.80}; it must hold each of the letters "
            f"{''.join(cell.gates)} once, in the order of the blocks"
        )
    return "".join(letters)


def _is_transposed(cell: Cell[Any], W: Any, U: Any, b: Any, said: Any) -> bool:
    """Whether the matrices are (I, G·H) and (H, G·H): what was said, or what the shapes tell.

    ValueError if it was not said, and the shapes do not tell that they are not.
    """
    if said is not None:
        check_flags(cell.name, transposed=said)
        return bool(said)
    what = "U" if cell.recurrent else "W"
    shape = tuple(getattr(U if cell.recurrent else W, "shape", ()))
    rows, columns = _layouts(cell, W, U, b)
    if rows and not columns:
        return False
    if columns and not rows:
        raise ValueError(
            f"{cell.name}: {what} has shape {shape}; it must be {cell.letters(what)}; it looks "
            "transposed: say transposed=True"
        )
    raise ValueError(
        f"{cell.name}: {what} has shape {shape or 'of single gates'}, which does not tell whether "
        f"it is {cell.letters(what)} or its transpose; say transposed=False or transposed=True"
    )


def _layouts(cell: Cell[Any], W: Any, U: Any, b: Any) -> tuple[bool, bool]:
    """Whether the matrices can be (G·H, I) and (G·H, H), and whether they can be the transposes."""
    shape = tuple(getattr(U if cell.recurrent else W, "shape", ()))
    if len(shape) != 2:
        return True, True
    (high, wide), G, P = shape, len(cell.gates), cell.projection
    if not cell.recurrent:
        units = len(b) if getattr(b, "ndim", 0) == 1 else 0
        return high == units, wide == units
    if P is None:
        return high == G * wide, wide == G * high
    return wide == P, high == P


def _check_options(
    cell: Cell[Any], U: Any, peephole: Any, projection: Any, shift: float, z: str
) -> None:
    """Raise ValueError unless the cell has what is given, and what it needs is given."""
    given = {
        "U": (U is not None, cell.recurrent),
        "peephole": (peephole is not None, "p" in cell.extras),
        "projection": (projection is not None, cell.projection is not None),
    }
    for name, (is_given, needed) in given.items():
        if is_given and not needed:
            raise ValueError(f"{cell.name}: {name} is given; this cell has no such weight")
        if needed and not is_given:
            raise ValueError(f"{cell.name}: {name} is missing; this cell needs it")
    if shift and "f" not in cell.gates:
        raise ValueError(f"{cell.name}: forget_bias is {shift}; this cell has no gate f")
    if z == "takes" and not {"r", "z"} <= set(cell.gates):
        raise ValueError(f"{cell.name}: z is 'takes'; that can be said of a GRU alone")
    if odd := [name for name in cell.extras if name not in ("p", "v")]:
        raise ValueError(
            f"{cell.name}: the cell has the weights {', '.join(odd)}, for which there is no "
            "argument; make xrnn.Layer(cell, …) and assign its weights by name"
        )


def _joined(
    cell: Cell[Any], name: str, given: Any, gates: str, ndim: int = 1, axis: int = 0
) -> Array:
    """An array of all gates, of one array or of one for each gate."""
    if not isinstance(given, Sequence):
        return _array(cell, name, given, ndim)
    if len(given) == len(gates) and all(getattr(one, "ndim", 0) == ndim for one in given):
        arrays = [
            _array(cell, f"{name}[{k!r}]", one, ndim) for k, one in zip(gates, given, strict=True)
        ]
        if len({one.shape for one in arrays}) == 1:
            return host.xp.concat(arrays, axis=axis)
    raise ValueError(
        f"{cell.name}: {name} is a {type(given).__name__} of {len(given)}; it must be an array, or "
        f"one array of {ndim} {'axis' if ndim == 1 else 'axes'} for each of {', '.join(gates)}, "
        "all of one shape"
    )


def _array(cell: Cell[Any], name: str, given: Any, ndim: int) -> Array:
    """The array on the host."""
    if not array_api_compat.is_array_api_obj(given):
        raise TypeError(f"{cell.name}: {name} is a {type(given).__name__}; it must be an array")
    array = backend_of(given, name).to_host(given)
    try:
        wide(array)
    except TypeError as error:
        raise TypeError(
            f"{cell.name}: {name} is {array.dtype}; it must be of floating-point numbers: convert "
            "integers by the scale of their format"
        ) from error
    if array.ndim != ndim:
        help_ = ""
        if name == "b" and array.ndim == 2 and len(array) == 2:
            help_ = "; if it holds two biases, give b[0] and recurrent_bias=b[1]"
        elif name in ("b", "recurrent_bias") and array.ndim == 2 and len(array) == 1:
            help_ = f"; give {name}[0]"
        raise ValueError(
            f"{cell.name}: {name} has shape {array.shape}; it must have {ndim} "
            f"{'axis' if ndim == 1 else 'axes'}{help_}"
        )
    return array


def _sizes(cell: Cell[Any], stored: Stored, columns: bool) -> tuple[int, int]:
    """I and H, of arrays whose shapes fit together."""
    G = len(cell.gates)
    layouts = _layouts(cell, stored.W, stored.U, stored.b)
    turned = ""
    if not layouts[columns] and layouts[not columns]:
        looks = "not transposed" if columns else "transposed"
        turned = f"; it looks {looks}: say transposed={not columns}"
    I, rows = stored.W.shape if columns else stored.W.shape[::-1]
    if rows == 0 or rows % G:
        raise ValueError(
            f"{cell.name}: W has shape {stored.W.shape}; it must be "
            f"{'(I, ' if columns else '('}{G}·H{')' if columns else ', I)'}, for {G} gates{turned}"
        )
    H = rows // G
    h = H if cell.projection is None else cell.projection
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "U": ((h, rows), f"(H, {G}·H)") if columns else ((rows, h), f"({G}·H, H)"),
        "b": ((rows,), f"({G}·H,)"),
        "recurrent_bias": ((rows,), f"({G}·H,)"),
        "peephole": ((len(peephole_gates(cell)) * H,), f"({len(peephole_gates(cell))}·H,)"),
        "projection": ((H, h), "(H, P)") if columns else ((h, H), "(P, H)"),
    }
    for name, (shape, letters) in shapes.items():
        array = getattr(stored, name)
        if array is not None and array.shape != shape:
            help_ = turned if array.ndim == 2 else ""
            if name == "b" and stored.recurrent_bias is None and array.shape == (2 * rows,):
                help_ = "; if it holds two biases, give its second half as recurrent_bias"
            raise ValueError(
                f"{cell.name}: {name} has shape {array.shape}; it must be {letters} = "
                f"{shape}{help_}"
            )
    return I, H


def _initial_state(cell: Cell[Any], state: Any, H: int) -> list[Array]:
    """The arrays of a trained initial state; none if there is no such state."""
    if state is None:
        return []
    if not isinstance(state, Sequence) and not array_api_compat.is_array_api_obj(state):
        raise TypeError(
            f"{cell.name}: state is {state!r:.80}; it must be a sequence of arrays, one for each "
            f"of {', '.join(cell.states)}"
        )
    if len(state) != len(cell.states):
        raise ValueError(
            f"{cell.name}: state holds {len(state)} arrays; it must hold one for each of "
            f"{', '.join(cell.states)}"
        )
    arrays = []
    for name, given, size in zip(cell.states, state, cell.widths(H), strict=True):
        arrays.append(_array(cell, f"state[{name!r}]", given, 1))
        if len(arrays[-1]) != size:
            raise ValueError(
                f"{cell.name}: state[{name!r}] has shape {arrays[-1].shape}; it must be ({size},)"
            )
    return arrays
