"""`from_arrays`: weights in any format, against layers with the same weights and against the steps
of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from libraries import COUPLED, COUPLED_PEEPHOLES, LIBRARIES, PROJECTED, H, I, P

import xrnn
from xrnn import cells
from xrnn.cells import GRU, LSTM, Elman, GRUBefore, PeepholeLSTM, gru_with, lstm_with
from xrnn.convert import from_arrays
from xrnn.convert.conventions import CONVENTIONS, Stored, peephole_gates
from xrnn.typing import Array

rng = np.random.default_rng(0)
XS = rng.normal(size=(5, 2, I))


def layer_of(cell: Any, bias: bool = True) -> Any:
    """A layer whose weights are all random, also those that are made as 0."""
    layer = xrnn.Layer(cell, I, H, bias=bias, dtype="float64", rng=1)
    layer.weights = {name: rng.normal(size=w.shape) for name, w in layer.weights.items()}
    return layer


def given(layer: Any) -> dict[str, Any]:
    """The arguments that give the weights of a layer, as they are."""
    names = {"W": "W", "U": "U", "b": "b", "p": "peephole", "P": "projection"}
    weights = {name.removesuffix("_l0"): w for name, w in layer.weights.items()}
    found = {"U": None} | {names[k]: w for k, w in weights.items() if k in names}
    if "v" in weights:
        found["recurrent_bias"] = np.concatenate([np.zeros(2 * H), weights["v"]])
    return found


def same(made: Any, layer: Any, near: float = 0.0) -> None:
    assert made.cell is layer.cell
    assert made.weights.keys() == layer.weights.keys()
    for name, w in layer.weights.items():
        np.testing.assert_allclose(made.weights[name], w, near, near)
    ys, _ = layer(XS.astype(layer.dtype))
    np.testing.assert_allclose(made(XS.astype(made.dtype))[0], ys, max(near, 1e-12), 1e-12)


def blocks(array: Array, order: str, wanted: str) -> list[Array]:
    """The blocks of an array in another order."""
    found = dict(zip(order, np.split(array, len(order)), strict=True))
    return [found[k] for k in wanted]


# ---- Cells and formats

CELLS: list[Any] = [
    LSTM,
    PeepholeLSTM,
    PROJECTED,
    COUPLED,
    COUPLED_PEEPHOLES,
    GRU,
    GRUBefore,
    Elman,
    cells.ElmanReLU,
    cells.MGU,
    cells.MinGRU,
    cells.JANET,
    cells.InputGatedLSTM,
    cells.leaky_with(0.2),
    cells.with_zoneout(LSTM, 0.1, 0.2),
    cells.with_zoneout(cells.MinGRU, 0.1),
    lstm_with(clip=1.0, activations=("hard_sigmoid", "relu", "softsign")),
    gru_with(reset="before", recurrent_dropout=0.2),
]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


@each_cell
def test_the_weights_of_every_cell(cell: Any) -> None:
    for bias in (True, False):
        if not bias and "v" in cell.biases:
            continue
        layer = layer_of(cell, bias)
        same(from_arrays(cell, transposed=False, **given(layer)), layer)


@each_cell
def test_transposed(cell: Any) -> None:
    layer = layer_of(cell)
    arrays = given(layer)
    for name in ("W", "U", "projection"):
        if arrays.get(name) is not None:
            arrays[name] = arrays[name].T
    same(from_arrays(cell, transposed=True, **arrays), layer)


@each_cell
def test_gates_in_another_order_and_one_array_for_each(cell: Any) -> None:
    layer = layer_of(cell)
    ours, order = "".join(cell.gates), "".join(reversed(cell.gates))
    looking = "".join(peephole_gates(cell))
    for transposed in (False, True):
        arrays, apart = given(layer), given(layer)
        for name in ("W", "U", "b", "recurrent_bias", "peephole", "projection"):
            if arrays.get(name) is None:
                continue
            if name == "projection":
                turned = arrays[name].T if transposed else arrays[name]
                arrays[name] = apart[name] = turned
                continue
            mine, wanted = (looking, looking[::-1]) if name == "peephole" else (ours, order)
            matrices = transposed and name in ("W", "U")
            parts = [a.T if matrices else a for a in blocks(arrays[name], mine, wanted)]
            apart[name] = parts if name == "W" else tuple(parts)
            arrays[name] = np.concatenate(parts, axis=int(matrices))
        same(from_arrays(cell, gates=order, transposed=transposed, **arrays), layer)
        same(from_arrays(cell, gates=order, transposed=transposed, **apart), layer)


@pytest.mark.parametrize("row", CONVENTIONS, ids=": ".join)
def test_the_formats_of_libraries(row: tuple[str, str]) -> None:
    """A layer made of what a library stores computes what the library does."""
    convention = CONVENTIONS[row]
    for library in LIBRARIES[row]:
        if set(library.cell.gates) != set(convention.gates) or convention.layout == "blocks":
            continue
        if library.gain is not None:
            continue
        stored = Stored(
            **{k: None if s is None else rng.normal(size=s) for k, s in library.shapes().items()}
        )
        b, recurrent_bias = stored.b, stored.recurrent_bias
        if convention.biases in ("joined", "stacked"):
            b, recurrent_bias = np.split(stored.b.ravel(), 2)  # type: ignore[union-attr]
        peephole = stored.peephole
        if peephole is not None:
            looking = [k for k in convention.gates if k in convention.peepholes]
            peephole = np.concatenate(blocks(peephole, convention.peepholes, "".join(looking)))
        layer = from_arrays(
            library.cell,
            stored.W,
            stored.U,
            b,
            recurrent_bias=recurrent_bias,
            peephole=peephole,
            projection=stored.projection,
            gates=convention.gates,
            transposed=convention.layout == "columns",
            z=convention.z,
            forget_bias=convention.forget_bias,
        )
        state: Any = tuple(np.zeros((2, n)) for n in library.cell.widths(H))
        ys, _ = layer(XS)
        for x, y in zip(XS, ys, strict=True):
            state = library.step(stored, x, state)
            np.testing.assert_allclose(y, state[0], 0, 1e-12)


@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        (LSTM, "ifco"),
        (LSTM, "ijfo"),
        (GRU, "urc"),
        (GRUBefore, "zrh"),
        (cells.MGU, "fh"),
        (cells.MGU, "cf"),
        (cells.MinGRU, "zh"),
        (cells.JANET, "fc"),
    ],
)
def test_other_letters(cell: Any, gates: str) -> None:
    layer = layer_of(cell)
    letters = {"c": "gn", "j": "g", "h": "n", "u": "z", "f": "u"}
    ours = [next(k for k in (g, *letters.get(g, "")) if k in cell.gates) for g in gates]
    arrays = given(layer)
    for name in ("W", "U", "b", "recurrent_bias"):
        if arrays.get(name) is not None:
            arrays[name] = blocks(arrays[name], "".join(cell.gates), "".join(ours))
    same(from_arrays(cell, gates=gates, transposed=False, **arrays), layer)


# ---- Biases


def test_two_biases_are_added_up() -> None:
    layer = layer_of(LSTM)
    arrays = given(layer)
    other = rng.normal(size=4 * H)
    arrays |= {"b": arrays["b"] - other, "recurrent_bias": other}
    same(from_arrays(LSTM, **arrays), layer, 1e-15)
    alone = from_arrays(LSTM, arrays["W"], arrays["U"], recurrent_bias=layer.weights["b_l0"])
    same(alone, layer)


def test_a_bias_of_the_candidate_of_a_gru() -> None:
    W, U = rng.normal(size=(3 * H, I)), rng.normal(size=(3 * H, H))
    bx, bh = rng.normal(size=(2, 3 * H))
    after = from_arrays(GRU, W, U, bx, recurrent_bias=bh)
    np.testing.assert_array_equal(after.weights["v_l0"], bh[2 * H :])
    np.testing.assert_array_equal(after.weights["b_l0"][2 * H :], bx[2 * H :])
    before = from_arrays(GRUBefore, W, U, bx, recurrent_bias=bh)
    np.testing.assert_array_equal(before.weights["b_l0"], bx + bh)
    one = from_arrays(GRU, W, U, bx)
    assert not one.weights["v_l0"].any()


def test_forget_bias() -> None:
    layer = layer_of(LSTM)
    arrays = given(layer)
    arrays["b"] = arrays["b"].copy()
    arrays["b"][H : 2 * H] -= 0.5
    before = arrays["b"].copy()
    same(from_arrays(LSTM, **arrays, forget_bias=0.5), layer, 1e-15)
    np.testing.assert_array_equal(arrays["b"], before)  # what is given is not changed
    janet = from_arrays(cells.JANET, **given(layer_of(cells.JANET)), forget_bias=1)
    assert janet.bias
    arrays["b"] = None
    bare = from_arrays(LSTM, **arrays, forget_bias=0.5)
    assert list(bare.weights["b_l0"]) == [0.0] * H + [0.5] * H + [0.0] * 2 * H


# ---- z


@pytest.mark.parametrize(
    "cell",
    [
        GRU,
        GRUBefore,
        gru_with(activations=("hard_sigmoid", "relu")),
        gru_with(reset="before", activations=(("hard_sigmoid", 1 / 6, 0.5), "tanh"), clip=1.5),
        gru_with(activations=(("affine", 0.2, 0.5), "tanh")),
        cells.with_zoneout(GRU, 0.2),
    ],
    ids=lambda cell: cell.name,
)
def test_z_takes(cell: Any) -> None:
    """With z of the other polarity the rows of z have the other sign."""
    layer = layer_of(cell)
    arrays = given(layer)
    for name in ("W", "U", "b"):
        arrays[name] = arrays[name].copy()
        arrays[name][H : 2 * H] *= -1
    same(from_arrays(cell, **arrays, z="takes"), layer)


def test_z_takes_with_a_function_that_is_not_symmetric() -> None:
    cell = gru_with(activations=("softplus", "tanh"))
    with pytest.raises(ValueError, match=r"gru\(.*\): .* activation function softplus, for which"):
        from_arrays(cell, **given(layer_of(cell)), z="takes")


# ---- States, dtypes, options of the layer


def test_a_learned_state() -> None:
    for cell, state in (
        (LSTM, rng.normal(size=(2, H))),
        (Elman, [rng.normal(size=H).astype("float32")]),
        (PROJECTED, (rng.normal(size=P), rng.normal(size=H))),
    ):
        layer = from_arrays(cell, transposed=False, state=state, **given(layer_of(cell)))
        assert layer.learn_state
        ys, _ = layer(XS)
        plain = from_arrays(cell, transposed=False, **given(layer_of(cell)))
        plain.weights = {name: layer.weights[name] for name in plain.weights}
        start = [np.broadcast_to(s, (1, 2, len(s))).astype(float) for s in state]
        np.testing.assert_array_equal(plain(XS, start)[0], ys)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", ">f4", "<f8"])
def test_the_dtype_is_that_of_W(dtype: str) -> None:
    kind: Any = dtype
    if dtype == "bfloat16":
        kind = pytest.importorskip("ml_dtypes").bfloat16
    arrays: dict[str, Any] = {name: a.astype(kind) for name, a in given(layer_of(LSTM)).items()}
    layer = from_arrays(LSTM, **arrays)
    known = {">f4": "float32", "<f8": "float64"}.get(dtype, dtype)
    assert layer.dtype == known
    for name, a in arrays.items():
        np.testing.assert_array_equal(
            np.asarray(layer.weights[f"{name}_l0"], float), a.astype(float)
        )
    assert from_arrays(LSTM, **arrays, dtype="float64").dtype == "float64"


def test_two_biases_in_half_precision_are_rounded_once() -> None:
    W, U = np.zeros((4 * H, I), "float16"), np.zeros((4 * H, H), "float16")
    b, other = np.full(4 * H, 2048, "float16"), np.full(4 * H, 1.0, "float16")
    made = from_arrays(LSTM, W, U, b, recurrent_bias=other, dtype="float32")
    np.testing.assert_array_equal(made.weights["b_l0"], 2049)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    layer = layer_of(PeepholeLSTM)
    tensors = {name: torch.from_numpy(a.copy()) for name, a in given(layer).items()}
    apart: dict[str, Any] = {name: list(torch.split(a, H)) for name, a in tensors.items()}
    same(from_arrays(PeepholeLSTM, transposed=False, **apart), layer)
    there = from_arrays(PeepholeLSTM, device="torch", **tensors)
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(there.weights[name].numpy(), w)


def test_nothing_is_shared() -> None:
    """What is done to the arrays afterwards changes no layer, and the other way round."""
    layer = layer_of(PROJECTED)
    arrays = {name: a.copy() for name, a in given(layer).items()} | {
        "state": [np.ones(P), np.ones(H)]
    }
    made = from_arrays(PROJECTED, **arrays)
    for array in (*arrays.values(), *arrays["state"]):
        if isinstance(array, np.ndarray):
            assert not any(np.shares_memory(array, w) for w in made.weights.values())


def test_arrays_in_any_layout_of_memory() -> None:
    layer = layer_of(LSTM)
    arrays: dict[str, Any] = {name: np.asfortranarray(a) for name, a in given(layer).items()}
    made = from_arrays(LSTM, **arrays)
    same(made, layer)
    assert all(w.flags.c_contiguous for w in made.weights.values())


def test_options_of_the_layer() -> None:
    layer = layer_of(LSTM)
    made = from_arrays(LSTM, **given(layer), batch_first=True, reverse=True)
    ys, _ = made(XS.transpose(1, 0, 2))
    back, _ = layer(XS[::-1].copy())
    np.testing.assert_allclose(ys.transpose(1, 0, 2), back[::-1], 0, 1e-12)
