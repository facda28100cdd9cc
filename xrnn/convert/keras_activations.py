"""The activation functions of Keras by its names.

The hard sigmoid has changed: it is min(max(0.2·a + 0.5, 0), 1) in Keras 1, 2 and tf.keras, and
min(max(a/6 + 0.5, 0), 1) in Keras 3.  A layer that is run with the other one differs by 0.4 in h.

Sources: ``keras/src/activations/activations.py`` of Keras 3; ``keras/activations.py`` and the
function ``hard_sigmoid`` of the backends of Keras 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xrnn.cells.activations import Spec
from xrnn.cells.options import GivenActivation, activations_of

#: the first number of a version → its hard sigmoid
HARD_SIGMOID: Mapping[int, GivenActivation] = {
    1: ("hard_sigmoid", 0.2, 0.5),
    2: ("hard_sigmoid", 0.2, 0.5),
    3: ("hard_sigmoid", 1 / 6, 0.5),
}

#: Keras's name of another function → xrnn's
FUNCTIONS: Mapping[str, GivenActivation] = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "linear": ("affine", 1.0, 0.0),
    "leaky_relu": ("leaky_relu", 0.2),
    "elu": ("elu", 1.0),
    "softsign": "softsign",
    "softplus": "softplus",
}


def functions_of(major: int | None) -> dict[str, GivenActivation]:
    """Name → function in a version of Keras; None is a version that is not known."""
    hard = {} if major is None else {"hard_sigmoid": HARD_SIGMOID[min(max(major, 1), 3)]}
    return {**FUNCTIONS, **hard}


def spec_of(given: Any) -> Spec:
    """A function in the words of xrnn, with its parameters.

    Raises
    ------
    TypeError, ValueError
        If there is no such function.
    """
    (found,) = activations_of("keras", [given], ("sigmoid",))
    return found
