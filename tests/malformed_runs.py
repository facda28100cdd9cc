"""Malformed checkpoints of `xrnn train`: what is done to one, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def options(info: dict[str, Any]) -> dict[str, Any]:
    """Those of the run in its checkpoint."""
    found: dict[str, Any] = info["metadata"]["charlm"]
    return found


#: what is done to the tensors and the values of a checkpoint, and what the sentence says
MALFORMED: dict[str, tuple[Change, str]] = {
    "no weights": (
        lambda t, i: [t.pop(k) for k in list(t) if k.startswith("weights.")],
        "is the checkpoint of another model: weights.embedding.E is missing",
    ),
    "no tensors": (lambda t, i: t.clear(), "is missing"),
    "a weight missing": (
        lambda t, i: t.pop("weights.layer.U_l0"),
        "weights.layer.U_l0 is missing",
    ),
    "no state": (lambda t, i: i.update(state=None), "the state of the layer must be of h, c"),
    "a state missing": (lambda t, i: t.pop("state.1"), "which names no tensors"),
    "a state that is a number": (lambda t, i: i.update(state=3), "which names no tensors"),
    "a state of lists without end": (
        lambda t, i: i.update(state=[[[]]]),
        "the state of the layer must be of h, c (1, 4, 12)",
    ),
    "a moment missing": (
        lambda t, i: t.pop("optimizer.v.readout.b"),
        "optimizer.v.readout.b is missing",
    ),
    "a weight of more layers": (
        lambda t, i: t.update({"weights.layer.U_l1": t["weights.layer.U_l0"]}),
        "weights.layer.U_l1 is unknown",
    ),
    "a tensor of a newer version": (
        lambda t, i: t.update({"noise": np.zeros(2, "float32")}),
        "noise is unknown",
    ),
    "a moment of another shape": (
        lambda t, i: t.update({"optimizer.m.layer.b_l0": np.zeros(12, "float32")}),
        "optimizer.m.layer.b_l0 is float32 of shape (12,) there, and must be float32 or float64 of "
        "shape (48,)",
    ),
    "a moment of a shape that broadcasts": (
        lambda t, i: t.update({"optimizer.m.layer.b_l0": np.zeros((1, 48), "float32")}),
        "must be float32 or float64 of shape (48,)",
    ),
    "a state of another batch": (
        lambda t, i: t.update({"state.0": np.zeros((1, 5, 12), "float32")}),
        "the state of the layer must be of h, c (1, 4, 12)",
    ),
    "a state of float64": (
        lambda t, i: t.update({"state.0": t["state.0"].astype("float64")}),
        "state.0 is float64",
    ),
    "weights of integers": (
        lambda t, i: t.update({"weights.readout.b": t["weights.readout.b"].astype("int32")}),
        "weights.readout.b is int32",
    ),
    "NaN": (
        lambda t, i: t["weights.readout.W"].fill(np.nan),
        "weights.readout.W holds NaN or infinity",
    ),
    "infinity": (lambda t, i: t["state.1"].fill(np.inf), "state.1 holds NaN or infinity"),
    "a key of a newer version": (
        lambda t, i: i.update(momentum=0.9),
        "momentum is unknown to this version; it may be that of a newer xrnn",
    ),
    "an option of a newer version": (
        lambda t, i: options(i).update(momentum=0.9),
        "metadata.charlm.momentum is unknown to this version",
    ),
    "an option missing": (lambda t, i: options(i).pop("cell"), "charlm.cell is missing"),
    "an unknown cell": (lambda t, i: options(i).update(cell="foo"), "unknown cell 'foo'"),
    "a precision of a newer version": (
        lambda t, i: options(i).update(precision="fp8"),
        "--precision is 'fp8'; it must be one of",
    ),
    "another cell": (
        lambda t, i: options(i).update(cell="gru"),
        "is the checkpoint of another model: optimizer.m.layer.v_l0 is missing",
    ),
    "more units": (
        lambda t, i: options(i).update(hidden=13),
        "weights.layer.W_l0 is float32 of shape (48, 6) there, and must be float32 of shape (52,",
    ),
    "a size as a string": (
        lambda t, i: options(i).update(hidden="12"),
        "charlm.hidden is '12'; it must be an integer",
    ),
    "a size that no machine has": (
        lambda t, i: options(i).update(hidden=10**11),
        "this takes at least",
    ),
    "options that are a list": (lambda t, i: i["metadata"].update(charlm=[]), "charlm is []"),
    "no progress": (lambda t, i: i.pop("progress"), "progress is missing"),
    "no step": (lambda t, i: i["progress"].pop("step"), "progress.step is missing"),
    "a negative step": (
        lambda t, i: i["progress"].update(step=-1),
        "progress.step is -1; it must be an integer ≥ 0",
    ),
    "a step as a string": (
        lambda t, i: i["progress"].update(step="17"),
        "progress.step is '17'; it must be an integer",
    ),
    "a step that is a truth value": (
        lambda t, i: i["progress"].update(step=True),
        "progress.step is True",
    ),
    "no step yet, but moments": (lambda t, i: i["optimizer"].update(steps=0), "is unknown"),
    "seconds as a string": (lambda t, i: i["progress"].update(seconds="1"), "seconds is '1'"),
    "rows that are an object": (lambda t, i: i["history"].update(rows={}), "history.rows is {}"),
    "rows that are numbers": (lambda t, i: i["history"].update(rows=[1]), "history.rows[0] is 1"),
    "a row cut short": (
        lambda t, i: i["history"].update(rows=[{"step": 3}]),
        "history.rows[0] is {'step': 3}; it must be a row of numbers",
    ),
    "rows of the future": (
        lambda t, i: i["history"].update(rows=[_row(3), _row(18)]),
        "history.rows[1].step is 18; it must be above 3, that of the row before, and at most 17",
    ),
    "another seed": (
        lambda t, i: i["options"].update(seed=3),
        "is the checkpoint of another run: seed was 3 and is 0 now",
    ),
    "another optimizer": (
        lambda t, i: i["optimizer"].update({"class": "SGD"}),
        "was trained with SGD",
    ),
    "a run of something else": (lambda t, i: i.update(kind="x"), "is no checkpoint of xrnn.fit"),
    "a run of before": (
        lambda t, i: i.update(charlm={}),
        "is of xrnn 0.3 or before, whose training cannot be gone on with; xrnn sample writes",
    ),
    "another vocabulary": (
        lambda t, i: i["metadata"].update(vocabulary=i["metadata"]["vocabulary"][1:]),
        "was trained on another text",
    ),
    "a vocabulary out of order": (
        lambda t, i: i["metadata"].update(vocabulary=i["metadata"]["vocabulary"][::-1]),
        "it must be a string of different characters in order",
    ),
    "a vocabulary of nothing": (
        lambda t, i: i["metadata"].update(vocabulary=""),
        "vocabulary is ''",
    ),
    "another text": (
        lambda t, i: i["metadata"].update(sha256="0" * 64),
        "was trained on another text",
    ),
    "a text that is a number": (
        lambda t, i: i["metadata"].update(text=3),
        "text is 3; it must be the path",
    ),
    "a text that no file can be": (
        lambda t, i: i["metadata"].update(text="a\0b"),
        "text is 'a\\x00b'; it must be the path of a file",
    ),
    "a text of a name that cannot be encoded": (
        lambda t, i: i["metadata"].update(text="\ud800"),
        "'\\ud800' is no name of a file in",
    ),
    "seconds that are no number": (
        lambda t, i: i["progress"].update(seconds=float("nan")),
        "progress.seconds is nan; it must be a finite number",
    ),
    "a learning rate that no float holds": (
        lambda t, i: options(i).update(lr=10**400),
        "charlm.lr is 1000",
    ),
    "a rate that is infinite": (
        lambda t, i: i["optimizer"].update(lr=float("inf")),
        "optimizer.lr is inf; it must be a finite number ≥ 0",
    ),
}


def _row(step: int) -> dict[str, Any]:
    return {"epoch": 1, "loss": 1.0, "validation": 1.0, "step": step, "lr": 0.1, "seconds": 1.0}
