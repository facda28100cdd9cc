"""What the native loops are built on: activations, products, threads, instruction sets.

Every instruction set that this processor has is held to the same bounds.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn.backends.cpu import extension

if extension.ABSENT:
    pytest.skip(extension.ABSENT, allow_module_level=True)
native: Any = extension._native

ROOT = Path(__file__).parent.parent
REALS = ["float32", "float64"]


@pytest.fixture(
    params=["amxint8", "avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"]
)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    if request.param not in native.isas():
        pytest.skip(f"this processor has no {request.param}")
    before = native.isa()
    yield native.isa(request.param)
    native.isa(before)


def in_a_process(
    code: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# --- activations


def exact(name: str, x: Any) -> Any:
    """The activation in a type with at least 11 bits more."""
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    if np.finfo(wide).nmant < np.finfo(x.dtype).nmant + 11:
        pytest.skip("no wider type here to compare with")
    w = x.astype(wide)
    if name == "tanh":
        return np.tanh(w)
    e = np.exp(-abs(w))
    return np.where(w > 0, 1, e) / (1 + e)


def run(name: str, x: Any) -> Any:
    y = np.empty_like(x)
    native.activation(name == "tanh", x, y)
    return y


def last_place(y: Any, dtype: str) -> Any:
    """The distance of neighbouring numbers of the dtype at y."""
    _, exponent = np.frexp(abs(y))
    return np.ldexp(y.dtype.type(1), exponent - 1 - np.finfo(dtype).nmant)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2.0), ("float64", 2.2)])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_activations_in_units_of_the_last_place(
    isa: str, dtype: str, name: str, bound: float
) -> None:
    rng = np.random.default_rng(5)
    info = np.finfo(dtype)
    far = -float(np.log(info.smallest_subnormal)) * 1.05
    deep = float(np.log10(info.smallest_subnormal))
    n = 100_000
    near = [rng.uniform(-r, r, n) for r in (0.4, 1, 4, 25, far)]
    small = 10 ** rng.uniform(deep, 0, n) * rng.choice([-1, 1], n)
    x = np.concatenate([*near, small]).astype(dtype)
    y, wanted = run(name, x), exact(name, x)
    error = abs(y - wanted) / last_place(wanted, dtype)
    # Denormal results are 0, and those next to them may be.
    error[abs(wanted) < info.smallest_normal * (1 + 4 * info.eps)] = 0
    worst = int(np.argmax(error))
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is {error[worst]:.2f} units off"
    denormal = abs(wanted) < info.smallest_normal * (1 - 4 * info.eps)
    assert denormal.sum() > 1000
    assert not y[denormal].any()


@pytest.mark.parametrize("dtype", REALS)
def test_activations_at_the_ends(isa: str, dtype: str) -> None:
    info = np.finfo(dtype)
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max], dtype)
    tanh = run("tanh", x)
    assert np.array_equal(tanh, np.array([0, 0, 1, -1, np.nan, 1, -1], dtype), equal_nan=True)
    assert list(np.signbit(tanh[:2])) == [False, True]
    wanted = np.array([0.5, 0.5, 1, 0, np.nan, 1, 0], dtype)
    assert np.array_equal(run("sigmoid", x), wanted, equal_nan=True)
    tiny = np.array([1, -1, 3, -7], dtype) * info.smallest_subnormal
    assert not run("tanh", tiny).any()
    assert np.all(run("sigmoid", tiny) == 0.5)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_activations_do_not_depend_on_the_lane_and_write_no_further(
    isa: str, dtype: str, name: str
) -> None:
    x = np.linspace(-3, 3, 41, dtype=dtype)
    whole = run(name, x)
    for n in range(len(x) + 1):
        y = np.full(len(x), 7, dtype)
        native.activation(name == "tanh", x[:n], y[:n])
        assert np.array_equal(y[:n], whole[:n])
        assert np.all(y[n:] == 7)
    native.activation(name == "tanh", x, x)
    assert np.array_equal(x, whole)


# --- products

SIZES = [
    (1, 1, 1),
    (1, 33, 5),
    (7, 16, 17),
    (13, 31, 40),
    (25, 100, 300),  # two blocks of k
    (110, 1030, 9),  # blocks of rows and of columns
    (3, 64, 700),
]


def multiply(A: Any, B: Any, *, ta: bool = False, tb: bool = False, **how: Any) -> Any:
    """A B by the native product, which is handed the transposes that are asked for."""
    (m, k), n = A.shape, B.shape[1]
    C = how.get("C", np.full((m, n), np.nan, A.dtype)).copy()
    a, b = (np.ascontiguousarray(x.T if t else x) for x, t in ((A, ta), (B, tb)))
    bias, threads = how.get("bias"), how.get("threads", 1)
    native.gemm(m, n, k, a, ta, b, tb, C, bias, "C" in how, threads, how.get("rounding", 0))
    return C


def draw(m: int, n: int, k: int, dtype: str) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(m + n + k)
    shapes = ((m, k), (k, n), (m, n))
    A, B, C = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return A, B, C


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", SIZES)
def test_products_are_as_exact_as_their_length_allows(
    isa: str, dtype: str, size: tuple[int, int, int]
) -> None:
    A, B, C = draw(*size, dtype)
    wide = [x.astype(np.longdouble) for x in (A, B, C)]
    bound = (size[2] + 2) * np.finfo(dtype).eps * (abs(wide[0]) @ abs(wide[1]) + abs(wide[2]))
    assert np.all(abs(multiply(A, B) - wide[0] @ wide[1]) <= bound)
    assert np.all(abs(multiply(A, B, C=C) - wide[0] @ wide[1] - wide[2]) <= bound)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", SIZES)
def test_an_element_is_one_chain_over_k(isa: str, dtype: str, size: tuple[int, int, int]) -> None:
    # Whatever the blocks, an element is what k products of one term make of it, one by one.
    A, B, C = draw(*size, dtype)
    chain = np.zeros_like(C)
    for k in range(size[2]):
        chain = multiply(A[:, k : k + 1], B[k : k + 1, :], C=chain)
    for ta in (False, True):
        for tb in (False, True):
            assert np.array_equal(multiply(A, B, ta=ta, tb=tb), chain)
    bias = C[0].copy()
    rows = np.ascontiguousarray(np.broadcast_to(bias, C.shape))
    assert np.array_equal(multiply(A, B, bias=bias), multiply(A, B, C=rows))


@pytest.mark.parametrize("dtype", REALS)
def test_threads_rows_and_columns_change_no_bit(isa: str, dtype: str) -> None:
    for m, n in ((201, 77), (77, 201)):  # shares of rows, of columns
        A, B, C = draw(m, n, 600, dtype)
        whole = multiply(A, B, C=C)
        for threads in (2, 3, 64):
            for ta in (False, True):
                assert np.array_equal(multiply(A, B, C=C, ta=ta, threads=threads), whole)
        for i in (0, 11, 12, m - 1):
            assert np.array_equal(multiply(A[i : i + 1], B, C=C[i : i + 1])[0], whole[i])
        for j in (0, 31, 32, n - 1):
            alone = multiply(A, B[:, j : j + 1], C=C[:, j : j + 1])
            assert np.array_equal(alone[:, 0], whole[:, j])


def test_a_nan_stays_in_its_row_and_column(isa: str) -> None:
    A, B, _ = draw(29, 50, 70, "float32")
    clean = multiply(A, B)
    A[7, 3] = B[5, 41] = np.nan
    hit = np.zeros(clean.shape, bool)
    hit[7, :] = hit[:, 41] = True
    for ta in (False, True):
        C = multiply(A, B, ta=ta)
        assert np.array_equal(np.isnan(C), hit)
        assert np.array_equal(C[~hit], clean[~hit])


def test_empty_products(isa: str) -> None:
    none = np.zeros((0,), "float32")
    bias = np.array([1, 2, 3], "float32")
    for given, added, wanted in ((None, 0, [0, 0, 0]), (bias, 0, [1, 2, 3]), (None, 1, [7, 7, 7])):
        C = np.full((2, 3), 7, "float32")
        native.gemm(2, 3, 0, none, 0, none, 0, C, given, added, 1, 0)
        assert np.array_equal(C, np.array([wanted, wanted]))
    native.gemm(0, 3, 2, none, 0, np.ones((2, 3), "float32"), 0, none, None, 0, 2, 0)
    native.gemm(3, 0, 2, np.ones((3, 2), "float32"), 1, none, 0, none, None, 0, 2, 0)


def test_many_callers_at_once(isa: str) -> None:
    A, B, _ = draw(96, 96, 300, "float32")
    whole = multiply(A, B)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: multiply(A, B, threads=2), range(32)))
    assert all(np.array_equal(C, whole) for C in results)


def test_a_product_and_its_sum_are_rounded_once(isa: str) -> None:
    if isa == "portable":
        pytest.skip("rounded once or twice, as the processor can")
    for dtype in REALS:
        e = np.finfo(dtype).eps
        A, B, C = (np.full((1, 1), x, dtype) for x in (1 + e, 1 - e, -1))
        assert multiply(A, B, C=C) == -e * e  # the product alone rounds to 1


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from xrnn.backends.cpu import _native as native

def guarded(shape, dtype):  # an array whose end is the end of what may be read
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, room + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    assert mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    array = np.frombuffer(pages, dtype, size // np.dtype(dtype).itemsize, room - size)
    array[:] = 1
    return array.reshape(shape)

native.isa(sys.argv[1])
for dtype in ("float32", "float64"):
    for n in (1, 3, 17, 31):
        x, y = guarded(n, dtype), guarded(n, dtype)
        native.activation(1, x, y)
        native.activation(0, x, y)
    for m, n, k in ((1, 1, 1), (5, 3, 7), (13, 35, 19), (35, 47, 271)):
        for how in range(8 if dtype == "float32" else 4):
            A, B, C = guarded((m, k), dtype), guarded((k, n), dtype), guarded((m, n), dtype)
            form = A, how & 1, B, how >> 1 & 1, C, guarded(n, dtype)
            native.gemm(m, n, k, *form, 0, 1, how >> 2)
            assert np.all(C == k + 1)
print("unharmed")
"""


