"""Two passes of the native loops at once: the directions of a layer, on threads of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_native_arguments import CELLS, loop_arguments
from test_native_base import native

import xrnn


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


every_cell = pytest.mark.parametrize("cell", CELLS)
directions = pytest.mark.parametrize("direction", ["forward", "backward"])

#: what the passes write
OUT = ("ys", "h_last", "c_last", "gates", "cs", "dh", "dc", "das", "dxs", "dW", "dU", "db")

#: (T, B, I, H); the recurrent weights of the last are 3 or 4 MB for cells of three or four gates,
#: so with two caches of 2 MB these passes run one after the other, each on two threads
SIZES = {"large": (150, 13, 40, 70), "small": (3, 2, 4, 5), "many weights": (12, 1, 8, 512)}


def passes(cell: str, direction: str, threads: int, *sizes: int) -> list[dict[str, Any]]:
    """The arguments of two passes that differ in their numbers, one of them in reverse."""
    found = []
    for k in range(2):
        forward, backward = loop_arguments(cell, *sizes)
        for j, a in enumerate((forward | backward).values()):
            if isinstance(a, np.ndarray) and a.dtype == np.float32:
                a[...] = noise(*a.shape, seed=100 * k + j) / 10
        given = backward if direction == "backward" else forward
        found.append(given | {"reverse": k, "threads": threads})
    return found


def together(given: list[dict[str, Any]], direction: str) -> Any:
    first, second = (one.values() for one in given)
    return getattr(native, f"{direction}_both")(len(first), *first, *second)


def results(given: list[dict[str, Any]]) -> dict[str, bytes]:
    return {
        f"{name} {k}": one[name].tobytes()
        for k, one in enumerate(given)
        for name in one
        if name in OUT and one[name] is not None
    }


@every_cell
@directions
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_pairs_have_the_bits_of_single_passes(
    cell: str, direction: str, threads: int, sizes: tuple[int, ...]
) -> None:
    expected, given = (passes(cell, direction, n, *sizes) for n in (1, threads))
    for one in expected:
        getattr(native, direction)(*one.values())
    assert together(given, direction) is None
    found, wanted = results(given), results(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


@directions
@pytest.mark.parametrize("wrong", [0, 1])
def test_both_passes_are_checked_before_anything_is_computed(direction: str, wrong: int) -> None:
    given = passes("lstm", direction, 2, 3, 2, 4, 5)
    given[wrong]["H"] = 6
    before = results(given)
    with pytest.raises(ValueError, match="items; it must hold"):
        together(given, direction)
    assert results(given) == before


@directions
def test_the_number_of_arguments(direction: str) -> None:
    call, given = getattr(native, f"{direction}_both"), passes("lstm", direction, 2)
    one, other = (list(p.values()) for p in given)
    for n in (0, -1, len(one) + len(other) + 1, 10**30):
        with pytest.raises((ValueError, OverflowError)):
            call(n, *one, *other)
    for arguments in ((), (5,)):
        with pytest.raises(ValueError, match="these are not two passes"):
            call(*arguments)
    with pytest.raises(TypeError, match=r"too few arguments: \d+"):
        call(len(one) - 1, *one, *other)
    with pytest.raises(TypeError, match=r"too few arguments: \d+"):
        call(len(one), *one, *other[:-1])
    with pytest.raises(TypeError, match="too few arguments: 0"):
        call(len(one), *one)
    with pytest.raises(TypeError, match="were wanted"):
        call(len(one), *one, *other, None)


@pytest.mark.parametrize("how", [{}, {"lengths": [40, 3, 0, 17, 40, 1]}], ids=["all", "lengths"])
@pytest.mark.parametrize(
    "options", [{}, {"precision": "bf16"}, {"dtype": "float16"}], ids=["ieee", "bf16", "float16"]
)
def test_a_layer_has_the_same_bits_on_any_number_of_threads(
    how: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    xs = noise(40, 6, 64).astype(options.get("dtype", "float32"))
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setenv("XRNN_NUM_THREADS", str(threads))
        layer = xrnn.LSTM(64, 96, 2, bidirectional=True, rng=0, **options)
        ys, _, tape = layer.forward(xs, **how)
        dxs, dstate, dweights = layer.backward(tape, ys)
        dweights |= {"omitted": layer.backward(tape, ys, omit_dxs=True)[2]["U_l0_reverse"]}
        frozen = layer.freeze(weights="int8") if not options else layer.freeze()
        bits = [layer(xs, **how)[0], frozen(xs, **how)[0], ys, dxs, *dstate, *dweights.values()]
        found.append([a.tobytes() for a in bits])
    assert found[0] == found[1] == found[2]
