"""The arguments of the native loops: each is checked before anything is computed."""

import ctypes
import sys
from typing import Any

import numpy as np
import pytest
from test_native_base import native

from xrnn import cells


def gemm_arguments() -> list[Any]:
    A, B, C = (np.zeros(shape, "float32") for shape in ((4, 2), (2, 3), (4, 3)))
    return [4, 3, 2, A, 0, B, 0, C, None, 0, 1, 0]


READ_ONLY = np.zeros((4, 3), "float32")
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, -1, ValueError, "m is -1"),
        (0, 5, ValueError, "A holds 8 items; it must hold 10"),
        (0, "four", TypeError, "integer"),
        (0, 2**62, ValueError, "m is"),
        (3, np.zeros((4, 2)), ValueError, "B holds items of format f"),
        (3, np.zeros((4, 2), "int32"), ValueError, "A holds items of format i"),
        (3, np.zeros((2, 4), "float32").T, ValueError, "contiguous"),
        (3, None, TypeError, "buffer|bytes-like"),
        (5, np.zeros((2, 3)), ValueError, "B holds items of format d and 8 bytes; wanted f and 4"),
        (7, READ_ONLY, ValueError, "read-only"),
        (7, np.zeros((4, 4), "float32"), ValueError, "C holds 16 items; it must hold 12"),
        (8, np.zeros(4, "float32"), ValueError, "bias holds 4 items"),
        (10, 0, ValueError, "threads is 0"),
        (11, 2, ValueError, "rounding is 2; it must lie in 0 to 1"),
    ],
)
def test_a_wrong_argument_is_named(place: int, value: Any, error: Any, words: str) -> None:
    arguments = gemm_arguments()
    native.gemm(*arguments)
    arguments[place] = value
    with pytest.raises(error, match=words):
        native.gemm(*arguments)


def test_the_number_of_arguments() -> None:
    arguments = gemm_arguments()
    with pytest.raises(TypeError, match="too few arguments: 11"):
        native.gemm(*arguments[:-1])
    with pytest.raises(TypeError, match="13 arguments; 12 were wanted"):
        native.gemm(*arguments, None)


NATIVE, FOREIGN = "<>" if sys.byteorder == "little" else "><"


def buffer(array: Any, order: str) -> Any:
    """The memory of the array as a buffer whose format begins with this byte order."""
    types = {"f": ctypes.c_float, "d": ctypes.c_double, "l": ctypes.c_int64, "q": ctypes.c_int64}
    item: Any = types[array.dtype.char]
    item = item.__ctype_le__ if order == "<" else item.__ctype_be__
    view = memoryview((item * array.size).from_buffer(array))
    assert view.format[0] == order
    return view


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_byte_order_may_be_part_of_the_format(dtype: str) -> None:
    A, B, C = (np.arange(n, dtype=dtype) for n in (8, 6, 12))
    native.gemm(4, 3, 2, A, 0, B, 0, C, None, 0, 1, 0)
    got = np.zeros_like(C)
    a, b, c = (buffer(array, NATIVE) for array in (A, B, got))
    native.gemm(4, 3, 2, a, 0, b, 0, c, None, 0, 1, 0)
    assert np.array_equal(got, C)
    with pytest.raises(ValueError, match=f"B holds items of format {FOREIGN}"):
        native.gemm(4, 3, 2, a, 0, buffer(B, FOREIGN), 0, c, None, 0, 1, 0)


def test_lengths_may_state_their_byte_order() -> None:
    forward, _ = loop_arguments("lstm")
    lengths = forward["lengths"]
    native.forward(*(forward | {"lengths": buffer(lengths, NATIVE)}).values())
    with pytest.raises(ValueError, match=f"lengths holds items of format {FOREIGN}"):
        native.forward(*(forward | {"lengths": buffer(lengths, FOREIGN)}).values())


#: name → number in the extension, gates, blocks of H that are kept of a step, second state, extras
CELLS = {
    name: (code, *about)
    for code, (name, *about, _, options) in enumerate(native.cells())
    if not options
}


def test_the_table_of_cells() -> None:
    assert {"rnn", "rnn-relu", "lstm", "gru", "gru-before", "input-gated"} <= CELLS.keys()
    assert {"peephole", "mingru", "janet", "mgu"} <= CELLS.keys()
    for name, (_, gates, saved, two, extras) in CELLS.items():
        cell = cells.BY_NAME[name]
        assert gates == len(cell.gates)
        assert saved == {1: 0, 2: 2}.get(gates, 4) + (name == "mgu")  # whose q is kept
        assert two == (len(cell.states) == 2)
        assert extras == tuple(cell.extras)


