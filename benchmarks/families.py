"""Every cell in every dtype on small shapes, forward and backward, for a sanitizer to watch.

``compute-sanitizer --tool memcheck python benchmarks/families.py`` sees each family of kernels
(by vectors of values and one by one, clusters, whole linear sequences), with and without
lengths, in both directions.  Arrays come from the device itself, not from CuPy's pool, in
whose blocks a kernel could read too far unseen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

#: dtype and H: a multiple of 64 for clusters, of 4 for vectors, and an odd one
SHAPES = (("float32", 64), ("float32", 7), ("float16", 64), ("bfloat16", 64), ("float64", 20))
T, B, I = 4, 5, 12


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cells", nargs="*", help="by name; all without")
    parser.add_argument("--backend", default="cuda")
    options = parser.parse_args(argv)
    if options.backend == "cuda":
        import cupy

        cupy.cuda.set_allocator(None)
    failed = 0
    for line, fine in run(options.backend, options.cells):
        failed += not fine
        print(line, flush=True)
    if options.backend == "cuda":
        from xrnn.backends.cuda.device import RUNTIME

        print("kernels:", *RUNTIME.compiled(), sep="\n  ")
    return 1 if failed else 0


def run(device: str, cells: Sequence[str] = ()) -> Iterator[tuple[str, bool]]:
    """One line for each cell, dtype, size and precision, and whether its results are finite."""
    from xrnn.cells import BY_NAME

    for cell in [BY_NAME[name] for name in cells or BY_NAME]:
        for dtype, H in SHAPES:
            if dtype == "bfloat16" and device not in ("cpu", "cuda"):
                continue  # the other libraries have another dtype of that name
            for precision in ("ieee", "tf32") if dtype == "float32" else ("ieee",):
                head = f"{cell.name:12} {dtype:9} H={H:<4} {precision}"
                try:
                    fine = finite(device, cell, dtype, H, precision)
                except Exception as error:  # the next family may do better
                    yield f"{head} {type(error).__name__}: {error}", False
                else:
                    yield f"{head} {'done' if fine else 'NOT FINITE'}", fine


def finite(device: str, cell: Any, dtype: Any, H: int, precision: Any) -> bool:
    """Whether all results are, with lengths (0 among them) and without, both ways."""
    import numpy as np

    import xrnn
    from xrnn.backends import get

    backend, rng = get(device), np.random.default_rng(0)
    layer = xrnn.Layer(
        cell, I, H, bidirectional=True, dtype=dtype, device=device, precision=precision
    )
    kind = layer.weights["W_l0"].dtype
    for lengths in (None, [T, 0, 1, T, 2]):
        drawn = (backend.from_host(rng.normal(size=(T, B, n))) for n in (I, 2 * H))
        xs, dys = (backend.xp.astype(array, kind) for array in drawn)
        ys, state, tape = layer.forward(xs, lengths=lengths)
        dxs, dstate, dweights = layer.backward(tape, dys)
        for array in (ys, *state, dxs, *dstate, *dweights.values(), layer(xs, lengths=lengths)[0]):
            if not np.isfinite(backend.to_host(array).astype("float64")).all():
                return False
    return True


if __name__ == "__main__":
    sys.exit(main())
