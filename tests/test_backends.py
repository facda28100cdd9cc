"""Which backend serves an array, who runs a cell, and the verification that comes before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import Backend, Kernel, backend_of, get, register, unregister
from xrnn.backends.cpu import BACKEND
from xrnn.backends.host import to_host
from xrnn.cells import GRU, LSTM, Cell, MinGRU, lstm
from xrnn.engine import verify
from xrnn.recurrence.loop import Loop

FLOAT32 = frozenset({np.dtype("float32")})


class Counting:
    """A kernel of the LSTM that counts its passes; `factor` makes it wrong."""

    def __init__(self, factor: float = 1.0, backward: float = 1.0) -> None:
        self.calls: list[str] = []

        def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
            return lstm.step(factor * ax, state, weights, xp=xp)

        def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
            dax, dprev, dweights = lstm.step_backward(dstate, saved, weights, xp=xp)
            return dax, (dprev[0], backward * dprev[1]), dweights

        self.loop = Loop(replace(LSTM, step=step, step_backward=step_backward))

    def forward(self, *given: Any, **options: Any) -> Any:
        self.calls.append("forward")
        return self.loop.forward(*given, **options)

    def backward(self, *given: Any, **options: Any) -> Any:
        self.calls.append("backward")
        return self.loop.backward(*given, **options)

    def kernel(self, source: str | None = None, **options: Any) -> Kernel:
        return Kernel(self, FLOAT32, lambda: source, path=lambda T, B, I, H: "counting", **options)


@pytest.fixture
def numpy_with() -> Iterator[Any]:
    """Serve NumPy by a backend with the given kernels of the LSTM."""

    def serve(*kernels: Kernel) -> Backend:
        table = {LSTM: kernels}
        backend = Backend("test", np, to_host, table, describe=lambda: "a test")
        register("numpy", backend)
        return backend

    yield serve
    unregister("numpy")


def run(cell: Cell, dtype: str = "float32", T: int = 4, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s).astype(dtype) for k, s in cell.shapes(2, 5).items()}
    ys, _, tape = xrnn.unroll(cell, weights, rng.normal(size=(T, 3, 2)).astype(dtype), **options)
    return ys, xrnn.unroll_backward(tape, ys)


def test_arrays_decide() -> None:
    assert backend_of(np.zeros(1)) is BACKEND
    assert backend_of(np.zeros(1).view(np.memmap)) is BACKEND
    strict = pytest.importorskip("array_api_strict")
    assert backend_of(strict.zeros(1)).xp is strict
    with pytest.raises(TypeError, match=r"weights is a builtins\.float; it must be an array"):
        backend_of(1.0, "weights")


def test_a_parameter_of_torch_is_a_torch_array() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weight = torch.nn.Parameter(torch.ones(3))
    assert backend_of(weight) is backend_of(torch.ones(3))
    np.testing.assert_array_equal(to_host(weight), np.ones(3))


def test_host_and_back(device: str) -> None:
    backend, array = get(device), np.arange(6.0).reshape(2, 3)[:, ::-1]
    there = backend.from_host(array)
    assert backend_of(there) is backend
    np.testing.assert_array_equal(backend.to_host(there), array)
    array[0, 0] = 99
    assert float(backend.to_host(there)[0, 0]) == 2, "a copy"


class TestChoice:
    def test_a_kernel_serves_its_own_cell_and_dtype_only(self, numpy_with: Any) -> None:
        fast = Counting()
        numpy_with(fast.kernel())
        run(LSTM)
        assert len(fast.calls) > 2, "the verification, and the passes"
        cases: list[tuple[Any, str, list[str]]] = [
            (LSTM, "float32", ["forward", "backward"]),
            (LSTM, "float64", []),
            (replace(LSTM), "float32", []),
            (GRU, "float32", []),
        ]
        for cell, dtype, calls in cases:
            fast.calls.clear()
            run(cell, dtype)
            assert fast.calls == calls, (cell, dtype)

    def test_the_best_that_serves_runs_and_path_tells_it(self, numpy_with: Any) -> None:
        long, other = Counting(), Counting()
        numpy_with(long.kernel(serves=lambda T, B, I, H: T > 3), other.kernel())
        layer = xrnn.LSTM(2, 5)
        for T, runs, rests in ((5, long, other), (3, other, long)):
            layer(np.ones((T, 1, 2), "float32"))
            runs.calls.clear()
            rests.calls.clear()
            layer(np.ones((T, 1, 2), "float32"))
            assert runs.calls == ["forward"]
            assert rests.calls == []
        assert layer.path((5, 1, 2)) == {"_l0": "counting"}

    def test_path_of_a_batch_first_layer(self, numpy_with: Any) -> None:
        numpy_with(Counting().kernel(serves=lambda T, B, I, H: (T, B) == (7, 2)))
        layer = xrnn.LSTM(2, 5, batch_first=True)
        assert layer.path((2, 7, 2)) == {"_l0": "counting"}
        assert layer.path((7, 2, 2)) == {"_l0": "the cell as written"}
        assert layer.path((7, 2)) == {"_l0": "the cell as written"}

    def test_the_tape_remembers_who_wrote_it(self, numpy_with: Any) -> None:
        fast = Counting()
        numpy_with(fast.kernel())
        weights = {k: np.ones(s, "float32") for k, s in LSTM.shapes(2, 5).items()}
        ys, _, tape = xrnn.unroll(LSTM, weights, np.ones((4, 3, 2), "float32"))
        numpy_with()
        xrnn.unroll_backward(tape, ys)
        assert fast.calls[-1] == "backward"

    def test_an_empty_input_asks_nobody(self, numpy_with: Any) -> None:
        fast = Counting()
        numpy_with(fast.kernel())
        run(LSTM, T=0)
        assert not fast.calls


class BothAtOnce(Counting):
    """A kernel that runs both directions at once."""

    def forward_both(self, passes: Any, xs: Any, *, lengths: Any, keep: bool, xp: Any) -> Any:
        self.calls.append("forward_both")
        return [
            self.loop.forward(w, xs, s, lengths=lengths, reverse=r, keep=keep, xp=xp)
            for w, s, r in passes
        ]

    def backward_both(self, passes: Any, *, xp: Any) -> Any:
        self.calls.append("backward_both")
        return [self.loop.backward(w, kept, dy, d, xp=xp) for w, kept, dy, d in passes]


def test_both_directions_run_at_once_where_a_kernel_can(numpy_with: Any) -> None:
    fast = BothAtOnce()
    numpy_with(fast.kernel(both=fast))
    layer, xs = xrnn.LSTM(2, 5, bidirectional=True, rng=0), np.ones((4, 3, 2), "float32")
    layer.forward(xs)
    fast.calls.clear()
    ys, _, tape = layer.forward(xs, lengths=[4, 0, 2])
    found = layer.backward(tape, ys)
    assert fast.calls == ["forward_both", "backward_both"]
    numpy_with()
    one_by_one = xrnn.LSTM(2, 5, bidirectional=True, rng=0)
    expected, _, tape = one_by_one.forward(xs, lengths=[4, 0, 2])
    np.testing.assert_array_equal(ys, expected)
    for name, d in one_by_one.backward(tape, ys)[2].items():
        np.testing.assert_array_equal(found[2][name], d)


def verifications() -> list[str]:
    file = Path(os.environ["XDG_CACHE_HOME"]) / "xrnn" / "verified.json"
    keys: list[str] = json.loads(file.read_text("utf-8")) if file.exists() else []
    return keys


class TestVerification:
    def test_a_wrong_kernel_is_named_once_and_not_used(self, numpy_with: Any) -> None:
        numpy_with(Counting(1.01).kernel())
        with pytest.warns(RuntimeWarning) as caught:
            found = run(LSTM)
        assert len(caught) == 1
        assert str(caught[0].message).startswith(
            "test: the kernel of lstm for float32 is not used here, the cell's own code serves: "
            "it differs by "
        )
        np.testing.assert_array_equal(found[0], run(LSTM)[0], "and no second warning")
        numpy_with()
        np.testing.assert_array_equal(found[0], run(LSTM)[0])

    def test_a_kernel_that_fails_is_named_and_not_used(self, numpy_with: Any) -> None:
        broken = Counting()
        broken.forward = None  # type: ignore[assignment, method-assign]
        numpy_with(broken.kernel())
        with pytest.warns(RuntimeWarning, match="it failed with TypeError: 'NoneType'"):
            run(LSTM)

    def test_the_next_kernel_serves_where_the_first_is_wrong(self, numpy_with: Any) -> None:
        right = Counting()
        numpy_with(Counting(1.01).kernel(), right.kernel())
        with pytest.warns(RuntimeWarning, match="it differs"):
            run(LSTM)
        assert right.calls[-2:] == ["forward", "backward"]

    def test_a_wrong_backward_is_found(self, numpy_with: Any) -> None:
        kernel = Counting(backward=1.001).kernel()
        backend, sizes = numpy_with(kernel), (5, 3, 4, 16)
        error = verify.difference(backend, LSTM, np.dtype("float32"), kernel, sizes)
        assert 1e-4 < error < 1

    def test_every_way_to_call_a_kernel_is_compared(self) -> None:
        """Without a tape, without a gradient of the outputs, in both directions at once."""

        class WithoutTape(Counting):
            def forward(self, *given: Any, **options: Any) -> Any:
                ys, last, kept = super().forward(*given, **options)
                return ys if options["keep"] else 2 * ys, last, kept

        class WithoutGradient(Counting):
            def backward(self, weights: Any, kept: Any, dys: Any, *given: Any, **how: Any) -> Any:
                dxs, *rest = super().backward(weights, kept, dys, *given, **how)
                return (2 * dxs if dys is None else dxs), *rest

        class WrongTogether(BothAtOnce):
            def backward_both(self, passes: Any, *, xp: Any) -> Any:
                return super().backward_both(passes[::-1], xp=xp)

        for wrong in (WithoutTape(), WithoutGradient(), WrongTogether()):
            both = wrong if isinstance(wrong, BothAtOnce) else None
            kernel, sizes = wrong.kernel(both=both), (5, 3, 4, 16)
            assert verify.difference(BACKEND, LSTM, np.dtype("float32"), kernel, sizes) > 1e-3
        right = BothAtOnce()
        kernel = right.kernel(both=right)
        assert verify.difference(BACKEND, LSTM, np.dtype("float32"), kernel, sizes) == 0

    def test_it_is_remembered_for_its_source_only(self, numpy_with: Any) -> None:
        numpy_with(Counting().kernel("first"))
        run(LSTM)
        (key,) = verifications()
        assert key.startswith(f"test | a test | {xrnn.__version__} | lstm | float32 | ieee")
        again = Counting()
        numpy_with(again.kernel("first"))
        run(LSTM)
        assert again.calls == ["forward", "backward"], "no second verification"
        changed = Counting(1.01)
        numpy_with(changed.kernel("second"))
        with pytest.warns(RuntimeWarning, match="it differs"):
            run(LSTM)

    def test_without_a_source_it_is_never_remembered(self, numpy_with: Any) -> None:
        for source in (None, ""):
            numpy_with(Counting().kernel(source))
            run(LSTM)
        assert verifications() == []

    def test_it_is_of_the_code_of_the_cell(self, numpy_with: Any) -> None:
        """An edited equation is verified anew: the kernel fails, and the edited cell serves."""
        text = Path(lstm.__file__).read_text("utf-8")
        edited: dict[str, Any] = {}
        exec(
            compile(text.replace("c = f * c_prev + i * g", "c = f * c_prev - i * g"), "", "exec"),
            edited,
        )
        cell = edited["LSTM"]
        kernel = Counting().kernel("one source")
        backend = Backend("test", np, to_host, {LSTM: (kernel,), cell: (kernel,)})
        register("numpy", backend)
        run(LSTM)
        with pytest.warns(RuntimeWarning, match="it differs"):
            found = run(cell)
        np.testing.assert_array_equal(found[0], run(replace(cell))[0])
        assert len(verifications()) == 1

    @pytest.mark.parametrize("name", ["gates", "recurrence", "finish"])
    def test_it_is_of_the_linear_recurrence_that_a_scan_is_made_of(self, name: str) -> None:
        def edited(*given: Any, **how: Any) -> Any:
            return None

        keys = []
        assert MinGRU.linear is not None
        for cell in (MinGRU, replace(MinGRU, linear=replace(MinGRU.linear, **{name: edited}))):
            kernel = Counting().kernel("one source")
            keys.append(verify._key(BACKEND, cell, np.dtype("float32"), kernel, (5, 3, 4, 16)))
        assert None not in keys
        assert keys[0] != keys[1]

    def test_an_edited_helper_is_another_code(self) -> None:
        assert verify.code_of(lstm.step) == verify.code_of(lstm.step)
        assert verify.code_of(lstm.step) != verify.code_of(lstm.step_backward)
        source = "def helper(x):\n    return x {}\ndef f(x):\n    return helper(x)\n"
        codes = []
        for what in ("+ 1", "+ 1", "+ 2"):
            names: dict[str, Any] = {}
            exec(source.format(what), names)
            codes.append(verify.code_of(names["f"]))
        assert codes[0] == codes[1] != codes[2]

    def test_which_name_means_which_function_is_part_of_the_code(self) -> None:
        codes = []
        for names in ("f, g = p, q", "f, g = q, p"):
            here: dict[str, Any] = {}
            source = f"def p(x): return x\ndef q(x): return -x\n{names}\n"
            exec(source + "def step(x): return f(x) + 2 * g(x)\n", here)
            codes.append(verify.code_of(here["step"]))
        assert codes[0] != codes[1]

    def test_code_that_depends_on_what_is_not_code_is_unknown(self) -> None:
        table = np.ones(3)

        def step(x: Any) -> Any:
            return x * table

        def by_module(x: Any) -> Any:
            return verify.relative(x, x)

        assert verify.code_of(step) is None
        assert verify.code_of(by_module) is None, "an edit of what it calls would not be noticed"
        assert verify.code_of(Counting()) is None

    def test_a_cache_that_cannot_be_read_or_written_is_no_harm(
        self, numpy_with: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file where the folder should be")
        fast = Counting()
        numpy_with(fast.kernel("source"))
        run(LSTM)
        assert len(fast.calls) > 2

    def test_a_nan_agrees_with_nothing(self) -> None:
        ones = np.ones(3)
        assert verify.relative(ones, ones * np.nan) == float("inf")
        assert verify.relative(ones, np.ones(2)) == float("inf")


def test_cuda_without_a_gpu_says_so() -> None:
    try:
        get("cuda")
    except ImportError as error:
        assert "backend 'cuda': " in str(error)  # noqa: PT017
    else:
        pytest.skip("there is a GPU")
