"""Frozen weights of which the matrices take fewer bytes: they serve inference alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from xrnn.backends import Backend, host
from xrnn.engine.checks import Placement, Spec, check_choice
from xrnn.engine.parameters import Parameters, stored
from xrnn.recurrence.precision import widen
from xrnn.recurrence.quantised import LEVELS, MOST_COLUMNS, Quantised, quantised
from xrnn.typing import Array, Namespace, dtype_name

#: the ending of the names under which the scales of a matrix are kept
SCALES = "_scales"

#: what weights can be frozen as → the dtypes of what is kept of a matrix, by the ending of its name
FORMS: dict[str, dict[str, str]] = {
    "int8": {"": "int8", SCALES: "float32"},
    "bfloat16": {"": "bfloat16"},
}


def is_matrix(name: str) -> bool:
    """Whether a weight of that name, such as W_l0, is one that x or h is multiplied by."""
    return name.partition("_l")[0] in ("W", "U", "P")


class Compact(Parameters):
    """The frozen weights of a layer, with matrices of 8 or 16 bits.

    As a mapping it gives arrays of float32, those of matrices made anew: the numbers that stand
    for the weights.

    Parameters
    ----------
    kind, specs, placement
        As for `Parameters`.
    form : {"int8", "bfloat16"}
        How the matrices are kept.
    held : mapping of str to array
        What `held` returns, checked.
    """

    def __init__(
        self,
        kind: str,
        specs: Mapping[str, Spec],
        placement: Placement,
        form: str,
        held: Mapping[str, Array],
    ) -> None:
        vectors = {name: held[name] for name in specs if not is_matrix(name)}
        super().__init__(kind, specs, vectors, placement=placement, draw=self._all)
        self.frozen, self.form = True, form
        self._held = {name: held[name] for name, *_ in layout(specs, form)}
        self._integers: dict[str, Quantised] = {}
        if form == "int8":
            for name in filter(is_matrix, specs):
                wide = name.startswith("W")
                self._integers[name] = Quantised(held[name], held[name + SCALES], wide)

    def __getitem__(self, name: str) -> Array:
        if name not in self.specs or not is_matrix(name):
            return super().__getitem__(name)
        backend, matrix = self.placement.backend, self._integers.get(name)
        found = widen(self._held[name], xp=backend.xp) if matrix is None else matrix.real()
        return backend.read_only(found)

    def operand(self, name: str) -> Any:
        return self._integers.get(name) or self[name]

    def held(self) -> dict[str, Array]:
        return dict(self._held)

    def moved(self, backend: Backend, device: Any = None) -> Parameters:
        here = self.placement
        if backend is here.backend and device in (None, here.standard_device):
            return self
        to_host = here.backend.to_host
        held = {k: stored(self.kind, backend, to_host(a), device) for k, a in self._held.items()}
        example = stored(self.kind, backend, host.xp.zeros(0, "float32"), device)
        there = Placement.of(self.kind, here.reference, example)
        return checked(self.kind, self.specs, there, self.form, held)

    def frozen_copy(self) -> Parameters:
        """The weights themselves: nothing changes them."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        names = ("kind", "specs", "placement", "form", "version")
        return {"held": self._held, **{name: self.__dict__[name] for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = ("kind", "specs", "placement", "form")
        dense = state["placement"].backend.dense  # arrays may be of a subclass, mapped from files
        held = {name: dense(array) for name, array in state["held"].items()}
        self.__init__(*[state[name] for name in names], held)  # type: ignore[misc]
        self.version = state["version"]

    def _all(self) -> dict[str, Array]:
        return {name: self[name] for name in self.specs}


class Made(Mapping[str, Array]):
    """The weights of one cell, of which those of the layer are made anew at each access: so nothing
    is kept but what is computed from them.

    Parameters
    ----------
    parameters : Parameters
        The weights of the layer.
    suffix : str
        The ending of their names there.
    given : iterable of str
        Their names.
    rest : mapping of str to array
        The other weights of the cell, which the layer does not have.
    """

    def __init__(
        self, parameters: Parameters, suffix: str, given: Iterable[str], rest: Mapping[str, Array]
    ) -> None:
        self._parameters, self._rest = parameters, rest
        self._names = {name: f"{name}{suffix}" for name in given}

    def __getitem__(self, name: str) -> Array:
        if name in self._rest:
            return self._rest[name]
        return self._parameters.operand(self._names[name])

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._rest

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._rest

    def __len__(self) -> int:
        return len(self._names) + len(self._rest)


def layout(specs: Mapping[str, Spec], form: str) -> Iterable[tuple[str, tuple[int, ...], str]]:
    """(name, shape, dtype) of all arrays that are kept."""
    for name, (shape, _) in specs.items():
        if not is_matrix(name):
            yield name, shape, "float32"
            continue
        for ending, dtype in FORMS[form].items():
            yield name + ending, shape[: 1 if ending else 2], dtype


def compact(given: Parameters, form: Any) -> Parameters:
    """The weights in another form, each number rounded once.

    Raises
    ------
    ValueError
        If there is no such form, the weights are not of float32, a matrix has too many columns or
        holds NaN or infinity, or they are in another form already.
    ImportError
        If the form is bfloat16, and the library has not this dtype.
    """
    kind, here = given.kind, given.placement
    check_choice(kind, "weights", form, (None, *FORMS))
    if given.form == form:
        return given
    if given.form or dtype_name(here.dtype) != "float32":
        now = f"{given.form} already" if given.form else dtype_name(here.dtype)
        do = "assign weights of float32" if given.form else 'make the layer with dtype="float32"'
        raise ValueError(
            f"{kind}: the weights are {now}, and {form} is made of float32 alone; {do}"
        )
    to_host = here.backend.to_host
    held: dict[str, Array] = {}
    for name in given:
        array = to_host(given[name])
        held |= _narrow(kind, name, array, form) if is_matrix(name) else {name: array}
    put = {k: stored(kind, here.backend, a, here.standard_device) for k, a in held.items()}
    return checked(kind, given.specs, here, form, put)


def of_scales(given: Parameters, scales: Mapping[str, Array]) -> Parameters:
    """The weights in 8 bits, if they are so already: multiples of the scales (NumPy) of the rows of
    a matrix.  No number is rounded.

    Raises
    ------
    ValueError
        If a number is not such a multiple by -127 … 127; or as `compact`.
    """
    kind, here, xp = given.kind, given.placement, host.xp
    if dtype_name(here.dtype) != "float32":
        raise ValueError(f"{kind}: int8 is made of float32 alone; leave dtype out")
    held: dict[str, Array] = {}
    for name in given:
        held[name] = array = here.backend.to_host(given[name])
        if not is_matrix(name):
            continue
        steps = scales[name][:, None].astype("float32")
        integers = xp.round(array / xp.where(steps > 0, steps, 1))
        if not (integers * steps == array).all() or (abs(integers) > LEVELS).any():
            raise ValueError(
                f"{kind}: {name} is not an integer in -{LEVELS}…{LEVELS} times a scale for each "
                'row; load it as float32 and round it: freeze(weights="int8")'
            )
        held |= {name: integers.astype("int8"), name + SCALES: scales[name].astype("float32")}
    put = {k: stored(kind, here.backend, a, here.standard_device) for k, a in held.items()}
    return checked(kind, given.specs, here, "int8", put)


def _narrow(kind: str, name: str, array: Array, form: str) -> dict[str, Array]:
    """What is kept of a matrix (NumPy)."""
    kept = array if form == "int8" else array.astype(host.named_dtype(form))
    if not host.xp.isfinite(kept).all():
        limit = ", as bfloat16 (up to 3.39e38)" if form == "bfloat16" else ""
        raise ValueError(
            f"{kind}: {name} holds NaN or infinity{limit}; weights of {form} must be finite: mend "
            "them"
        )
    if form == "int8":
        integers, scales = quantised(array, xp=host.xp)
        return {name: integers, name + SCALES: scales}
    return {name: kept}


def checked(
    kind: str, specs: Mapping[str, Spec], placement: Placement, form: str, held: Mapping[str, Array]
) -> Compact:
    """Compact weights of arrays in the library and on the device of the placement.

    Raises
    ------
    ValueError
        If an array is missing or unknown, has another shape or dtype than it must, a matrix has
        too many columns, an integer is -128, or a scale is no number ≥ 0.
    TypeError
        If the library's arrays cannot be multiplied by such a matrix.
    """
    wanted = {name: (shape, dtype) for name, shape, dtype in layout(specs, form)}
    if odd := sorted(wanted.keys() ^ held.keys()):
        raise ValueError(f"{kind}: weights missing or unknown: {', '.join(odd)}")
    for name, (shape, dtype) in wanted.items():
        array = held[name]
        found = f"{dtype_name(array.dtype)} {tuple(array.shape)}"
        if found != f"{dtype} {shape}":
            raise ValueError(f"{kind}: {name} is {found}; it must be {dtype} {shape}")
        if form == "int8" and len(shape) == 2 and shape[1] > MOST_COLUMNS:
            raise ValueError(
                f"{kind}: {name} has {shape[1]:,} columns; with weights of int8 it can have "
                f"{MOST_COLUMNS:,}: freeze them as bfloat16"
            )
        _check_values(kind, name, array, dtype, xp=placement.backend.xp)
    fixed = placement.backend.read_only
    one = Compact(kind, specs, placement, form, {name: fixed(a) for name, a in held.items()})
    _check_product(one)
    return one


def _check_values(kind: str, name: str, array: Array, dtype: str, *, xp: Namespace) -> None:
    """ValueError unless an array of a matrix of 8 bits holds what it may."""
    if dtype == "int8" and not bool(xp.all(array >= -LEVELS)):
        raise ValueError(f"{kind}: {name} holds -128; it must hold integers in -{LEVELS}…{LEVELS}")
    if name.endswith(SCALES) and not bool(xp.all((array >= 0) & xp.isfinite(array))):
        raise ValueError(f"{kind}: {name} must hold finite numbers ≥ 0")


def _check_product(one: Compact) -> None:
    """TypeError unless the library leaves products with a matrix to the matrix."""
    backend, name = one.placement.backend, next(filter(is_matrix, one.specs))
    matrix = one.operand(name)
    try:
        one.placement.zeros((1, matrix.shape[1])) @ matrix[:1, :].T
    except TypeError as error:
        raise TypeError(
            f"{one.kind}: arrays of {backend.name} cannot be multiplied by weights of {one.form}; "
            'move the layer first: layer.to("cpu")'
        ) from error
