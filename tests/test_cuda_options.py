"""CUDA kernels of cells with options, on the emulated device, equal the cells.

What all kernels are tested for is in `test_cuda_fused.py`, for one form of each cell with options;
here are every function in each place, each limit, and what depends on the options.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from emulation import BOUNDS, emulated, emulator_with_graphs, fused, use_small_blocks
from optioned import FAR, FORMS, MAKERS, every_cell, spec
from sequences import AnyCell, Case, close, reference, run, some_lengths
from shim.build import KERNELS
from shim.runtime import LikeCupy

from xrnn import cells
from xrnn.backends import Backend, Kernel
from xrnn.backends.cpu import BACKEND
from xrnn.backends.cuda import graphs, tables
from xrnn.backends.cuda.options import KINDS, SAME
from xrnn.backends.host import named_dtype
from xrnn.cells.activations import ACTIVATIONS, activate
from xrnn.cells.options import activations_of
from xrnn.engine import verify
from xrnn.engine.trial import DRAWS
from xrnn.typing import dtype_name

every_form = pytest.mark.parametrize("cell", FORMS, ids=lambda cell: cell.name)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@cache
def entries(cell: AnyCell) -> tuple[Kernel, ...]:
    """The entries of the table of one cell."""
    return tables.kernels_of(emulator_with_graphs(), frozenset(map(named_dtype, BOUNDS)), cell)


@emulated
@pytest.mark.parametrize("cell", list(every_cell()), ids=lambda cell: cell.name)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-13), ("float32", 2e-5)])
def test_equal_to_the_equations(cell: AnyCell, dtype: str, bound: float) -> None:
    for H, lengths in ((12, None), (5, some_lengths(4, 5))):
        case = Case(cell, (4, 5, 3, H), dtype, lengths, reverse=H == 5, gain=1.5)
        found = run(fused(cell), case)
        close(found, reference(case), bound)
        checks.padding_is_zero(case, found)


#: dtype → the largest relative error of an activation, and what may be 0
ERRORS = {"float64": 2.0**-50, "float32": 2.0**-19, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float64": 2.0**-1022, "float16": 2.0**-25}


@emulated
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_activations_far_from_0(name: str, dtype: str) -> None:
    """By an Elman network without recurrence, whose output is the activation of its input."""
    cell = cells.rnn_with(activations=[spec(name)], clip=FAR)
    x = np.array([0, 1e-3, 0.4, 1, 7, 30, 80, 800]).astype(named_dtype(dtype))
    x = np.concatenate([x, -x]).astype(named_dtype(dtype))
    case = Case(cell, (len(x), 1, 1, 1), dtype).mapped(np.zeros_like)
    case.weights["W"][:], case.xs[:, 0, 0], case.dys[:] = 1, x, 1  # type: ignore[index]
    found = run(fused(cell), case)
    wide, given = x.astype("longdouble"), cell.made.activations[0]
    values, slopes = (found[name][:, 0, 0].astype("longdouble") for name in ("ys", "dxs"))
    least, error = SMALLEST.get(dtype, 2.0**-126), ERRORS[dtype]
    np.testing.assert_allclose(values, activate(given, wide, xp=np), rtol=error, atol=least)
    # A derivative is computed from the value, and loses the digits that cancel.
    np.testing.assert_allclose(slopes, _slope(given, wide), rtol=error, atol=error)


def _slope(given: Any, x: Any) -> Any:
    name, alpha, beta = given
    return ACTIVATIONS[name].slope(x, activate(given, x, xp=np), alpha, beta, xp=np)


@emulated
@pytest.mark.parametrize(
    ("maker", "plain"),
    [
        *((name, cells.BY_NAME[name]) for name in ("rnn", "gru", "gru-before", "lstm")),
        ("peephole", cells.PeepholeLSTM),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_usual_options_are_the_plain_cell(maker: str, plain: AnyCell, dtype: str) -> None:
    case = Case(plain, (5, 3, 4, 20), dtype)
    other = replace(case, cell=MAKERS[maker](clip=FAR))
    close(run(fused(other.cell), other), run(fused(plain), case), BOUNDS[dtype])


@emulated
@every_form
def test_the_options_bite(cell: AnyCell) -> None:
    """Each one changes outputs and gradients, so that a kernel without it would be seen."""
    options = cell.made
    case = Case(cell, (5, 3, 4, 20), "float64", gain=1.5)
    found = run(fused(cell), case)
    usual = activations_of(options.kind, None, options.usual)
    for name, value in (("activations", usual), ("clip", FAR), ("cell_clip", FAR)):
        if hasattr(options, name):
            other = cell.maker(replace(options, **{name: value}))  # type: ignore[misc]
            without = run(fused(other), case)
            assert all((found[k] != without[k]).any() for k in ("ys", "dxs", "dW")), name


@emulated
@every_form
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_numbers_that_are_none(cell: AnyCell, dtype: str) -> None:
    case = Case(cell, (5, 5, 3, 12), dtype, some_lengths(5, 5))
    checks.padding_is_not_read(fused(cell), case)
    checks.infinite_weights_leave_the_padding_zero(fused(cell), case)
    checks.nan_stays_in_its_sequence(fused(cell), replace(case, lengths=None), 2)


#: what one cell's kernels are verified on
EMULATED_BACKEND = Backend("emulated", LikeCupy(), BACKEND.to_host)


@emulated
@pytest.mark.parametrize("cell", [*FORMS, cells.lstm_with(clip=0.4)], ids=lambda cell: cell.name)
def test_right_kernels_are_verified(cell: AnyCell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each dtype, where rounding decides on which side of a kink a value lies, too."""
    monkeypatch.setenv(graphs.OPT_IN, "1")
    monkeypatch.setattr(graphs, "STEPS", 2)
    for entry in entries(cell):
        assert entry.path(9, 3, 4, 16).startswith("one fused kernel a step")
        for dtype in entry.dtypes:
            for H in (16, 7):
                given = EMULATED_BACKEND, cell, dtype, entry, entry.trial(9, 3, 4, H)
                assert verify._compare(*given) is None, dtype_name(dtype)


