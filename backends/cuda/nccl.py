"""Sums over the processes of several GPUs, with NCCL.

CuPy finds NCCL where the package nvidia-nccl-cu12 or nvidia-nccl-cu13 is installed; without it
CuPy warns, and arrays go to the host to be added up.  The processes are those of MPI, which hands
on the name that NCCL makes for them, and each must have a GPU of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy

from xrnn.typing import Array, dtype_name


def adder(world: Any) -> Callable[[Array], Callable[[], object]] | None:
    """As `xrnn.backends.base.Backend.adder`; on the present device, None without NCCL.

    Sums are made on a stream of their own, while kernels of the backward pass run on the present
    one, and each begins when all is done that was given to that stream before.
    """
    from cupy.cuda import nccl

    if not all(world.gather(nccl.available)):
        return None
    types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
    name = world.from_root(nccl.get_unique_id)
    ranks = nccl.NcclCommunicator(world.size, name, world.rank)
    stream = cupy.cuda.Stream(non_blocking=True)

    def add(a: Array) -> Callable[[], object]:
        stream.wait_event(cupy.cuda.get_current_stream().record())
        kind = types[dtype_name(a.dtype)]
        ranks.allReduce(a.data.ptr, a.data.ptr, a.size, kind, nccl.NCCL_SUM, stream.ptr)
        done = stream.record()
        return lambda: cupy.cuda.get_current_stream().wait_event(done)

    return add
