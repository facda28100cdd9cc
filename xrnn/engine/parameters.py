"""Named weights: a mapping that checks what is assigned to it and counts its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from math import prod
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

from xrnn.backends import Backend, get, host
from xrnn.engine.checks import Placement, looks_transposed, unknown_name
from xrnn.typing import Array, dtype_name


class Spec(NamedTuple):
    """The required shape of one weight, in numbers and in letters."""

    shape: tuple[int, ...]
    letters: str


#: address of an array → the parameters that hold it, or held it once
_holders: WeakValueDictionary[int, Parameters] = WeakValueDictionary()


class Parameters(MutableMapping[str, Array]):
    """Named weights of one library, device and dtype, each of a fixed shape.

    An assigned array is checked at once, and stored in C order and native byte order: an array
    that has both is stored itself, any other is copied.  So forward passes need not check weights
    again, and a misspelt name or a transposed matrix raises an error in the line that assigns it.

    No array is held twice, since a change of one weight would change another.  An array that
    other parameters of the same kind hold is copied, as by ``layer.weights = other.weights``.
    One that parameters of another kind hold, or these under another name, is refused.

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
    instead_of : Parameters, optional
        The parameters that these replace: their arrays may be kept.

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
        instead_of: Parameters | None = None,
    ) -> None:
        self.kind, self.specs = kind, dict(specs)
        self.version, self.frozen = 0, False
        if not isinstance(arrays, Mapping):
            raise TypeError(f"{kind}: weights must be a mapping of name to array")
        if absent := [name for name in self.specs if name not in arrays]:
            spec = self.specs[absent[0]]
            raise ValueError(
                f"{kind}: weight {absent[0]} is missing; it must have shape "
                f"{spec.letters} = {spec.shape}"
            )
        first = next(iter(self.specs))
        self.placement = placement or Placement.of(kind, first, arrays[first])
        self._arrays: dict[str, Array] = {}
        self._hold(self._checked(arrays, instead_of))

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        self.update({name: array})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{self.kind}: weight {name} cannot be removed; assign another array")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __or__(self, other: Mapping[str, Array]) -> dict[str, Array]:
        return {**self, **other}

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self

    def __repr__(self) -> str:
        words = (f"{name} {tuple(a.shape)}" for name, a in self._arrays.items())
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
            If a name is unknown, a shape does not fit, or an array is already another weight.
        """
        self.check_changeable()
        try:
            given = {**dict(arrays), **named}
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.kind}: weights must be a mapping of name to array") from error
        self._hold(self._checked(given))
        self.version += 1

    def replaced(self, arrays: Mapping[str, Array]) -> Parameters:
        """New parameters of the same names and placement, from arrays of exactly these names."""
        return Parameters(self.kind, self.specs, arrays, placement=self.placement, instead_of=self)

    def moved(self, backend: Backend) -> Parameters:
        """The same values in another library; the parameters themselves if they are in it."""
        if backend is self.placement.backend:
            return self
        to_host = self.placement.backend.to_host
        arrays = {name: backend.from_host(to_host(a)) for name, a in self._arrays.items()}
        found = Parameters(self.kind, self.specs, arrays)
        return found.frozen_copy() if self.frozen else found

    def frozen_copy(self) -> Parameters:
        """Copies that cannot be assigned to; read-only where the library has such arrays."""
        backend = self.placement.backend
        copies = {name: _fixed(a, backend) for name, a in self._arrays.items()}
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
        return {name: self.__dict__[name] for name in ("kind", "specs", "frozen", "_arrays")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["kind"], state["specs"], state["_arrays"])  # type: ignore[misc]
        if state["frozen"]:
            self.__dict__.update(self.frozen_copy().__dict__)

    def _hold(self, arrays: dict[str, Array]) -> None:
        for name, array in arrays.items():
            if array is not self._arrays.get(name):
                self._arrays[name] = array
                _holders[host.address(array)] = self

    def _checked(
        self, arrays: Mapping[str, Array], instead_of: Parameters | None = None
    ) -> dict[str, Array]:
        """The arrays after all checks, in C order and native byte order, each held only here."""
        taken: dict[str, Array] = {}
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
        return self._held_once(taken, instead_of)

    def _held_once(
        self, arrays: dict[str, Array], instead_of: Parameters | None
    ) -> dict[str, Array]:
        """The arrays, each held by no other weight: copied or refused if it is."""
        if all(array is self._arrays.get(name) for name, array in arrays.items()):
            return arrays  # changed in place
        places: dict[int, str] = {}
        for name, array in arrays.items():
            place = host.address(array)
            holder, held = _holder(place)
            if place in places:
                holder, held = self, places[place]
            elif held in arrays and (holder is self or holder is instead_of):
                holder = None  # that weight is assigned too
            elif holder is not None and holder is not self and holder.kind == self.kind:
                holder, arrays[name] = None, self.placement.backend.xp.asarray(array, copy=True)
            if holder is not None:
                raise ValueError(
                    f"{self.kind}: {name} is the array {held} of {holder.kind}, and a change of "
                    "one would change both; give a copy of it.  (To tie two weights, add up their "
                    "gradients before each update of one, and assign a copy of it to the other.)"
                )
            places[place] = name
        return arrays


def _holder(place: int) -> tuple[Parameters | None, str | None]:
    """Which living parameters hold the array at an address, and under which name."""
    holder = _holders.get(place)
    for name, array in () if holder is None else holder._arrays.items():
        if host.address(array) == place:
            return holder, name
    return None, None


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
            "cpu", "cuda" or the name of an array library, such as "torch" or "jax".

        Raises
        ------
        ImportError
            If the library is not installed or finds no device; nothing is moved then.
        ValueError
            If the name is not that of an array library; nothing is moved then.
        """
        self._parameters = self._parameters.moved(get(device))
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


def cast(weights: Mapping[str, Array], dtype: str, backend: Backend) -> dict[str, Array]:
    """Weights on the host (NumPy) as arrays of `backend`, cast to `dtype`."""
    host_dtype = host.named_dtype(dtype)
    return {name: backend.from_host(w.astype(host_dtype)) for name, w in weights.items()}


def count(weights: Mapping[str, Array]) -> int:
    """The number of values that the weights hold.

    >>> import xrnn
    >>> count(xrnn.LSTM(3, 5).weights)
    180
    """
    return sum(prod(w.shape) for w in weights.values())
