"""How fast a case could be at best on this GPU, from three rates measured on it.

A floor is the largest of three times: that of the arithmetic, at the rate of a large matrix
product; that of the memory, each input read once and each output written once, at the rate of
a large copy; and that of the chain through time, one exchange between the blocks of a cluster
a step.  Nothing that computes the case can be much faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
BYTES = {"fp32-ieee": 4, "tf32": 4, "fp16": 2, "bf16": 2}
TORCH_TYPES = {"fp32-ieee": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}

EXCHANGE = Path(__file__).with_name("exchange.cu")

#: edge of the matrices, bytes of the array, and rounds that the rates are measured with
EDGE, COPIED, ROUNDS = 8192, 2**31, 20000


@dataclass(frozen=True)
class Rates:
    """Operations a second, bytes a second (read plus written), seconds of one exchange.

    `exchange` is 0 where the device has no clusters, or it could not be measured.
    """

    product: float
    copy: float
    exchange: float


@dataclass(frozen=True)
class Floor:
    """The three times in milliseconds."""

    product: float
    copy: float
    exchange: float

    @property
    def ms(self) -> float:
        return max(self.product, self.copy, self.exchange)

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(("product", "copy", "exchange"), key=lambda name: getattr(self, name))


def floor(case: Case, rates: Rates) -> Floor:
    """The floor of a case.

    >>> rates = Rates(product=1e12, copy=1e9, exchange=1e-6)
    >>> floor(Case("rnn", 10, 1, 100, 100, "inference"), rates).bound
    'copy'
    """
    return Floor(
        1e3 * operations(case) / rates.product,
        1e3 * traffic(case) / rates.copy,
        1e3 * exchanges(case) * rates.exchange,
    )


def operations(case: Case) -> int:
    """Multiplications and additions of the products; back there are two for each forward."""
    forward = 2 * case.T * case.B * GATES[case.cell] * case.H * (case.I + case.H)
    return forward * (3 if case.mode == "training" else 1)


def traffic(case: Case) -> int:
    """Bytes of what goes in and out: x, y and the weights; in training also their gradients."""
    steps = case.T * case.B * (case.I + case.H)
    weights = GATES[case.cell] * case.H * (case.I + case.H)
    return (steps + weights) * BYTES[case.precision] * (2 if case.mode == "training" else 1)


def exchanges(case: Case) -> int:
    """How often all blocks must hear of one another: once a step, each way."""
    return case.T * (2 if case.mode == "training" else 1)


def measure(precision: str) -> Rates:
    """The rates of this GPU, for products in this precision."""
    return Rates(_product(precision), _copy(), _exchange())


def _product(precision: str) -> float:
    import torch

    cuda: Any = torch.backends.cuda
    before = cuda.matmul.fp32_precision
    cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    dtype = getattr(torch, TORCH_TYPES[precision])
    a, b = (torch.randn(EDGE, EDGE, device="cuda").to(dtype) for _ in range(2))
    seconds = _seconds(lambda: torch.matmul(a, b))
    cuda.matmul.fp32_precision = before
    return float(2 * EDGE**3 / seconds)


def _copy() -> float:
    import torch

    a = torch.randn(COPIED // 4, device="cuda")
    b = torch.empty_like(a)
    return 2 * COPIED / _seconds(lambda: b.copy_(a))


def _seconds(call: Callable[[], Any]) -> float:
    """The median of ten calls, by the device's clock."""
    import torch

    cuda: Any = torch.cuda
    times: list[float] = []
    for _ in range(13):
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    cuda.empty_cache()
    return median(times[3:])


def _exchange() -> float:
    """Seconds in which all 8 blocks of a cluster send each other 16 bytes and have them."""
    import cupy

    if int(cupy.cuda.Device().compute_capability) < 90:
        return 0.0
    module = cupy.RawModule(code=exchange_source(), options=("-std=c++17",))
    kernel, out = module.get_function("exchange"), cupy.zeros(8, dtype="uint32")

    def run(rounds: int) -> float:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        kernel((8,), (32,), (cupy.int32(rounds), out), shared_mem=272)
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3

    run(ROUNDS)
    return (median(run(ROUNDS) for _ in range(5)) - median(run(1) for _ in range(5))) / ROUNDS


def exchange_source() -> str:
    """The kernel with the headers of xrnn's own, as NVRTC takes it."""
    from xrnn.backends.cuda import runtime

    return runtime.text("cluster.cuh") + EXCHANGE.read_text("utf-8")
