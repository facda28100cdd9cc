"""What verification accepts and refuses at every size, and what it does not remember."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import MADE, ROWS

import xrnn
from xrnn.backends import Backend, Kernel, register, unregister
from xrnn.backends.cpu import BACKEND
from xrnn.backends.cpu.extension import ABSENT
from xrnn.backends.host import named_dtype
from xrnn.cells import GRU, LSTM, Elman, ElmanReLU, gru_with, lstm_with, rnn_with
from xrnn.cells.base import Cell
from xrnn.engine import verify
from xrnn.engine.trial import DRAWS, Trial, tolerance
from xrnn.recurrence.bfloat16 import RoundedLoop
from xrnn.recurrence.loop import Loop
from xrnn.typing import dtype_name

FLOAT32 = np.dtype("float32")
#: sizes of trials: the one of most kernels, those of wide layers
SIZES = ((5, 3, 4, 16), (3, 3, 4, 512), (3, 3, 4, 1024))
#: dtype and precision of arithmetic that rounds
KINDS = (("float32", "tf32"), ("float16", "ieee"), ("bfloat16", "ieee"))


def rounded(a: Any, kind: str) -> Any:
    """float32 values with as many bits as the kind has."""
    if kind == "tf32":
        bits = np.ascontiguousarray(a).view(np.uint32)
        return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    return a.astype(named_dtype(kind)).astype(np.float32)


class Rounding:
    """A right kernel for float32 that rounds each factor of U h, and what it stores of a step."""

    def __init__(self, cell: Any, kind: str) -> None:
        def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
            U = rounded(weights["U"], kind)
            first = tuple(rounded(s, kind) for s in state)
            last, saved = cell.step(ax, first, {**weights, "U": U}, xp=xp)
            last = (rounded(last[0], kind), *last[1:])
            return last, tuple(rounded(a, kind) for a in saved)

        def back(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
            weights = {**weights, "U": rounded(weights["U"], kind)}
            da, dprev, dweights = cell.step_backward(dstate, saved, weights, xp=xp)
            return rounded(da, kind), dprev, dweights

        self.loop = Loop(replace(cell, step=step, step_backward=back))
        self.forward, self.backward = self.loop.forward, self.loop.backward


class Wrong:
    """A kernel that sees weights which `change` has changed, in one of the passes."""

    def __init__(self, cell: Any, change: Callable[[Any], Any], backward: bool) -> None:
        self.loop, self.change, self.in_backward = Loop(cell), change, backward

    def forward(self, weights: Any, *given: Any, **how: Any) -> Any:
        seen = weights if self.in_backward else self.change(weights)
        return self.loop.forward(seen, *given, **how)

    def backward(self, weights: Any, *given: Any, **how: Any) -> Any:
        seen = self.change(weights) if self.in_backward else weights
        return self.loop.backward(seen, *given, **how)


def differs(cell: Any, sequence: Any, sizes: Any) -> float:
    kernel = Kernel(sequence, frozenset({FLOAT32}))
    return verify.difference(BACKEND, cell, FLOAT32, kernel, sizes)


def allowed(cell: Any, dtype: str, precision: str, sizes: Any) -> float:
    return tolerance(cell, named_dtype(dtype), precision, sizes)


class Truncating(RoundedLoop):
    """Rounds what the products for all steps multiply towards 0."""

    def operand(self, a: Any, *, xp: Any) -> Any:
        bits = np.ascontiguousarray(a).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)


class Unsummed(RoundedLoop):
    """Rounds in the forward pass alone."""

    def backward(self, *given: Any, **how: Any) -> Any:
        return Loop(self.cell).backward(*given, **how)


@pytest.mark.parametrize("cell", [Elman, ElmanReLU, LSTM, GRU], ids=lambda c: c.name)
def test_products_of_bfloat16_are_those_of_their_definition(cell: Any) -> None:
    """The tolerance is that of float32: what rounds otherwise, or not, is refused."""
    sizes = SIZES[0]
    bound = allowed(cell, "float32", "bf16", sizes)
    assert bound == allowed(cell, "float32", "ieee", sizes)

    def error(sequence: Any, draw: int = 0) -> float:
        kernel = Kernel(sequence, frozenset({FLOAT32}), precision="bf16")
        return verify.difference(BACKEND, cell, FLOAT32, kernel, sizes, draw)

    assert error(RoundedLoop(cell)) == 0
    for wrong in (Loop(cell), Truncating(cell), Unsummed(cell), Rounding(cell, "bfloat16")):
        assert min(error(wrong, draw) for draw in range(2)) > 50 * bound


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.parametrize("cell", [row.cell for row in ROWS] + [*MADE], ids=lambda c: c.name)
def test_native_loops_with_products_of_bfloat16_are_near_at_some_draw(cell: Any) -> None:
    for kernel in BACKEND.kernels_of(cell):
        if kernel.precision == "bf16":
            assert verify._compare(BACKEND, cell, FLOAT32, kernel, SIZES[0]) is None


@pytest.mark.parametrize("sizes", SIZES[:2], ids=str)
@pytest.mark.parametrize("cell", [Elman, ElmanReLU, LSTM, GRU], ids=lambda c: c.name)
@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_a_right_kernel_passes(cell: Any, dtype: str, precision: str, sizes: Any) -> None:
    kind = precision if precision == "tf32" else dtype
    error = differs(cell, Rounding(cell, kind), sizes)
    bound = allowed(cell, dtype, precision, sizes)
    assert bound / 20 < error < 0.7 * bound


def _without_tile(H: int) -> Callable[[Any], Any]:
    """The columns of U of 16 units (of 4, if H is small) are left out."""
    columns = slice(H // 2, H // 2 + max(4, min(16, H // 32)))

    def change(weights: Any) -> Any:
        U = weights["U"].copy()
        U[:, columns] = 0
        return {**weights, "U": U}

    return change


def _swapped(H: int) -> Callable[[Any], Any]:
    """Two units are taken for each other in U."""

    def change(weights: Any) -> Any:
        order = np.arange(H)
        order[[1, 2]] = 2, 1
        return {**weights, "U": weights["U"][:, order]}

    return change


def _gates(H: int) -> Callable[[Any], Any]:
    """The first two gates are taken for each other."""

    def change(weights: Any) -> Any:
        return {k: np.concatenate([a[H : 2 * H], a[:H], a[2 * H :]]) for k, a in weights.items()}

    return change


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("cell", "edit", "backward"),
    [
        (Elman, _without_tile, False),
        (ElmanReLU, _without_tile, False),
        (ElmanReLU, _swapped, False),
        (ElmanReLU, _without_tile, True),
        (LSTM, _gates, False),
        (LSTM, _gates, True),
        (GRU, _gates, False),
        (GRU, _without_tile, True),
    ],
    ids=lambda x: getattr(x, "name", getattr(x, "__name__", str(x))),
)
def test_a_wrong_kernel_is_refused_at_every_size(
    cell: Any, edit: Any, backward: bool, sizes: Any
) -> None:
    error = differs(cell, Wrong(cell, edit(sizes[3]), backward), sizes)
    assert error > max(allowed(cell, dtype, precision, sizes) for dtype, precision in KINDS)


def test_arguments_are_drawn_again_where_kinks_may_be_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Near a kink a right kernel may differ; a wrong one differs everywhere."""
    drawn: list[int] = []

    def difference(*given: Any) -> float:
        drawn.append(given[-1])
        return 1.0 if len(drawn) <= near else 0.0

    monkeypatch.setattr(verify, "difference", difference)
    optional = lstm_with(clip=1.0)
    for cell, near, accepted in (
        (optional, 2, True),
        (optional, DRAWS, False),
        *((cell, 1, False) for cell in (LSTM, ElmanReLU)),
    ):
        drawn.clear()
        kernel = Kernel(Loop(cell), frozenset({FLOAT32}))
        problem = verify._compare(BACKEND, cell, FLOAT32, kernel, SIZES[0])
        assert (problem is None) == accepted
        assert drawn == list(range(near + accepted))