def test_nothing_past_the_end_of_an_array_is_touched(isa: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("pages are guarded by mprotect")
    done = in_a_process(GUARDED, isa)
    assert done.stdout == "unharmed\n", done.stderr or f"killed by signal {-done.returncode}"


# --- instruction sets


def test_the_environment_chooses_the_instruction_set() -> None:
    code = "from xrnn.backends.cpu import _native; print(_native.isa())"
    for name in native.isas():
        assert in_a_process(code, XRNN_ISA=f" {name.upper()}").stdout.strip() == name
    # The instruction of AVX512_BF16 is slow on processors of Intel.
    about = Path("/proc/cpuinfo")
    slow = {"avx512bf16"} if about.exists() and "GenuineIntel" in about.read_text() else set()
    first = next(name for name in native.isas() if name not in slow)
    assert in_a_process(code, XRNN_ISA="").stdout.strip() == first


def test_an_unknown_instruction_set_changes_nothing() -> None:
    before = native.isa()
    with pytest.raises(ValueError, match="no instruction set mmx here"):
        native.isa("mmx")
    assert native.isa() == before
    assert "portable" in native.isas()


# --- the sources


def sources() -> set[str]:
    """All C of the checkout."""
    found = {p.relative_to(ROOT).as_posix() for p in (ROOT / "backends").glob("*/native/*.[ch]")}
    if not found:
        pytest.skip("not a checkout")
    return found


def test_every_source_is_in_the_build() -> None:
    found = sources()
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert found == {
        name for module in modules["ext-modules"] for name in module["sources"] + module["depends"]
    }


def test_no_source_is_long() -> None:
    for name in sources():
        lines = (ROOT / name).read_text("utf-8").splitlines()
        assert len(lines) <= 400, name
        assert max(map(len, lines)) <= 100, name
