"""The base class of what has named weights, and how random weights are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Self

from xrnn.backends import host, locate
from xrnn.engine.checks import Placement, Spec
from xrnn.engine.parameters import Parameters, stored
from xrnn.typing import Array, DType

#: the largest number of weights of a module
MOST_WEIGHTS = 2**40


class Module:
    """The base class of objects with named weights: layers, `Embedding`, `Linear`."""

    _parameters: Parameters
    #: the attributes that cannot be assigned again
    _fixed: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}: {name} is {getattr(self, name)!r} and cannot be changed; "
                "make another one with other options"
            )
        super().__setattr__(name, value)

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this module."""
        raise NotImplementedError

    @property
    def weights(self) -> Parameters:
        """The weights by name.

        Assign one weight or a whole mapping, or update arrays in place.  An array that does not
        fit raises an error at once (see `xrnn.engine.parameters.Parameters`).
        """
        return self._parameters

    @weights.setter
    def weights(self, arrays: Mapping[str, Array]) -> None:
        # Themselves, as `weights |= …` assigns them, are what they were.
        if arrays is not self._parameters:
            self._parameters = self._parameters.replaced(arrays)

    def check_unchanged(self, parameters: Parameters | None, version: int) -> None:
        """Raise ValueError if the weights have been replaced or assigned to since `version`."""
        mine = self._parameters
        if parameters is not mine or version != mine.version:
            raise ValueError(
                f"{mine.kind}: the weights have changed since the forward pass that made this "
                "tape; run forward again, and backward before the next update"
            )

    def to(self, device: str) -> Self:
        """Move the weights to another array library; return the module itself.

        Parameters
        ----------
        device : str
            "cpu", "cuda" or the name of an array library, such as "torch" or "jax"; one of its
            devices after a colon, such as "cuda:0" or "torch:cuda:1".

        Raises
        ------
        ImportError
            If the library is not installed or finds no device; nothing is moved then.
        ValueError
            If the name is not that of an array library or of a device; nothing is moved then.
        """
        self._parameters = self._parameters.moved(*locate(device))
        return self

    def freeze(self) -> Self:
        """Make the weights constant, for inference; return the module itself.

        They are replaced by copies that cannot be assigned to; NumPy arrays cannot be written to
        either.  To change the weights again, assign a whole mapping:
        ``part.weights = {name: w.copy() for name, w in part.weights.items()}``.

        Examples
        --------
        >>> import xrnn
        >>> linear = xrnn.Linear(3, 5).freeze()
        >>> linear.weights["W"] *= 2
        Traceback (most recent call last):
        ValueError: output array is read-only
        """
        self._parameters = self._parameters.frozen_copy()
        return self


def drawn(
    kind: str,
    specs: Mapping[str, Spec],
    draw: Callable[[Any], Mapping[str, Array]],
    *,
    rng: Any,
    dtype: DType,
    device: str,
) -> Parameters:
    """Random parameters, whose values are drawn when they are first needed.

    So nothing is drawn for weights that come from a file.  A generator that a user gave is used
    at once, because the numbers it gives afterwards must not depend on when that is.

    Parameters
    ----------
    kind, specs
        As for `Parameters`.
    draw : callable
        ``draw(generator) -> arrays``: the values on the host, in float64.
    rng, dtype, device
        As for `xrnn.Layer`.
    """
    backend, where = locate(device)
    own = host.named_dtype(dtype)
    seed = host.seed_of(rng)
    total = sum(prod(spec.shape) for spec in specs.values())
    if total > MOST_WEIGHTS:
        raise ValueError(
            f"{kind}: the weights are {total:,} numbers; no device holds more than "
            f"{MOST_WEIGHTS:,}: choose smaller sizes"
        )

    @host.ignore_underflow
    def values(random: Any) -> dict[str, Array]:
        arrays = draw(host.generator(random)).items()
        return {name: stored(kind, backend, w.astype(own), where) for name, w in arrays}

    if seed is None:
        return Parameters(kind, specs, values(rng))
    example = stored(kind, backend, host.xp.zeros(0, own), where)
    placement = Placement.of(kind, next(iter(specs)), example)
    # A new generator at every attempt: one that was interrupted leaves no trace in the values.
    later = partial(values, seed)
    return Parameters(kind, specs, {}, placement=placement, draw=later)
