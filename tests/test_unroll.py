"""`unroll` and `unroll_backward`: what the laws do not say of them, and what is refused."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import ROWS

import xrnn
from xrnn.backends import get
from xrnn.cells import GRU, LSTM, Cell, Elman, ElmanReLU, MinGRU

T, B, I, H = 5, 3, 2, 4


def given(cell: Cell, dtype: str = "float64", seed: int = 0) -> tuple[dict[str, Any], Any, Any]:
    """Weights, inputs, state."""
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(size=s).astype(dtype) for k, s in cell.shapes(I, H).items()}
    state = tuple(rng.normal(size=(B, H)).astype(dtype) for _ in cell.states)
    return weights, rng.normal(size=(T, B, I)).astype(dtype), state


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_padded_batch_is_its_sequences_one_by_one(row: Any, reverse: bool) -> None:
    weights, xs, state = given(row.cell)
    lengths = [3, 0, 5]
    padded = xs.copy()
    for b, n in enumerate(lengths):
        padded[n:, b] = np.nan
    ys, last, tape = xrnn.unroll(row.cell, weights, padded, state, lengths, reverse)
    dys, dlast = np.ones_like(ys), tuple(np.ones_like(s) for s in last)
    dxs, dfirst, dweights = xrnn.unroll_backward(tape, dys, dlast)
    total = {k: np.zeros_like(w) for k, w in weights.items()}
    for b, n in enumerate(lengths):
        one = tuple(s[b : b + 1] for s in state)
        y, end, t = xrnn.unroll(row.cell, weights, xs[:n, b : b + 1], one, None, reverse)
        np.testing.assert_allclose(ys[:n, b], y[:, 0], rtol=1e-12, atol=1e-14)
        for mine, theirs in zip(last, end, strict=True):
            np.testing.assert_allclose(mine[b], theirs[0], rtol=1e-12, atol=1e-14)
        dx, d0, dw = xrnn.unroll_backward(t, dys[:n, b : b + 1], tuple(d[b : b + 1] for d in dlast))
        np.testing.assert_allclose(dxs[:n, b], dx[:, 0], rtol=1e-12, atol=1e-14)
        for mine, theirs in zip(dfirst, d0, strict=True):
            np.testing.assert_allclose(mine[b], theirs[0], rtol=1e-12, atol=1e-14)
        assert not ys[n:, b].any()
        assert not dxs[n:, b].any()
        total = {k: total[k] + dw[k] for k in total}
    for name, gradient in total.items():
        np.testing.assert_allclose(dweights[name], gradient, rtol=1e-11, atol=1e-13)
    for first, end in zip(state, last, strict=True):
        np.testing.assert_array_equal(first[1], end[1], "length 0 keeps the state given")


def test_reverse_is_forward_on_the_flipped_sequence() -> None:
    weights, xs, state = given(LSTM)
    ys, last, _ = xrnn.unroll(LSTM, weights, xs, state, reverse=True)
    flipped, end, _ = xrnn.unroll(LSTM, weights, xs[::-1], state)
    np.testing.assert_allclose(ys, flipped[::-1], rtol=1e-13)
    np.testing.assert_allclose(last.c, end.c, rtol=1e-13)


def test_gradients_are_zero_where_nothing_is_asked() -> None:
    weights, xs, state = given(GRU)
    _, _, tape = xrnn.unroll(GRU, weights, xs, state)
    dxs, dfirst, dweights = xrnn.unroll_backward(tape)
    assert not dxs.any()
    assert not dfirst[0].any()
    assert not any(g.any() for g in dweights.values())


def test_only_the_given_weights_get_gradients() -> None:
    weights, xs, _ = given(GRU)
    del weights["v"]
    ys, _, tape = xrnn.unroll(GRU, weights, xs)
    _, _, dweights = xrnn.unroll_backward(tape, ys)
    assert list(dweights) == ["W", "U", "b"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
def test_forward_in_complex(row: Any) -> None:
    weights, xs, state = given(row.cell)
    wide = {k: w.astype("complex128") for k, w in weights.items()}
    zs, states = xs.astype("complex128"), tuple(s.astype("complex128") for s in state)
    if not row.cell.analytic:
        with pytest.raises(TypeError, match="rnn-relu: xs is complex128; it must be real floating"):
            xrnn.unroll(row.cell, wide, zs, states)
        return
    ys, _, tape = xrnn.unroll(row.cell, wide, zs, states)
    assert ys.dtype == "complex128"
    np.testing.assert_allclose(ys.real, xrnn.unroll(row.cell, weights, xs, state)[0], rtol=1e-12)
    with pytest.raises(TypeError, match="backward is for real numbers"):
        xrnn.unroll_backward(tape, ys)


def test_lengths_may_be_of_any_integer_kind(device: str) -> None:
    backend = get(device)
    weights, xs, _ = given(Elman)
    there = {k: backend.from_host(w) for k, w in weights.items()}
    results = [
        backend.to_host(xrnn.unroll(Elman, there, backend.from_host(xs), None, lengths)[0])
        for lengths in ([4, 0, 2], np.array([4, 0, 2], "uint8"), backend.xp.asarray([4, 0, 2]))
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_cells_keep_their_identity() -> None:
    assert pickle.loads(pickle.dumps(LSTM)) is LSTM
    assert copy.deepcopy({"cell": GRU})["cell"] is GRU
    assert replace(LSTM) is not LSTM
    assert repr(MinGRU) == "<cell mingru>"


def own_step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
    return LSTM.step(2 * ax, state, weights, xp=xp)


OWN = replace(LSTM, name="own", step=own_step)


def test_a_cell_of_ones_own_keeps_its_identity() -> None:
    """In a module or in a function; in another process it is the same one for all its pickles."""
    for cell in (OWN, replace(LSTM, step=own_step)):
        assert pickle.loads(pickle.dumps(cell)) is cell
        assert copy.deepcopy([cell])[0] is cell
        layer = xrnn.Layer(cell, 3, 4)
        assert pickle.loads(pickle.dumps(layer)).cell is cell
    gone = replace(LSTM, step=own_step)
    content = pickle.dumps(gone)
    del gone
    first, second = pickle.loads(content), pickle.loads(content)
    assert first is second
    assert first.step is own_step


def changed(**changes: Any) -> Any:
    """A call of unroll with something changed: a weight by its name, else an argument."""
    weights, xs, state = given(LSTM)
    arguments = {"xs": xs, "state": state, "lengths": None}
    for name, value in changes.items():
        if name in arguments:
            arguments[name] = value
        elif value is None:
            del weights[name]
        else:
            weights[name] = value
    return xrnn.unroll(LSTM, weights, **arguments)


Z = np.zeros


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"U": Z((16, 4)), "state": (Z((B, 5)), Z((B, 5)))},
            ValueError,
            r"lstm: W has shape (16, 2); it must be (4·H, I) = (20, 2), as x has 2 inputs "
            r"and h has 5 units",
        ),
        (
            {"U": Z((16, 5))},
            ValueError,
            r"lstm: U has shape (16, 5); it must be (4·H, H) = (16, 4), as h has 4 units",
        ),
        (
            {"b": Z((4,)), "state": None},
            ValueError,
            r"lstm: b has shape (4,); it must be (4·H,) = (16,), as there are 4 hidden units",
        ),
        ({"U": None}, ValueError, r"lstm: weight U is missing; it must have shape (4·H, H)"),
        ({"V": Z(1)}, ValueError, r"lstm: unknown weight 'V'; it has W, U, b"),
        ({"xs": Z(I)}, ValueError, r"lstm: xs has shape (2,); it must be (T, B, I), or (T, I)"),
        (
            {"U": Z((5, 20)), "W": Z((20, 2)), "b": Z(20), "state": (Z((B, 5)), Z((B, 5)))},
            ValueError,
            r"lstm: U has shape (5, 20); it must be (4·H, H) = (20, 5), as h has 5 units; "
            r"it looks transposed: give U.T",
        ),
        (
            {"W": Z((3, 3)), "state": None},
            ValueError,
            r"lstm: W has shape (3, 3); it must be (4·H, I) = (16, 2), as x has 2 inputs and "
            r"there are 4 hidden units",
        ),
        (
            {"xs": Z((T, B, I), "int64")},
            TypeError,
            r"lstm: xs is int64; it must be real or complex floating point",
        ),
        (
            {"xs": Z((T, B, I), "float32")},
            TypeError,
            r"lstm: xs is float32 and W is float64; cast one of them",
        ),
        (
            {"xs": [[[0.0]]]},
            TypeError,
            r"xs is a builtins.list; it must be an array of NumPy, CuPy or another library",
        ),
        (
            {"xs": np.ma.masked_array(Z((T, B, I)))},
            TypeError,
            r"xs is a numpy.ma.MaskedArray; it must be an array of NumPy",
        ),
        (
            {"state": Z((2, B, H))},
            TypeError,
            r"lstm: state is ndarray; it must be a tuple (h, c)",
        ),
        ({"state": (Z((B, H)),)}, TypeError, r"lstm: state is 1 parts; it must be a tuple (h, c)"),
        (
            {"state": (Z((B, H)), 0.0)},
            TypeError,
            r"state c is a builtins.float; it must be an array",
        ),
        (
            {"state": (Z((2, H)), Z((B, H)))},
            ValueError,
            r"lstm: state h has shape (2, 4); it must be (B, H) = (3, 4)",
        ),
        (
            {"lengths": [1, 2, 6]},
            ValueError,
            r"lengths go from 1 to 6; they must lie in 0…T = 0…5",
        ),
        ({"lengths": [-1, 2, 3]}, ValueError, r"lengths go from -1 to 3; they must lie in 0…T"),
        (
            {"lengths": [1, 2]},
            ValueError,
            r"lengths has shape (2,) and dtype int64; it must be (B,) = (3,) integers",
        ),
        ({"lengths": [1.0, 2.0, 3.0]}, ValueError, r"lengths has shape (3,) and dtype float64"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        changed(**changes)
    assert str(caught.value).startswith(message)


def test_another_library_is_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError) as caught:
        changed(W=strict.zeros((16, 2), dtype=strict.float64))
    assert str(caught.value) == (
        "lstm: U is an array of cpu and W is one of array_api_strict; move one of them: "
        'layer.to("cpu")'
    )


@pytest.mark.parametrize(
    ("dys", "dstate", "error", "message"),
    [
        (Z((T, B, 5)), None, ValueError, r"lstm: dys has shape (5, 3, 5); it must be (T, B, H)"),
        (
            Z((T, B, H), "float32"),
            None,
            TypeError,
            r"lstm: dys is float32 and the output is float64; cast one of them",
        ),
        (None, Z((2, B, H)), TypeError, r"lstm: dstate is ndarray; it must be a tuple (h, c)"),
        (None, (None, Z((B, 1))), ValueError, r"lstm: dc has shape (3, 1); it must be (B, H) ="),
    ],
)
def test_backward_refuses(dys: Any, dstate: Any, error: type[Exception], message: str) -> None:
    _, _, tape = changed()
    with pytest.raises(error) as caught:
        xrnn.unroll_backward(tape, dys, dstate)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("change", [{"U": None}, {"u": 0}], ids=["left out", "unknown"])
def test_gradients_that_a_cell_does_not_give_are_named(change: dict[str, Any]) -> None:
    def back(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        da, dprev, dweights = Elman.step_backward(dstate, saved, weights, xp=xp)
        return da, dprev, {k: d for k, d in (dweights | change).items() if d is not None}

    cell = replace(Elman, name="mine", step_backward=back)
    _, _, tape = xrnn.unroll(cell, {"W": np.ones((4, 2)), "U": np.ones((4, 4))}, np.ones((3, 1, 2)))
    given = "U, u" if "u" in change else ""
    message = rf"mine: step_backward gives gradients of the weights \({given}\); it must give one "
    for use in (xrnn.unroll_backward, xrnn.analysis.gate_gradients):
        with pytest.raises(ValueError, match=message):
            use(tape)


def test_relu_keeps_a_nan() -> None:
    weights, xs, _ = given(ElmanReLU)
    xs[2, 1, 0] = np.nan
    ys, _, _ = xrnn.unroll(ElmanReLU, weights, xs)
    assert np.isnan(ys[2:, 1]).all()
    assert np.isfinite(ys[:, 0]).all()


def test_weights_of_any_byte_order() -> None:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s) for k, s in LSTM.shapes(3, 5).items()}
    xs = rng.normal(size=(4, 2, 3))
    ys, _, tape = xrnn.unroll(LSTM, weights, xs)
    dxs = xrnn.unroll_backward(tape, ys)[0]
    for swapped in (["W"], ["U"], list(weights)):
        other = {k: w.astype(">f8") if k in swapped else w for k, w in weights.items()}
        zs, _, again = xrnn.unroll(LSTM, other, xs)
        np.testing.assert_array_equal(zs, ys)
        np.testing.assert_array_equal(xrnn.unroll_backward(again, ys)[0], dxs)


def test_a_transposed_recurrent_weight_is_named() -> None:
    weights = {k: np.zeros(s) for k, s in LSTM.shapes(3, 5).items()}
    weights["U"] = weights["U"].T
    with pytest.raises(ValueError, match=r"lstm: U has shape \(5, 20\).*give U\.T"):
        xrnn.unroll(LSTM, weights, np.zeros((4, 2, 3)))


@pytest.mark.parametrize(("longest", "ran"), [(0, 1), (3, 3), (14, 14), (15, 16), (16, 16)])
@pytest.mark.parametrize("how", [{}, {"batch_first": True}, {"bidirectional": True}])
def test_behind_the_longest_sequence_nothing_runs(longest: int, ran: int, how: Any) -> None:
    """If that is at least an eighth of all steps; nothing of it is read."""
    layer = xrnn.GRU(2, 3, 2, rng=0, dtype="float64", **how)
    axes = (1, 0, 2) if layer.batch_first else (0, 1, 2)
    rng = np.random.default_rng(0)
    xs, n = rng.normal(size=(16, 2, 2)), 6 if layer.bidirectional else 3
    xs[longest:] = np.nan
    lengths = [longest, min(longest, 2)]
    ys, last, tape = layer.forward(xs.transpose(axes), lengths=lengths)
    assert [one.xs.shape[0] for one in tape.passes] == [ran] * len(tape.passes)
    dys = rng.normal(size=(16, 2, n))
    dys[longest:] = np.nan
    dxs, dfirst, dweights = layer.backward(tape, dys.transpose(axes), last)
    short = slice(0, max(longest, 1))
    ys_, last_, tape_ = layer.forward(xs[short].transpose(axes), lengths=lengths)
    expected = layer.backward(tape_, dys[short].transpose(axes), last_)
    for a, b in ((ys, ys_), (dxs, expected[0])):
        a, b = a.transpose(axes), b.transpose(axes)
        assert a.shape[0] == 16
        assert not a[longest:].any()
        np.testing.assert_allclose(a[short], b, rtol=1e-12)
    np.testing.assert_allclose(last.h, last_.h, rtol=1e-12)
    np.testing.assert_allclose(dfirst.h, expected[1].h, rtol=1e-12)
    for name, d in expected[2].items():
        np.testing.assert_allclose(dweights[name], d, rtol=1e-11, atol=1e-14)