def test_each_draw_is_another() -> None:
    first, second, again = (Trial(BACKEND, LSTM, FLOAT32, SIZES[0], n) for n in (0, 1, 0))
    assert (first.xs != second.xs).all()
    assert (first.xs == again.xs).all()


@pytest.mark.parametrize("H", [4, 7, 16, 512])
def test_no_pre_activation_is_near_the_kink(H: int) -> None:
    trial = Trial(BACKEND, ElmanReLU, FLOAT32, (5, 3, 4, H))
    (h,), w = trial.state, trial.weights
    on = []
    for x in trial.xs:
        a = x @ w["W"].T + h @ w["U"].T + w["b"]
        assert abs(a).min() > 0.05 * abs(a).max()
        h = np.maximum(a, 0)
        on.append(h > 0)
    share = np.mean(on, axis=(0, 1))
    assert share.min() > 0, "every unit is on both sides"
    assert share.max() < 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("cell", BACKEND.kernels, ids=lambda cell: cell.name)
def test_loops_of_numpy_and_c_use_a_part_of_the_tolerance(cell: Cell[Any], dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    kind = named_dtype(dtype)
    for kernel in BACKEND.kernels[cell]:
        if dtype not in map(dtype_name, kernel.dtypes) or kernel.precision == "bf16":
            continue  # products of bfloat16 have a test of their own, above
        sizes = kernel.trial(7, 3, 4, 16)
        error = verify.difference(BACKEND, cell, kind, kernel, sizes)
        assert error <= 0.6 * tolerance(cell, kind, "ieee", sizes)


class Failing:
    """A kernel of the LSTM that fails as long as it has an `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.tried = error, 0
        self.loop = Loop(LSTM)
        self.backward = self.loop.backward

    def forward(self, *given: Any, **how: Any) -> Any:
        self.tried += 1
        if self.error is not None:
            raise self.error
        return self.loop.forward(*given, **how)

    def kernel(self, dtype: Any = FLOAT32) -> Kernel:
        return Kernel(self, frozenset({dtype}), path=lambda T, B, I, H: "failing")


@pytest.fixture
def numpy_with() -> Iterator[Callable[..., None]]:
    """Serve NumPy by a backend with the given kernels of the LSTM."""

    def serve(*kernels: Kernel, **options: Any) -> None:
        given: Any = {"describe": lambda: "a test", **options}
        register("numpy", Backend("test", np, BACKEND.to_host, {LSTM: kernels}, **given))

    yield serve
    unregister("numpy")


PASSING = [
    MemoryError("none left"),
    RecursionError("too deep"),
    OSError(errno.ENOSPC, "the disk is full"),
]
XS = np.ones((4, 3, 2), "float32")


class TestPassingFailures:
    @pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
    def test_it_is_no_verdict(self, numpy_with: Any, error: Exception) -> None:
        failing = Failing(error)
        numpy_with(failing.kernel())
        layer = xrnn.LSTM(2, 5, rng=0)
        said = (
            "test: the kernel of lstm for float32 cannot be verified at this moment: "
            f"{type(error).__name__}: .*; the cell's own code serves this call, and the next one"
        )
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match=said):
                ys, _ = layer(XS)
        with pytest.warns(RuntimeWarning, match=said):
            y, _ = layer.step(XS[0])
        assert failing.tried >= 3
        failing.error = None
        np.testing.assert_array_equal(layer(XS)[0], ys)
        np.testing.assert_array_equal(layer.step(XS[0])[0], y)
        assert layer.path(XS.shape) == {"_l0": "failing"}

    @pytest.mark.parametrize("error", [ValueError("a fault"), OSError("no library")])
    def test_other_failures_are(self, numpy_with: Any, error: Exception) -> None:
        failing = Failing(error)
        numpy_with(failing.kernel())
        with pytest.warns(RuntimeWarning, match="is not used here"):
            xrnn.LSTM(2, 5)(XS)
        failing.error = None
        assert xrnn.LSTM(2, 5).path(XS.shape) == {"_l0": "the cell as written"}

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_interruption_passes(self, numpy_with: Any, kind: type[BaseException]) -> None:
        failing = Failing(kind())
        numpy_with(failing.kernel())
        layer = xrnn.LSTM(2, 5)
        with pytest.raises(kind):
            layer(XS)
        failing.error = None
        layer(XS)
        assert layer.path(XS.shape) == {"_l0": "failing"}

    def test_another_kernel_serves_until_then(self, numpy_with: Any) -> None:
        failing, other = Failing(MemoryError()), Failing()
        numpy_with(failing.kernel(), other.kernel())
        layer = xrnn.LSTM(2, 5)
        with pytest.warns(RuntimeWarning, match="another kernel serves this call"):
            layer(XS)
        failing.error, before = None, other.tried
        layer(XS)
        assert other.tried == before

    def test_the_code_of_the_cell_runs_in_float32_where_the_library_does_not_compute(
        self, numpy_with: Any
    ) -> None:
        failing, xs = Failing(MemoryError("none left")), XS.astype("float16")
        numpy_with(failing.kernel("float16"), computes=lambda dtype: dtype != xs.dtype)
        layer = xrnn.LSTM(2, 5, dtype="float16")
        with pytest.warns(RuntimeWarning, match="none left; the cell's own code serves"):
            ys, _ = layer(xs)
        wide = xrnn.LSTM(2, 5)
        wide.weights = {name: w.astype("float32") for name, w in layer.weights.items()}
        assert ys.dtype == xs.dtype
        np.testing.assert_allclose(ys, wide(XS)[0], atol=1e-3)

    def test_nothing_is_tried_while_the_device_is_occupied(self, numpy_with: Any) -> None:
        reasons, failing = ["a capture"], Failing()
        numpy_with(failing.kernel(), occupied=lambda: reasons[0] if reasons else None)
        layer = xrnn.LSTM(2, 5)
        with pytest.warns(RuntimeWarning, match="at this moment: a capture; the cell's own code"):
            layer(XS)
        assert failing.tried == 0
        reasons.clear()
        layer(XS)
        assert failing.tried > 0
        reasons.append("a capture")
        tried = failing.tried
        layer(XS)
        assert failing.tried == tried + 1, "what is verified runs"


def test_each_device_is_verified(numpy_with: Any) -> None:
    """A kernel may be right on one and wrong on another."""
    here, failing = ["first"], Failing()
    numpy_with(failing.kernel(), describe=lambda: here[0])
    assert xrnn.LSTM(2, 5).path(XS.shape) == {"_l0": "failing"}
    failing.error, here[0] = ValueError("not on this one"), "second"
    with pytest.warns(RuntimeWarning, match="not on this one"):
        assert xrnn.LSTM(2, 5).path(XS.shape) == {"_l0": "the cell as written"}
    here[0], tried = "first", failing.tried
    assert xrnn.LSTM(2, 5).path(XS.shape) == {"_l0": "failing"}
    assert failing.tried == tried


@pytest.mark.skipif(ABSENT != "", reason=ABSENT)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "cell",
    [
        rnn_with(activations=[("scaled_tanh", 0.1, 0.1)]),  # gradients below normal float16
        rnn_with(activations=[("affine", 10.0, 1.0)]),
        gru_with(activations=[("hard_sigmoid", 100.0, 0.5), ("elu", 20.0)]),
    ],
    ids=lambda cell: cell.name,
)
def test_steep_and_flat_activations_are_verified(cell: Any, dtype: str) -> None:
    kind = named_dtype(dtype)
    for kernel in BACKEND.kernels_of(cell):
        if kind in kernel.dtypes:
            assert verify._compare(BACKEND, cell, kind, kernel, SIZES[0]) is None
