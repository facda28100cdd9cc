"""Cases and verdicts as flat dicts: drawn, split and compared.  Needs NumPy alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = dict[str, Any]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def case_shapes(
    weights: Shapes,
    states: Sequence[str],
    sizes: tuple[int, int, int, int],
    layers: int,
    D: int,
    widths: Sequence[int] = (),
) -> dict[str, tuple[int, ...]]:
    """The shapes of a whole case, for sizes (T, B, I, H), L layers and D directions.

    `widths` are those of the states, if they are not H.
    """
    T, B, I, H = sizes
    widths = widths or [H] * len(states)
    shapes: dict[str, tuple[int, ...]] = {"xs": (T, B, I), "dys": (T, B, D * widths[0])}
    for s, width in zip(states, widths, strict=True):
        shapes[f"state.{s}"] = shapes[f"dstate.{s}"] = (layers * D, B, width)
    return shapes | {f"weights.{name}": shape for name, shape in weights.items()}


def draw(label: str, shapes: Shapes, scale: float = 0.7) -> Arrays:
    """A normal array for each shape, by label and name alone; those of weights are scaled."""
    arrays = {}
    for name, shape in shapes.items():
        a = normals(zlib.crc32(f"{label}/{name}".encode()), shape)
        arrays[name] = a * scale if name.startswith("weights.") else a
    return arrays


def normals(seed: int, shape: tuple[int, ...]) -> Any:
    """Standard normals that stay the same: NumPy promises the bits of Philox, not `normal`."""
    n = int(np.prod(shape))
    bits = np.random.Philox(key=seed).random_raw(2 * n)
    u, v = ((bits >> np.uint64(11)) + 0.5).reshape(2, n) * 2.0**-53
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)


def under(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    """What stands under ``prefix.``, by the rest of its name."""
    dot = f"{prefix}."
    return {k.removeprefix(dot): a for k, a in arrays.items() if k.startswith(dot)}


def over(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    """The inverse of `under`."""
    return {f"{prefix}.{name}": a for name, a in arrays.items()}


def spoiled(given: Arrays) -> Arrays:
    """The same case with NaN in the padding of xs and dys, which nobody may read."""
    if "lengths" not in given:
        return given
    outside = np.arange(len(given["xs"]))[:, None] >= np.asarray(given["lengths"])
    nan = {k: np.where(outside[:, :, None], np.nan, given[k]) for k in ("xs", "dys") if k in given}
    return given | nan


def differences(got: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, float]:
    """For each name the largest |got − want|, relative to the largest |want| if that is over 1.

    Infinite where a name, a shape or a number is missing on one side.
    """
    gaps = dict.fromkeys({*got, *want}, float("inf"))
    for name in {*got} & {*want}:
        a, b = np.asarray(got[name]), np.asarray(want[name])
        if a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all():
            scale = max(1.0, float(abs(b).max(initial=0)))
            gaps[name] = float(abs(a - b).max(initial=0)) / scale
    return gaps


def assert_agree(got: Mapping[str, Any], want: Mapping[str, Any], bound: float) -> None:
    """Same names, same shapes, finite, and no further apart than bound (see `differences`)."""
    gaps = differences(got, want)
    far = {k: f"{gap:.1e}" for k, gap in sorted(gaps.items()) if not gap <= bound}
    if far:
        raise AssertionError(f"further apart than {bound:.0e}: {far}")
