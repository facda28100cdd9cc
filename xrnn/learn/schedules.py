"""Learning rates that change: factors, by which the caller multiplies a rate of its own.

They can be multiplied with one another:
``optimizer.lr = 1e-3 * warmup(step, 100) * cosine(step, 1000)``.
"""

from __future__ import annotations

from math import cos, inf, pi
from typing import Any

from xrnn.cells.base import check_positive
from xrnn.cells.numbers import FINITE, FRACTION, Bound, accept_number
from xrnn.typing import Array, Size

#: what a part of a rate must be
PART: Bound = ("in [0, 1]", lambda x: 0 <= x <= 1)
NUMBER: Bound = ("a number", lambda x: True)


def warmup(step: float, steps: Size) -> float:
    """A factor that grows from 1/`steps` to 1 in a straight line, and stays there.

    Parameters
    ----------
    step : float
        The number of updates made so far, ≥ 0, such as ``optimizer.steps``.
    steps : int
        The number of updates with a lower rate, plus one.

    Returns
    -------
    float
        (step + 1) / steps, at most 1.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If `step` is negative or not finite, or `steps` is below 1.

    Examples
    --------
    >>> [warmup(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    step = accept_number("step", step, *FINITE)
    check_positive("schedule", steps=steps)
    return min(1.0, (step + 1) / int(steps))


def cosine(step: float, steps: Size, *, least: float = 0.0) -> float:
    """A factor that falls from 1 to `least` along half a cosine, and stays there.

    Parameters
    ----------
    step : float
        The number of updates made so far, ≥ 0.
    steps : int
        The number of updates after which the factor is `least`.
    least : float
        In [0, 1].

    Returns
    -------
    float
        least + (1 − least) (1 + cos(π step / steps)) / 2.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If `step` is negative or not finite, `steps` is below 1, or `least` is not in [0, 1].

    References
    ----------
    Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), eq. 5.

    Examples
    --------
    >>> [round(cosine(step, 4, least=0.2), 3) for step in range(6)]
    [1.0, 0.883, 0.6, 0.317, 0.2, 0.2]
    """
    step = accept_number("step", step, *FINITE)
    check_positive("schedule", steps=steps)
    least = accept_number("least", least, *PART)
    return least + (1 - least) * (1 + cos(pi * min(1.0, step / int(steps)))) / 2


class Plateau:
    """A factor that shrinks whenever a measure, such as the loss, has stopped falling.

    Parameters
    ----------
    shrink : float
        What the factor is multiplied by, in [0, 1).
    patience : int
        The number of measures in a row without improvement after which it shrinks, ≥ 1.
    threshold : float
        The part of the best measure by which a measure must lie below it to be an improvement,
        ≥ 0.
    least : float
        The factor does not fall below it; in [0, 1].

    Attributes
    ----------
    state : dict of str to float or None
        All that changes: ``factor``, the factor now; ``best``, the least measure so far, None
        before the first; ``waited``, the number of measures since the last improvement or
        shrinkage.  `xrnn.save` writes it with the options.

    Raises
    ------
    TypeError
        If an option is not a number.
    ValueError
        If an option is out of its range.

    Examples
    --------
    >>> plateau = Plateau(shrink=0.5, patience=2)
    >>> [plateau.update(loss) for loss in (3.0, 2.0, 2.0, 2.1, 1.0)]
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    state: dict[str, Any]

    def __init__(
        self,
        *,
        shrink: float = 0.1,
        patience: Size = 10,
        threshold: float = 1e-4,
        least: float = 0.0,
    ) -> None:
        self.shrink = accept_number("shrink", shrink, *FRACTION)
        check_positive("plateau", patience=patience)
        self.patience = int(patience)
        self.threshold = accept_number("threshold", threshold, *FINITE)
        self.least = accept_number("least", least, *PART)
        self.state = {"factor": 1.0, "best": None, "waited": 0}

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this object."""
        names = ("shrink", "patience", "threshold", "least")
        return {"kind": "plateau"} | {name: getattr(self, name) for name in names}

    @property
    def factor(self) -> float:
        """The factor now."""
        return float(self.state["factor"])

    def update(self, measure: float | Array) -> float:
        """Take one more measure, and give the factor from now on.

        Parameters
        ----------
        measure : float or array ()
            What should fall, such as the loss on held-out data.  NaN is no improvement.

        Returns
        -------
        float
            The factor.

        Raises
        ------
        TypeError
            If the measure is not a number.

        Examples
        --------
        >>> plateau = Plateau(shrink=0.5, patience=1)
        >>> plateau.update(1.0), plateau.update(float("nan"))
        (1.0, 0.5)
        """
        measure = accept_number("measure", measure, *NUMBER)
        factor, best, waited = self.factor, self.state["best"], self.state["waited"] + 1
        bound = inf if best is None else best - self.threshold * abs(best)
        if measure < bound:
            best, waited = measure, 0
        elif waited >= self.patience:
            factor, waited = max(self.least, self.shrink * factor), 0
        # A new mapping: a state that was read before stays as it was.
        self.state = {"factor": factor, "best": best, "waited": waited}
        return factor
