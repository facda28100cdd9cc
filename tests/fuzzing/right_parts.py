"""Words of the fuzzer's calls: arguments that are right for parts and models."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np

import xrnn
from fuzzing.right import B, T, floats, put, steps
from xrnn.backends import backend_of, host
from xrnn.layers.pooling import Pooling
from xrnn.learn.trees import leaves


def of_part(it: Any) -> Any:
    """The input of a part without sequences."""
    return put(it, floats(T, B, 3)) if it.weights else floats(T, B, 6)


def of_tied(it: Any) -> Any:
    """The input of a tied map."""
    return put(it.parts["embedding"], floats(T, B, 3))


def of_pool(it: Any) -> np.ndarray:
    """The sequences that a pooling part reads."""
    n = 4 if getattr(it, "both_ends", False) else 3
    return floats(*((B, T) if it.batch_first else (T, B)), n)


def of_attentive(it: Any) -> Any:
    """The sequences that a pooling part with weights reads."""
    return put(it, of_pool(it))


def of_model(it: Any) -> Any:
    """The sequences that a model reads."""
    _, holder, _ = next(leaves(it.weights, "weights"))
    placement = holder.placement
    xs = floats(*((B, T) if it.batch_first else (T, B)), 3, seed=1)
    return placement.from_host(xs.astype(host.to_host(placement.zeros((0,))).dtype))


def _how(it: Any) -> dict[str, Any]:
    return {"seed": 3} if "seed" in signature(it.forward).parameters else {}


def made_by(it: Any) -> tuple[Any, Any]:
    """A copy of the outputs of its forward pass, and the tape."""
    makers = {
        xrnn.Sequential: of_model,
        Pooling: of_pool,
        xrnn.AttentionPooling: of_attentive,
    }
    make = next((make for kind, make in makers.items() if isinstance(it, kind)), of_part)
    y, tape = it.forward(make(it), **_how(it))
    return backend_of(y).from_host(host.to_host(y).copy()), tape


def steps_in(it: Any) -> np.ndarray:
    """Some of the steps, in the order of its axes."""
    return steps().T.copy() if it.batch_first else steps()


def read_by(it: Any) -> tuple[Any, Any]:
    """The queries and the memory of an attention."""
    axes = (B, T) if it.batch_first else (T, B)
    return put(it, floats(*axes, it.query_size)), put(it, floats(*axes, it.memory_size, seed=1))


def translated(it: Any) -> tuple[Any, Any]:
    """The logits of a model of sequences from sequences, and the tape."""
    sources = floats(T, B, 3).astype("float32")
    logits, tape = it.forward(sources, np.array([[0, 1], [6, 2], [3, 4]]), seed=3)
    return logits.copy(), tape


def states_in(it: Any) -> dict[str, Any]:
    """The states of a model's parts, which are those at the end of a forward pass."""
    return dict(made_by(it)[1].state)


def squares(weights: Any) -> tuple[Any, Any]:
    """Half the sum of the squares of all weights, and its gradients."""
    total = sum(float((host.to_host(holder[n]) ** 2).sum()) for _, holder, n in leaves(weights, ""))
    return total / 2, weights


def halves(ys: Any) -> tuple[Any, Any]:
    """Half the sum of the squares of outputs, and its gradient."""
    return (ys * ys).sum() / 2, ys
