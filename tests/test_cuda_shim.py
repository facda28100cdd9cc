"""The emulated device is tested itself: it must show what it is there to show."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

import ml_dtypes
from emulation import emulated
from shim import build
from shim.runtime import ShimRuntime, matrix, rounded_to_tf32

from xrnn.backends.cuda.plan import Product

SOURCE = "self_test.cu"
KERNELS = (build.HERE / SOURCE).read_text(encoding="utf-8")

INSTANCES = [
    "neighbours", "within_warp", "shuffled", "half_a_barrier", "waits_for_nobody", "activations",
    "reads_unwritten", "writes_at", "counts_blocks", "too_late", "alone", "cluster_sum", "exchange",
    "product16<__half>", "product16<__nv_bfloat16>", "product8",
]  # fmt: skip
SCHEDULES = (0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102, 103, 104, 105)
ZERO = np.int32(0)

#: name → an edit of the exchange, which breaks it
FAULTS = {
    "no wait": ("mbarrier_wait(barriers + now, parity)", "true"),
    "wrong parity": ("parity = k / 2 % 2;", "parity = (k + 1) / 2 % 2;"),
    "one parity": ("parity = k / 2 % 2;", "parity = 0;"),
    "one buffer": ("now = k % 2, parity = k / 2 % 2;", "now = 0, parity = k % 2;"),
    "nothing expected": ("mbarrier_expect(barriers + now, 4 * 16);", ""),
    "too little expected": (
        "mbarrier_expect(barriers + now, 4 * 16);",
        "mbarrier_expect(barriers + now, 16);",
    ),
    "threads of a block part": (
        "    __syncthreads();\n  }\n  cluster_sync();\n  last[",
        "  }\n  cluster_sync();\n  last[",
    ),
    "no start together": (
        "mbarrier_init(barriers + 1);\n  cluster_sync();",
        "mbarrier_init(barriers + 1);",
    ),
}

#: name → a kernel, and a barrier of it that is left out
RACES = {
    "a": ("neighbours", "__syncthreads();  // (a)"),
    "b": ("neighbours", "__syncthreads();  // (b)"),
    "c": ("within_warp", "__syncwarp();  // (c)"),
}


def edited(old: str, new: str) -> dict[str, str]:
    """The sources with an edit, which must be there to be made."""
    assert KERNELS.count(old) == 1
    return {SOURCE: KERNELS.replace(old, new)}


@cache
def compiled() -> dict[str, tuple[str, Any]]:
    """Name → the kernel, and its entry: as they are, with faults and with races, all at once."""
    versions = {name: ({SOURCE: KERNELS}, (SOURCE, name)) for name in INSTANCES}
    versions |= {name: (edited(*edit), (SOURCE, "exchange")) for name, edit in FAULTS.items()}
    versions |= {name: (edited(old, ""), (SOURCE, k)) for name, (k, old) in RACES.items()}
    entries = build.versions(list(versions.values()))
    kernels = [kernel for _, (_, kernel) in versions.values()]
    return dict(zip(versions, zip(kernels, entries, strict=True), strict=True))


def runtime_with(*names: str) -> ShimRuntime:
    """A device with these kernels."""
    runtime = ShimRuntime()
    for name in names:
        kernel, entry = compiled()[name]
        runtime.use((SOURCE, kernel), entry)
    return runtime


@pytest.fixture(scope="module")
def runtime() -> ShimRuntime:
    return runtime_with(*INSTANCES)


def launch(
    runtime: ShimRuntime,
    name: str,
    *args: Any,
    grid: int = 1,
    block: int = 32,
    shared: int = 0,
    cluster: int = 1,
    schedule: int = 0,
) -> None:
    runtime.schedule = schedule
    values = [runtime.pointer(a) if isinstance(a, np.ndarray) and a.ndim else a for a in args]
    runtime.launch(SOURCE, name, (grid,), (block,), values, shared, cluster)


def neighbours(runtime: ShimRuntime, schedule: int, steps: int = 4) -> bytes:
    x = np.arange(128, dtype=np.float32)
    launch(
        runtime, "neighbours", np.int32(steps), x, grid=2, block=64, shared=256, schedule=schedule
    )
    return x.tobytes()


@emulated
def test_a_right_kernel_gives_one_result_under_all_schedules(runtime: ShimRuntime) -> None:
    x = np.arange(128, dtype=np.float32).reshape(2, 64)
    for _ in range(4):
        x = x + np.float32(0.5) * np.roll(x, -1, axis=1)
    assert {neighbours(runtime, schedule) for schedule in SCHEDULES} == {x.tobytes()}


@emulated
@pytest.mark.parametrize("barrier", ["a", "b"])
def test_a_race_is_seen(barrier: str) -> None:
    """Each of the two barriers left out: some schedule gives another result."""
    broken = runtime_with(barrier)
    assert len({neighbours(broken, schedule) for schedule in SCHEDULES}) > 1


@emulated
def test_a_race_within_a_warp_is_seen(runtime: ShimRuntime) -> None:
    def results(one: ShimRuntime) -> set[bytes]:
        found = set()
        for schedule in SCHEDULES:
            x = np.arange(32, dtype=np.float32)
            launch(one, "within_warp", x, shared=128, schedule=schedule)
            found.add(x.tobytes())
        return found

    assert len(results(runtime)) == 1
    assert len(results(runtime_with("c"))) > 1


@emulated
def test_an_order_of_blocks_is_seen(runtime: ShimRuntime) -> None:
    found = set()
    for schedule in SCHEDULES:
        x = np.zeros(5, np.int32)
        launch(runtime, "counts_blocks", x, grid=4, block=1, schedule=schedule)
        found.add(x.tobytes())
    assert len(found) > 1


@emulated
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_deadlock_is_detected(schedule: int, runtime: ShimRuntime) -> None:
    # The ones wait for the block, the others for the cluster, where the block would have to come
    # complete.
    with pytest.raises(RuntimeError, match=rf"half_a_barrier: deadlock \(schedule {schedule}\)"):
        launch(runtime, "half_a_barrier", block=64, shared=8, schedule=schedule)
    neighbours(runtime, 0)  # the next launch is not disturbed


@emulated
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_bounded_wait_ends(schedule: int, runtime: ShimRuntime) -> None:
    x = np.ones(64, np.int32)
    launch(runtime, "waits_for_nobody", x, block=64, shared=8, schedule=schedule)
    assert not x.any()
    neighbours(runtime, 0)


@emulated
def test_activations_are_as_accurate_as_they_say(runtime: ShimRuntime) -> None:
    """But for the errors of two instructions, which common.cuh adds: 2^x and 1/x are exact here."""
    small = 10.0 ** np.linspace(-30, 0, 4001)
    given = [np.linspace(-100, 100, 4001), np.linspace(-3, 3, 4001), small, -small]
    x = np.concatenate([*given, [np.inf, -np.inf, np.nan, 0.0]]).astype(np.float32)
    y = np.zeros((2, len(x)), np.float32)
    launch(runtime, "activations", x, y, grid=len(x) // 8, block=8)
    exact = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid, tanh = 1 / (1 + np.exp(-exact)), np.tanh(exact)
    np.testing.assert_allclose(y[0], sigmoid, rtol=0, atol=2.0**-22.5)
    normal = sigmoid > 2.0**-126
    bound = sigmoid[normal] * (2.0**-21 + abs(exact[normal]) * 2.0**-23)
    finite = np.isfinite(bound)
    assert (abs(y[0][normal] - sigmoid[normal])[finite] <= bound[finite]).all()
    np.testing.assert_allclose(y[1], tanh, rtol=2.0**-21, atol=0)


@emulated
def test_shared_memory_is_poisoned(runtime: ShimRuntime) -> None:
    x = np.zeros(32, np.float32)
    launch(runtime, "reads_unwritten", x, shared=128)
    assert np.isnan(x).all()
    for kind in (np.float16, ml_dtypes.bfloat16, np.float64):
        assert np.isnan(np.full(8, 0xFF, np.uint8).view(kind).astype(float)).all()


@emulated
def test_writing_past_the_shared_memory_is_seen(runtime: ShimRuntime) -> None:
    launch(runtime, "writes_at", np.int32(99), shared=100)
    for where in (100, 127, 1000):
        with pytest.raises(RuntimeError, match="past the end of the shared memory"):
            launch(runtime, "writes_at", np.int32(where), shared=100)


@emulated
def test_a_block_that_has_ended_lends_no_memory(runtime: ShimRuntime) -> None:
    with pytest.raises(RuntimeError, match="a block that has ended"):
        launch(runtime, "too_late", grid=2, cluster=2, block=1, shared=4)


@emulated
def test_a_cluster_of_one_block_has_no_addresses(runtime: ShimRuntime) -> None:
    launch(runtime, "alone", grid=2, cluster=2, block=1, shared=4)
    with pytest.raises(RuntimeError, match="a cluster of one block"):
        launch(runtime, "alone", block=1, shared=4)


@emulated
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"grid": 3, "cluster": 2}, "not a multiple of the cluster"),
        ({"shared": 227 * 1024 + 1}, "more than 227 KB"),
        ({"block": 1025}, "more than 1024 threads"),
    ],
)
def test_what_no_device_would_launch(how: Any, message: str, runtime: ShimRuntime) -> None:
    with pytest.raises(RuntimeError, match=message):
        launch(runtime, "reads_unwritten", np.zeros(2048, np.float32), **how)


@emulated
def test_arguments_are_counted_and_measured(runtime: ShimRuntime) -> None:
    x = np.zeros(64, np.float32)
    with pytest.raises(RuntimeError, match="wrong number of arguments"):
        launch(runtime, "neighbours", ZERO)
    with pytest.raises(RuntimeError, match="argument 0 has the wrong size"):
        launch(runtime, "neighbours", np.int64(0), x)
    with pytest.raises(RuntimeError, match="argument 1 has the wrong size"):
        launch(runtime, "neighbours", ZERO, np.int64(0))
    with pytest.raises(RuntimeError, match="argument 0 has the wrong size"):
        launch(runtime, "neighbours", 0, x)


@emulated
def test_what_does_not_compile_says_why() -> None:
    texts = edited("float mine = x[blockIdx.x * n + me];", "no_such_name;")
    with pytest.raises(RuntimeError, match="no_such_name"):
        build.versions([(texts, (SOURCE, "neighbours"))])


@emulated
def test_kernels_of_a_folder_are_compiled_there(tmp_path: Path) -> None:
    """What is built from them stays beside them."""
    (tmp_path / SOURCE).write_text(KERNELS, encoding="utf-8")
    common = (build.KERNELS / "common.cuh").read_text(encoding="utf-8")
    (tmp_path / "common.cuh").write_text(common, encoding="utf-8")
    one = ShimRuntime([(SOURCE, "neighbours"), (SOURCE, "shuffled")], kernels=tmp_path)
    assert neighbours(one, 0) == neighbours(runtime_with("neighbours"), 0)
    assert len(list(tmp_path.glob("built/*.so"))) == 1


@emulated
def test_shuffles(runtime: ShimRuntime) -> None:
    x = np.zeros((5, 64), np.float32)
    x[0] = np.arange(64)
    lanes, start = np.arange(64) % 32, np.arange(64) // 32 * 32
    expected = [
        start + 3,
        start + (lanes ^ 5),
        start + np.where(lanes < 2, lanes, lanes - 2),
        start + np.where(lanes > 29, lanes, lanes + 2),
    ]
    for schedule in SCHEDULES:
        x[1:] = np.nan
        launch(runtime, "shuffled", x, block=64, schedule=schedule)
        np.testing.assert_array_equal(x[1:], expected)


@emulated
def test_clusters_read_each_other(runtime: ShimRuntime) -> None:
    for schedule in SCHEDULES:
        x = np.arange(8, dtype=np.float32)
        launch(runtime, "cluster_sum", x, grid=8, cluster=4, block=1, shared=4, schedule=schedule)
        np.testing.assert_array_equal(x, [6] * 4 + [22] * 4)


def exchange(runtime: ShimRuntime, schedule: int) -> bytes:
    x, last = np.arange(8, dtype=np.uint32), np.zeros((8, 64), np.uint32)
    how: Any = {"grid": 8, "cluster": 4, "block": 64, "shared": 144, "schedule": schedule}
    launch(runtime, "exchange", np.int32(6), x, last, **how)
    return last.tobytes()


@emulated
def test_stores_that_an_mbarrier_counts(runtime: ShimRuntime) -> None:
    x = np.arange(8, dtype=np.uint32).reshape(2, 4)
    for _ in range(6):
        x = sum(3 ** (3 - rank) * np.roll(x, -rank, axis=1) for rank in range(4)).astype(np.uint32)
    expected = np.repeat(x.ravel(), 64).tobytes()
    assert {exchange(runtime, schedule) for schedule in SCHEDULES} == {expected}


@emulated
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_exchange_is_seen(fault: str, runtime: ShimRuntime) -> None:
    broken, right = runtime_with(fault), exchange(runtime, 0)

    def differs(schedule: int) -> bool:
        try:
            return exchange(broken, schedule) != right
        except RuntimeError:  # a deadlock, or the memory of a block that has ended
            return True

    assert any(differs(schedule) for schedule in SCHEDULES)


@emulated
@pytest.mark.parametrize("name", ["__half", "__nv_bfloat16"])
def test_fragments_of_half_floats_are_a_product(name: str, runtime: ShimRuntime) -> None:
    kind = np.float16 if name == "__half" else ml_dtypes.bfloat16
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=size).astype(kind) for size in ((16, 16), (16, 8)))
    for schedule in SCHEDULES:
        c = np.ones((16, 8), np.float32)
        launch(runtime, f"product16<{name}>", a, b, c, schedule=schedule)
        expected = 1 + 2 * a.astype(float) @ b.astype(float)
        np.testing.assert_allclose(c, expected, atol=1e-5)


@emulated
def test_fragments_of_tf32_are_a_product(runtime: ShimRuntime) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=size).astype(np.float32) for size in ((16, 8), (8, 8)))
    for schedule in SCHEDULES:
        c = np.ones((16, 8), np.float32)
        launch(runtime, "product8", a, b, c, schedule=schedule)
        expected = 1 + 2 * rounded_to_tf32(a).astype(float) @ rounded_to_tf32(b).astype(float)
        np.testing.assert_allclose(c, expected, atol=1e-5)
        assert np.abs(c - (1 + 2 * a.astype(float) @ b.astype(float))).max() > 1e-5


def test_tf32_has_ten_bits() -> None:
    a = np.array([1, 1 + 2.0**-10, 1 + 2.0**-11, -1 - 2.0**-12, np.inf, np.nan], np.float32)
    expected = np.array([1, 1 + 2.0**-10, 1 + 2.0**-10, -1, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(rounded_to_tf32(a), expected)


@pytest.mark.parametrize(
    ("kind", "out", "tf32", "tolerance"),
    [
        ("float32", "float32", False, 1e-6),
        ("float32", "float32", True, 1e-3),
        ("float64", "float64", False, 1e-14),
        ("float16", "float32", False, 1e-6),
        ("float16", "float16", False, 1e-3),
        ("bfloat16", "float32", False, 1e-6),
        ("bfloat16", "bfloat16", False, 8e-3),
    ],
)
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_products(
    kind: str, out: str, tf32: bool, tolerance: float, ta: bool, tb: bool, beta: float
) -> None:
    """On parts of larger arrays, the rest of which stays as it is."""
    runtime, (m, n, k) = ShimRuntime(), (3, 4, 5)
    rng = np.random.default_rng(0)
    types = {"bfloat16": ml_dtypes.bfloat16}
    A = rng.normal(size=((k, m + 2) if ta else (m, k + 2))).astype(types.get(kind, kind))
    B = rng.normal(size=((n, k + 1) if tb else (k, n + 1))).astype(types.get(kind, kind))
    C = np.full((m, n + 3), 0.5 if beta else np.nan).astype(types.get(out, out))
    before = C.copy()
    pointers = [(runtime.pointer(a), a.shape[1]) for a in (A, B, C)]
    runtime.gemm(
        Product(ta, tb, m, n, k, *pointers[0], *pointers[1], beta, *pointers[2], kind, out, tf32)
    )
    left = (A.T[:m] if ta else A[:, :k]).astype(float)
    right = (B[:, :k].T if tb else B[:, :n]).astype(float)
    expected = left @ right + (0.5 if beta else 0)
    difference = np.abs(C[:, :n].astype(float) - expected).max() / np.abs(expected).max()
    assert difference < tolerance
    assert not tf32 or difference > 1e-6
    assert C[:, n:].tobytes() == before[:, n:].tobytes()


def test_memory_is_seen_as_it_lies() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    view = matrix(a.ctypes.data, 3, 2, 4, "float32")
    view[1, 1] = -1
    assert a[1, 1] == -1
    assert matrix(0, 0, 5, 5, "float16").shape == (0, 5)
