"""Rows of states: taken, put back, chosen by a mask; in every library, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
import pytest

import xrnn
from xrnn import states
from xrnn.backends import get
from xrnn.typing import HCState

B, ROWS = 6, [4, 0, 3]

#: names of forms of states → a model whose states have that form
MODELS: dict[str, Callable[[str], Any]] = {
    "h": lambda device: xrnn.GRU(3, 5, device=device, rng=0),
    "h and c, 2 layers": lambda device: xrnn.LSTM(3, 5, 2, device=device, rng=0),
    "layers of unequal sizes": lambda device: xrnn.LSTM(3, (5, 4), device=device, rng=0),
    "a projection": lambda device: xrnn.LSTM(3, 5, proj_size=2, device=device, rng=0),
    "half precision": lambda device: xrnn.GRU(3, 5, dtype="float16", device=device, rng=0),
    "parts in parts": lambda device: xrnn.Sequential(
        xrnn.LayerNorm(3, device=device),
        rnn=xrnn.Residual(xrnn.GRU(3, 3, device=device, rng=0)),
        top=xrnn.LSTM(3, 4, device=device, rng=1),
    ),
    "no state": lambda device: xrnn.Sequential(xrnn.LayerNorm(3, device=device)),
}
every_form = pytest.mark.parametrize("form", MODELS)


def started(form: str, device: str, n: int = B, seed: int = 0) -> tuple[Any, Any, Any]:
    """A model, its state after a step of n sequences, and what was read in that step."""
    dtype = "float16" if form == "half precision" else "float32"
    if dtype == "float16" and device == "array_api_strict":
        pytest.skip("array_api_strict has no float16")
    model = MODELS[form](device)
    x = get(device).from_host(np.random.default_rng(seed).normal(size=(n, 3)).astype(dtype))
    return model, model.step(x)[1], x


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        state = tuple(state.values())
    return [a for part in state for a in leaves(part)] if isinstance(state, tuple) else [state]


def on_host(device: str, state: Any) -> list[np.ndarray]:
    return [np.array(get(device).to_host(a)) for a in leaves(state)]


@every_form
def test_taken_rows_are_those_of_the_state(device: str, form: str) -> None:
    model, state, x = started(form, device)
    xp = get(device).xp
    some = states.take(state, ROWS)
    for a, b in zip(on_host(device, some), on_host(device, state), strict=True):
        np.testing.assert_array_equal(a, b[..., ROWS, :])
    x = xp.stack([x[n, ...] for n in ROWS])
    model.step(x, some)  # the model takes it
    assert type(some) is type(state)
    twice = states.take(state, [1, 1])
    for a in on_host(device, twice):
        np.testing.assert_array_equal(a[..., 0, :], a[..., 1, :])


@every_form
def test_what_is_put_is_there_and_the_rest_is_as_before(device: str, form: str) -> None:
    _, state, _ = started(form, device)
    _, new, _ = started(form, device, len(ROWS), seed=1)
    expected = on_host(device, state)
    for a, b in zip(expected, on_host(device, new), strict=True):
        a[..., ROWS, :] = b
    found = states.put(state, ROWS, new)
    for a, b in zip(on_host(device, found), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(found) is type(state)
    for a, b in zip(leaves(found), leaves(state), strict=True):
        assert a.dtype == b.dtype
        if device == "cpu":
            assert a is b  # written to, not copied


@every_form
def test_a_mask_chooses_row_by_row(device: str, form: str) -> None:
    model, state, _ = started(form, device)
    fresh, ended = model.initial_state(B), np.arange(B) % 3 == 0
    expected = on_host(device, state)
    for a, b in zip(expected, on_host(device, fresh), strict=True):
        a[..., ended, :] = b[..., ended, :]
    for mask in (ended, ended.tolist(), get(device).xp.asarray(ended)):
        found = states.where(mask, fresh, state)
        assert type(found) is type(state)
        for a, b in zip(on_host(device, found), expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_the_forms_of_rows(device: str) -> None:
    _, state, _ = started("h", device)
    mask = np.array([n in ROWS for n in range(B)])
    wanted = on_host(device, states.take(state, sorted(ROWS)))[0]
    for rows in (mask, mask.tolist(), np.flatnonzero(mask).astype("u1"), tuple(sorted(ROWS))):
        np.testing.assert_array_equal(on_host(device, states.take(state, rows))[0], wanted)
    assert states.take(state, 2).h.shape == (1, 1, 5)
    assert states.take(state, []).h.shape == (1, 0, 5)
    assert states.take((None, ()), [3, 0]) == (None, ())
    assert states.take((None, ()), [True]) == (None, ())
    before = on_host(device, state)[0]
    state = states.put(state, [], states.take(state, []))
    np.testing.assert_array_equal(on_host(device, state)[0], before)


def test_states_of_cells_lists_and_parts_that_are_none() -> None:
    a = np.arange(12.0).reshape(4, 3)
    assert states.take((a, None), [1])[0].tolist() == [[3, 4, 5]]
    assert states.take((a, None), [1])[1] is None
    assert states.put([a.copy()], [3], (a[:1],))[0][3].tolist() == [0, 1, 2]
    assert states.where([True, False, True, True], (a,), [a + 1])[0][1].tolist() == [4, 5, 6]
    assert states.take({}, []) == {} == states.put({}, [], {})


def test_read_only_arrays_are_replaced() -> None:
    a = np.zeros((1, 4, 3))
    a.flags.writeable = False
    (found,) = states.put((a,), 1, (np.ones((1, 1, 3)),))
    assert found[0, :, 0].tolist() == [0, 1, 0, 0]
    assert not a.any()


LAYER = xrnn.LSTM(3, 5, rng=0)
STATE = LAYER.initial_state(4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: states.take(STATE, [4]), ValueError, r"take: rows are \[4\]; .* 0…B−1 = 0…3"),
        (lambda: states.take(STATE, [-1]), ValueError, r"take: rows are \[-1\]"),
        (lambda: states.take(STATE, [0.0]), ValueError, r"take: rows are \[0.0\]"),
        (lambda: states.take(STATE, [True]), ValueError, r"or bools \(B,\) = \(4,\)"),
        (
            lambda: states.take((np.ones(3),), [0]),
            ValueError,
            r"state.0 has shape \(3,\); .* \(…, ",
        ),
        (lambda: states.take({"a": ("x",)}, [0]), TypeError, "take: state.a.0 is a .*str; it must"),
        (
            lambda: states.take((*STATE, np.ones((3, 5))), [0]),
            ValueError,
            r"state.2 has shape \(3, 5\); it must be \(…, B, H\), with B = 4 as in the first",
        ),
        (
            lambda: states.put(STATE, [1, 1], LAYER.initial_state(2)),
            ValueError,
            r"put: rows are \[1, 1\]; each must be there once",
        ),
        (
            lambda: states.put(STATE, [1], LAYER.initial_state(2)),
            ValueError,
            r"put: new.h has shape \(1, 2, 5\); it must be \(…, n, H\) = \(1, 1, 5\)",
        ),
        (
            lambda: states.put(STATE, [1], {"a": 1}),
            TypeError,
            "put: new is a dict of a; it must be like state, which is a tuple of 2",
        ),
        (
            lambda: states.put({"a": STATE}, [1], {"a": (STATE.h[:, :1], None)}),
            TypeError,
            "put: new.a.c is None; it must be like state.a.c, which is an array",
        ),
        (
            lambda: states.where([True] * 3, STATE, STATE),
            ValueError,
            r"where: mask has shape \(3,\) and dtype bool; it must be \(B,\) = \(4,\) booleans",
        ),
        (lambda: states.where([1] * 4, STATE, STATE), ValueError, "where: mask has shape .* int64"),
        (
            lambda: states.where([True] * 4, STATE, [a.astype("f8") for a in STATE]),
            TypeError,
            "where: b.h is float64 and a.h is float32; cast one of them",
        ),
    ],
)
def test_what_is_refused(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_type_checkers_keep_the_type_of_a_state() -> None:
    some = assert_type(states.take(STATE, [0, 1]), HCState)
    assert_type(states.put(STATE, [0, 1], some), HCState)
    assert_type(states.where([True, False], some, some), HCState)


def test_nothing_is_written_if_a_part_does_not_fit() -> None:
    state = LAYER.step(np.ones((4, 3), "float32"))[1]
    before = [a.copy() for a in state]
    new = LAYER.initial_state(1)
    with pytest.raises(ValueError, match=r"new\.c has shape"):
        states.put(state, [1], new._replace(c=new.c[..., :4]))
    for a, b in zip(state, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_choice_works_under_jit() -> None:
    jax = pytest.importorskip("jax")
    layer = xrnn.GRU(3, 5, device="jax", rng=0)
    _, state = layer.step(jax.numpy.ones((B, 3), "float32"))
    mask = jax.numpy.arange(B) % 2 == 0
    found = jax.jit(states.where)(mask, layer.initial_state(B), state)
    np.testing.assert_array_equal(found.h, states.where(mask, layer.initial_state(B), state).h)


class TestInitialState:
    def test_of_nested_parts(self, device: str) -> None:
        model, _, x = started("parts in parts", device)
        first = model.initial_state(B)
        assert list(first) == ["rnn", "top"]
        assert list(first["rnn"]) == ["0"]
        assert first["top"].c.shape == (1, B, 4)
        for a, b in zip(
            on_host(device, model.step(x, first)[1]), on_host(device, model.step(x)[1]), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_a_learned_one(self) -> None:
        model = xrnn.Sequential(xrnn.GRU(3, 5, learn_state=True, rng=0))
        model.parts["0"].weights["h0_l0"] = np.full(5, 0.5, "float32")
        assert (model.initial_state(2)["0"].h == 0.5).all()

    @pytest.mark.parametrize("wrong", [-1, 1.0, True, None])
    def test_wrong_sizes(self, wrong: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="sequential: B is "):
            xrnn.Sequential(xrnn.LayerNorm(3)).initial_state(wrong)

    def test_a_part_of_ones_own_needs_the_method(self) -> None:
        class Counter:
            """A part with a state."""

            weights: Any = {}  # noqa: RUF012

            def __call__(self, x: Any, state: Any = None) -> Any:
                return x, state

            def forward(self, x: Any, state: Any = None) -> Any:
                return x, state, None

            def backward(self, tape: Any, dy: Any) -> Any:
                return dy, {}

        with pytest.raises(TypeError, match=r"sequential: mine is .* no method initial_state\(B\)"):
            xrnn.Sequential(mine=Counter()).initial_state(2)