@emulated
@pytest.mark.parametrize("dtype", BOUNDS)
def test_wrong_kernels_are_not(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any draw of the arguments."""
    asked, difference = [], verify.difference

    def counted(*given: Any) -> float:
        asked.append(given)
        return difference(*given)

    monkeypatch.setattr(verify, "difference", counted)
    for cell, other in (
        (cells.lstm_with(clip=1.0), cells.lstm_with(clip=1.1)),
        (cells.gru_with(activations=["sigmoid", "relu"]), cells.gru_with(clip=FAR)),
    ):
        asked.clear()
        wrong = replace(entries(cell)[-1], sequence=entries(other)[-1].sequence)
        given = EMULATED_BACKEND, cell, named_dtype(dtype), wrong, (5, 3, 4, 16)
        assert "it differs by" in str(verify._compare(*given))
        assert len(asked) == DRAWS


def test_every_function_has_its_kind() -> None:
    assert {*KINDS, *SAME} == {*ACTIVATIONS}
    text = (KERNELS / "options.cuh").read_text("utf-8")
    enum = re.search(r"enum Kind \{(.*?)\}", text, re.DOTALL)
    assert enum is not None
    assert [word.lower() for word in re.findall(r"\w+", enum[1])] == list(KINDS)


def test_which_cells_are_served() -> None:
    for cell in (
        cells.lstm_with(proj_size=2),
        cells.lstm_with(layer_norm="gates"),
        cells.lstm_with(clip=1.0, zoneout=(0.1, 0.1)),
        cells.gru_with(recurrent_dropout=0.5),
        cells.gru_with(layer_norm=True),
        replace(cells.lstm_with(clip=1.0), step=cells.LSTM.step),
    ):
        assert entries(cell) == ()
    for cell in FORMS:
        kinds = {(dtype_name(d), e.precision) for e in entries(cell) for d in e.dtypes}
        assert kinds == {
            *(("float32", p) for p in ("tf32", "bf16")),
            *((dtype, "ieee") for dtype in BOUNDS),
        }
