"""Named weights: a mapping that checks what is assigned to it and counts its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from math import prod
from typing import Any, NamedTuple, Self

import array_api_compat

from xrnn.backends import Backend, backend_of, host, locate
from xrnn.engine.checks import Placement, looks_transposed, unknown_name
from xrnn.typing import Array, DType, dtype_name


class Spec(NamedTuple):
    """The required shape of one weight, in numbers and in letters."""

    shape: tuple[int, ...]
    letters: str


class Parameters(MutableMapping[str, Array]):
    """Named weights of one library, device and dtype, each of a fixed shape.

    An assigned array is checked at once, and stored in C order and native byte order: an array
    that has both is stored itself, any other is copied.  So forward passes need not check weights
    again, and a misspelt name or a transposed matrix raises an error in the line that assigns it.

    Parameters
    ----------
    kind : str
        The name of the owner in messages, such as "lstm".
    specs : mapping of str to Spec
        Every name, and the shape that its array must have.
    arrays : mapping of str to array
        The values.
    placement : Placement, optional
        The library, device and dtype of all arrays.  Default: those of the first array.
    draw : callable, optional
        ``draw() -> arrays``: values for the names that `arrays` lacks.  It is called when the
        first of them is read; what is assigned before is not drawn.  With it `placement` is
        required.

    Attributes
    ----------
    version : int
        The number of assignments so far.  Tapes and bound cells compare it with the version
        that they were made from.  A change in place (``w *= 2``) does not count, unless the
        array is assigned afterwards, as ``weights["W_l0"] *= 2`` does.
    frozen : bool
        Whether assignments are refused.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> weights = xrnn.LSTM(3, 5).weights
    >>> weights["U_l0"] = np.ones((5, 20), "float32")
    Traceback (most recent call last):
    ValueError: lstm: U_l0 has shape (5, 20); it must be (4·H, H) = (20, 5); \
it looks transposed: give U_l0.T
    """

    def __init__(
        self,
        kind: str,
        specs: Mapping[str, Spec],
        arrays: Mapping[str, Array],
        *,
        placement: Placement | None = None,
        draw: Callable[[], Mapping[str, Array]] | None = None,
    ) -> None:
        self.kind, self.specs = kind, dict(specs)
        self.version, self.frozen, self._draw = 0, False, draw
        if not isinstance(arrays, Mapping):
            raise TypeError(f"{kind}: weights must be a mapping of name to array")
        absent = [name for name in self.specs if name not in arrays]
        if absent and draw is None:
            spec = self.specs[absent[0]]
            raise ValueError(
                f"{kind}: weight {absent[0]} is missing; it must have shape "
                f"{spec.letters} = {spec.shape}"
            )
        first = next(iter(self.specs))
        self.placement = placement or Placement.of(kind, first, arrays[first])
        self._arrays = self._checked(arrays)

    def __getitem__(self, name: str) -> Array:
        return (self._arrays if name in self._arrays else self._all())[name]

    def __contains__(self, name: object) -> bool:
        return name in self.specs

    def __setitem__(self, name: str, array: Array) -> None:
        self.update({name: array})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{self.kind}: weight {name} cannot be removed; assign another array")

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __or__(self, other: Mapping[str, Array]) -> dict[str, Array]:
        return {**self, **other}

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self

    def __repr__(self) -> str:
        words = (f"{name} {spec.shape}" for name, spec in self.specs.items())
        how = f"{dtype_name(self.placement.dtype)} on {self.placement.backend.name}"
        return f"<weights of {self.kind}, {how}: {', '.join(words)}>"

    def update(self, arrays: Any = (), /, **named: Array) -> None:
        """Assign several arrays at once: all of them, or in case of an error none.

        Parameters
        ----------
        arrays : mapping of str to array, or iterable of pairs
            Name → new value.
        **named : array
            More of them, as keyword arguments.

        Raises
        ------
        TypeError
            If the weights are frozen, or an array is of another library, device or dtype.
        ValueError
            If a name is unknown, or a shape does not fit.
        """
        self.check_changeable()
        try:
            given = {**dict(arrays), **named}
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.kind}: weights must be a mapping of name to array") from error
        taken = self._checked(given)
        self._arrays.update(taken)
        if len(self._arrays) == len(self.specs):
            self._draw = None
        self.version += 1

    def replaced(self, arrays: Mapping[str, Array]) -> Parameters:
        """New parameters of the same names and placement, from arrays of exactly these names."""
        return Parameters(self.kind, self.specs, arrays, placement=self.placement)

    def moved(self, backend: Backend, device: Any = None) -> Parameters:
        """The same values in another library, or on another of its devices."""
        arrays = {name: _moved(a, backend, device) for name, a in self._all().items()}
        found = Parameters(self.kind, self.specs, arrays)
        return found.frozen_copy() if self.frozen else found

    def frozen_copy(self) -> Parameters:
        """Copies that cannot be assigned to; read-only where the library has such arrays."""
        backend = self.placement.backend
        copies = {name: _fixed(a, backend) for name, a in self._all().items()}
        found = Parameters(self.kind, self.specs, copies)
        found.frozen = True
        return found

    def check_changeable(self) -> None:
        """Raise TypeError if the parameters are frozen."""
        if self.frozen:
            raise TypeError(
                f"{self.kind}: the weights are frozen; to change them, first assign "
                "weights = {name: w.copy() for name, w in weights.items()}"
            )

    def __getstate__(self) -> dict[str, Any]:
        names = ("kind", "specs", "version", "frozen")
        return {"_arrays": self._all(), **{name: self.__dict__[name] for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["kind"], state["specs"], state["_arrays"])  # type: ignore[misc]
        if state["frozen"]:
            self.__dict__.update(self.frozen_copy().__dict__)
        # A tape that was copied along knows the version.
        self.version = state["version"]

    def _all(self) -> dict[str, Array]:
        """The arrays, after those that are not there yet have been drawn."""
        if (draw := self._draw) is not None:
            # Threads that come here together draw the same values, and the first ones are kept;
            # a lock could stay closed after Ctrl-C.
            for name, array in self._checked(draw()).items():
                self._arrays.setdefault(name, array)
            self._draw = None
        return self._arrays

    def _checked(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays after all checks, in C order and native byte order."""
        taken = {}
        for name, array in arrays.items():
            if name not in self.specs:
                raise ValueError(unknown_name(self.kind, name, self.specs))
            shape, letters = self.specs[name]
            array = self.placement.accept(name, array)
            if tuple(array.shape) != shape:
                found = tuple(array.shape)
                raise ValueError(
                    f"{self.kind}: {name} has shape {found}; it must be {letters} = {shape}"
                    f"{looks_transposed(name, found, shape)}"
                )
            taken[name] = self.placement.backend.dense(array)
        return taken


