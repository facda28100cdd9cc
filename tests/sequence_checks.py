"""What every sequence kernel must do, whatever computes it: properties on any case."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from sequences import (
    Case,
    Results,
    backward,
    close,
    forward,
    of_sequences,
    outputs,
    reference,
    run,
    same,
    variants,
)

from xrnn.typing import Array


def equals_the_cell(kernel: Any, case: Case, bound: float, start: int = 0) -> None:
    """In both directions, with and without lengths; the padding is NaN, and its results zero."""
    for one in variants(case, start):
        found = run(kernel, one)
        close(found, reference(one), bound)
        padding_is_zero(one, found)


def padding_is_zero(case: Case, found: Results) -> None:
    """Outputs and input gradients are zero past the ends of the sequences.

    A sequence without steps hands on what it was given, bit for bit.
    """
    past = case.past_the_end()
    assert not found["ys"][past].any(), "ys past the end"
    assert not found["dxs"][past].any(), "dxs past the end"
    empty = past.all(axis=0)
    for name, first, dlast in zip(case.cell.states, case.state, case.dstate, strict=True):
        assert found[f"last {name}"][empty].tobytes() == first[empty].tobytes(), name
        assert found[f"dfirst {name}"][empty].tobytes() == dlast[empty].tobytes(), name


def padding_is_not_read(kernel: Any, case: Case) -> None:
    """Zeros and NaN past the ends give the same bits, also as gradients of the last state of a
    sequence without steps, which are handed on."""
    assert case.lengths is not None
    spoilt = replace(case, padding=float("nan"))
    empty = case.past_the_end().all(axis=0)
    for d in spoilt.dstate:
        d[empty] = np.nan
    found, clean = run(kernel, spoilt), run(kernel, replace(case, padding=0.0))
    padding_is_zero(spoilt, found)
    for name in case.cell.states:
        for results in (found, clean):
            results[f"dfirst {name}"] = results[f"dfirst {name}"][~empty]
    same(found, clean)


def infinite_weights_leave_the_padding_zero(kernel: Any, case: Case) -> None:
    """Outputs, input gradients and what is handed on; zeros times infinity are not."""
    assert case.lengths is not None
    spoilt = case.copied()
    spoilt.weights["W"][:, 0] = np.inf
    padding_is_zero(spoilt, run(kernel, spoilt))


def nan_stays_in_its_sequence(kernel: Any, case: Case, b: int) -> None:
    """A NaN in anything that sequence b is given is seen there and nowhere else."""
    clean = run(kernel, case)
    others = [k for k in range(case.sizes[1]) if k != b]
    for name in case.given().keys() - case.weights.keys():
        spoilt = case.copied()
        spoilt.given()[name][..., b, 0] = np.nan
        dirty = run(kernel, spoilt)
        same(of_sequences(dirty, others), of_sequences(clean, others))
        expected, found = (of_sequences(r, [b]) for r in (reference(spoilt), dirty))
        for result, a in expected.items():
            # Units are rows of one product: a kernel may spread a NaN further than the cell.
            missed = np.isnan(a) & ~np.isnan(found[result].astype(np.float64))
            assert not missed.any(), f"NaN in {name} does not reach {result}"


def a_sequence_alone_is_the_same(kernel: Any, case: Case) -> None:
    """As in a batch, bit for bit; the gradients of weights are sums over the batch."""
    together = run(kernel, case)
    for b in range(case.sizes[1]):
        same(of_sequences(run(kernel, case.sequence(b)), [0]), of_sequences(together, [b]))


def inference_is_the_same(kernel: Any, case: Case) -> None:
    """With nothing kept the outputs have the same bits."""
    for one in variants(case):
        ys, last, residuals = forward(kernel, one, keep=False)
        assert residuals is None
        kept_ys, kept_last, _ = forward(kernel, one)
        same(outputs(one, ys, last), outputs(one, kept_ys, kept_last))


def backward_may_run_twice(kernel: Any, case: Case) -> None:
    """On the same residuals; the second time also with other gradients."""
    for one in variants(case):
        residuals = forward(kernel, one)[2]
        first = backward(kernel, one, residuals)
        same(backward(kernel, one, residuals), first)
        without = one.copied()
        without.dys = None
        other = backward(kernel, without, residuals)
        same(other, backward(kernel, without, forward(kernel, one)[2]))
        assert (first["dxs"] != other["dxs"]).any()


def outputs_may_have_no_gradient(kernel: Any, case: Case, bound: float) -> None:
    """No gradient at all is as good as zeros."""
    for one in variants(case):
        one.dys = None
        close(run(kernel, one), reference(one), bound)


def nothing_given_is_written_to(kernel: Any, case: Case) -> None:
    """Nor handed back: results are arrays of their own, which may be written to."""
    for one in variants(case):
        before = one.copied()
        for a in one.given().values():
            a.flags.writeable = False
        for name, result in run(kernel, one).items():
            assert result.flags.writeable, name
            assert not any(np.shares_memory(result, a) for a in one.given().values()), name
        same(one.given(), before.given())


def arrays_may_lie_anywhere(kernel: Any, case: Case, bound: float = 0.0) -> None:
    """In another order, with gaps, at odd addresses; weights are dense when they come here."""
    expected = run(kernel, case)
    for layout in (np.asfortranarray, _with_gaps, _unaligned):
        moved = case.mapped(layout)
        moved.weights = case.weights
        close(run(kernel, moved), expected, bound)


def _with_gaps(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def _unaligned(a: Array) -> Array:
    return np.frombuffer(b"." + a.tobytes(), a.dtype, offset=1).reshape(a.shape)


def saturated_gates_stay_finite(kernel: Any, case: Case, bound: float) -> None:
    """Forward as the cell, and backward without overflow: gradients are tiny then.

    Each gate sees one input times a power of two, so that W x is exact in every dtype.
    """
    for one in variants(case):
        rows, inputs = one.weights["W"].shape
        one.weights["W"] = np.zeros_like(one.weights["W"])
        one.weights["W"][np.arange(rows), np.arange(rows) % inputs] = 2.0**10
        found, expected = run(kernel, one), reference(one)
        for name, a in found.items():
            assert np.isfinite(a.astype(np.float64)).all(), name
        for results in (found, expected):
            for name in [name for name in results if name.startswith("d")]:
                del results[name]
        close(found, expected, bound)


def kept(residuals: Any) -> list[Array]:
    """The arrays that residuals hold, each memory once."""
    arrays: list[Array] = []

    def collect(value: Any) -> None:
        if isinstance(value, np.ndarray):
            if not any(np.may_share_memory(value, a) for a in arrays):
                arrays.append(value)
        elif isinstance(value, dict):
            collect(list(value.values()))
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)
        elif is_dataclass(value):
            collect([getattr(value, f.name) for f in fields(value)])

    collect(residuals)
    return arrays


def values_kept(kernel: Any, case: Case) -> float:
    """Bytes that residuals hold beyond the inputs, for each step, sequence and unit."""
    T, B, _, H = case.sizes
    residuals = forward(kernel, case)[2]
    inputs = list(case.given().values())
    own = [a for a in kept(residuals) if not any(np.may_share_memory(a, b) for b in inputs)]
    own = [a for a in own if a.shape != case.xs.shape]  # a copy at an aligned address
    return float(sum(a.nbytes for a in own) / (T * B * H))


def values_needed(case: Case, acc: int | None = None) -> int:
    """Bytes for each step, sequence and unit: of the gates and of the states, and of a cell with
    one state one value more.  `acc` are the bytes of a state beside h, if not those of h.
    """
    size, gates, states = case.xs.dtype.itemsize, len(case.cell.gates), len(case.cell.states)
    beside = 2 if states == 1 else 1
    return int(size * (gates + beside) + (acc or size) * (states - 1))


def little_is_kept(kernel: Any, case: Case, acc: int | None = None) -> None:
    """What is needed; of a cell with a single gate the state alone, with options the sum too."""
    allowed = values_needed(case, acc)
    if len(case.cell.gates) == 1:
        allowed = case.xs.dtype.itemsize * (1 if case.cell.made is None else 2)
    found = values_kept(kernel, case)
    assert found <= 1.02 * allowed, f"{found} bytes, allowed {allowed}"
