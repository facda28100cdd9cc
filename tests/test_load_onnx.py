"""`load_onnx`: layers of ONNX nodes compute what onnxruntime computes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles.flat import assert_agree

from xrnn.convert import load_onnx

onnx = pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

import onnx_models  # noqa: E402
from onnx_models import Case, random_case  # noqa: E402

#: both sides are float32, and activations of onnxruntime are accurate to about 1e-6
BOUND = 1e-5


def by_xrnn(found: Any, name: str, case: Case) -> dict[str, Any]:
    """What the node computes, by the layers that it became."""
    directions = [name] if name in found else [f"{name}.forward", f"{name}.reverse"]
    ys, last = [], []
    for d, one in enumerate(directions):
        state = case.state
        if len(directions) == 2:
            state = [None if s is None else s[d : d + 1] for s in case.state]
        layer = found[one]
        y, end = layer(case.xs, tuple(state), case.lengths)
        ys.append(y)
        last.append(end)
    states = zip(*last, strict=True)
    return dict(
        zip(case.outputs, [np.concatenate(ys, -1), *map(np.concatenate, states)], strict=True)
    )


def by_onnxruntime(case: Case, found: Any, run: Any) -> dict[str, Any]:
    """What the node computes, in our axes; with the states of empty sequences, of which
    onnxruntime gives zeros."""
    Y, *last = run
    T, _, B, _ = Y.shape
    if case.lengths is not None:
        parts = list(found.values())
        for k, given in enumerate(case.state):
            begin = given
            if given is None:
                begin = np.concatenate([part.initial_state(B)[k] for part in parts])
            last[k] = np.where((case.lengths == 0)[:, None], begin, last[k])
    return dict(zip(case.outputs, [Y.transpose(0, 2, 1, 3).reshape(T, B, -1), *last], strict=True))


def compare(model: Any, case: Case) -> Any:
    """Fail unless the layers loaded from the model compute what it does."""
    found = load_onnx(model.SerializeToString())
    run = onnx_models.session(model).run(list(case.outputs), case.model.feeds)
    (name,) = {one.removesuffix(".forward").removesuffix(".reverse") for one in found}
    assert_agree(by_xrnn(found, name, case), by_onnxruntime(case, found, run), BOUND)
    return found


@pytest.mark.parametrize("seed", range(300))
def test_layer_is_the_node(seed: int) -> None:
    case = random_case(seed)
    found = compare(case.model.made(case.outputs), case)
    for name, notes in found.notes.items():
        taken = [any(note.startswith(f"initial_{s}: ") for note in notes) for s in "hc"]
        given = [s is not None for s in case.state]
        assert taken[: len(given)] == given, name
        assert (case.lengths is not None) == any("lengths=" in note for note in notes)


PLACES = {
    "If": onnx_models.inside_if,
    "Loop": onnx_models.inside_loop,
    "function": onnx_models.inside_function,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(10))
def test_nodes_inside(place: str, seed: int) -> None:
    case = random_case(1000 + seed)
    found = compare(PLACES[place](case), case)
    (notes, *_) = found.notes.values()
    words = {"If": "in then_branch of If 'choice'", "Loop": "in body of Loop 'loop'"}
    assert words.get(place, "") in notes[0]
