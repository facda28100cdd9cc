"""Weights and gradients in PyTorch's conventions.

=============  =======================  ==========================================
xrnn           PyTorch                  how
=============  =======================  ==========================================
W_l0           weight_ih_l0             the same: (G·H, I), gates i f g o or r z n
U_l0           weight_hh_l0             the same: (G·H, H)
b_l0           bias_ih_l0, bias_hh_l0   their sum; one bias is enough
v_l0 (GRU)     bias_hh_l0, rows of n    kept separately: the reset gate multiplies it
P_l0 (LSTM)    weight_hr_l0             the same: (proj_size, H)
=============  =======================  ==========================================

So a GRU's b sums the two biases in the rows of r and z, and is bias_ih in those of n.
Converted to PyTorch, b becomes bias_ih, and bias_hh is zero (except for v), which computes the
same function.  *Gradients* are converted differently: each of PyTorch's two biases has the
gradient of b.
PyTorch has no GRU with reset before the product, and no LSTM whose gates see only the
input; their weights cannot be converted, because they would compute another function.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells import GRU, LSTM, Cell, Elman, ElmanReLU, lstm_with
from xrnn.cells.base import check_flags
from xrnn.convert.casting import check_floating, rounded, wide
from xrnn.convert.conventions import CONVENTIONS, Convention, Stored, decode, encode
from xrnn.convert.loaded import within
from xrnn.convert.torch_names import FIELDS, check_names, joined, under
from xrnn.engine.parameters import Parameters, assign_together
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.layer_norm import LayerNorm
from xrnn.layers.linear import Linear
from xrnn.layers.sequential import Sequential
from xrnn.typing import Array, dtype_name

#: cell → PyTorch's name of its module
KNOWN: Mapping[Cell[Any], str] = {Elman: "RNN", ElmanReLU: "RNN", LSTM: "LSTM", GRU: "GRU"}

Part = Layer[Any] | Embedding | Linear | LayerNorm
PARTS = (Layer, Embedding, Linear, LayerNorm)

#: a part, or several by name
Parts = Part | Sequential | Mapping[str, Any]

#: weight of a part other than a layer → PyTorch's name
OTHERS = {"E": "weight", "W": "weight", "gain": "weight", "b": "bias"}


def from_torch(
    layer: Parts,
    state_dict: Mapping[str, Any],
    prefix: str | None = None,
    *,
    gradients: bool = False,
) -> dict[str, Any]:
    """Load weights trained with PyTorch into a layer, or into several parts.

    `load_torch` makes the layers itself, and reads files.

    Parameters
    ----------
    layer : Layer, Embedding, Linear or LayerNorm; or Sequential, or mapping of str to parts
        Made with the same sizes and options as the PyTorch module.  The names in a `Sequential`,
        and in a mapping, which may hold mappings, are those of the modules: ``{"encoder": layer}``
        takes "encoder.weight_ih_l0".
    state_dict : mapping of str to array-like
        PyTorch name → tensor or array of floating-point numbers, as ``module.state_dict()`` gives
        it.
    prefix : str, optional
        The name of the module in `state_dict`: names that do not begin with it and a dot are left
        out.  Default: `state_dict` holds the weights of `layer` and no others.
    gradients : bool
        Whether the values are gradients (name → ``parameter.grad``).  They are converted to
        the form of ``dweights``, and the layer is not changed.

    Returns
    -------
    dict of str to array
        Names and shapes of ``layer.weights``, in its library and dtype; of several parts, a dict
        of such dicts.  Unless `gradients` is true, these arrays are now the weights of the layer.

    Raises
    ------
    TypeError
        If an argument is of a wrong type, a value is no array of floating-point numbers, or the
        layer is frozen.
    ValueError
        If a name is missing or unknown, a shape does not fit, a number is too large for the
        layer's dtype, or PyTorch has no such cell.

    In both cases every layer is left as it was.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> state_dict = xrnn.convert.to_torch({"rnn": xrnn.LSTM(3, 5, rng=1)})
    >>> sorted(state_dict)
    ['rnn.bias_hh_l0', 'rnn.bias_ih_l0', 'rnn.weight_hh_l0', 'rnn.weight_ih_l0']
    >>> _ = xrnn.convert.from_torch(layer, state_dict, prefix="rnn")
    >>> np.array_equal(layer.weights["W_l0"], state_dict["rnn.weight_ih_l0"])
    True
    """
    parts = _by_name(layer)
    check_flags("from_torch", gradients=gradients)
    _check_state_dict(state_dict, prefix)
    if not gradients:
        for part in parts.values():
            part.weights.check_changeable()
    shapes = {path: _torch_shapes(part) for path, part in parts.items()}
    given = under(prefix, state_dict)
    check_names(given, shapes)
    converted = {}
    for path, part in parts.items():
        theirs = {name: given[joined(path, name)] for name in shapes[path]}
        with within(path):
            converted[path] = _converted(part, theirs, shapes[path], gradients)
    if not gradients:
        assign_together(_changes(parts, converted))
    return _like(layer, converted)


def to_torch(
    layer: Parts,
    tree: Mapping[str, Any] | None = None,
    *,
    gradients: bool | None = None,
) -> dict[str, Array]:
    """The weights of a layer or of several parts, or arrays like them, under PyTorch's names.

    The activation function of an `xrnn.Linear` is not among them: a Linear of PyTorch has none, so
    put its module, such as ``torch.nn.Tanh()``, behind it.  The arrays are the same in both.

    Parameters
    ----------
    layer : Layer, Embedding, Linear or LayerNorm; or Sequential, or mapping of str to parts
        The layer, whose weights are converted by default; the names in a `Sequential`, and in a
        mapping, which may hold mappings, become those of the modules.
    tree : mapping of str to array, optional
        Names and shapes of ``layer.weights``, such as the ``dweights`` of its backward; of several
        parts, a mapping of such mappings.  Default: the weights.
    gradients : bool, optional
        Whether `tree` holds gradients.  Default: True if a tree is given.

    Returns
    -------
    dict of str to numpy.ndarray
        PyTorch name → a new array; ``torch.from_numpy`` makes each a tensor.

    Raises
    ------
    TypeError
        If an argument is of a wrong type, or `tree` holds something else than arrays.
    ValueError
        If the tree does not have the layer's names and shapes, or PyTorch has no such cell, or
        a layer runs only backward.

    Examples
    --------
    >>> import xrnn
    >>> {name: a.shape for name, a in xrnn.convert.to_torch(xrnn.RNN(3, 5)).items()}
    {'weight_ih_l0': (5, 3), 'weight_hh_l0': (5, 5), 'bias_ih_l0': (5,), 'bias_hh_l0': (5,)}
    >>> list(xrnn.convert.to_torch({"out": xrnn.Linear(5, 2)}))
    ['out.weight', 'out.bias']
    """
    if gradients is not None:
        check_flags("to_torch", gradients=gradients)
    gradients = tree is not None if gradients is None else gradients
    found: dict[str, Array] = {}
    for path, part, arrays in list(_parts(layer, tree)):
        with within(path):
            _check_forward(part)
            named = _encoded(part, _own_arrays(part, arrays), gradients)
        found |= {joined(path, name): value.copy() for name, value in named.items()}
    return found


# ---- Trees of parts


def _parts(
    layer: Any, tree: Any = None, path: str = ""
) -> Iterator[tuple[str, Part, Mapping[str, Array]]]:
    """(name of the module, part, its weights or what `tree` holds for it) of every part."""
    if isinstance(layer, PARTS):
        yield path, layer, layer.weights if tree is None else tree
        return
    inside = _inside(layer)
    if not inside:
        kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
        raise TypeError(
            f"{path or 'layer'} is {kind}; it must be a Layer, an Embedding or a Linear of xrnn, "
            "a LayerNorm, a Sequential with some of those, or a mapping of names to them"
        )
    if tree is not None and not isinstance(tree, Mapping):
        raise TypeError(f"tree is a {type(tree).__name__}; it must be a mapping of names to trees")
    if tree is not None and (odd := sorted(map(str, tree.keys() ^ inside.keys()))):
        names = ", ".join(map(str, inside))
        raise ValueError(f"missing or unknown: {', '.join(odd)}; {path or 'layer'} has {names}")
    for name, one in inside.items():
        if not isinstance(name, str):
            raise TypeError(f"layer has the name {name!r:.80}; names of parts must be str")
        yield from _parts(one, None if tree is None else tree[name], joined(path, name))


def _inside(layer: Any) -> Mapping[str, Any]:
    """The parts with weights in a part that consists of others; empty if it does not."""
    if isinstance(layer, Sequential):
        return {name: layer.parts[name] for name in layer.weights}
    return layer if isinstance(layer, Mapping) else {}


def _by_name(layer: Parts) -> dict[str, Part]:
    """Name of the module → part."""
    found: dict[str, Part] = {}
    for path, part, _ in _parts(layer):
        if path in found:
            raise ValueError(f"layer holds two parts with the name {path!r:.80}")
        found[path] = part
    return found


def _like(layer: Parts, converted: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """What was converted, in the structure of the parts."""
    if isinstance(layer, PARTS):
        return dict(converted[path])
    inside = _inside(layer).items()
    return {name: _like(one, converted, joined(path, name)) for name, one in inside}


def _changes(
    parts: Mapping[str, Part], converted: Mapping[str, Mapping[str, Array]]
) -> list[tuple[Parameters, Mapping[str, Array]]]:
    """The new weights of each part, once; ValueError if one that has two names has two values."""
    first: dict[int, str] = {}
    for path, part in parts.items():
        other = first.setdefault(id(part.weights), path)
        for name, array in converted[path].items():
            to_host = part.weights.placement.backend.to_host
            if other != path and not host.xp.array_equal(
                to_host(array), to_host(converted[other][name]), equal_nan=True
            ):
                raise ValueError(
                    f"{other} and {path} are one part here, and have different values in the "
                    "state dict"
                )
    return [(parts[path].weights, converted[path]) for path in first.values()]


# ---- One part


def _check_state_dict(state_dict: Any, prefix: Any) -> None:
    if isinstance(state_dict, str | os.PathLike):
        raise TypeError(
            f"state_dict is a path, {os.fspath(state_dict)!r:.80}; it must be a mapping of names "
            "to tensors: xrnn.convert.load_torch reads files"
        )
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict is a {type(state_dict).__name__}; it must be a mapping of names to "
            "tensors: give module.state_dict()"
        )
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix is {prefix!r:.80}; it must be a str, such as 'encoder.lstm'")


def _converted(
    part: Part, given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], gradients: bool
) -> dict[str, Array]:
    """The weights of a part from values under PyTorch's names, in its library and dtype."""
    placement = part.weights.placement
    dtype = dtype_name(placement.dtype)
    arrays = {name: _host(name, value, shapes[name], dtype) for name, value in given.items()}
    return {
        name: placement.from_host(rounded(name, value, dtype))
        for name, value in _decoded(part, arrays, gradients).items()
    }


