"""The eight laws: every cell × every option × every library × both dtypes, from one table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import DEVICES
from rows import MADE, ROWS, Row

import xrnn
from xrnn import cells
from xrnn.backends.cpu.extension import ABSENT
from xrnn.certify.laws import LAWS, cases, oracle
from xrnn.certify.report import bound, certify
from xrnn.certify.trial import COMPACT, OPTIONS, Option, Trial

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)

#: (library, dtype): what the strict library refuses does not depend on the dtype, so it is
#: asked in one
KINDS = [
    pytest.param(*device.values, dtype, marks=device.marks, id=f"{device.values[0]}-{dtype}")
    for device in DEVICES
    for dtype in ("float64", "float32")
    if (device.values[0], dtype) != ("array_api_strict", "float32")
]
every_kind = pytest.mark.parametrize(("device", "dtype"), KINDS)


@every_row
@every_kind
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, row: Row, dtype: str, device: str) -> None:
    applied = 0
    for option in OPTIONS:
        error = LAWS[law](Trial(row.cell, option, device, dtype))
        if error is not None:
            applied += 1
            assert error <= bound(row.cell, law, dtype), option.name
    assert applied >= 6


#: ways of use in which the options of a cell could matter
BRIEF = [
    option
    for option in OPTIONS
    if option.name in ("plain", "no bias", "lengths", "reverse", "3 layers, both")
]


@pytest.mark.parametrize("cell", MADE, ids=lambda cell: cell.name)
def test_laws_of_cells_with_options(cell: Any) -> None:
    for option in BRIEF:
        for name, law in LAWS.items():
            error = law(Trial(cell, option))
            assert error is None or error <= bound(cell, name, "float64"), (name, option.name)


@pytest.mark.parametrize("cell", MADE, ids=lambda cell: cell.name)
@pytest.mark.parametrize("law", ["contract", "twin"])
@pytest.mark.parametrize(("device", "dtype"), [k for k in KINDS if k.id != "cpu-float64"])
def test_cells_with_options_in_other_libraries(
    law: str, cell: Any, dtype: str, device: str
) -> None:
    for option in BRIEF[::2]:
        error = LAWS[law](Trial(cell, option, device, dtype))
        assert error is not None
        assert error <= bound(cell, law, dtype), option.name


@pytest.mark.parametrize("row", [row for row in ROWS if row.oracles], ids=lambda row: row.cell.name)
@every_kind
def test_oracle(row: Row, dtype: str, device: str) -> None:
    assert cases(row.cell) == ["deep", "plain"]
    for case in cases(row.cell):
        assert oracle(row.cell, case, device, dtype) <= bound(row.cell, "oracle", dtype), case


@every_row
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("own", [False, True], ids=["kernels", "own code"])
def test_law_with_products_of_bfloat16(law: str, row: Row, own: bool) -> None:
    """Kernels are the same bits in any batch, cut or checkpoint: nothing rounds otherwise there."""
    cell = replace(row.cell) if own else row.cell
    exact = law in ("batch", "cut", "contract", "checkpoint") and not own and not ABSENT
    for option in OPTIONS[::3] if own or law == "derivative" else OPTIONS:
        error = LAWS[law](Trial(cell, option, "cpu", "float32", "bf16"))
        limit = bound(cell, law, "float32", "ieee" if exact else "bf16")
        assert error is None or error <= limit, option.name


@every_row
@pytest.mark.parametrize("option", COMPACT, ids=lambda option: option.name)
def test_law_with_weights_of_8_bits(option: Option, row: Row) -> None:
    """The same bits in any batch and cut, by the kernel and by the cell's own code."""
    for cell in (row.cell, replace(row.cell)):
        trial = Trial(cell, option, "cpu", "float32")
        found: dict[str, Any] = {name: law(trial) for name, law in LAWS.items()}
        known = {name for name, error in found.items() if error is not None}
        assert {"contract", "twin"} <= known <= {"contract", "twin", "batch", "cut"}
        assert [found[name] for name in known - {"twin"}] == [0] * (len(known) - 1)
        assert found["twin"] <= bound(cell, "twin", "float32", option=option)
        assert LAWS["batch"](replace(trial, dtype="float64")) is None


