"""A wrong row of the conventions of ONNX is found by the comparison with onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.flat import assert_agree

import xrnn
from xrnn.convert import to_onnx
from xrnn.convert.onnx_operators import OPERATORS

pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from onnx_models import random_case, session
from test_load_onnx import BOUND, compare
from test_load_onnx_quantized import test_dynamic_quantize_lstm as quantized_is_the_node

LSTM: list[dict[str, Any]] = [
    *({"gates": gates} for gates in ("ifgo", "ifog", "oifg", "fiog", "iogf", "gofi")),
    *({"peepholes": order} for order in ("ifo", "oif", "foi", "fio", "ofi")),
    {"forget_bias": 1.0},
]
WRONG: dict[str, list[dict[str, Any]]] = {
    "LSTM": [*LSTM, {"biases": "one"}, {"biases": "two"}, {"layout": "columns"}],
    "GRU": [
        *({"gates": gates} for gates in ("rzn", "znr", "nrz", "nzr", "rnz")),
        *({"z": "takes"}, {"biases": "one"}, {"biases": "stacked"}, {"layout": "columns"}),
        *({"reset": "after"}, {"reset": "before"}),
    ],
    "RNN": [{"biases": "one"}, {"biases": "stacked"}, {"layout": "columns"}],
    "DynamicQuantizeLSTM": [*LSTM, {"biases": "one"}, {"layout": "rows"}, {"layout": "blocks"}],
}
ROWS = [(op, wrong) for op, rows in WRONG.items() for wrong in rows]

#: what a comparison raises that fails, and what a loader raises that cannot use the arrays
FAILURES = (AssertionError, ValueError, IndexError)

#: for each operator models without and with lengths, in each direction
CASES = {op: [seed for seed in range(60) if random_case(seed).op == op] for op in WRONG}


def mutate(patch: pytest.MonkeyPatch, op: str, wrong: dict[str, Any]) -> None:
    row = OPERATORS[op]
    patch.setitem(
        OPERATORS,  # type: ignore[arg-type]
        op,
        row._replace(convention=replace(row.convention, **wrong)),
    )


def loads_right(op: str) -> bool:
    """Whether all models with this operator pass."""
    try:
        if op == "DynamicQuantizeLSTM":
            quantized_is_the_node("bidirectional", "int8", "column")
        for seed in CASES[op]:
            case = random_case(seed)
            compare(case.model.made(case.outputs), case)
    except FAILURES:
        return False
    return True


def writes_right(op: str, folder: Path) -> bool:
    """Whether layers with this operator pass."""
    layers: dict[str, list[Any]] = {
        "LSTM": [xrnn.LSTM(3, 5, peephole=True, rng=0)],
        "GRU": [xrnn.GRU(3, 5, rng=0), xrnn.GRU(3, 5, reset="before", rng=0)],
        "RNN": [xrnn.RNN(3, 5, rng=0)],
    }
    rng = np.random.default_rng(0)
    for layer in layers[op]:
        layer.weights = {
            name: rng.normal(size=w.shape).astype("float32") for name, w in layer.weights.items()
        }
        xs = rng.normal(size=(4, 2, 3)).astype("float32")
        try:
            to_onnx(layer, folder / "m.onnx", states=False, lengths=False)
            got = session((folder / "m.onnx").read_bytes()).run(["ys"], {"xs": xs})[0]
            assert_agree({"ys": got}, {"ys": layer(xs)[0]}, BOUND)
        except Exception:  # onnxruntime and the checker of onnx have their own kinds
            return False
    return True


@pytest.mark.parametrize("op", WRONG)
def test_the_right_row_passes(op: str, tmp_path: Path) -> None:
    assert op == "DynamicQuantizeLSTM" or len(CASES[op]) > 10
    assert loads_right(op)
    assert op == "DynamicQuantizeLSTM" or writes_right(op, tmp_path)


@pytest.mark.parametrize(
    ("op", "wrong"), ROWS, ids=[f"{op}-{name}={x}" for op, row in ROWS for name, x in row.items()]
)
def test_a_wrong_row_fails(
    op: str, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, op, wrong)
    assert not loads_right(op)
    assert op == "DynamicQuantizeLSTM" or not writes_right(op, tmp_path)
