"""Forward mode, and products with second derivatives, of any part of a model.

For outputs y = f(x, w) of inputs x and weights w, and a loss L(y) with the gradient g = ∂L/∂y:

ẏ = J ẇ,  J = ∂y/∂w                                                      (1)   `jvp`
H ẇ = d/dε ∂L/∂w at w + ε ẇ                                              (2)   `hvp`
G ẇ = Jᵀ (∂²L/∂y²) J ẇ                                                   (3)   `gnvp`

The part runs once on dual numbers (`xrnn.learn.dual`), forward for (1) and backward too for (2):
the gradient that its backward pass gives carries its derivative along ẇ.  (3) is (1), the
derivative of g along ẏ, and an ordinary backward pass.

Sources: (2) by a forward pass of derivatives through forward and backward: Pearlmutter, "Fast exact
multiplication by the Hessian" (1994); (3) Schraudolph, "Fast curvature matrix-vector products for
second-order gradient descent" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import Placement
from xrnn.engine.parameters import Parameters
from xrnn.layers.part import Part
from xrnn.learn.dual import tangent_of, value_of
from xrnn.learn.dual_functions import dual
from xrnn.learn.trees import Tree, check_real, leaves
from xrnn.recurrence.precision import cast, widen
from xrnn.typing import Array

#: loss(ys) → its value, and its gradient with respect to ys
OutputLoss = Callable[[Array], tuple[Any, Array]]


@host.ignore_underflow
def jvp(
    part: Part,
    xs: Any,
    vector: Tree | None = None,
    *,
    xs_vector: Any = None,
    state_vector: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The outputs of a part, and their derivative along a direction (forward mode).

    No tape is kept: of the steps of a recurrent layer there are only inputs, W x + b and outputs.

    Parameters
    ----------
    part : part
        A layer, `xrnn.Sequential` or any other part.
    xs : array, or tuple of arrays
        Its input; a tuple for a part with several, such as `xrnn.Seq2Seq`.
    vector : tree of array, optional
        The direction of the weights, of the names and shapes of ``part.weights``.  Default: zeros.
    xs_vector : array, or tuple of arrays or None, optional
        The direction of the input, of its shape.  Default: zeros.
    state_vector : optional
        The direction of the first state, in the form in which the part takes ``state``, which must
        be given too.  Default: zeros.
    **options
        ``state``, ``lengths`` and what else the part takes.  With a ``seed`` it runs as `forward`
        does in training, with random numbers; without one as in inference.

    Returns
    -------
    outputs
        What the part returns without its tape: ys, or for a recurrent layer the pair (ys, state).
    tangents
        Their derivatives along the direction, in the same form.

    Raises
    ------
    TypeError, ValueError
        If a direction has not the names, shapes, library and dtype of what it belongs to; and as
        the part.

    Notes
    -----
    It is computed in the dtype of the weights, in float32 where that has 16 bits, by the code of
    the cells and not by kernels.  Where a function has a kink, the derivative is that of one side.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.RNN(1, 1, dtype="float64")
    >>> for name in layer.weights:
    ...     layer.weights[name] = np.zeros_like(layer.weights[name])
    >>> vector = {name: np.ones_like(w) for name, w in layer.weights.items()}
    >>> (ys, state), (ys_tangent, state_tangent) = xrnn.jvp(layer, np.ones((3, 1, 1)), vector)
    >>> ys_tangent[:, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    twin = _Twin("jvp", part, vector)
    given = _inputs("jvp", part, xs, options, xs_vector)
    outputs = twin.run(given, _moving_state(options, state_vector))
    return twin.narrowed(_values(outputs)), twin.narrowed(_tangents(outputs))


@host.ignore_underflow
def hvp(part: Part, xs: Any, loss: OutputLoss, vector: Tree, **options: Any) -> dict[str, Any]:
    """The product of the Hessian of a loss, with respect to the weights, and a vector.

    Parameters
    ----------
    part : part
        A layer, `xrnn.Sequential` or any other part.
    xs : array, or tuple of arrays
        Its input; a tuple for a part with several, such as `xrnn.Seq2Seq`.
    loss : callable
        ``loss(ys) -> value, dys``: any of `xrnn.losses`, or a function of your own (see Notes).
    vector : tree of array
        The vector, of the names and shapes of ``part.weights``.
    **options
        As for `forward` of the part: ``lengths``, ``seed``, ``state`` …  The same seed gives the
        same random numbers, and so the same Hessian.

    Returns
    -------
    dict of str to array, or to such dicts
        Names and shapes of ``part.weights``.

    Raises
    ------
    TypeError, ValueError
        If `vector` has not the names, shapes, library and dtype of the weights, the loss does not
        return such a pair, or computes with functions whose derivatives are not known; and as the
        part.

    Notes
    -----
    It is exact to rounding: nothing is approximated by differences.  It is computed in the dtype
    of the weights, in float32 where that has 16 bits, by the code of the cells and not by kernels.
    Where a function has a kink (ReLU, the largest value, Huber's loss), the curvature at the kink
    counts as 0, as that of ReLU is everywhere else.

    The loss is called with ``ys`` that carry their derivatives, and its gradient must be computed
    from these: by operators, functions of ``ys.__array_namespace__()``, or functions of NumPy such
    as ``np.exp`` and ``np.sum`` where the weights are NumPy arrays.  Other arrays, such as targets,
    are constants.  A derivative that would be lost, as by ``np.asarray(ys)``, is an error.  The
    gradient is trusted to be right; `xrnn.check_gradients` tells, with ``{"ys": ys}`` as weights.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> linear = xrnn.Linear(2, 1, bias=False, dtype="float64")
    >>> x = np.array([[1.0, 2.0]])  # the Hessian of (W x)² is 2 x xᵀ
    >>> vector = {"W": np.array([[1.0, 0.0]])}
    >>> product = xrnn.hvp(linear, x, lambda y: ((y**2).sum(), 2 * y), vector)
    >>> product["W"].tolist()
    [[2.0, 4.0]]
    """
    twin = _Twin("hvp", part, vector)
    given = _inputs("hvp", part, xs, options)
    y, *_, tape = twin.part.forward(*given, **_moving_state(options))
    dy = _gradient("hvp", loss, y)
    dweights = twin.part.backward(tape, dy)[-1]
    product: dict[str, Any] = twin.narrowed(_tangents(dweights))
    return product


@host.ignore_underflow
def gnvp(part: Part, xs: Any, loss: OutputLoss, vector: Tree, **options: Any) -> dict[str, Any]:
    """The product of the generalised Gauss-Newton matrix of a loss and a vector.

    The matrix is the Hessian without the curvature of the part: Jᵀ (∂²L/∂ys²) J, where J is the
    derivative of the outputs by the weights.  It is positive semidefinite where the loss is convex
    in ys, as squared errors and cross-entropies are.

    Parameters
    ----------
    part, xs, loss, vector, **options
        As for `hvp`.

    Returns
    -------
    dict of str to array, or to such dicts
        Names and shapes of ``part.weights``.

    Raises
    ------
    TypeError, ValueError
        As of `hvp`.

    Notes
    -----
    As of `hvp`; the product with Jᵀ is an ordinary backward pass, by the kernels where there are
    some.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer, x = xrnn.GRU(2, 3, dtype="float64", rng=0), np.ones((4, 2, 2))
    >>> vector = {name: np.ones_like(w) for name, w in layer.weights.items()}
    >>> def loss(ys):
    ...     return xrnn.losses.squared_error(ys, np.zeros((4, 2, 3)))
    >>> product = xrnn.gnvp(layer, x, loss, vector)
    >>> bool(sum((vector[name] * product[name]).sum() for name in vector) > 0)
    True
    """
    twin = _Twin("gnvp", part, vector)
    y = twin.run(_inputs("gnvp", part, xs, options), _moving_state(options))
    y = y[0] if isinstance(y, tuple) else y
    ddy = _tangents(_gradient("gnvp", loss, y))
    plain = xs if isinstance(xs, tuple) else (xs,)
    ys, *_, tape = part.forward(*plain, **options)
    xp = backend_of(ys).xp
    product: dict[str, Any] = part.backward(tape, cast(ddy, ys.dtype, xp=xp))[-1]
    return product


class _Twin:
    """A part whose weights are dual numbers; all else it shares with the given one, or copies.

    - part: the twin
    - half: the dtype of the weights, if it is one of 16 bits
    """

    def __init__(self, kind: str, part: Part, vector: Tree | None) -> None:
        if not isinstance(part, Part) or isinstance(part, type):
            what = part.__name__ if isinstance(part, type) else type(part).__name__
            raise TypeError(
                f"{kind}: part is {what}; it must be a part: a layer, or an object with weights, "
                "forward and backward"
            )
        self.half: Any = None
        places = list(leaves(part.weights, "weights"))
        directions = _directions(kind, places, vector)
        memo: dict[int, Any] = {}
        whole: dict[int, tuple[Parameters, dict[str, Any]]] = {}
        for path, holder, name in places:
            w = holder[name]
            moving = self._dual(w, directions.get(path))
            if isinstance(holder, Parameters):
                whole.setdefault(id(holder), (holder, {}))[1][name] = moving
            else:
                memo[id(w)] = moving
        for key, (holder, arrays) in whole.items():
            memo[key] = Parameters(holder.kind, holder.specs, arrays)
        # A copy finds the weights in the memo, as if they had been copied already.
        self.part: Any = deepcopy(part, memo)

    def _dual(self, w: Array, tangent: Array | None) -> Any:
        xp = backend_of(w).xp
        wide = widen(w, xp=xp)
        if wide.dtype != w.dtype:
            self.half = w.dtype
        return dual(wide, None if tangent is None else widen(tangent, xp=xp), xp=xp)

    def run(self, given: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        """What the part returns, without its tape."""
        if options.get("seed") is None:
            # What is for `forward` alone is left out.
            kept = set(options) - {"seed", "t", "checkpoint"}
            return self.part(*given, **{name: options[name] for name in kept})
        *found, _ = self.part.forward(*given, **options)
        return tuple(found) if len(found) > 1 else found[0]

    def narrowed(self, tree: Any) -> Any:
        """Arrays in the dtype of the weights."""
        if self.half is None:
            return tree
        return _each(lambda a: cast(a, self.half, xp=backend_of(a).xp), tree)


def _directions(
    kind: str, places: list[tuple[str, Any, str]], vector: Tree | None
) -> dict[str, Array]:
    """The direction of each weight by its path, after all checks."""
    for path, holder, name in places:
        check_real(path, holder[name])
    if vector is None:
        if kind == "jvp":
            return {}
        raise TypeError(f"{kind}: vector is None; it must be a tree of arrays like part.weights")
    given = {path: holder[name] for path, holder, name in leaves(vector, "vector")}
    if odd := sorted({path for path, _, _ in places} ^ set(given)):
        raise ValueError(
            f"{kind}: vector and weights differ in {', '.join(odd)}; they must have the same names"
        )
    return {
        path: _alike(kind, f"vector {path}", given[path], path, holder[name])
        for path, holder, name in places
    }


def _alike(kind: str, name: str, a: Array, other: str, like: Array) -> Array:
    """The array a, after a check that it has the library, dtype and shape of another one."""
    placement = Placement.of(kind, other, like)
    return placement.accept_shaped(name, a, tuple(like.shape), f"that of {other}")


def _inputs(
    kind: str, part: Part, xs: Any, options: Mapping[str, Any], vector: Any = None
) -> tuple[Any, ...]:
    """The inputs of a part as dual numbers, after a check that it takes so many, and the
    options."""
    if not isinstance(xs, tuple):
        xs, vector = (xs,), None if vector is None else (vector,)
    takes = signature(part.forward)
    try:
        takes.bind(*xs, **options)
    except TypeError as error:
        raise TypeError(
            f"{kind}: xs are {len(xs)} inputs and there are the options "
            f"{', '.join(options) or 'none'}; they must be what forward of part takes, {takes}"
        ) from error
    found: tuple[Any, ...] = _moving("xs", xs, vector)
    return found


def _moving_state(options: Mapping[str, Any], vector: Any = None) -> dict[str, Any]:
    """The options of a part, its state as dual numbers."""
    given = dict(options)
    if vector is not None or given.get("state") is not None:
        given["state"] = _moving("state", given.get("state"), vector)
    return given


def _moving(name: str, value: Any, vector: Any) -> Any:
    """An array, or a tree of tuples and mappings, as dual numbers; None stays."""
    if vector is not None and isinstance(value, tuple | list | Mapping):
        fits = isinstance(vector, tuple | list) and len(vector) == len(value)
        if isinstance(value, Mapping):
            fits = isinstance(vector, Mapping) and set(vector) <= set(value)
        if not fits:
            raise ValueError(
                f"jvp: {name}_vector is a {type(vector).__name__}; it must have the form of {name}"
            )
    if isinstance(value, Mapping):
        some = {} if vector is None else vector
        return {k: _moving(name, part, some.get(k)) for k, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [None] * len(value) if vector is None else vector
        return tuple([_moving(name, *pair) for pair in zip(value, parts, strict=True)])
    if value is None and vector is None:
        return None
    backend = backend_of(value, name)
    if vector is not None:
        check_real(name, value)
        vector = widen(_alike("jvp", f"{name}_vector", vector, name, value), xp=backend.xp)
    return dual(widen(value, xp=backend.xp), vector, xp=backend.xp)


def _gradient(kind: str, loss: OutputLoss, y: Any) -> Any:
    """The gradient that a loss gives at y, as dual numbers."""
    if not callable(loss):
        raise TypeError(
            f"{kind}: loss is a {type(loss).__name__}; it must be a function of the outputs that "
            "returns the loss and its gradient"
        )
    found = loss(y)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"{kind}: loss returns a {type(found).__name__}; it must return a tuple of the loss "
            "and its gradient"
        )
    dy = found[1]
    if not array_api_compat.is_array_api_obj(dy):
        raise TypeError(
            f"{kind}: the gradient of loss is a {type(dy).__name__}; it must be an array like ys"
        )
    if tuple(dy.shape) != tuple(y.shape):
        raise ValueError(
            f"{kind}: the gradient of loss has shape {tuple(dy.shape)}; it must be that of ys, "
            f"{tuple(y.shape)}"
        )
    return type(y)(value_of(dy), tangent_of(dy))


def _each(change: Callable[[Any], Any], tree: Any) -> Any:
    """A tree of tuples and mappings with a change to each array; None stays."""
    if isinstance(tree, Mapping):
        return {name: _each(change, part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        parts = [_each(change, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return None if tree is None else change(tree)


def _values(tree: Any) -> Any:
    return _each(value_of, tree)


def _tangents(tree: Any) -> Any:
    """The derivatives of a tree; zeros where nothing depends on what is varied."""
    return _each(_tangent, tree)


def _tangent(a: Any) -> Array:
    d = tangent_of(a)
    return backend_of(value_of(a)).xp.zeros_like(value_of(a)) if d is None else d
