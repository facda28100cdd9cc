"""Trees of arrays: mappings of names to arrays or to such mappings, and their checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import check_library
from xrnn.engine.parameters import Parameters
from xrnn.recurrence.precision import accumulation_dtype, cast, widen
from xrnn.typing import Array, Namespace, is_floating

Tree = Mapping[str, Any]


def leaves(tree: Tree, what: str, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(path, mapping that holds it, its name there) of every array of the tree `what`.

    The path joins the names by dots; a dot that is part of a name becomes ``\\.``.
    """
    if not isinstance(tree, Mapping):
        raise TypeError(
            f"{prefix.rstrip('.') or what} is a {type(tree).__name__}; it must be a mapping of "
            "names to arrays, or of names to such mappings"
            f"{'; give layer.weights' if _has_weights(tree) else ''}"
        )
    for name, value in tree.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} have the name {name!r:.80}; names must be strings")
        path = prefix + name.replace("\\", r"\\").replace(".", r"\.")
        if isinstance(value, Mapping) or _has_weights(value):
            yield from leaves(value, what, f"{path}.")
        else:
            yield path, tree, name


def _has_weights(value: Any) -> bool:
    """Whether it is a layer, given where its weights should be."""
    return isinstance(getattr(value, "weights", None), Mapping)


def pairs(weights: Any, dweights: Tree) -> list[tuple[str, Any, str, Array]]:
    """(path, mapping that holds the weight, its name there, its gradient) after all checks."""
    mine = list(leaves(weights, "weights"))
    theirs = {path: holder[name] for path, holder, name in leaves(dweights, "dweights")}
    if odd := sorted({path for path, _, _ in mine} ^ set(theirs)):
        raise ValueError(
            f"weights and dweights differ in {', '.join(odd)}; they must have the same names"
        )
    if not mine:
        raise ValueError("weights hold no array; give those of a layer: layer.weights")
    places: dict[tuple[type, int], str] = {}
    for path, holder, name in mine:
        w = holder[name]
        _check_pair(path, holder, w, theirs[path])
        # A number alone has no memory of its own.
        if w.ndim and 0 not in w.shape:
            other = places.setdefault((type(w), host.address(w)), path)
            if other != path:
                raise ValueError(
                    f"{other} and {path} are one array, which would be changed twice; leave one "
                    "of them out, and add its gradient to that of the other"
                )
    return [(path, holder, name, theirs[path]) for path, holder, name in mine]


def _check_pair(path: str, holder: Any, w: Array, g: Array) -> None:
    """Raise unless w, which `holder` holds, can be changed by its gradient g."""
    check_holder(path, holder, w)
    check_real(f"the gradient of {path}", g)
    check_library(f"the gradient of {path}", g, path, w)
    device, other = (backend_of(a).device_of(a) for a in (w, g))
    if device != other:
        raise TypeError(
            f"the gradient of {path} is on device {other} and {path} on device {device}; "
            "move one of them"
        )
    _check_changeable(path, w)
    if getattr(g, "requires_grad", False):
        raise ValueError(f"the gradient of {path} records gradients; give g.detach()")
    if tuple(w.shape) != tuple(g.shape):
        raise ValueError(
            f"the gradient of {path} has shape {tuple(g.shape)}; it must be {tuple(w.shape)}"
        )


def check_holder(path: str, holder: Any, w: Array) -> None:
    """Raise unless w is a weight in whose place `holder` can hold another."""
    if isinstance(holder, Parameters):
        holder.check_changeable()
    elif not isinstance(holder, MutableMapping):
        raise TypeError(f"{path} is in a {type(holder).__name__}; it must be in a dict")
    check_real(path, w)


def stored_for(w: Array, state: Mapping[str, Array], key: str, *, xp: Namespace) -> Array:
    """The state under a key, in the library, on the device and of the shape of the weight w.

    It has the `accumulation_dtype` of w, and is 0 where there is none yet.
    """
    dtype = accumulation_dtype(w.dtype, xp=xp)
    a = state.get(key)
    if a is None:
        return xp.zeros(w.shape, dtype=dtype, device=array_api_compat.device(w))
    backend, theirs = backend_of(w), backend_of(a, key)
    if tuple(a.shape) != tuple(w.shape):
        raise ValueError(
            f"state {key} has shape {tuple(a.shape)}; it must be that of its weight, "
            f"{tuple(w.shape)}"
        )
    if theirs is not backend:
        a = widen(theirs.to_host(a), xp=host.xp)
        a = xp.asarray(a, device=array_api_compat.device(w))
    elif backend.device_of(a) != backend.device_of(w):
        a = array_api_compat.to_device(a, array_api_compat.device(w))
    return cast(a, dtype, xp=xp)


def _check_changeable(path: str, w: Array) -> None:
    """Raise ValueError if w can be changed in its library, but not this array, in place."""
    if not getattr(getattr(w, "flags", None), "writeable", True):
        raise ValueError(f"{path} is read-only; give a copy of it: weights[name] = w.copy()")
    if getattr(w, "requires_grad", False):
        raise ValueError(f"{path} records gradients; give it without: weights[name] = w.detach()")
    # The rest is known of torch alone, which refuses such tensors when they are written to.
    if hasattr(w, "is_inference") and w.is_inference() and not w.new_empty(0).is_inference():
        raise ValueError(f"{path} was made in torch.inference_mode; give a copy of it: w.clone()")
    strides = w.stride() if callable(getattr(w, "stride", None)) else ()
    if any(n > 1 and not step for n, step in zip(w.shape, strides, strict=False)):
        raise ValueError(f"{path} repeats its values in memory; give a copy of it: w.clone()")


def check_real(name: str, a: Array) -> None:
    """Raise TypeError unless a is an array of real floating point."""
    xp = backend_of(a, name).xp
    if not is_floating(a.dtype, xp=xp):
        raise TypeError(f"{name} is {a.dtype}; it must be real floating point")