def test_the_certificate_of_a_precision() -> None:
    found = certify("cpu", "float32", [cells.GRU], precision="bf16", laws=["twin", "oracle"])
    assert found.passed
    assert max(verdict.error for verdict in found) > 1e-4  # it did round
    with pytest.raises(ValueError, match="certify: precision is 'bf16' and the dtype is float64"):
        certify("cpu", "float64", [cells.GRU], precision="bf16")


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: pytest.FixtureRequest) -> str:
    """Each dtype of 16 bits."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return str(request.param)


@every_row
@pytest.mark.parametrize("law", LAWS)
def test_law_in_half_precision(law: str, row: Row, half: str) -> None:
    for option in OPTIONS:
        error = LAWS[law](Trial(row.cell, option, "cpu", half))
        assert error is None or error <= bound(row.cell, law, half), option.name


@every_row
@pytest.mark.parametrize("law", LAWS)
def test_law_in_half_precision_of_a_cell_without_kernels(law: str, row: Row, half: str) -> None:
    cell = replace(row.cell)
    for option in OPTIONS[::3]:
        error = LAWS[law](Trial(cell, option, "cpu", half))
        assert error is None or error <= bound(cell, law, half), option.name


@every_row
def test_sums_over_many_sequences_in_half_precision(row: Row, half: str) -> None:
    """Summed up in 16 bits, the gradient of a bias depends on the order of the sequences."""
    error = LAWS["batch"](Trial(row.cell, Option("many", T=2, B=20000), "cpu", half))
    assert error is not None
    assert error <= {"float16": 1e-3, "bfloat16": 8e-3}[half]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_trial_is_of_its_option(option: Option) -> None:
    trial = Trial(ROWS[0].cell, option)
    layer, T_and_B = trial.layer, [trial.inputs.xs.shape[axis] for axis in option.axes]
    assert T_and_B == [option.T, option.B]
    names = ("batch_first", "bidirectional", "reverse", "num_layers", "bias", "dropout")
    for name in (*names, "learn_state"):
        assert getattr(layer, name) == getattr(option, name)
    assert isinstance(layer.hidden_size, tuple) == option.uneven
    steps = trial.inputs.steps
    assert (("mask" in steps), ("resets" in steps)) == (bool(option.left_out), bool(option.resets))
    assert steps.get("masked", "zero") == option.masked
    assert (trial.inputs.state is not None) == option.state


def test_the_options_cover_both_values_of_every_flag() -> None:
    flags = ("batch_first", "bidirectional", "reverse", "bias", "state", "uneven", "learn_state")
    for name in flags:
        assert {getattr(option, name) for option in OPTIONS} == {False, True}, name
    assert {o.num_layers for o in OPTIONS} >= {1, 3}
    assert {o.T for o in OPTIONS} >= {0, 1}
    assert {o.B for o in OPTIONS} >= {0, 1}


def test_the_certificate_of_a_cell_with_options() -> None:
    """Its name has a line of its own, so that all columns stand below their headings."""
    made = cells.lstm_with(cell_clip=0.5, zoneout=(0.1, 0.2))
    certificate = certify("cpu", "float64", [made, cells.Elman])
    assert certificate.passed
    assert {verdict.cell for verdict in certificate} == {made.name, "rnn"}
    heading, name, *rows, _ = str(certificate).splitlines()
    assert name == made.name
    assert {len(row) for row in rows} == {len(heading)}
    assert rows[0].startswith(" " * 12 + "plain ")
    assert rows[-1].startswith("rnn ")


def test_certify_runs_the_laws_that_are_asked_for() -> None:
    found = xrnn.certify("cpu", "float64", [cells.Elman], laws=["batch", "oracle"])
    assert {verdict.law for verdict in found} == {"batch", "oracle"}
    assert found.passed
    assert not xrnn.certify(cells=[cells.Elman], laws=[]).passed  # nothing was shown
    with pytest.raises(ValueError, match="a name in laws is 'twins'; it must be 'derivative' or"):
        xrnn.certify(laws=["twins"])
    with pytest.raises(TypeError, match="laws is 'batch'; it must be a list of names of laws"):
        xrnn.certify(laws="batch")