def _decoded(part: Part, arrays: Mapping[str, Array], gradients: bool) -> dict[str, Array]:
    """The weights of a part, by name, from arrays under PyTorch's names."""
    if not isinstance(part, Layer):
        return {name: arrays[OTHERS[name]] for name in part.weights}
    convention, weights = _convention(part), dict[str, Array]()
    for _, s in part.parts():
        stored = {field: arrays.get(f"{theirs}{s}") for theirs, field in FIELDS.items()}
        found = decode(convention, part.cell, Stored(**stored), gradients=gradients)
        weights |= {f"{name}{s}": array for name, array in found.items()}
    return {name: weights[name] for name in part.weights}


def _encoded(part: Part, arrays: Mapping[str, Array], gradients: bool) -> dict[str, Array]:
    """The arrays under PyTorch's names: the inverse of `_decoded`."""
    if not isinstance(part, Layer):
        return {OTHERS[name]: arrays[name] for name in part.weights}
    convention, named = _convention(part), dict[str, Array]()
    for _, s in part.parts():
        own = {name.removesuffix(s): a for name, a in arrays.items() if name.endswith(s)}
        stored = encode(convention, part.cell, own, gradients=gradients)
        for theirs, field in FIELDS.items():
            if (array := getattr(stored, field)) is not None:
                named[f"{theirs}{s}"] = array
    return named


