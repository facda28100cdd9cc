"""Masks and resets: against a loop by hand over single steps, and what they must not change."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells
from xrnn.backends import get
from xrnn.engine import timeline
from xrnn.engine.timeline import Timeline, plan

RNG = np.random.default_rng(0)
T, B, I, H = 9, 4, 3, 5


def noise(*shape: int) -> Any:
    return RNG.normal(size=shape)


def booleans(p: float, *shape: int) -> Any:
    return RNG.random(shape) < p


def by_hand(
    layer: xrnn.Layer[Any],
    xs: Any,
    state: Any,
    initial: Any,
    lengths: Any,
    mask: Any,
    resets: Any,
    masked: str,
) -> tuple[Any, list[Any]]:
    """One layer of one cell in one direction, a step of one sequence after the other."""
    cell, reverse = layer.cell, layer.reverse
    weights = {name.removesuffix("_l0"): w for name, w in layer.weights.items()}
    ys, last = np.zeros((xs.shape[0], xs.shape[1], H)), [part[0].copy() for part in state]
    for b in range(xs.shape[1]):
        s = tuple(part[0, b : b + 1] for part in state)
        held, end = np.zeros(H), s
        n = xs.shape[0] if lengths is None else lengths[b]
        for t in reversed(range(n)) if reverse else range(n):
            if resets[t, b] and not reverse:
                s, held = tuple(part[None] for part in initial), np.zeros(H)
            if mask[t, b]:
                ax = xs[t, b : b + 1] @ weights["W"].T + weights["b"]
                s, _ = cell.step(ax, s, weights, xp=np)
                held = s[0][0]
                end = s
            ys[t, b] = held if mask[t, b] or masked == "hold" else 0
            if resets[t, b] and reverse:
                s, held = tuple(part[None] for part in initial), np.zeros(H)
        if not reverse or not mask[:n, b].any():
            end = s
        for part, one in zip(last, end, strict=True):
            part[b] = one[0]
    return ys, last


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU], ids=lambda cell: cell.name)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", ["zero", "hold"])
def test_a_loop_by_hand(cell: Any, reverse: bool, masked: Any) -> None:
    for trial in range(12):
        learn = trial % 2 == 1
        how: Any = {"reverse": reverse, "learn_state": learn, "init": "uniform", "rng": trial}
        layer = xrnn.Layer(cell, I, H, dtype="float64", **how)
        initial = [np.zeros(H) for _ in cell.states]
        if learn:
            initial = [layer.weights[f"{name}0_l0"] for name in cell.states]
        lengths = None if trial // 3 % 2 else RNG.integers(0, T + 1, B)
        mask, resets = booleans(0.6, T, B), booleans((0, 0.2, 0.6)[trial % 3], T, B)
        xs, state = noise(T, B, I), tuple(noise(1, B, H) for _ in cell.states)
        expected, ends = by_hand(layer, xs, state, initial, lengths, mask, resets, masked)
        ys, last = layer(xs, state, lengths, mask=mask, masked=masked, resets=resets)
        np.testing.assert_allclose(ys, expected, rtol=1e-11, atol=1e-13)
        for part, end in zip(last, ends, strict=True):
            np.testing.assert_allclose(part[0], end, rtol=1e-11, atol=1e-13)


def test_segments_are_sequences_of_their_own(device: str) -> None:
    """Documents that are packed give the results, and the gradients, of each of them alone."""
    how: Any = {"num_layers": 2, "bidirectional": True, "dtype": "float64", "device": device}
    layer = xrnn.LSTM(I, H, rng=0, **how)
    put, to_host = layer.weights.placement.from_host, get(device).to_host
    documents = [noise(n, I) for n in (4, 1, 3, 7)]
    xs, lengths = np.concatenate(documents), [4, 1, 3, 7]
    resets = np.zeros(15, bool)
    resets[np.cumsum([0, *lengths[:-1]])] = True
    ys, _, tape = layer.forward(put(xs), resets=resets)
    dys = noise(15, 2 * H)
    dxs, _, dweights = layer.backward(tape, put(dys))
    padded, dpadded = np.zeros((7, 4, I)), np.zeros((7, 4, 2 * H))
    at = 0
    for b, n in enumerate(lengths):
        padded[:n, b], dpadded[:n, b] = xs[at : at + n], dys[at : at + n]
        at += n
    alone, _, other = layer.forward(put(padded), None, lengths)
    dalone, _, dothers = layer.backward(other, put(dpadded))
    for packed, apart in ((ys, alone), (dxs, dalone)):
        pieces = [to_host(apart)[:n, b] for b, n in enumerate(lengths)]
        np.testing.assert_allclose(to_host(packed), np.concatenate(pieces), rtol=1e-10, atol=1e-14)
    for name, g in dweights.items():
        np.testing.assert_allclose(to_host(g), to_host(dothers[name]), rtol=1e-10, atol=1e-13)


class TestMasks:
    @pytest.mark.parametrize("masked", ["zero", "hold"])
    def test_a_mask_of_all_steps_is_none(self, masked: Any) -> None:
        layer, xs = xrnn.LSTM(I, H), noise(T, B, I).astype("float32")
        ys, _, tape = layer.forward(xs, mask=np.ones((T, B), bool), masked=masked)
        assert np.array_equal(ys, layer(xs)[0])
        assert tape.timeline is None
        assert tape.passes[0].lengths is None

    def test_a_prefix_is_lengths(self) -> None:
        layer, xs = xrnn.LSTM(I, H, num_layers=2, rng=0), noise(T, B, I).astype("float32")
        state = tuple(noise(2, B, H).astype("float32") for _ in "hc")
        lengths = np.array([9, 0, 4, 7])
        mask = np.arange(T)[:, None] < lengths
        results = []
        for how in ({"lengths": lengths}, {"mask": mask}, {"mask": mask, "lengths": [9, 9, 4, 8]}):
            ys, last, tape = layer.forward(xs, state, **how)
            dxs, dstate, dweights = layer.backward(tape, np.ones_like(ys), last)
            results.append([ys, *last, dxs, *dstate, *dweights.values()])
        for other in results[1:]:
            assert all(map(np.array_equal, results[0], other))

    def test_held_outputs_after_a_prefix(self) -> None:
        layer, xs = xrnn.GRU(I, H, dtype="float64"), noise(T, B, I)
        lengths = np.array([9, 0, 4, 7])
        mask = np.arange(T)[:, None] < lengths
        ys, _ = layer(xs, mask=mask, masked="hold")
        last = layer(xs, None, lengths)[1].h[0]
        for b, n in enumerate(lengths):
            np.testing.assert_allclose(ys[n:, b], np.broadcast_to(last[b], (T - n, H)), rtol=1e-12)
        past, _ = layer(xs, None, lengths, mask=mask, masked="hold")
        assert np.array_equal(past, layer(xs, None, lengths)[0])

    def test_held_outputs_give_their_gradient_to_the_step_they_are_of(self) -> None:
        layer, xs = xrnn.GRU(I, H, dtype="float64"), noise(5, 1, I)
        mask = np.array([False, True, False, False, True])[:, None]
        ys, _, tape = layer.forward(xs, mask=mask, masked="hold")
        assert not ys[0].any()
        assert all(np.array_equal(ys[1], ys[t]) for t in (2, 3))
        dys = noise(5, 1, H)
        dys[0] = np.nan
        dxs, _, _ = layer.backward(tape, dys)
        assert not dxs[[0, 2, 3]].any()
        _, _, zero = layer.forward(xs, mask=mask)
        summed = np.zeros_like(dys)
        summed[1], summed[4] = dys[1] + dys[2] + dys[3], dys[4]
        np.testing.assert_allclose(dxs, layer.backward(zero, summed)[0], rtol=1e-12)

    def test_both_directions_hold_their_own_outputs(self, device: str) -> None:
        how: Any = {"bidirectional": True, "dtype": "float64", "device": device}
        layer = xrnn.LSTM(I, H, rng=0, **how)
        put, to_host = layer.weights.placement.from_host, get(device).to_host
        xs, mask = noise(T, B, I), booleans(0.5, T, B)
        ys, _, tape = layer.forward(put(xs), mask=mask, masked="hold")
        plain = to_host(layer(put(xs), mask=mask)[0])
        expected, dys, dplain = np.zeros((T, B, 2 * H)), noise(T, B, 2 * H), np.zeros((T, B, 2 * H))
        for b in range(B):
            for t in range(T):
                before = [s for s in range(t + 1) if mask[s, b]]
                after = [s for s in range(t, T) if mask[s, b]]
                for source, half in ((before[-1:], slice(H)), (after[:1], slice(H, None))):
                    for s in source:
                        expected[t, b, half] = plain[s, b, half]
                        dplain[s, b, half] += dys[t, b, half]
        np.testing.assert_array_equal(to_host(ys), expected)
        dxs, _, dweights = layer.backward(tape, put(dys))
        other = layer.forward(put(xs), mask=mask)[2]
        dxs2, _, dweights2 = layer.backward(other, put(dplain))
        np.testing.assert_allclose(to_host(dxs), to_host(dxs2), rtol=1e-11, atol=1e-14)
        for name, g in dweights.items():
            np.testing.assert_allclose(to_host(g), to_host(dweights2[name]), rtol=1e-10, atol=1e-14)

    def test_no_step_is_valid(self) -> None:
        layer, xs = xrnn.LSTM(I, H, bidirectional=True), np.full((T, B, I), np.nan, "float32")
        state = tuple(noise(2, B, H).astype("float32") for _ in "hc")
        resets = np.zeros((T, B), bool)
        resets[3, 1] = True
        mask = np.zeros((T, B), bool)
        ys, last, tape = layer.forward(xs, state, mask=mask, resets=resets)
        assert not ys.any()
        for part, given in zip(last, state, strict=True):
            assert np.array_equal(part[:, [0, 2, 3]], given[:, [0, 2, 3]])
            assert not part[:, 1].any()
        dxs, dstate, dweights = layer.backward(tape, None, state)
        assert not dxs.any()
        assert not any(g.any() for g in dweights.values())
        assert np.array_equal(dstate.h[:, 0], state[0][:, 0])
        assert not dstate.h[:, 1].any()

    def test_one_sequence_and_batch_first(self) -> None:
        layer = xrnn.GRU(I, H, batch_first=True, dtype="float64", rng=0)
        xs, mask, resets = noise(B, T, I), booleans(0.6, B, T), booleans(0.3, B, T)
        ys, last, tape = layer.forward(xs, mask=mask, resets=resets)
        dxs, _, _ = layer.backward(tape, ys, last)
        for b in range(B):
            one, end, alone = layer.forward(xs[b], mask=mask[b].tolist(), resets=resets[b])
            np.testing.assert_allclose(one, ys[b], rtol=1e-12)
            np.testing.assert_allclose(end.h, last.h[:, b], rtol=1e-12)
            np.testing.assert_allclose(layer.backward(alone, one, end)[0], dxs[b], rtol=1e-9)

    def test_no_steps_or_no_sequences(self) -> None:
        layer = xrnn.GRU(I, H)
        for shape in ((0, B), (T, 0)):
            some = np.zeros(shape, bool)
            ys, _ = layer(np.ones((*shape, I), "float32"), mask=some, resets=some, masked="hold")
            assert ys.shape == (*shape, H)
        ys, _ = layer(np.ones((T, 0, I), "float32"), mask=[[]] * T, resets=[[]] * T)
        assert ys.shape == (T, 0, H)


class TestGroups:
    LENGTHS = (1, 2, 2, 3, 40, 41, 80)

    def _resets(self) -> Any:
        resets = np.zeros((sum(self.LENGTHS), 1), bool)
        resets[np.cumsum(self.LENGTHS)[:-1]] = True
        return np.concatenate([resets, np.zeros_like(resets)], axis=1)

    def test_segments_of_similar_length_run_together(self) -> None:
        found = plan(169, 2, None, None, self._resets(), False)
        assert isinstance(found, Timeline)
        groups = [group.rows.shape for group in found.groups]
        assert len(groups) >= 3
        assert sum(T * B for T, B in groups) < 1.3 * 2 * 169
        (last,) = (list(group.lengths) for group in found.groups[-1:] if group.lengths is not None)
        assert last == [80, 169]

    def test_results_do_not_depend_on_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer = xrnn.LSTM(I, H, num_layers=2, dropout=0.5, dtype="float64", rng=0)
        resets, xs = self._resets(), noise(169, 2, I)
        mask = booleans(0.9, 169, 2)
        results = []
        for step, group in ((4, 16), (10**6, 0), (0, 0)):
            monkeypatch.setattr(timeline, "STEP", step)
            monkeypatch.setattr(timeline, "GROUP", group)
            ys, last, tape = layer.forward(xs, mask=mask, resets=resets, seed=3)
            dxs, dstate, dweights = layer.backward(tape, np.ones_like(ys), last)
            results.append((len(tape.passes) // 2, [ys, *last, dxs, *dstate, *dweights.values()]))
        counts = [n for n, _ in results]
        assert counts[1] == 1 < counts[0] < counts[2]
        for _, arrays in results[1:]:
            for a, b in zip(results[0][1], arrays, strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)

    def test_dropout_belongs_to_the_steps(self) -> None:
        """A reset at the first step cuts nothing from a batch without a state."""
        layer, xs = xrnn.LSTM(I, H, num_layers=2, dropout=0.5, dtype="float64"), noise(T, B, I)
        resets = np.zeros((T, B), bool)
        resets[0] = True
        expected = layer.forward(xs, seed=3)[0]
        ys, _, tape = layer.forward(xs, resets=resets, seed=3)
        assert tape.timeline is not None
        np.testing.assert_allclose(ys, expected, rtol=1e-12)


class TestTapes:
    def _made(self, **how: Any) -> Any:
        layer = xrnn.LSTM(I, H, num_layers=2, dtype="float64", learn_state=True, rng=0)
        mask, resets = booleans(0.7, T, B), booleans(0.2, T, B)
        return layer, layer.forward(noise(T, B, I), mask=mask, resets=resets, **how)

    def test_copies_give_the_same_gradients(self) -> None:
        layer, (ys, last, tape) = self._made(masked="hold")
        expected = layer.backward(tape, ys, last)
        assert repr(tape) == "<tape of lstm: T, B, I = 9, 4, 3>"
        for twin, other in (
            copy.deepcopy((layer, tape)),
            pickle.loads(pickle.dumps((layer, tape))),
        ):
            for found in (twin.backward(other, ys, last), twin.backward(other, ys, last)):
                assert np.array_equal(found[0], expected[0])
                assert np.array_equal(found[1].c, expected[1].c)
                for name, g in expected[2].items():
                    assert np.array_equal(found[2][name], g), name

    def test_values_of_gates_are_those_of_the_steps(self) -> None:
        weights = {k: noise(*s) for k, s in cells.LSTM.shapes(I, H).items()}
        xs, mask, resets = noise(T, B, I), booleans(0.7, T, B), booleans(0.3, T, B)
        how: Any = {"mask": mask, "resets": resets}
        ys, _, tape = xrnn.unroll(cells.LSTM, weights, xs, **how)
        values = xrnn.analysis.gates(tape)
        np.testing.assert_allclose(values["o"] * np.tanh(values["c"]), ys, rtol=1e-12)
        assert not values["f"][~mask].any()
        norms = xrnn.analysis.gradient_flow(tape, np.ones_like(ys))
        assert norms["c"].shape == (T,)

    def test_dynamics_are_of_whole_sequences(self) -> None:
        _, (_, _, tape) = self._made()
        for function in (xrnn.analysis.lyapunov, lambda tape: xrnn.analysis.jacobian(tape, 0)):
            with pytest.raises(ValueError, match="lstm: the tape has a mask or resets; it must be"):
                function(tape)

    def test_unroll(self) -> None:
        weights = {k: noise(*s) for k, s in cells.GRU.shapes(I, H).items()}
        xs, resets = noise(T, B, I), booleans(0.3, T, B)
        ys, last, tape = xrnn.unroll(cells.GRU, weights, xs, reverse=True, resets=resets)
        dxs, dstate, dweights = xrnn.unroll_backward(tape, ys, last)
        assert (dxs.shape, dstate.h.shape) == (xs.shape, (B, H))
        assert dweights.keys() == weights.keys()
        weights["U"] += 1
        with pytest.raises(ValueError, match="the weights have changed since"):
            xrnn.unroll_backward(tape, ys)


class TestErrors:
    @pytest.mark.parametrize("name", ["mask", "resets"])
    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (np.ones((B, T), bool), r" has shape \(4, 9\) and dtype bool; it must be \(T, B\) = "),
            (np.ones((B, T), bool), "booleans; it looks transposed: give NAME.T"),
            (np.ones((T, B)), r" has shape \(9, 4\) and dtype float64; .* = \(9, 4\) booleans"),
            ([[True], [True, False]], r" is no array; it must be \(T, B\) = \(9, 4\) booleans"),
            ("yes", r" has shape \(\) and dtype <U3; it must be \(T, B\) = \(9, 4\) booleans"),
        ],
    )
    def test_wrong_steps(self, name: str, wrong: Any, words: str) -> None:
        layer, xs = xrnn.LSTM(I, H), np.ones((T, B, I), "float32")
        with pytest.raises(ValueError, match=words.replace("NAME", name)) as caught:
            layer(xs, **{name: wrong})
        assert str(caught.value).startswith(f"lstm: {name}")

    def test_the_axes_are_those_of_the_inputs(self) -> None:
        layer = xrnn.LSTM(I, H, batch_first=True)
        with pytest.raises(ValueError, match=r"mask has .*; it must be \(B, T\) = \(4, 9\) boole"):
            layer(np.ones((B, T, I), "float32"), mask=np.ones((T, B), bool))
        with pytest.raises(ValueError, match=r"resets has .*; it must be \(T,\) = \(9,\) booleans"):
            layer(np.ones((T, I), "float32"), resets=np.ones((T, 1), bool))

    @pytest.mark.parametrize("wrong", ["last", None, True, np.ones(2)])
    def test_wrong_outputs_of_masked_steps(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"lstm: masked is .*; it must be 'zero' or 'hold'"):
            xrnn.LSTM(I, H)(np.ones((T, B, I), "float32"), masked=wrong)