def loop_arguments(
    cell: str, T: int = 3, B: int = 2, I: int = 4, H: int = 5
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `forward` and of `backward` by name.

    What the cell does not have is None.
    """
    number, G, saved, has_c, extras = CELLS[cell]

    def zeros(*shape: int) -> Any:
        return np.zeros(shape, "float32")

    about = cells.BY_NAME[cell]
    has_U = about.recurrent
    sizes = {"cell": number, "rounding": 0, "T": T, "B": B, "I": I, "H": H}
    c = {name: zeros(B, H) if has_c else None for name in ("c0", "c_last", "dc")}
    cs = zeros(T, B, H) if has_c else None
    U = zeros(G * H, H) if has_U else None
    more, dmore = ({d + k: zeros(about.extras[k][0] * H) for k in extras} for d in ("", "d"))
    lengths = np.full(B, T)
    lengths[-1] = 1
    gates = zeros(T, B, saved * H) if saved else None
    W, b, xs, ys = zeros(G * H, I), zeros(G * H), zeros(T, B, I), zeros(T, B, H)
    forward = sizes | {"xs": xs, "W": W, "U": U, "b": b} | more | {"lengths": lengths}
    forward |= {"reverse": 0, "h0": zeros(B, H), "c0": c["c0"], "ys": ys, "h_last": zeros(B, H)}
    forward |= {"c_last": c["c_last"], "gates": gates, "cs": cs, "storage": 0, "threads": 1}
    backward = (
        sizes | {"W": W, "U": U} | more | {"gates": gates, "cs": cs, "ys": ys, "h0": zeros(B, H)}
    )
    backward |= {"c0": c["c0"], "dys": zeros(T, B, H), "lengths": lengths, "reverse": 0}
    backward |= {
        "dh": zeros(B, H),
        "dc": c["dc"],
        "das": zeros(T, B, (saved or G) * H),
        "dxs": zeros(T, B, I),
    }
    backward |= {"dW": zeros(G * H, I), "dU": None if U is None else zeros(G * H, H)}
    backward |= {"db": zeros(G * H)} | dmore | {"adds": 0, "xs": xs, "threads": 1}
    return forward, backward


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_loops_check_every_array(cell: str, direction: str) -> None:
    arguments = loop_arguments(cell)[direction == "backward"]
    loop = getattr(native, direction)
    loop(*arguments.values())
    may_lack = {"lengths", "dys", "dxs"} | ({"gates", "cs"} if direction == "forward" else set())
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            continue
        for wrong in (value.ravel()[1:], np.zeros((*value.shape, 2), value.dtype)):
            with pytest.raises(ValueError, match=f"{name} holds .* items; it must hold"):
                loop(*(arguments | {name: wrong}).values())
        # The first array decides between the two types, so that it is its neighbours that err.
        other = np.zeros(value.shape, "float64" if value.dtype == "float32" else "int32")
        with pytest.raises(ValueError, match="holds items of format"):
            loop(*(arguments | {name: other}).values())
        if name not in may_lack:
            with pytest.raises((ValueError, TypeError)):
                loop(*(arguments | {name: None}).values())
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=rf"lengths\[1\] is {bad}; it must lie in 0 to T = 3"):
            loop(*(arguments | {"lengths": np.array([3, bad])}).values())
    with pytest.raises(ValueError, match=f"cell is {len(native.cells())}; it must lie"):
        loop(*(arguments | {"cell": len(native.cells())}).values())
    with pytest.raises(ValueError, match="too large"):
        loop(*(arguments | {"T": 2**40, "B": 2**40}).values())


def test_a_keeping_lstm_needs_cs() -> None:
    forward, _ = loop_arguments("lstm")
    with pytest.raises(ValueError, match="cs is needed"):
        native.forward(*(forward | {"cs": None}).values())


def test_a_step_checks_every_array() -> None:
    shapes = {"x": (1, 4), "W": (20, 4), "U": (20, 5), "b": (20,), "h": (1, 5)}
    shapes |= {"c": (1, 5), "h_out": (1, 5), "c_out": (1, 5)}
    arguments: dict[str, Any] = {"cell": CELLS["lstm"][0], "rounding": 0, "B": 1, "I": 4, "H": 5}
    arguments |= {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    native.step(*arguments.values())
    for name, shape in shapes.items():
        with pytest.raises(ValueError, match=f"{name} holds .* items; it must hold"):
            native.step(*(arguments | {name: np.zeros(3, "float32")}).values())
        with pytest.raises((ValueError, TypeError)):
            native.step(*(arguments | {name: None}).values())
        with pytest.raises(ValueError, match="holds items of format"):
            native.step(*(arguments | {name: np.zeros(shape)}).values())
