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

from collections.abc import Mapping
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells import GRU, LSTM, Cell, Elman, ElmanReLU, lstm_with
from xrnn.cells.base import check_flags
from xrnn.convert.casting import HALF, rounded
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.typing import Array, dtype_name

KNOWN = (Elman, ElmanReLU, LSTM, GRU)


def from_torch(
    layer: Layer[Any] | Embedding | Linear,
    state_dict: Mapping[str, Any],
    *,
    gradients: bool = False,
) -> dict[str, Array]:
    """Load weights trained with PyTorch into a layer.

    Parameters
    ----------
    layer : Layer, Embedding or Linear
        Made with the same sizes and options as the PyTorch module.
    state_dict : mapping of str to array-like
        PyTorch name → tensor or array of floating-point numbers, as ``module.state_dict()`` gives
        it.
    gradients : bool
        Whether the values are gradients (name → ``parameter.grad``).  They are converted to
        the form of ``dweights``, and the layer is not changed.

    Returns
    -------
    dict of str to array
        Names and shapes of ``layer.weights``, in its library and dtype.  Unless `gradients`
        is true, these arrays are now the weights of the layer.

    Raises
    ------
    TypeError
        If an argument is of a wrong type, a value is no array of floating-point numbers, or the
        layer is frozen.
    ValueError
        If a name is missing or unknown, a shape does not fit, a number is too large for the
        layer's dtype, or PyTorch has no such cell.

    In both cases the layer is left as it was.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> state_dict = xrnn.convert.to_torch(xrnn.LSTM(3, 5, rng=1))
    >>> sorted(state_dict)
    ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
    >>> _ = xrnn.convert.from_torch(layer, state_dict)
    >>> np.array_equal(layer.weights["W_l0"], state_dict["weight_ih_l0"])
    True
    """
    _check_layer(layer)
    check_flags("from_torch", gradients=gradients)
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict is a {type(state_dict).__name__}; it must be a mapping of names to "
            "tensors: give module.state_dict()"
        )
    if not gradients:
        layer.weights.check_changeable()
    expected = _torch_shapes(layer)
    if unknown := [name for name in state_dict if name not in expected]:
        raise ValueError(
            f"unknown PyTorch names {', '.join(map(str, unknown))}; the layer has "
            f"{', '.join(expected)}{_without_prefix(unknown, expected)}"
        )
    for name, shape in expected.items():
        if name not in state_dict:
            raise ValueError(f"PyTorch name {name} is missing; it must have shape {shape}")
    placement = layer.weights.placement
    dtype = dtype_name(placement.dtype)
    host = {name: _host(name, value, expected[name], dtype) for name, value in state_dict.items()}
    converted = {
        name: placement.from_host(rounded(name, value, dtype))
        for name, value in _from(layer, host, gradients).items()
    }
    if not gradients:
        layer.weights = converted
    return converted


def to_torch(
    layer: Layer[Any] | Embedding | Linear,
    tree: Mapping[str, Array] | None = None,
    *,
    gradients: bool | None = None,
) -> dict[str, Array]:
    """The weights of a layer, or arrays like them, under PyTorch's names.

    Parameters
    ----------
    layer : Layer, Embedding or Linear
        The layer, whose weights are converted by default.
    tree : mapping of str to array, optional
        Names and shapes of ``layer.weights``, such as the ``dweights`` of its backward.
        Default: the weights.
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
        If the tree does not have the layer's names and shapes, or PyTorch has no such cell.

    Examples
    --------
    >>> import xrnn
    >>> {name: a.shape for name, a in xrnn.convert.to_torch(xrnn.RNN(3, 5)).items()}
    {'weight_ih_l0': (5, 3), 'weight_hh_l0': (5, 5), 'bias_ih_l0': (5,), 'bias_hh_l0': (5,)}
    """
    _check_layer(layer)
    if gradients is not None:
        check_flags("to_torch", gradients=gradients)
    gradients = tree is not None if gradients is None else gradients
    tree = layer.weights if tree is None else tree
    if not isinstance(tree, Mapping):
        raise TypeError(f"tree is a {type(tree).__name__}; it must be a mapping of names to arrays")
    if odd := sorted(map(str, tree.keys() ^ layer.weights.keys())):
        raise ValueError(
            f"missing or unknown: {', '.join(odd)}; the layer has {', '.join(layer.weights)}"
        )
    host = {}
    for name, (shape, letters) in layer.weights.specs.items():
        host[name] = backend_of(tree[name], name).to_host(tree[name])
        _check_floating(name, tree[name], host[name], layer.dtype)
        if host[name].shape != shape:
            raise ValueError(f"{name} has shape {host[name].shape}; it must be {letters} = {shape}")
    return {name: value.copy() for name, value in _to(layer, host, gradients).items()}


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, Layer | Embedding | Linear):
        kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
        raise TypeError(f"layer is {kind}; it must be a Layer, an Embedding or a Linear of xrnn")


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
    _check_floating(name, value, array, dtype)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
    wide = [d if d not in HALF else "float32" for d in (dtype, dtype_name(array.dtype))]
    return array.astype(host.xp.result_type(*wide))


