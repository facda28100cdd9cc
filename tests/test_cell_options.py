"""Cells with options: their gradients by complex steps, their identity, and their errors."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from rows import MADE, NOISY

from xrnn import cells
from xrnn.cells.activations import ACTIVATIONS, activate, sigmoid, slope
from xrnn.cells.options import ActivationName
from xrnn.engine.verify import code_of
from xrnn.recurrence.loop import Loop

T, B, I, H = 3, 4, 3, 5

CELLS = (*MADE, *NOISY)


def arguments(cell: Any, seed: int = 0) -> dict[str, Any]:
    """Everything that a pass takes, by name."""
    rng = np.random.default_rng(seed)
    given = {name: rng.normal(size=shape) for name, shape in cell.shapes(I, H).items()}
    given |= {f"state {n}": rng.normal(size=(B, w)) for n, w in enumerate(cell.widths(H))}
    return given | {"xs": rng.normal(size=(T, B, I))}


def noise(cell: Any) -> dict[str, Any]:
    """Random numbers of what the cell draws."""
    rng = np.random.default_rng(7)
    sizes = {n.name: (B, cell.widths(H)[n.state]) for n in cell.noise}
    return {n.name: rng.random((T,) * n.each_step + sizes[n.name]) for n in cell.noise}


def run(cell: Any, given: dict[str, Any], **options: Any) -> Any:
    weights = {name: given[name] for name in cell.shapes(I, H)}
    state = tuple(given[f"state {n}"] for n in range(len(cell.states)))
    how: Any = {"lengths": None, "reverse": False, "keep": True, "xp": np} | options
    return weights, *Loop(cell).forward(weights, given["xs"], state, **how)


@pytest.mark.parametrize(
    ("cell", "drawn"),
    [*((cell, False) for cell in CELLS), *((cell, True) for cell in NOISY)],
    ids=lambda given: getattr(given, "name", f"drawn={given}"),
)
@pytest.mark.parametrize("lengths", [None, np.array([3, 0, 1, 2])], ids=["whole", "lengths"])
def test_gradients_by_complex_steps(cell: Any, lengths: Any, drawn: bool) -> None:
    given = arguments(cell)
    how: Any = {"lengths": lengths, "noise": noise(cell) if drawn else None}
    weights, ys, last, kept = run(cell, given, **how)
    rng = np.random.default_rng(1)
    dys, *dlast = [rng.normal(size=a.shape) for a in (ys, *last)]
    dxs, dfirst, dweights = Loop(cell).backward(weights, kept, dys, tuple(dlast), xp=np)
    found = {**dweights, **{f"state {n}": d for n, d in enumerate(dfirst)}, "xs": dxs}
    assert found.keys() == given.keys()
    for name, gradient in found.items():
        direction = rng.normal(size=gradient.shape)
        moved = {k: a.astype(complex) for k, a in given.items()}
        moved[name] = moved[name] + 1e-30j * direction
        _, ys, last, _ = run(cell, moved, **how)
        outputs = zip((ys, *last), (dys, *dlast), strict=True)
        numeric = sum((y * dy).sum().imag for y, dy in outputs) / 1e-30
        exact = (gradient * direction).sum()
        assert abs(exact - numeric) <= 1e-12 * max(1, abs(gradient * direction).sum()), name


def test_type_checkers_know_the_names_of_activation_functions() -> None:
    assert get_args(ActivationName) == tuple(ACTIVATIONS)


def test_type_checkers_know_the_names_of_the_activation_functions() -> None:
    assert get_args(ActivationName) == tuple(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_slopes(name: str) -> None:
    kind = ACTIVATIONS[name]
    numbers = [(-0.4, 0.3), (0.7, -0.2)]
    for alpha, beta in [(kind.alpha or 0.0, kind.beta or 0.0), *numbers]:
        spec = (name, alpha, beta)
        a = np.linspace(-4, 4, 81) + 0.013  # beside the kinks
        y = activate(spec, a, xp=np)
        stepped = activate(spec, a + 1e-30j, xp=np)
        np.testing.assert_allclose(y, stepped.real, rtol=1e-14)
        np.testing.assert_allclose(
            slope(spec, a, y, xp=np), stepped.imag / 1e-30, rtol=1e-12, atol=1e-15
        )


class TestIdentity:
    """Cells with options are values: equal options are the same cell."""

    def test_equal_options_are_the_same_cell(self) -> None:
        one = cells.lstm_with(activations=["sigmoid", "tanh", "relu"], cell_clip=3)
        assert one is cells.lstm_with(activations=("sigmoid", "tanh", "relu"), cell_clip=3.0)
        assert one is not cells.lstm_with(activations=("sigmoid", "tanh", "relu"), cell_clip=3.5)
        assert cells.lstm_with(layer_norm=True) is cells.lstm_with(layer_norm="products")

    def test_usual_options_are_the_plain_cells(self) -> None:
        assert cells.lstm_with(activations=("sigmoid", "tanh", "tanh")) is cells.LSTM
        assert cells.lstm_with(peephole=True) is cells.PeepholeLSTM
        assert cells.gru_with() is cells.GRU
        assert cells.gru_with(reset="before") is cells.GRUBefore
        assert cells.rnn_with() is cells.Elman
        assert cells.rnn_with(activations=["relu"]) is cells.ElmanReLU

    def test_the_name_tells_all_options(self) -> None:
        cell = cells.lstm_with(activations=(("hard_sigmoid", 1 / 6), "tanh", "elu"), coupled=True)
        assert cell.name == (
            "lstm(activations=[hard_sigmoid(0.16666666666666666, 0.5), tanh, elu(1.0)], "
            "coupled=True)"
        )
        assert len({cell.name for cell in CELLS}) == len(CELLS)
        assert cell.identity == cell.name

    @pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
    def test_a_pickle_is_the_same_cell(self, cell: Any) -> None:
        assert pickle.loads(pickle.dumps(cell)) is cell

    def test_a_changed_copy_is_another_cell(self) -> None:
        cell = cells.lstm_with(cell_clip=3)
        other = replace(cell, step=cells.LSTM.step)
        assert cell.made == cell.options
        assert other.made is None
        assert other.identity != cell.identity

    def test_the_cache_of_verifications_knows_the_options(self) -> None:
        codes = [code_of(cell.step, cell.step_backward, cell.total) for cell in MADE]
        assert None not in codes
        assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        ("lstm", {"activations": ("tanh",)}, "a sequence of 3 activation functions, in the pl"),
        ("lstm", {"activations": "tanh"}, "a sequence of 3"),
        ("gru", {"activations": ("tanh", "gelu")}, r"activations\[1\] is 'gelu'; it must be of"),
        ("rnn", {"activations": [("tanh", 1.0)]}, "it must be 'tanh'; it has no parameters"),
        ("rnn", {"activations": [("elu", 1.0, 2.0)]}, "it must be 'elu', or a tuple of it, alpha"),
        ("rnn", {"activations": [("elu", float("nan"))]}, "alpha is nan; it must be a finite numb"),
        ("rnn", {"activations": [("affine", 1, "1")]}, r"\[0\]: beta is '1'; it must be a finite"),
        ("rnn", {"activations": [()]}, r"activations\[0\] is \(\); it must be of"),
        ("rnn", {"activations": [3]}, r"activations\[0\] is 3"),
        ("rnn", {"activations": [()]}, r"activations\[0\] is \(\); it must be of sigmoid"),
        ("lstm", {"clip": 0}, "clip is 0; it must be a number > 0, or None"),
        ("lstm", {"cell_clip": -1.0}, "cell_clip is -1.0"),
        ("gru", {"clip": float("nan")}, "clip is nan"),
        ("gru", {"clip": True}, "clip is True"),
        ("lstm", {"coupled": "yes"}, "coupled is 'yes'; it must be True or False"),
        ("lstm", {"peephole": 1}, "peephole is 1; it must be True or False"),
        ("lstm", {"proj_size": -1}, "proj_size is -1; it must be an integer ≥ 0"),
        ("lstm", {"proj_size": 2.0}, "proj_size is 2.0; it must be an integer ≥ 0"),
        ("lstm", {"proj_size": False}, "proj_size is False; it must be an integer ≥ 0"),
        ("lstm", {"layer_norm": "batch"}, "it must be True, False, or of products, gates"),
        ("lstm", {"proj_size": 0.0}, "proj_size is 0.0; it must be an integer ≥ 0"),
        ("lstm", {"proj_size": np.ones(2)}, "proj_size is array"),
        ("lstm", {"layer_norm": True, "peephole": True}, "exclude each other; give layer_norm"),
        ("gru", {"layer_norm": True, "reset": "before"}, "exclude each other"),
        ("leaky", {"alpha": 0}, r"alpha is 0; it must be a number in \(0, 1\]"),
        ("leaky", {"alpha": 0.5, "noise": -1.0}, "noise is -1.0; it must be a number ≥ 0"),
        ("leaky", {"alpha": 0.5, "potential": 1}, "potential is 1; it must be True or False"),
        ("gru", {"reset": np.ones(3)}, "it must be 'after' or 'before'"),
        ("gru", {"reset": "never"}, "reset is 'never'; it must be 'after' or 'before'"),
        ("gru", {"reset": np.asarray(["after"] * 2)}, "reset is array"),
    ],
)
def test_errors(make: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(cells, f"{make}_with")(**options)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_small_values_of_sigmoid_keep_their_digits(dtype: str) -> None:
    a = np.array([-700, -80, -16, -12, -9.2, -1, 0, 1, 16, 700])
    a = a[1 / (1 + np.exp(-a)) > 4 * np.finfo(dtype).tiny].astype(dtype)
    exact = 1 / (1 + np.exp(-a.astype(np.longdouble)))
    error = abs(sigmoid(a, xp=np) / exact - 1)
    assert error.max() <= 3 * np.finfo(dtype).eps
