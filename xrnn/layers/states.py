"""States of many sequences: some rows of them, rows put back, and a choice for each row.

A state is what a layer, a model of several parts or `xrnn.unroll` gives after the last step: a
(named) tuple of arrays (L·D, B, H) or (B, H), or of tuples of such arrays, or a dict of states by
name, at any depth.  The axis before the last is that of the sequences, B, everywhere.  A state of
one sequence without that axis has no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar, cast

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import Placement
from xrnn.engine.values import accept_rows
from xrnn.typing import Array, dtype_name

__all__ = ["put", "take", "where"]

T = TypeVar("T")

#: what a state may consist of, besides arrays
SEVERAL, PARTED = (tuple, list), (tuple, list, dict)

#: the text that leads to a place of two states, and what they have there
Pair = tuple[str, Any, Any]


def take(state: T, rows: Any) -> T:
    """The state of some sequences, such as the clients that have sent something.

    Parameters
    ----------
    state : state
        Of B sequences; parts that are None stay so.
    rows : integers (n,), or bools (B,)
        Their numbers in 0…B−1, in any order, also several times; or which they are.

    Returns
    -------
    state
        Of these n sequences, in new arrays.

    Raises
    ------
    TypeError
        If something in the state is no array.
    ValueError
        If `rows` are not sequences, or an array has no axis B, or another B than the others.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> state = layer.initial_state(8)
    >>> some = xrnn.states.take(state, [6, 2])
    >>> some.c.shape
    (1, 2, 5)
    >>> y, after = layer.step(np.ones((2, 3), "float32"), some)
    >>> state = xrnn.states.put(state, [6, 2], after)
    >>> np.flatnonzero(state.h.any(axis=(0, 2))).tolist()
    [2, 6]
    """
    arrays = _arrays("take", "state", state)
    found = _rows("take", rows, arrays)
    some = [backend_of(a).xp.take(a, _moved(found, a), axis=-2) for a in arrays]
    return cast(T, _rebuilt(state, iter(some)))


def put(state: T, rows: Any, new: Any) -> T:
    """The state with that of some sequences replaced; the inverse of `take`.

    Parameters
    ----------
    state : state
        Of B sequences.  Its arrays are written to, so that a server of many clients need not copy
        the others.  Where they cannot be (those of JAX, and read-only ones), new ones are
        returned.  So use the result alone; and do not put into a state that a tape still needs.
    rows : integers (n,), or bools (B,)
        The numbers of the sequences, each once; or which they are.
    new : state
        That of these n sequences, in their order, with parts like those of `state`.

    Returns
    -------
    state
        Of all B sequences.

    Raises
    ------
    TypeError
        If the two states differ in their structure, or in library, device or dtype of an array.
    ValueError
        If `rows` are not sequences, or one is there twice, or a shape does not fit.  Nothing has
        been written then.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 5)
    >>> _, state = layer.step(np.ones((4, 3), "float32"))
    >>> state = xrnn.states.put(state, 2, layer.initial_state(1))  # stream 2 begins anew
    >>> state.h.any(axis=(0, 2)).tolist()
    [True, True, False, True]
    """
    arrays = _arrays("put", "state", state)
    found = _rows("put", rows, arrays)
    n = len(found)
    if n > 1 and host.xp.bincount(found).max() > 1:
        raise ValueError(f"put: rows are {rows!r:.80}; each must be there once")
    # All is checked before anything is written.
    given = _accepted("put", ("state", "new"), state, new, n, "(…, n, H)")
    whole = [_written(a, found, b) for a, b in zip(arrays, given, strict=True)]
    return cast(T, _rebuilt(state, iter(whole)))


def where(mask: Any, a: T, b: T) -> T:
    """The state of a sequence from `a` where the mask is True, and from `b` where it is False.

    Parameters
    ----------
    mask : bools (B,)
        For each sequence, of any library or a list.
    a, b : state
        Of B sequences each, with equal parts.

    Returns
    -------
    state
        In new arrays.

    Raises
    ------
    TypeError
        If the two states differ in their structure, or in library, device or dtype of an array.
    ValueError
        If the mask is not booleans (B,), or a shape does not fit.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 5)
    >>> _, state = layer.step(np.ones((4, 3), "float32"))
    >>> ended = np.array([False, True, False, True])
    >>> state = xrnn.states.where(ended, layer.initial_state(4), state)
    >>> state.h.any(axis=(0, 2)).tolist()
    [True, False, True, False]
    """
    arrays = _arrays("where", "a", a)
    B = arrays[0].shape[-2] if arrays else 0
    others = _accepted("where", ("a", "b"), a, b, B, "(…, B, H)")
    chosen = [_chosen(mask, B, *pair) for pair in zip(arrays, others, strict=True)]
    return cast(T, _rebuilt(a, iter(chosen)))


def _pairs(a: Any, b: Any, words: tuple[str, str], path: str = "") -> Iterator[Pair]:
    """All arrays of a state a, each after the text that leads to it, and before what b has there.

    Raises
    ------
    TypeError
        If b has other parts than a; `words` are the names of both.
    """
    inner: Iterable[Pair]
    if isinstance(a, SEVERAL) and isinstance(b, SEVERAL) and len(a) == len(b):
        fields: Iterable[Any] = getattr(a, "_fields", None) or range(len(a))
        inner = zip(fields, a, b, strict=True)
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        inner = [(key, a[key], b[key]) for key in a]
    elif (a is None) != (b is None) or isinstance(a, PARTED) or isinstance(b, PARTED):
        raise TypeError(
            f"{words[1]}{path} is {_described(b)}; it must be like {words[0]}{path}, which is "
            f"{_described(a)}"
        )
    else:
        if a is not None:
            yield path, a, b
        return
    for step, one, other in inner:
        yield from _pairs(one, other, words, f"{path}.{step}")


def _described(state: Any) -> str:
    """What there is in one place of a state."""
    if isinstance(state, dict):
        return f"a dict of {', '.join(map(str, state)) or 'nothing'}"
    if isinstance(state, SEVERAL):
        return f"a tuple of {len(state)}"
    return "None" if state is None else "an array"


def _rebuilt(state: Any, arrays: Iterator[Array]) -> Any:
    """The state with these in the place of its arrays."""
    if isinstance(state, SEVERAL):
        parts = [_rebuilt(part, arrays) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if isinstance(state, dict):
        return {key: _rebuilt(part, arrays) for key, part in state.items()}
    return None if state is None else next(arrays)


def _arrays(kind: str, name: str, state: Any) -> list[Array]:
    """All arrays of a state, which have an axis B of the same size.

    Raises
    ------
    TypeError, ValueError
        If something is no array, an array has no axis B, or two have another B.
    """
    arrays: list[Array] = []
    for path, a, _ in _pairs(state, state, (name, name)):
        backend_of(a, f"{kind}: {name}{path}")
        arrays.append(a)
        if a.ndim < 2 or a.shape[-2] != arrays[0].shape[-2]:
            B = f", with B = {arrays[0].shape[-2]} as in the first array" if arrays[1:] else ""
            raise ValueError(
                f"{kind}: {name}{path} has shape {tuple(a.shape)}; it must be (…, B, H){B}"
            )
    return arrays


def _rows(kind: str, rows: Any, arrays: list[Array]) -> Array:
    """The numbers of some sequences, on the host."""
    return accept_rows(kind, rows, arrays[0].shape[-2] if arrays else None)


def _accepted(
    kind: str, names: tuple[str, str], a: Any, b: Any, n: int, letters: str
) -> list[Array]:
    """The arrays of b in the order of those of a; each must be like that of a, of n sequences."""
    found = []
    for path, like, given in _pairs(a, b, (names[0], f"{kind}: {names[1]}")):
        placement = Placement.of(kind, f"{names[0]}{path}", like)
        shape = (*like.shape[:-2], n, like.shape[-1])
        found.append(placement.accept_shaped(f"{names[1]}{path}", given, shape, letters))
    return found


def _moved(found: Array, a: Array) -> Array:
    """Indices or booleans in the library and on the device of a."""
    return backend_of(a).xp.asarray(found, device=array_api_compat.device(a))


def _written(a: Array, found: Array, b: Array) -> Array:
    """a with b in these rows: a itself where it can be written to, else a new array."""
    try:
        a[..., _moved(found, a), :] = b
    except (IndexError, TypeError, ValueError):
        # The Python Array API standard has no such assignment, and some arrays cannot be changed.
        xp, source = backend_of(a).xp, host.xp.arange(a.shape[-2])
        source[found] = a.shape[-2] + host.xp.arange(len(found))
        return xp.take(xp.concat([a, b], axis=-2), _moved(source, a), axis=-2)
    return a


def _chosen(mask: Any, B: int, a: Array, b: Array) -> Array:
    """a in the rows of the mask, b in the others."""
    backend, given = backend_of(a), mask
    known = array_api_compat.is_array_api_obj(mask)
    # One of the same library stays where it is: it may be on a device, or traced by JAX.
    own = known and backend_of(mask, "mask") is backend
    if not own:
        with suppress(TypeError, ValueError):  # raised for what is no array, such as [[True], []]
            given = backend_of(mask).to_host(mask) if known else host.xp.asarray(mask)
    shape, dtype = tuple(getattr(given, "shape", ())), getattr(given, "dtype", None)
    if shape != (B,) or (B and dtype_name(dtype) != "bool"):
        raise ValueError(
            f"where: mask has shape {shape} and dtype {dtype}; it must be (B,) = ({B},) booleans"
        )
    found = backend.xp.where((given if own else _moved(given, a))[:, None], a, b)
    # CuPy's `where` returns float32 for bfloat16.
    return backend.xp.astype(found, a.dtype, copy=False)