def _check_floating(name: str, value: Any, array: Array, dtype: str) -> None:
    """Raise TypeError unless the NumPy array of a value holds numbers for a layer of that dtype."""
    kinds = ("real floating", "complex floating")[: 1 + dtype.startswith("complex")]
    if dtype_name(array.dtype) != "bfloat16" and not host.xp.isdtype(array.dtype, kinds):
        raise TypeError(
            f"{name} is {value!r:.60} ({array.dtype}); it must be an array of floating-point "
            "numbers"
        )


def _without_prefix(unknown: list[Any], expected: Mapping[str, Any]) -> str:
    """What to do if the names are those of a part of a larger module."""
    prefix = str(unknown[0]).rpartition(".")[0]
    if {f"{prefix}.{name}" for name in expected} != set(unknown):
        return ""
    return f"; give {{name.removeprefix('{prefix}.'): w for name, w in state_dict.items()}}"


def _is_known(cell: Cell[Any]) -> bool:
    """Whether PyTorch has the cell: one of `KNOWN`, or the LSTM with a projection."""
    return cell in KNOWN or (
        cell.projection is not None and cell is lstm_with(proj_size=cell.projection)
    )


def _names(layer: Embedding | Linear) -> dict[str, str]:
    return {name: {"E": "weight", "W": "weight", "b": "bias"}[name] for name in layer.weights}


def _torch_shapes(layer: Layer[Any] | Embedding | Linear) -> dict[str, tuple[int, ...]]:
    # Of the shapes alone, which are known before the weights are drawn.
    zero = {name: host.xp.zeros(spec.shape) for name, spec in layer.weights.specs.items()}
    return {name: value.shape for name, value in _to(layer, zero, gradients=True).items()}


def _from(layer: Any, host: dict[str, Array], gradients: bool) -> dict[str, Array]:
    if not isinstance(layer, Layer):
        return {mine: host[theirs] for mine, theirs in _names(layer).items()}
    weights = {}
    for _, s in layer.parts():
        weights[f"W{s}"], weights[f"U{s}"] = host[f"weight_ih{s}"], host[f"weight_hh{s}"]
        if layer.cell.projection is not None:
            weights[f"P{s}"] = host[f"weight_hr{s}"]
        if not layer.bias:
            continue
        b, b_hh = host[f"bias_ih{s}"], host[f"bias_hh{s}"]
        summed = 0 if gradients else b_hh
        if layer.cell is GRU:
            n = slice(2 * layer.hidden_size, None)
            weights[f"v{s}"] = b_hh[n]
            b = b + summed
            b[n] = host[f"bias_ih{s}"][n]
        else:
            b = b + summed
        weights[f"b{s}"] = b
    return {name: weights[name] for name in layer.weights}


def _to(layer: Any, host: dict[str, Array], gradients: bool) -> dict[str, Array]:
    if not isinstance(layer, Layer):
        return {theirs: host[mine] for mine, theirs in _names(layer).items()}
    if not _is_known(layer.cell):
        raise ValueError(
            f"{layer.cell.name}: PyTorch has no such cell; it has "
            f"{', '.join(cell.name for cell in KNOWN)}, and the LSTM with proj_size"
        )
    if isinstance(layer.hidden_size, tuple):
        raise ValueError(
            f"{layer.cell.name}: hidden_size is {layer.hidden_size}; PyTorch's modules have one "
            "for all layers"
        )
    if layer.learn_state:
        raise ValueError(
            f"{layer.cell.name}: learn_state is True; PyTorch's modules have no learned initial "
            "state"
        )
    named = {}
    for _, s in layer.parts():
        named[f"weight_ih{s}"], named[f"weight_hh{s}"] = host[f"W{s}"], host[f"U{s}"]
        if layer.cell.projection is not None:
            named[f"weight_hr{s}"] = host[f"P{s}"]
        if not layer.bias:
            continue
        b = host[f"b{s}"]
        named[f"bias_ih{s}"], b_hh = b, b.copy()
        if not gradients:
            b_hh[:] = 0
        if layer.cell is GRU:
            b_hh[2 * layer.hidden_size :] = host[f"v{s}"]
        named[f"bias_hh{s}"] = b_hh
    return named
