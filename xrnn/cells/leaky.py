"""The leaky network: a continuous-time network in steps, with noise in training.

a_t = W x_t + U h_{t-1} + b + √(2/α) σ ξ_t          (1)
g_t = φ(a_t)                                        (2)
h_t = (1 − α) h_{t-1} + α g_t                       (3)   the state is the rate h
v_t = (1 − α) v_{t-1} + α a_t,  h_t = φ(v_t)        (4)   the state is the potential v

It is Euler's method for the time constant τ and steps of the length Δt: τ dh/dt = −h + φ(…), with
α = Δt/τ.  ξ_t is normally distributed, drawn anew for every step, sequence and unit in training; in
inference it is 0.  The cell has (2) and (3), or with `potential` (4).

Sources: Song, Yang & Wang (2016), eqs 7-9, for (4), whose x and r are v and h here; Yang, Joglekar,
Song, Newsome & Wang (2019), Methods, for (2) and (3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Any, ClassVar

from xrnn.cells.activations import ACTIVATIONS, Spec, activate, slope
from xrnn.cells.base import Cell, check_flags
from xrnn.cells.noise import Noise
from xrnn.cells.numbers import accept_number
from xrnn.cells.options import GivenActivations, activations_of
from xrnn.typing import Array, Contribution, Namespace, State, Weights

#: the name by which the step finds √(2/α) σ ξ_t
NOISE = "noise"


@dataclass(frozen=True)
class LeakyOptions:
    """The options of a leaky network, checked; see `leaky_with`."""

    usual: ClassVar[tuple[str, ...]] = ("tanh",)

    alpha: float
    activations: tuple[Spec, ...]
    noise: float
    potential: bool

    @property
    def name(self) -> str:
        """The name of the cell."""
        ((phi, *numbers),) = self.activations
        known = ACTIVATIONS[phi].alpha, ACTIVATIONS[phi].beta
        given = [f"{x!r}" for x, usual in zip(numbers, known, strict=True) if usual is not None]
        words = [str(self.alpha), f"{phi}({', '.join(given)})" if given else phi]
        words += [f"noise={self.noise}"] if self.noise else []
        return f"leaky({', '.join([*words, *(['potential'] if self.potential else [])])})"


def leaky_with(
    alpha: float,
    *,
    activations: GivenActivations = None,
    noise: float = 0.0,
    potential: bool = False,
) -> Cell[Any]:
    """The leaky network with this leak.

    Parameters
    ----------
    alpha : float
        α = Δt/τ in (0, 1]: the part of the state that a step replaces.
    activations : sequence of 1, optional
        φ: a name of `xrnn.cells.activations.ACTIVATIONS`, or (name, alpha) or
        (name, alpha, beta).  Default: tanh.
    noise : float
        σ ≥ 0, the strength of the noise in training.
    potential : bool
        Whether the state is the potential v (4), from which h follows, or the rate h (3).

    Returns
    -------
    Cell
        The same one for the same arguments.  Its states are h, or h and v.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.

    Examples
    --------
    >>> from xrnn import cells
    >>> cells.leaky_with(0.2, activations=["softplus"], noise=0.05)
    <cell leaky(0.2, softplus, noise=0.05)>
    >>> cells.leaky_with(0.2, potential=True).states
    ('h', 'v')
    """
    check_flags("leaky", potential=potential)
    options = LeakyOptions(
        accept_number("leaky: alpha", alpha, "a number in (0, 1]", lambda x: 0 < x <= 1),
        activations_of("leaky", activations, LeakyOptions.usual),
        accept_number("leaky: noise", noise, "a number ≥ 0", lambda x: 0 <= x < float("inf")),
        bool(potential),
    )
    return made(options)


@cache
def made(options: LeakyOptions) -> Cell[Any]:
    """The cell of these options."""
    alpha, (phi,), potential = options.alpha, options.activations, options.potential

    def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
        h_prev, *v_prev = state
        a = ax + h_prev @ weights["U"].T  # (1)
        if NOISE in weights:
            a = a + weights[NOISE]
        if potential:
            v = (1 - alpha) * v_prev[0] + alpha * a  # (4)
            h = activate(phi, v, xp=xp)
            return (h, v), (a, h, v, h_prev)
        g = activate(phi, a, xp=xp)  # (2)
        h = (1 - alpha) * h_prev + alpha * g  # (3)
        return (h,), (g, a, h_prev)

    def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
        if not potential:
            return dstate
        (dh, dv), (_, h, v, _) = dstate, saved
        return dh, dv + dh * slope(phi, v, h, xp=xp)  # (4)

    def step_backward(
        dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]:
        dh, *dv = total(dstate, saved, weights, xp=xp)
        *_, h_prev = saved
        if potential:
            da = alpha * dv[0]  # (4)
            dprev: State = (da @ weights["U"], (1 - alpha) * dv[0])
        else:
            g, a, _ = saved
            da = alpha * dh * slope(phi, a, g, xp=xp)  # (3), (2)
            dprev = (da @ weights["U"] + (1 - alpha) * dh,)
        return da, dprev, {"U": ((da, h_prev),)}  # (1)

    strength = sqrt(2 / alpha) * options.noise
    return Cell(
        name=options.name,
        gates=("g",),
        states=("h", "v") if potential else ("h",),
        step=step,
        step_backward=step_backward,
        total=total,
        noise=(Noise(NOISE, "normal", strength),) if options.noise else (),
        analytic=ACTIVATIONS[phi[0]].analytic,
        options=options,
        maker=made,
    )
