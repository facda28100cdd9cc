"""Tensors as arrays of an xrnn backend and arrays as tensors, both without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from xrnn.backends import get, host
from xrnn.backends.cpu.threads import at_most
from xrnn.engine.checks import Placement
from xrnn.typing import Array

#: the dtypes that the kernels have, by xrnn's names
DTYPES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


@dataclass(frozen=True, eq=False)
class Bridge:
    """The way between the tensors of one device and dtype, and the arrays of a backend.

    Parameters
    ----------
    placement : Placement
        That of the arrays.
    array : callable
        ``array(tensor) -> array`` over the same memory.
    tensor : callable
        ``tensor(array) -> tensor`` over the same memory.
    running : callable
        ``running()``: a context for computations: on the stream, or with the number of threads,
        that PyTorch uses here.
    """

    placement: Placement
    array: Callable[[torch.Tensor], Array]
    tensor: Callable[[Array], torch.Tensor]
    running: Callable[[], Any]


def problem(device: torch.device, dtype: torch.dtype) -> str:
    """Why tensors of this device and dtype cannot be computed with; "" if they can."""
    if dtype not in DTYPES:
        names = ", ".join(map(str, DTYPES))
        return f"its weights are {dtype}; they must be one of {names}"
    if device.type not in ("cpu", "cuda"):
        return f"its weights are on {device.type}; xrnn has kernels for cpu and cuda"
    try:
        get(device.type)
        host.named_dtype(DTYPES[dtype])
    except ImportError as error:
        return str(error)
    return ""


@cache
def bridge(kind: str, device: torch.device, dtype: torch.dtype) -> Bridge:
    """The bridge for the tensors of a module.

    Raises
    ------
    TypeError
        If such tensors cannot be computed with; `kind` names the module in the message.
    """
    if reason := problem(device, dtype):
        raise TypeError(
            f"{kind}: {reason}; xrnn.adapters.torch.restore(model) gives PyTorch's modules back"
        )
    backend = get(device.type)
    array, tensor = _ways(device, backend.xp)
    if dtype == torch.bfloat16:
        # Its numbers travel as integers: NumPy's own dtypes do not include it.
        array, tensor = _as_integers(array, tensor, host.named_dtype("bfloat16"))
    example = array(torch.zeros(0, device=device, dtype=dtype))
    running = _threads if device.type == "cpu" else _stream(backend.xp, device)
    return Bridge(Placement.of(kind, "weight_ih_l0", example), array, tensor, running)


def _ways(
    device: torch.device, xp: Any
) -> tuple[Callable[[torch.Tensor], Array], Callable[[Array], torch.Tensor]]:
    """What makes arrays of tensors, and tensors of arrays."""
    if device.type == "cpu":
        return torch.Tensor.numpy, torch.from_numpy
    # Otherwise PyTorch refuses to export what needs gradients.
    return lambda t: xp.from_dlpack(t.detach()), torch.from_dlpack  # type: ignore[attr-defined]


def _as_integers(
    array: Callable[[torch.Tensor], Array], tensor: Callable[[Array], torch.Tensor], dtype: Any
) -> tuple[Callable[[torch.Tensor], Array], Callable[[Array], torch.Tensor]]:
    return (
        lambda t: array(t.view(torch.int16)).view(dtype),
        lambda a: tensor(a.view("int16")).view(torch.bfloat16),
    )


def _threads() -> Any:
    return at_most(torch.get_num_threads())


def _stream(xp: Any, device: torch.device) -> Callable[[], Any]:
    """What makes PyTorch's current stream of the device CuPy's."""

    @contextmanager
    def running() -> Iterator[None]:
        pointer = torch.cuda.current_stream(device).cuda_stream
        with xp.cuda.Device(device.index), xp.cuda.ExternalStream(pointer, device.index):
            yield

    return running