def _check_forward(part: Part) -> None:
    """Raise ValueError if the part only runs backward, which no names of PyTorch say."""
    if isinstance(part, Layer) and part.reverse:
        raise ValueError(
            f"{part.cell.name}: reverse is True; PyTorch has no module that only runs backward. "
            "Assign the weights to a layer with reverse=False, convert that one, and flip the "
            "sequences in PyTorch before and after its module"
        )


def _own_arrays(part: Part, tree: Any) -> dict[str, Array]:
    """The arrays of a tree in NumPy, after all checks."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"tree is a {type(tree).__name__}; it must be a mapping of names to arrays")
    if odd := sorted(map(str, tree.keys() ^ part.weights.keys())):
        raise ValueError(
            f"missing or unknown: {', '.join(odd)}; the layer has {', '.join(part.weights)}"
        )
    arrays = {}
    for name, (shape, letters) in part.weights.specs.items():
        arrays[name] = backend_of(tree[name], name).to_host(tree[name])
        check_floating(name, tree[name], arrays[name], part.dtype)
        if arrays[name].shape != shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}; it must be {letters} = {shape}"
            )
    return arrays


def _host(name: str, value: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """The value as a NumPy array, wide enough that no sum of two biases is rounded before it is
    complete."""
    try:
        known = array_api_compat.is_array_api_obj(value)
        array = backend_of(value, name).to_host(value) if known else host.xp.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is {getattr(value, 'dtype', type(value).__name__)}, which NumPy cannot take "
            f"({error}); give an array or tensor of float16, float32 or float64 (tensor.float())"
        ) from error
    check_floating(name, value, array, dtype)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
    return wide(array, dtype)


def _torch_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """PyTorch's names of the weights of a part, and their shapes."""
    # Of the shapes alone, which are known before the weights are drawn.
    zero = {name: host.xp.zeros(spec.shape) for name, spec in part.weights.specs.items()}
    return {name: value.shape for name, value in _encoded(part, zero, gradients=True).items()}


def _convention(layer: Layer[Any]) -> Convention:
    """How PyTorch stores the weights of a layer; ValueError if it has no such layer."""
    cell = layer.cell
    if cell.projection is not None and cell is lstm_with(proj_size=cell.projection):
        module = "LSTM"
    elif cell in KNOWN:
        module = KNOWN[cell]
    else:
        raise ValueError(
            f"{cell.name}: PyTorch has no such cell; it has "
            f"{', '.join(one.name for one in KNOWN)}, and the LSTM with proj_size"
        )
    if isinstance(layer.hidden_size, tuple):
        raise ValueError(
            f"{cell.name}: hidden_size is {layer.hidden_size}; PyTorch's modules have one for all "
            "layers"
        )
    if layer.learn_state:
        raise ValueError(
            f"{cell.name}: learn_state is True; PyTorch's modules have no learned initial state"
        )
    return CONVENTIONS["PyTorch", module]
