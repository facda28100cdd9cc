"""Named weights: a mapping that checks what is assigned to it and counts its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from math import prod
from typing import Any, Self
from weakref import WeakValueDictionary

from xrnn.backends import Backend, host
from xrnn.engine.checks import Placement, Spec, looks_transposed, unknown_name
from xrnn.typing import Array, dtype_name

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
    draw : callable, optional
        ``draw() -> arrays``: values for the names that `arrays` lacks.  It is called when the
        first of them is read; what is assigned before is not drawn.  With it `placement` is
        required.
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
    form : str
        "int8" or "bfloat16" if the matrices are kept as such numbers (`xrnn.engine.compact`),
        else empty.
    nbytes : int
        The number of bytes that the arrays take.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> weights = xrnn.LSTM(3, 5).weights
    >>> weights["U_l0"] = np.ones((5, 20), "float32")
    Traceback (most recent call last):
    ValueError: lstm: U_l0 has shape (5, 20); it must be (4·H, H) = (20, 5); \
it looks transposed: give U_l0.T
    """

    form = ""

    def __init__(
        self,
        kind: str,
        specs: Mapping[str, Spec],
        arrays: Mapping[str, Array],
        *,
        placement: Placement | None = None,
        draw: Callable[[], Mapping[str, Array]] | None = None,
        instead_of: Parameters | None = None,
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
        self._arrays: dict[str, Array] = {}
        self._arrays = self._checked(arrays, instead_of)
        self._register(self._arrays)

    def __getitem__(self, name: str) -> Array:
        if name not in self:
            raise KeyError(unknown_name(self.kind, name, self.specs))
        return (self._arrays if name in self._arrays else self._all())[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.specs

    def __setitem__(self, name: str, array: Array) -> None:
        self.check_changeable()
        if name not in self:
            raise ValueError(unknown_name(self.kind, name, self.specs))
        self.update({name: array})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{self.kind}: weight {name!s:.80} cannot be removed; assign another array")

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __or__(self, other: Mapping[str, Array]) -> dict[str, Array]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

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
            If a name is unknown, a shape does not fit, or an array is already another weight.
        """
        self.check_changeable()
        try:
            given = {**dict(arrays), **named}
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.kind}: weights must be a mapping of name to array") from error
        taken = self._checked(given)
        arrays = {**self._arrays, **taken}
        draw = None if len(arrays) == len(self.specs) else self._draw
        # In one statement: Ctrl-C comes before it or after it.
        self._arrays, self._draw, self.version = arrays, draw, self.version + 1
        self._register(taken)

    def operand(self, name: str) -> Any:
        """The weight as passes take it: the array, or a matrix that stands for it."""
        return self[name]

    def held(self) -> dict[str, Array]:
        """The arrays that are kept: the weights themselves, or what they are made of."""
        return dict(self)

    @property
    def nbytes(self) -> int:
        return sum(prod(a.shape) * a.dtype.itemsize for a in self.held().values())

    @property
    def state_in_words(self) -> str:
        """What a layer's text says of weights that cannot change."""
        return f", frozen{self.form and f' as {self.form}'}" if self.frozen else ""

    def replaced(self, arrays: Mapping[str, Array]) -> Parameters:
        """New parameters of the same names and placement, from arrays of exactly these names."""
        return Parameters(self.kind, self.specs, arrays, placement=self.placement, instead_of=self)

    def moved(self, backend: Backend, device: Any = None) -> Parameters:
        """The same values in another library, or on another of its devices; the parameters
        themselves if they are there."""
        here = self.placement
        if backend is here.backend and device in (None, here.standard_device):
            return self
        arrays = {
            name: stored(self.kind, backend, here.backend.to_host(a), device)
            for name, a in self._all().items()
        }
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
                if self._arrays.setdefault(name, array) is array:
                    self._register({name: array})
            self._draw = None
        return self._arrays

    def _register(self, arrays: Mapping[str, Array]) -> None:
        for array in arrays.values():
            _holders[host.address(array)] = self

    def _checked(
        self, arrays: Mapping[str, Array], instead_of: Parameters | None = None
    ) -> dict[str, Array]:
        """The arrays after all checks, in C order and native byte order, each held only here."""
        taken: dict[str, Array] = {}
        for name, array in arrays.items():
            if name not in self:
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


def check_trainable(parameters: Parameters) -> None:
    """Raise TypeError if the weights serve inference alone."""
    if parameters.form:
        raise TypeError(
            f"{parameters.kind}: the weights are {parameters.form}, for inference: call the layer "
            "itself, ys, state = layer(xs); to train, assign weights of float32"
        )


def assign_together(changes: Sequence[tuple[Parameters, Mapping[str, Array]]]) -> None:
    """Assign to several parameters: everything or, after an error or Ctrl-C, nothing."""
    before = [(p, dict(p._arrays), p._draw, p.version) for p, _ in changes]
    try:
        for parameters, arrays in changes:
            parameters.update(arrays)
    except BaseException:
        for parameters, arrays, draw, version in before:
            parameters._arrays, parameters._draw, parameters.version = arrays, draw, version
        raise


def _holder(place: int) -> tuple[Parameters | None, str | None]:
    """Which living parameters hold the array at an address, and under which name."""
    holder = _holders.get(place)
    for name, array in () if holder is None else holder._arrays.items():
        if host.address(array) == place:
            return holder, name
    return None, None


def stored(kind: str, backend: Backend, array: Array, device: Any) -> Array:
    """A copy of a NumPy array in a library, on one of its devices, in the same dtype.

    Raises
    ------
    ValueError
        If the library has not this dtype, and would silently take another one.
    """
    found, name = backend.from_host(array, device), dtype_name(array.dtype)
    if dtype_name(found.dtype) != name:
        raise ValueError(
            f"{kind}: {backend.name} stores {name} as {dtype_name(found.dtype)} here; choose "
            "another dtype, or allow it this one (jax has an option for that, jax_enable_x64)"
        )
    return found


def _fixed(array: Array, backend: Backend) -> Array:
    return backend.read_only(backend.xp.asarray(array, copy=True))


def count(weights: Mapping[str, Array]) -> int:
    """The number of values that the weights hold.

    >>> import xrnn
    >>> count(xrnn.LSTM(3, 5).weights)
    180
    """
    shapes = weights.specs if isinstance(weights, Parameters) else weights
    return sum(prod(w.shape) for w in shapes.values())
