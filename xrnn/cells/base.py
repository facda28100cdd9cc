"""The definition of a cell: the names of its gates and states, and one step in both directions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from keyword import iskeyword
from numbers import Integral
from typing import Any, Generic
from uuid import uuid4
from weakref import WeakValueDictionary

from xrnn.cells.linear import LinearRecurrence
from xrnn.cells.noise import Noise, check_noise
from xrnn.cells.states import state_type
from xrnn.typing import (
    Array,
    Namespace,
    S,
    Size,
    State,
    Step,
    StepBackward,
    Total,
    Weights,
    dtype_name,
)


def _independent(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    return dstate


#: the largest size, so that the product of two fits an index
LARGEST = 2**30

#: every cell of this process by its token, so that a pickle of it gives the same cell again
_cells: WeakValueDictionary[str, Cell[Any]] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Cell(Generic[S]):
    """One recurrent cell, as a value.  It holds no arrays and compares by identity.

    The kernel tables of the backends are keyed by the cell itself.  So a cell made by
    ``dataclasses.replace(LSTM, step=mine)`` is another cell and never runs on the kernels of
    `LSTM`.  A copied or unpickled cell is the same cell as the original.

    Parameters
    ----------
    name : str
        The name of this cell in messages, in files and on the command line.
    gates : tuple of str
        The blocks of the rows of W, U and b, from top to bottom.
    step : callable
        ``step(ax, state, weights, *, xp) -> state, saved``.  ``ax`` (B, G·H) is
        W x_t + b, made by the caller for all steps at once; ``state`` is a tuple of
        (B, H) arrays in the order of `states` (h is (B, P) with a `projection`); ``saved`` is a
        tuple of arrays (B, …), what `step_backward` needs: first the values of the gates, in the
        order of `gates`.
    step_backward : callable
        ``step_backward(dstate, saved, weights, *, xp) -> dax, dstate_prev, dweights``.
        ``dstate`` holds the gradients of the new state, ``dstate_prev`` those of the old
        one, ``dax`` (B, G·H) that of ``ax``, and ``dweights`` what this step adds to the
        gradient of every weight that `step` itself used (`xrnn.typing.Contribution`).
    total : callable, optional
        ``total(dstate, saved, weights, *, xp) -> dstate``, for cells that compute one new
        state from another (h from c).  In its argument the gradient of each new state is taken
        with the other new states held fixed; the result includes the effect on the loss
        through them.  Default: the gradients unchanged.
    states : tuple of str
        What is carried through time.  The first is the output h.
    recurrent : bool
        Whether there is a recurrent weight U (G·H, H).
    extras : mapping of str to tuple of int
        Further weights: name → shape in units of H.
    biases : tuple of str
        The weights that may be left out; they are zero then.
    projection : int, optional
        The size P of h, if it is not H.  U is then (G·H, P), and there is a weight P (P, H), with
        which `step` makes h from H units.  The other states have H values.
    linear : LinearRecurrence, optional
        The parts of `step`, if the cell is a linear recurrence without U, in which the state
        of a unit depends on that unit's own past alone.
    analytic : bool
        Whether `step` is an analytic function, so that it also runs in complex numbers
        (and the derivative can be checked to rounding error by a complex step).
    bias_in_step : bool
        Whether `step` itself adds b; its ``ax`` is W x_t then, and `step_backward` gives the
        contribution to b.
    ones : tuple of str
        Those of `extras` that are 1 at the start, such as gains; the others are 0.
    noise : tuple of Noise
        What `step` finds among the weights in training, drawn anew for every pass.
    options : hashable, optional
        What the cell was made of by `maker`, which gives this same cell for equal options.
    maker : callable, optional
        ``maker(options) -> cell``.

    Notes
    -----
    No function may write to its arguments, and only functions of `xp` may be used, so that a cell
    runs with every array library.

    Examples
    --------
    See ``xrnn/cells/elman.py``, the shortest cell.
    """

    name: str
    gates: tuple[str, ...]
    step: Step
    step_backward: StepBackward
    total: Total = _independent
    states: tuple[str, ...] = ("h",)
    recurrent: bool = True
    extras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    biases: tuple[str, ...] = ("b",)
    projection: int | None = None
    analytic: bool = True
    linear: LinearRecurrence | None = None
    bias_in_step: bool = False
    ones: tuple[str, ...] = ()
    noise: tuple[Noise, ...] = ()
    options: Any = None
    maker: Callable[[Any], Cell[S]] | None = None
    token: str = field(init=False, repr=False, default="")
    #: the named tuple type of this cell's states
    state_type: type[S] = field(init=False, repr=False, default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _check_values(self)
        object.__setattr__(self, "token", uuid4().hex)
        object.__setattr__(self, "state_type", state_type(self.states))
        _cells[self.token] = self

    def shapes(self, I: Size, H: Size, bias: bool = True) -> dict[str, tuple[int, ...]]:
        """Name → shape of every weight, for I inputs and H hidden units.

        Raises
        ------
        ValueError
            If a size is not an integer of at least 1.
        TypeError
            If `bias` is not a bool.

        Examples
        --------
        >>> from xrnn.cells import LSTM
        >>> LSTM.shapes(3, 5)
        {'W': (20, 3), 'U': (20, 5), 'b': (20,)}
        """
        check_positive(self.name, I=I, H=H)
        check_flags(self.name, bias=bias)
        return dict(_shapes(self, int(I), int(H), bool(bias)))

    def widths(self, H: Size) -> tuple[int, ...]:
        """The number of values of each state, for H hidden units.

        Raises
        ------
        ValueError
            If H is not an integer of at least 1.

        Examples
        --------
        >>> from xrnn.cells import LSTM
        >>> LSTM.widths(5)
        (5, 5)
        """
        check_positive(self.name, H=H)
        size = {"H": int(H), "P": self.projection or 0}
        return tuple([size[letter] for letter in self.width_letters])

    @property
    def width_letters(self) -> tuple[str, ...]:
        """The letter of each of `widths`: H, or P for the h of a cell with a `projection`."""
        h = "H" if self.projection is None else "P"
        return (h, *("H" for _ in self.states[1:]))

    def letters(self, name: str, inputs: str = "I") -> str:
        """The shape of the weight `name` in letters, for messages: ``(4·H, I)``.

        `inputs` is the letter that stands for the number of inputs.
        """
        known = self._dims()
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{self.name}: name is {name!r:.80}; it must be of {', '.join(known)}")
        if not isinstance(inputs, str):
            raise TypeError(f"{self.name}: inputs is {inputs!r:.80}; it must be a letter, as 'I'")
        dims = known[name]
        words = [
            (inputs if letter == "I" else letter) if n == 1 else f"{n}·{letter}"
            for n, letter in dims
        ]
        return f"({', '.join(words)}{',' if len(words) == 1 else ''})"

    def _dims(self) -> dict[str, tuple[tuple[int, str], ...]]:
        rows = (len(self.gates), "H")
        dims: dict[str, tuple[tuple[int, str], ...]] = {"W": (rows, (1, "I"))}
        if self.recurrent:
            dims["U"] = (rows, (1, self.width_letters[0]))
        dims["b"] = (rows,)
        if self.projection is not None:
            dims["P"] = ((1, "P"), (1, "H"))
        return dims | {k: tuple((n, "H") for n in shape) for k, shape in self.extras.items()}

    def state(self, arrays: Any) -> S:
        """The arrays as a named tuple: ``state.h``, ``state.c``.

        Raises
        ------
        TypeError
            If there is not one array for each of `states`.
        """
        try:
            return self.state_type(*arrays)
        except TypeError as error:
            raise TypeError(
                f"{self.name}: arrays is a {type(arrays).__name__}; it must hold one array for "
                f"each of {', '.join(self.states)}"
            ) from error

    @property
    def made(self) -> Any:
        """The options that this cell was made of, or None; a changed copy of a cell has none."""
        if self.options is None or self.maker is None or self.maker(self.options) is not self:
            return None
        return self.options

    @property
    def identity(self) -> str:
        """The name of this cell in files; a cell that is not one of `xrnn.cells` adds the names of
        its functions."""
        from xrnn.cells import BY_NAME

        if BY_NAME.get(self.name) is self:
            return self.name
        if self.made is not None:
            return getattr(self.options, "identity", self.name)
        functions = (self.step, self.step_backward, self.total)
        names = [getattr(f, "__qualname__", type(f).__qualname__) for f in functions]
        return f"{self.name} ({', '.join(names)})"

    def __deepcopy__(self, memo: Any) -> Cell[S]:
        return self

    def __reduce__(self) -> Any:
        if self.made is not None:
            return self.maker, (self.options,)
        home = getattr(self.step, "__module__", "")
        # What is called __main__ in another process is another program, without this cell.
        module = sys.modules.get(home) if home != "__main__" else None
        for name, value in vars(module).items() if module else ():
            if value is self:
                return _named, (home, name)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _restored, (self.token, values)

    def __repr__(self) -> str:
        return f"<cell {self.name}>"


def check_cell(cell: Cell[Any]) -> None:
    """Raise TypeError unless it is a cell."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell is {cell!r:.80}; it must be a cell, such as xrnn.cells.LSTM")


