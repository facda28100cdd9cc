"""Weights that check themselves: a mapping that refuses what does not fit, and counts changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from math import prod
from typing import Any, NamedTuple, Self

from xrnn.backends import Backend, backend_of, get, host
from xrnn.engine.checks import Home, looks_transposed, unknown_name
from xrnn.typing import Array, dtype_name


class Spec(NamedTuple):
    """What one weight must be: its shape, in numbers and in letters."""

    shape: tuple[int, ...]
    letters: str


class Parameters(MutableMapping[str, Array]):
    """Named weights of one library, device and dtype, each of a fixed shape.

    What is assigned is checked there and then, and taken over in C order and native byte
    order: an array that is so already is kept itself, any other is copied.  So no pass looks
    at weights again, and a typo or a transposed matrix is an error where it is made.

    Parameters
    ----------
    kind : str
        What messages call the owner.
    specs : mapping of str to Spec
        Every name, and what its array must be.
    arrays : mapping of str to array
        The values.
    home : Home, optional
        Library, device and dtype of all.  Default: those of the first array.

    Attributes
    ----------
    version : int
        How often something was assigned: what was made of older values knows it by this.
    frozen : bool
        Whether nothing can be assigned any more.

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
        home: Home | None = None,
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
        self.home = home or Home.of(kind, first, arrays[first])
        self._arrays = self._checked(arrays)

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
        how = f"{dtype_name(self.home.dtype)} on {self.home.backend.name}"
        return f"<weights of {self.kind}, {how}: {', '.join(words)}>"

    def update(self, arrays: Any = (), /, **named: Array) -> None:
        """Assign several at once: all of them, or in case of an error none.

        Raises
        ------
        TypeError
            If they are frozen, or one is of another library, device or dtype.
        ValueError
            If a name is unknown, or a shape is not the weight's.
        """
        self.check_changeable()
        try:
            given = {**dict(arrays), **named}
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.kind}: weights must be a mapping of name to array") from error
        taken = self._checked(given)
        self._arrays.update(taken)
        self.version += 1

    def replaced(self, arrays: Mapping[str, Array]) -> Parameters:
        """New parameters of the same kind and home: every name must be there, no other."""
        return Parameters(self.kind, self.specs, arrays, home=self.home)

    def moved(self, backend: Backend) -> Parameters:
        """The same values in another library."""
        arrays = {name: _moved(a, backend) for name, a in self._arrays.items()}
        found = Parameters(self.kind, self.specs, arrays)
        return found.frozen_copy() if self.frozen else found

    def frozen_copy(self) -> Parameters:
        """Equal parameters that nothing can change: copies, read-only where a library can."""
        backend = self.home.backend
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

    def _checked(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays as they are taken over."""
        taken = {}
        for name, array in arrays.items():
            if name not in self.specs:
                raise ValueError(unknown_name(self.kind, name, self.specs))
            shape, letters = self.specs[name]
            array = self.home.take(name, array)
            if tuple(array.shape) != shape:
                found = tuple(array.shape)
                raise ValueError(
                    f"{self.kind}: {name} has shape {found}; it must be {letters} = {shape}"
                    f"{looks_transposed(name, found, shape)}"
                )
            taken[name] = self.home.backend.dense(array)
        return taken


def _moved(array: Array, backend: Backend) -> Array:
    """The array in the library of `backend`, through the host; itself if it is there."""
    home = backend_of(array)
    return array if home is backend else backend.from_host(home.to_host(array))


def _fixed(array: Array, backend: Backend) -> Array:
    return backend.read_only(backend.xp.asarray(array, copy=True))


class Module:
    """What holds weights by name: a recurrent layer, an embedding, a linear map."""

    _parameters: Parameters

    def config(self) -> dict[str, Any]:
        """What a file must agree on to be loaded into this module."""
        raise NotImplementedError

    @property
    def weights(self) -> Parameters:
        """The weights by name.

        Assign one, or a whole mapping, or update them in place; what does not fit is an
        error there (see `xrnn.engine.parameters.Parameters`).
        """
        return self._parameters

    @weights.setter
    def weights(self, arrays: Mapping[str, Array]) -> None:
        # Themselves, as `weights |= …` assigns them, are what they were.
        if arrays is not self._parameters:
            self._parameters = self._parameters.replaced(arrays)

    def check_unchanged(self, parameters: Parameters | None, version: int) -> None:
        """Raise ValueError unless the weights are still those parameters in that version."""
        mine = self._parameters
        if parameters is not mine or version != mine.version:
            raise ValueError(
                f"{mine.kind}: the weights have changed since the forward pass that made this "
                "tape; run forward again, and backward before the next update"
            )

    def to(self, device: str) -> Self:
        """Move the weights to "cpu", "cuda" or another array library; return the module.

        Raises
        ------
        ImportError
            If the library is not installed or finds no device; nothing is moved then.
        """
        self._parameters = self._parameters.moved(get(device))
        return self

    def freeze(self) -> Self:
        """Keep the weights from changing, for inference; return the module.

        They become copies that cannot be assigned to (and NumPy's cannot be written to).  So
        native loops lay them out once, as products read them, and not at every call: a
        `Layer.step` takes 0.4 to 0.8 of the time, to the same bits.  To change them again
        assign a whole mapping: ``layer.weights = {name: w.copy() for …}``.

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
    """Host weights as arrays of `backend` in `dtype`."""
    host_dtype = host.named_dtype(dtype)
    return {name: backend.from_host(w.astype(host_dtype)) for name, w in weights.items()}


def count(weights: Mapping[str, Array]) -> int:
    """How many numbers the weights hold.

    >>> import xrnn
    >>> count(xrnn.LSTM(3, 5).weights)
    180
    """
    return sum(prod(w.shape) for w in weights.values())
