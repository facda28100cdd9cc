"""The options of cells: values that are checked when they are given, and compared by content.

`xrnn.cells.lstm_with`, `gru_with` and `rnn_with` make cells of them.  Equal options give the same
cell, whose name tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any, ClassVar, Literal, TypeAlias

from xrnn.cells.activations import ACTIVATIONS, Spec
from xrnn.cells.numbers import accept_number

ActivationName = Literal[
    "sigmoid",
    "tanh",
    "relu",
    "hard_sigmoid",
    "affine",
    "leaky_relu",
    "thresholded_relu",
    "scaled_tanh",
    "elu",
    "softsign",
    "softplus",
]
"""The names in `ACTIVATIONS`."""

GivenActivation: TypeAlias = (
    ActivationName | tuple[ActivationName, float] | tuple[ActivationName, float, float]
)
"""An activation function as a user may give it: its name, or its name and parameters."""

GivenActivations: TypeAlias = Sequence[GivenActivation] | None
"""One for each kind of gate, in the order that ONNX lists them; None: the usual ones."""


@dataclass(frozen=True)
class Options:
    """The options that all cells have; the subclass of a kind of cell adds its own.

    - activations: the activation functions in the order of `usual`
    - clip: what pre-activations are limited to, ±clip; ∞ for no limit
    - recurrent_dropout: the fraction of h that the product with U does not see in training
    """

    #: the name of the cell without options, and its activation functions
    kind: ClassVar[str]
    usual: ClassVar[tuple[str, ...]]

    activations: tuple[Spec, ...]
    clip: float
    recurrent_dropout: float

    @property
    def family(self) -> str:
        """The name of the cell whose loops run this one too, with these options."""
        return self.kind

    @property
    def elementwise(self) -> bool:
        """Whether the options change no more than functions of single units."""
        return not self.recurrent_dropout

    @property
    def name(self) -> str:
        """The kind, and the options that are not the usual ones."""
        plain = type(self)(activations_of(self.kind, None, self.usual), inf, 0.0)
        words = [
            f"{f.name}={_word(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(plain, f.name)
        ]
        return f"{self.kind}({', '.join(words)})" if words else self.kind

    @property
    def analytic(self) -> bool:
        """Whether all functions of the cell are analytic."""
        return self.clip == inf and all(ACTIVATIONS[name].analytic for name, *_ in self.activations)


def activations_of(kind: str, given: Any, usual: tuple[str, ...]) -> tuple[Spec, ...]:
    """The activation functions as tuples (name, alpha, beta).

    Raises
    ------
    TypeError, ValueError
        If there is not one for each of `usual`, a name is unknown, or a parameter is not a finite
        number or not one of the function's.
    """
    if given is None:
        given = usual
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(usual):
        raise ValueError(
            f"{kind}: activations is {given!r:.80}; it must be a sequence of {len(usual)} "
            f"activation functions, in the places of {', '.join(usual)}"
        )
    return tuple(_activation(kind, n, one) for n, one in enumerate(given))


def _activation(kind: str, n: int, given: Any) -> Spec:
    what = f"{kind}: activations[{n}]"
    alone = isinstance(given, str) or not isinstance(given, Sequence) or not given
    name, *numbers = (given,) if alone else given
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"{what} is {given!r:.80}; it must be of {', '.join(ACTIVATIONS)}")
    known = {k: getattr(ACTIVATIONS[name], k) for k in ("alpha", "beta")}
    usual = {k: x for k, x in known.items() if x is not None}
    if len(numbers) > len(usual):
        words = f", or a tuple of it, {', '.join(usual)}" if usual else "; it has no parameters"
        raise ValueError(f"{what} is {given!r:.80}; it must be {name!r}{words}")
    for k, x in zip(usual, numbers, strict=False):
        usual[k] = accept_number(f"{what}: {k}", x, "a finite number", isfinite)
    alpha, beta, *_ = [*usual.values(), 0.0, 0.0]
    return name, alpha, beta


def limit_of(kind: str, name: str, given: Any) -> float:
    """A limit, ∞ for None.

    Raises
    ------
    TypeError, ValueError
        If it is not a positive number.
    """
    if given is None:
        return inf
    return accept_number(f"{kind}: {name}", given, "a number > 0, or None", lambda x: x > 0)


def _word(value: Any) -> str:
    """One option in a name."""
    return f"[{', '.join(map(_spelled, value))}]" if isinstance(value, tuple) else f"{value}"


def _spelled(spec: Spec) -> str:
    name, alpha, beta = spec
    known = ACTIVATIONS[name]
    numbers = [
        f"{x!r}" for x, usual in ((alpha, known.alpha), (beta, known.beta)) if usual is not None
    ]
    return f"{name}({', '.join(numbers)})" if numbers else name