def check_positive(kind: str, **sizes: Size) -> None:
    """Raise ValueError unless all are integers of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{kind}: {name} is {value!r:.80}; it must be an integer ≥ 1")


def check_sizes(kind: str, **sizes: Size) -> None:
    """Raise ValueError unless all are integers of at least 1, and none is beyond any memory."""
    check_positive(kind, **sizes)
    for name, value in sizes.items():
        if int(value) > LARGEST:
            raise ValueError(f"{kind}: {name} is {value}; it must be at most {LARGEST:,}")


def check_flags(kind: str, **flags: bool) -> None:
    """Raise TypeError unless all are True or False (the string "False" would count as true)."""
    for name, value in flags.items():
        if not (isinstance(value, bool) or dtype_name(type(value)) in ("bool_", "bool")):
            raise TypeError(f"{kind}: {name} is {value!r:.80}; it must be True or False")


def _check_values(cell: Cell[Any]) -> None:
    """Raise TypeError or ValueError unless the values of a cell have their types."""
    name = cell.name
    if not isinstance(name, str) or not name:
        raise TypeError(f"name is {name!r:.80}; it must be the name of a cell, such as 'lstm'")
    name = name[:80]
    for part, fewest in (("gates", 1), ("states", 1), ("biases", 0)):
        names = getattr(cell, part)
        valid = isinstance(names, tuple) and len(names) >= fewest and all(map(_is_name, names))
        if not valid or len(set(names)) < len(names):
            raise ValueError(
                f"{name}: {part} is {names!r:.80}; it must be a tuple of names, such as ('h', 'c')"
            )
    for part in ("step", "step_backward", "total"):
        if not callable(getattr(cell, part)):
            raise TypeError(f"{name}: {part} is {getattr(cell, part)!r:.80}; it must be a function")
    flags = {part: getattr(cell, part) for part in ("recurrent", "analytic", "bias_in_step")}
    check_flags(name, **flags)
    if not isinstance(cell.extras, Mapping) or not all(map(_is_extra, cell.extras.items())):
        raise ValueError(
            f"{name}: extras is {cell.extras!r:.80}; it must be a mapping of names to shapes in "
            "units of H, such as {'p': (3,)}"
        )
    if not isinstance(cell.ones, tuple) or not all(one in tuple(cell.extras) for one in cell.ones):
        raise ValueError(
            f"{name}: ones is {cell.ones!r:.80}; it must be a tuple of names in extras"
        )
    if cell.maker is not None and not callable(cell.maker):
        raise TypeError(f"{name}: maker is {cell.maker!r:.80}; it must be a function, or None")
    if not isinstance(cell.linear, LinearRecurrence | None):
        raise TypeError(
            f"{name}: linear is {cell.linear!r:.80}; it must be a LinearRecurrence, or None"
        )
    if cell.projection is not None:
        check_sizes(name, projection=cell.projection)
        if cell.linear is not None:
            raise ValueError(
                f"{name}: projection is {cell.projection} and linear is given; in a linear "
                "recurrence h has H values: give one of the two"
            )
    check_noise(name, cell.noise, len(cell.states), cell._dims())


def _is_name(name: object) -> bool:
    """Whether it can be an attribute of a named tuple."""
    if not isinstance(name, str) or name.startswith("_"):
        return False
    return name.isidentifier() and not iskeyword(name)


def _is_extra(item: tuple[object, object]) -> bool:
    name, shape = item
    sizes = shape if isinstance(shape, tuple) else (0,)
    return _is_name(name) and all(isinstance(n, int) and n > 0 for n in sizes)


def _named(module: str, name: str) -> Cell[Any]:
    """The cell of that name in a module."""
    __import__(module)
    cell: Cell[Any] = getattr(sys.modules[module], name)
    return cell


def _restored(token: str, values: dict[str, Any]) -> Cell[Any]:
    """The cell of that token; a new one if this process has none."""
    if token in _cells:
        return _cells[token]
    cell: Cell[Any] = Cell(**values)
    object.__setattr__(cell, "token", token)
    _cells[token] = cell
    return cell


@lru_cache
def _shapes(cell: Cell[Any], I: int, H: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """`Cell.shapes`, cached."""
    size = {"I": I, "H": H, "P": cell.projection or 0}
    return {
        name: tuple(factor * size[letter] for factor, letter in dims)
        for name, dims in cell._dims().items()
        if bias or name not in cell.biases
    }


def blocks(a: Array, n: int) -> tuple[Array, ...]:
    """Split the last axis of a into n equal blocks (views)."""
    H = a.shape[-1] // n
    return tuple(a[..., k * H : (k + 1) * H] for k in range(n))
