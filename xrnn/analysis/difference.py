"""How far the outputs of two models lie apart on the same inputs."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

from xrnn.backends import backend_of
from xrnn.layers.part import Part
from xrnn.layers.sequential import takes
from xrnn.typing import Array, dtype_name


class Difference(NamedTuple):
    """What `difference` finds, as floats.

    - largest: the largest difference of two outputs
    - rms: the root of their mean square
    - outputs: the root of the mean square of the first model's outputs, to compare with
    """

    largest: float
    rms: float
    outputs: float

    def __str__(self) -> str:
        return (
            f"outputs differ by {self.rms:.1e} (rms), at most {self.largest:.1e}; they are "
            f"{self.outputs:.1e} (rms)"
        )


def difference(model: Any, other: Any, xs: Array, **how: Any) -> Difference:
    """Run two models on the same inputs, and compare their outputs.

    It says what rounding does to the results of a model of your own, on data of your own: give the
    model, a copy of it with frozen weights of 8 or 16 bits (`xrnn.Layer.freeze`) or with another
    ``precision``, and inputs as it meets them in use.

    Parameters
    ----------
    model : layer or other part of a model
        Such as one of float32.
    other : layer or other part of a model
        One with outputs of the same shape.
    xs : array
        The inputs of both.
    **how
        Further arguments of both calls, such as ``lengths``; the outputs past the end of a
        sequence, which are 0, count too.

    Returns
    -------
    Difference
        The largest difference, and the root mean squares of all of them and of the outputs.

    Raises
    ------
    TypeError
        If one of the models is no part (`xrnn.layers.part.Part`), or takes no such argument.
    ValueError
        If there are no outputs, or they have different shapes.

    Examples
    --------
    >>> import copy, numpy as np, xrnn
    >>> layer = xrnn.LSTM(8, 32, rng=0)
    >>> small = copy.deepcopy(layer).freeze(weights="int8")
    >>> xs = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> found = xrnn.analysis.difference(layer, small, xs)
    >>> 1e-5 < found.rms < 1e-2 * found.outputs
    True
    """
    a, b = (_outputs(one, name, xs, how) for one, name in ((model, "model"), (other, "other")))
    if a.shape != b.shape or not a.size:
        raise ValueError(
            f"the outputs of model have shape {a.shape} and those of other {b.shape}; they must be "
            "equal, and not empty: give two models with the same sizes, and at least one input"
        )
    gap = abs(a - b)
    return Difference(float(gap.max()), sqrt((gap**2).mean()), sqrt((abs(a) ** 2).mean()))


def _outputs(model: Any, name: str, xs: Array, how: dict[str, Any]) -> Array:
    """The outputs of a model, without the state, on the host in double precision."""
    if not isinstance(model, Part) or isinstance(model, type):
        raise TypeError(f"{name} is {model!r:.80}; it must be a layer or another part of a model")
    known = takes(model, "__call__")
    if odd := sorted(set(how) - known):
        raise TypeError(
            f"{name} takes no {', '.join(odd):.80}; further arguments must be among those of its "
            f"call: {', '.join(sorted(known))}"
        )
    found = model(xs, **how)
    ys = found[0] if isinstance(found, tuple) else found
    array = backend_of(ys, f"the outputs of {name}").to_host(ys)
    is_complex = dtype_name(array.dtype).startswith("complex")
    return array.astype("complex128" if is_complex else "float64")
