"""The seven laws: every cell × every option × every library × both dtypes, from one table."""

from __future__ import annotations

import pytest
from rows import ROWS, Row

from xrnn.certify.laws import LAWS, cases, oracle
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


@every_row
@every_dtype
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, row: Row, dtype: str, device: str) -> None:
    applied = 0
    for option in OPTIONS:
        error = LAWS[law](Trial(row.cell, option, device, dtype))
        if error is not None:
            applied += 1
            assert error <= bound(row.cell, law, dtype), option.name
    assert applied >= 6


@pytest.mark.parametrize("row", [row for row in ROWS if row.oracles], ids=lambda row: row.cell.name)
@every_dtype
def test_oracle(row: Row, dtype: str, device: str) -> None:
    assert cases(row.cell) == ["deep", "plain"]
    for case in cases(row.cell):
        assert oracle(row.cell, case, device, dtype) <= bound(row.cell, "oracle", dtype), case


@every_row
@pytest.mark.parametrize("law", LAWS)
def test_law_in_float16(law: str, row: Row) -> None:
    for option in OPTIONS:
        error = LAWS[law](Trial(row.cell, option, "cpu", "float16"))
        assert error is None or error <= bound(row.cell, law, "float16"), option.name
