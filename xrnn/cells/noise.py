"""The random numbers of cells in training.

A cell names what it draws (`Cell.noise`).  In training its `step` finds the numbers of its step
among the weights, by these names; in inference they are not there, and the step uses what they are
on average.  The numbers depend on a seed, the layer, the direction and the position alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from xrnn.cells.numbers import accept_number
from xrnn.typing import Array, Namespace, Weights

#: "keep": 1 with the probability `rate`, else 0; "drop": 0 with the probability `rate`, else
#: 1/(1 − rate); "normal": normally distributed, with mean 0 and the standard deviation `rate`
Kind = Literal["keep", "drop", "normal"]
KINDS = ("keep", "drop", "normal")


@dataclass(frozen=True)
class Noise:
    """What a cell draws under one name.

    - name: by which `step` finds it among the weights
    - kind, rate: its distribution, see `Kind`
    - state: the number of the state whose shape (B, n) it has
    - each_step: whether it is drawn anew at each step, or once for a sequence
    """

    name: str
    kind: Kind
    rate: float
    state: int = 0
    each_step: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"noise: name is {self.name!r:.80}; it must be a name, such as 'mask'")
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(
                f"{self.name}: kind is {self.kind!r:.80}; it must be of {', '.join(KINDS)}"
            )
        if self.kind == "normal":
            must = "a finite number ≥ 0"
            accept_number(f"{self.name}: rate", self.rate, must, lambda x: 0 <= x < inf)
        else:
            rate_of(self.name, "rate", self.rate)


def rate_of(kind: str, name: str, given: Any) -> float:
    """A probability in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If it is no such number.
    """
    return accept_number(f"{kind}: {name}", given, "a number in [0, 1)", lambda x: 0 <= x < 1)


def check_noise(kind: str, noise: Any, states: int, weights: Iterable[str]) -> None:
    """Raise TypeError or ValueError unless it is a tuple of `Noise` for a cell with that many
    states, with names of their own."""
    if not isinstance(noise, tuple) or not all(isinstance(one, Noise) for one in noise):
        raise TypeError(f"{kind}: noise is {noise!r:.80}; it must be a tuple of Noise")
    taken = set(weights)
    for one in noise:
        if one.name in taken:
            raise ValueError(
                f"{kind}: noise has the name {one.name!r:.80}; it must be another one than those "
                f"of weights and of other noise, {', '.join(sorted(taken))}"
            )
        if one.state not in range(states):
            raise ValueError(
                f"{kind}: the noise {one.name}: state is {one.state!r:.80}; it must be one of the "
                f"{states} states, 0…{states - 1}"
            )
        taken.add(one.name)


#: the mask over the states that a product takes, drawn once for a sequence (Gal & Ghahramani,
#: 2016, arXiv:1512.05287)
DROPPED = "dropout_h"


def dropout_noise(rate: float) -> tuple[Noise, ...]:
    """What a cell draws whose product with U takes a dropped h."""
    return (Noise(DROPPED, "drop", rate, each_step=False),) if rate else ()


def dropped(rate: float, h: Array, weights: Weights, *, xp: Namespace) -> tuple[Array, Any]:
    """What the product with U takes of h, and what `dropped_backward` needs."""
    if not rate:
        return h, ()
    mask = weights[DROPPED] if DROPPED in weights else xp.ones_like(h)
    return h * mask, (mask,)


def without_mask(rate: float, saved: Any) -> tuple[Any, Any]:
    """What a step saved, apart from what `dropped` gave, which it has saved last."""
    return (saved[:-1], saved[-1:]) if rate else (saved, ())


def dropped_backward(dh: Array, mask: Any) -> Array:
    """The gradient of h from that of what the product took."""
    return dh * mask[0] if mask else dh
