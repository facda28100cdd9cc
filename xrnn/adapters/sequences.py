"""Sequences as scikit-learn's users have them, checked; and their scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sklearn.utils.validation import validate_data

from xrnn.backends import host
from xrnn.typing import Array


class Scale(NamedTuple):
    """Mean and standard deviation of each feature over all steps."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, sequences: Sequence[Array]) -> Scale:
        """The scale of these sequences (T_i, d); a feature that is constant is only shifted."""
        steps = host.xp.concat(list(sequences)).astype("float64")
        deviation = steps.std(axis=0)
        return cls(steps.mean(axis=0), host.xp.where(deviation > 0, deviation, 1.0))

    def __call__(self, steps: Array) -> Array:
        """The values with mean 0 and variance 1."""
        return (steps - self.mean) / self.deviation

    def back(self, steps: Array) -> Array:
        """The inverse."""
        return steps * self.deviation + self.mean


def accept_sequences(estimator: Any, X: Any, first: bool) -> list[Array]:
    """The sequences as arrays (T_i, d); the estimator notes d in the first call.

    Raises
    ------
    TypeError, ValueError
        If they have another form, hold NaN or infinity, or another number of features than in the
        first call.
    """
    ragged = isinstance(X, Sequence) and len(X) > 0 and host.xp.ndim(X[0]) > 0 and _is_ragged(X)
    array = None if ragged else _array(X)
    if array is not None and getattr(array, "ndim", 0) < 3:
        # One value at each step: what scikit-learn calls features are the steps.
        checked = validate_data(estimator, X, reset=first, dtype="numeric")
        return list(host.xp.asarray(checked, dtype="float64")[:, :, None])
    sequences = [host.xp.asarray(one, dtype="float64") for one in (X if array is None else array)]
    if not sequences:
        raise ValueError("X holds no sequence; give at least one")
    d = sequences[0].shape[-1] if sequences[0].ndim == 2 else -1
    for n, one in enumerate(sequences):
        if one.ndim != 2 or one.shape[1] != d or not len(one):
            raise ValueError(
                f"X[{n}] has shape {one.shape}; each sequence must be (T, d), with T ≥ 1 and one d "
                "for all"
            )
        if not host.xp.isfinite(one).all():
            raise ValueError(f"X[{n}] contains NaN or infinity; inputs must be finite numbers")
    if first:
        estimator.n_features_in_ = d
    elif d != estimator.n_features_in_:
        raise ValueError(
            f"X has {d} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
    return sequences


def accept_steps(y: Any, sequences: list[Array]) -> list[Array]:
    """The targets of each step, one array for each sequence.

    Raises
    ------
    ValueError
        If there is not one for each step.
    """
    found = [host.xp.asarray(one) for one in y]
    if len(found) != len(sequences):
        raise ValueError(
            f"X holds {len(sequences)} sequences and y {len(found)} arrays of targets; there must "
            "be one for each"
        )
    for n, (one, steps) in enumerate(zip(found, sequences, strict=True)):
        if one.ndim == 0 or len(one) != len(steps):
            raise ValueError(
                f"y[{n}] has shape {one.shape}; it must have {len(steps)} targets, one for each "
                f"step of X[{n}]"
            )
    return found


def _is_ragged(X: Sequence[Any]) -> bool:
    return len({host.xp.shape(one) for one in X}) > 1


def _array(X: Any) -> Array | None:
    """The array that X is, or a list of equal arrays makes; None for an array of arrays."""
    if hasattr(X, "ndim") or not (isinstance(X, Sequence) or hasattr(X, "__array__")):
        array = X
    else:
        array = host.xp.asarray(X)
    if getattr(array, "ndim", 0) == 1 and getattr(
        getattr(array, "dtype", None), "hasobject", False
    ):
        return None if len(array) and host.xp.ndim(array[0]) == 2 else array
    return array
