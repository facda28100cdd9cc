"""Merging the two directions of a bidirectional layer, whose outputs stand side by side.

y = a + b, a/2 + b/2, a ⊙ b, or max(a, b)     for x = [a, b]      (1)
"""

from __future__ import annotations

from typing import Any, Literal

from xrnn.backends import host
from xrnn.engine.checks import check_choice
from xrnn.layers.part import PartTape, Weightless, accept_input, accept_tape
from xrnn.recurrence.masks import apply_mask
from xrnn.typing import Array, Namespace

MODES = ("sum", "mean", "mul", "max")


class Merge(Weightless):
    """Makes one output of the two directions of a bidirectional layer.

    Without it they stand side by side, the mode "concat" of other libraries.

    Parameters
    ----------
    mode : {"sum", "mean", "mul", "max"}
        What is made of the two values of a unit.

    Raises
    ------
    ValueError
        If the mode is another one.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> xrnn.Merge("mean")(np.array([[1.0, 2.0, 5.0, 4.0]])).tolist()
    [[3.0, 3.0]]
    """

    kind = "merge"

    def __init__(self, mode: Literal["sum", "mean", "mul", "max"] = "sum") -> None:
        check_choice("merge", "mode", mode, MODES)
        self.mode = mode

    def __call__(self, x: Array) -> Array:
        """The outputs alone, without a tape; exceptions as for `forward`."""
        return self.forward(x)[0]

    @host.ignore_underflow
    def forward(self, x: Array) -> tuple[Array, PartTape]:
        """Merge.

        Parameters
        ----------
        x : array (…, 2·n)
            The outputs of both directions, side by side.

        Returns
        -------
        y : array (…, n)
            One of both.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            If x holds no real floating-point numbers, or its last axis is odd.
        """
        placement, x = accept_input("merge", x, 1, "(…, 2·n)")
        if x.shape[-1] % 2:
            raise ValueError(f"merge: x has shape {tuple(x.shape)}; it must be (…, 2·n)")
        xp, n = placement.backend.xp, x.shape[-1] // 2
        a, b = x[..., :n], x[..., n:]
        kept: tuple[Array, ...] = ()
        if self.mode == "mul":
            y, kept = a * b, (a, b)  # (1)
        elif self.mode == "max":
            y, kept = xp.maximum(a, b), (a >= b,)
        else:
            # The sum of two halves does not overflow.
            y = a + b if self.mode == "sum" else a / 2 + b / 2
        return y, PartTape(self, placement, tuple(y.shape), kept)

    @host.ignore_underflow
    def backward(self, tape: PartTape, dy: Array) -> tuple[Array, dict[str, Array]]:
        """The gradient of x, (…, 2·n), and no gradients of weights; see `forward`.

        Where both values are equal, "max" gives the gradient to the first.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, or dy is not like y.
        """
        tape, dy = accept_tape("merge", self, tape, dy)
        xp = tape.placement.backend.xp
        return xp.concat(self._of_both(dy, tape.kept, xp=xp), axis=-1), {}

    def _of_both(self, dy: Array, kept: tuple[Array, ...], *, xp: Namespace) -> tuple[Array, Array]:
        """The gradients of a and b."""
        if self.mode == "mul":
            a, b = kept
            return dy * b, dy * a  # (1)
        if self.mode == "max":
            (first,) = kept
            return apply_mask(first, dy, xp=xp), apply_mask(~first, dy, xp=xp)
        half = dy if self.mode == "sum" else dy / 2
        return half, half

    def config(self) -> dict[str, Any]:
        """The options that change what is computed."""
        return {"kind": "merge", "mode": self.mode}