def _moved(array: Array, backend: Backend, device: Any) -> Array:
    """The array in the library of `backend`, and on one of its devices if one is given; copied
    through the host if it is elsewhere."""
    mine = backend_of(array)
    if mine is backend and device in (None, array_api_compat.device(array)):
        return array
    return backend.from_host(mine.to_host(array), device)


def _fixed(array: Array, backend: Backend) -> Array:
    return backend.read_only(backend.xp.asarray(array, copy=True))


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
        either.  So the native loops pack them once, in the layout that products read, and not at
        every call: `Layer.step` takes 0.4 to 0.8 of the time, and its results are the same bit
        for bit.  To change the weights again, assign a whole mapping:
        ``layer.weights = {name: w.copy() for name, w in layer.weights.items()}``.

        Examples
        --------
        >>> import numpy as np, xrnn
        >>> layer = xrnn.LSTM(3, 5).freeze()
        >>> y, state = layer.step(np.ones((1, 3), "float32"))
        >>> layer.weights["W_l0"] *= 2
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
    stored = host.named_dtype(dtype)
    seed = host.seed_of(rng)

    @host.ignore_underflow
    def values(random: Any) -> dict[str, Array]:
        arrays = draw(host.generator(random)).items()
        return {name: backend.from_host(w.astype(stored), where) for name, w in arrays}

    if seed is None:
        return Parameters(kind, specs, values(rng))
    example = backend.from_host(host.xp.zeros(0, stored), where)
    placement = Placement.of(kind, next(iter(specs)), example)
    # A new generator at every attempt: one that was interrupted leaves no trace in the values.
    later = partial(values, seed)
    return Parameters(kind, specs, {}, placement=placement, draw=later)


def count(weights: Mapping[str, Array]) -> int:
    """The number of values that the weights hold.

    >>> import xrnn
    >>> count(xrnn.LSTM(3, 5).weights)
    180
    """
    shapes = weights.specs if isinstance(weights, Parameters) else weights
    return sum(prod(w.shape) for w in shapes.values())
