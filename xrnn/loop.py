"""Through time and back: the one loop that every cell shares.

It knows a pair (step, step_backward) and an array namespace, nothing of backends.  What
does not depend on the state is done for all steps at once: W x_t + b before the loop, and
after it every weight gradient as one product over all sequences and steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from xrnn.affine import affine, affine_backward, either, inside
from xrnn.typing import Array, Contribution, Namespace, State, Step, StepBackward, Weights


class Pair(Protocol):
    """A cell, or a faster pair of functions for it."""

    @property
    def step(self) -> Step: ...
    @property
    def step_backward(self) -> StepBackward: ...


class Saved(NamedTuple):
    """What backward needs of forward: per step what the pair saved, and the way it went."""

    xs: Array
    steps: list[Any]
    order: range
    mask: Array | None


@dataclass
class Seen:
    """What a pass met at each step, for those who look: the pass fills it in, if it is given."""

    states: dict[int, State] = field(default_factory=dict)  # or their gradients, going back
    das: list[Array] = field(default_factory=list)  # going back: (B, G·H) at each step


class Loop:
    """The loop over a pair of steps, in the form that a whole-sequence kernel has too.

    Parameters
    ----------
    pair : Cell or xrnn.backends.Steps
        One time step, forward and backward.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def forward(
        self,
        weights: Weights,
        xs: Array,
        state: State,
        *,
        lengths: Array | None,
        reverse: bool,
        keep: bool,
        xp: Namespace,
        seen: Seen | None = None,
    ) -> tuple[Array, State, Saved | None]:
        """Run xs (T, B, I) from state: ys (T, B, H), the state at the end, what to keep.

        `weights` are complete (no bias left out) and `lengths` (B,) lie in 0…T; the door
        (`xrnn.unroll`) has seen to both.  With ``keep=False`` nothing is kept.
        """
        T = xs.shape[0]
        order = range(T - 1, -1, -1) if reverse else range(T)
        mask = None
        if lengths is not None:
            mask = inside(T, lengths, xp=xp)
            # Whatever stands in the padding, NaN included, must not reach a sum.
            xs = xp.where(mask, xs, xp.zeros_like(xs))
        axs = affine(xs, weights, xp=xp)
        ys, steps = [state[0]] * T, [None] * T
        for t in order:
            new, saved = self.pair.step(axs[t, ...], state, weights, xp=xp)
            if mask is None:
                ys[t], state = new[0], new
            else:
                # Past its end a sequence keeps its state.  In reverse this is also what
                # makes it start at its own end: until then it keeps the state given.
                zero = xp.zeros_like(new[0])
                ys[t] = xp.where(mask[t, ...], new[0], zero)
                state = either(mask[t, ...], new, state, xp=xp)
            if keep:
                steps[t] = saved
            if seen is not None:
                seen.states[t] = state
        rows = xp.concat(ys) if T else state[0][:0, :]
        out = xp.reshape(rows, (T, *state[0].shape))
        return out, state, Saved(xs, steps, order, mask) if keep else None

    def backward(
        self,
        weights: Weights,
        saved: Saved,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
        seen: Seen | None = None,
    ) -> tuple[Array, State, dict[str, Array]]:
        """From dys (T, B, H) and the gradient of the last state to those of what went in.

        Returns dxs (T, B, I), the gradient of the state given, and dweights with the names
        and shapes of `weights`.
        """
        xs, steps, order, mask = saved
        daxs: list[Array] = [None] * len(steps)
        parts: dict[str, list[Contribution]] = {}
        for t in reversed(order):
            dh, *drest = dstate
            dnew = (dh if dys is None else dh + dys[t, ...], *drest)
            if mask is not None:
                zeros = tuple(xp.zeros_like(d) for d in dnew)
                dnew = either(mask[t, ...], dnew, zeros, xp=xp)
            if seen is not None:
                seen.states[t] = dnew
            daxs[t], dprev, dweights = self.pair.step_backward(dnew, steps[t], weights, xp=xp)
            dstate = dprev if mask is None else either(mask[t, ...], dprev, dstate, xp=xp)
            for name, part in dweights.items():
                parts.setdefault(name, [None] * len(steps))[t] = part
        if not steps:
            return xs, dstate, {name: xp.zeros_like(w) for name, w in weights.items()}
        if seen is not None:
            seen.das = daxs
        das = xp.concat(daxs)  # (T·B, G·H)
        # In this order: the other way round the large dxs takes the memory that these have warm.
        gradients = {name: _summed(part, daxs, das, xp=xp) for name, part in parts.items()}
        dxs, dweights = affine_backward(das, xs, weights, xp=xp)
        return dxs, dstate, dweights | gradients


def _summed(parts: list[Contribution], daxs: list[Array], das: Array, *, xp: Namespace) -> Array:
    """The gradient of one weight from what every step adds to it."""
    if not isinstance(parts[0], tuple):
        return xp.sum(xp.concat(parts), axis=0)
    blocks = []
    for block in zip(*parts, strict=True):
        rows, operands = zip(*block, strict=True)
        # Most cells give the very gradient of W x as the rows of U: they are together already.
        left = das if rows[0] is daxs[0] else xp.concat(rows)
        blocks.append(left.T @ xp.concat(operands))
    return xp.concat(blocks) if len(blocks) > 1 else blocks[0]
