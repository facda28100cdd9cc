"""Lists of sequences as one padded array: in every library, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import backend_of, get
from xrnn.typing import dtype_name

LENGTHS = [4, 0, 7, 2]


def sequences(device: str, *rest: int, dtype: str = "float32") -> list[Any]:
    """Arrays (T_n, …) whose numbers are not 0."""
    count = np.arange(1, 1 + sum(LENGTHS) * int(np.prod(rest))).astype(dtype)
    ends = np.cumsum(LENGTHS)[:-1]
    return [get(device).from_host(one) for one in np.split(count.reshape(-1, *rest), ends)]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("rest", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_each_sequence_stands_at_its_place_and_the_rest_is_0(
    device: str, batch_first: bool, rest: tuple[int, ...], dtype: str
) -> None:
    given = sequences(device, *rest, dtype=dtype)
    xs, lengths = xrnn.pad(given, batch_first)
    assert backend_of(xs) is get(device)
    assert xs.dtype == given[0].dtype
    assert lengths.tolist() == LENGTHS
    found = np.array(get(device).to_host(xs))
    found = found if batch_first else found.swapaxes(0, 1)
    assert found.shape == (4, 7, *rest)
    for row, one, T in zip(found, given, LENGTHS, strict=True):
        np.testing.assert_array_equal(row[:T], get(device).to_host(one))
        assert not row[T:].any()


def test_a_layer_takes_it() -> None:
    layer = xrnn.GRU(3, 5, rng=0)
    given = sequences("cpu", 3)
    xs, lengths = xrnn.pad(given)
    ys, _ = layer(xs, lengths=lengths)
    for n, one in enumerate(given):
        np.testing.assert_allclose(ys[: len(one), n], layer(one)[0], atol=1e-6)


def test_lists_of_numbers_and_mixed_dtypes() -> None:
    tokens, lengths = xrnn.pad([[5, 2, 9], [], [7]], batch_first=True)
    assert tokens.tolist() == [[5, 2, 9], [0, 0, 0], [7, 0, 0]]
    assert lengths.tolist() == [3, 0, 1]
    assert tokens.dtype == np.int64
    assert xrnn.pad([np.ones(2, "float32"), np.ones(1)])[0].dtype == np.float64
    empty, lengths = xrnn.pad([np.ones((0, 3))] * 2)
    assert empty.shape == (0, 2, 3)
    assert not lengths.any()


@pytest.mark.parametrize("device", ["cpu", "array_api_strict"])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_empty_list_is_no_steps_of_the_others(device: str, dtype: str) -> None:
    one = get(device).from_host(np.ones((2, 3), dtype))
    for given in ([[], one], [one, ()], [[], one, [], one]):
        xs, lengths = xrnn.pad(given)
        assert dtype_name(xs.dtype) == dtype
        assert xs.shape == (2, len(given), 3)
        assert lengths.tolist() == [2 if entry is one else 0 for entry in given]
    assert xrnn.pad([[], []])[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "sequences holds none; give at least one"),
        (np.ones((2, 4, 3)), TypeError, r"sequences is a ndarray; it must be a list of arrays"),
        ([np.array(1.0)], ValueError, r"sequences\[0\] has shape \(\); it must be \(T_n"),
        (
            [np.ones((4, 3)), np.ones((4, 2))],
            ValueError,
            r"sequences\[1\] has shape \(4, 2\); it must be \(T_n, 3\), as sequences\[0\] is",
        ),
        (
            [np.ones(2), np.ones((2, 1))],
            ValueError,
            r"sequences\[1\] has shape \(2, 1\); it must be \(T_n,\), as",
        ),
        (
            [np.ones(2), np.array([1, None])],
            TypeError,
            r"sequences\[1\] is an array of object; it must be one of numbers \(T_n, …\): give a",
        ),
        (
            [np.array(["a", "b"])],
            TypeError,
            r"sequences\[0\] is an array of <U1; it must be one of",
        ),
        (
            np.array([np.ones(2), np.ones(3)], dtype=object),
            TypeError,
            r"sequences is a ndarray; it must be a list of arrays \(T_n, …\), as list\(sequences\)",
        ),
        ([np.ones(2), "text"], TypeError, r"sequences\[1\] is 'text'; it must be an array \(T_n"),
        ([[[1], [1, 2]]], TypeError, r"sequences\[0\] is \[\[1\], \[1, 2\]\]; it must be an array"),
    ],
)
def test_what_is_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"pad: {words}"):
        xrnn.pad(given)


def test_arrays_of_two_libraries_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"pad: sequences\[1\] is an array of .* and sequences\[0\]"
    ):
        xrnn.pad([np.ones(2), get("array_api_strict").from_host(np.ones(2))])
    with pytest.raises(TypeError, match="batch_first is 1; it must be True or False"):
        xrnn.pad([np.ones(2)], 1)  # type: ignore[arg-type]
