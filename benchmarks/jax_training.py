"""Time training steps in JAX: ``python benchmarks/jax_training.py --threads 1``.

`xrnn.adapters.jax.apply`, an LSTM written by hand as a `jax.lax.scan` with JAX's own gradients, and
`flax.nnx.RNN` take turns in this one process.  A step is forward, loss, gradients and their
subtraction, all of it compiled.  The first two begin with the same weights, and their losses must
be the same.  With one thread the time is that of the processor.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from adapters import in_turns
from run import FULL, QUICK

#: T, B, I, H
SIZES = ((100, 32, 64, 128), (35, 20, 200, 200))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2))
    parser.add_argument("--quick", action="store_true", help="rough")
    options = parser.parse_args(argv)
    if options.threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = flags
    effort = QUICK if options.quick else FULL
    for size in SIZES:
        sides = steps(*size)
        times = in_turns(list(sides.values()), effort, options.threads)
        mine = times[0]
        for name, theirs in zip(sides, times, strict=True):
            print(
                f"{size!s:20} {name:20} {median(theirs):8.2f} ms, at least {min(theirs):8.2f}; "
                f"xrnn / this {median(mine) / median(theirs):.2f}, "
                f"of the least {min(mine) / min(theirs):.2f}",
                flush=True,
            )
    return 0


def steps(T: int, B: int, I: int, H: int) -> dict[str, Callable[[], float]]:
    """The step of each side, after a comparison of the losses of equal ones.

    Raises
    ------
    ValueError
        If they differ.
    """
    import jax
    from flax import nnx

    import xrnn
    from xrnn.adapters.jax import apply

    xs = jax.random.normal(jax.random.key(0), (T, B, I), "float32")
    layer = xrnn.LSTM(I, H, device="jax", rng=0)
    weights = dict(layer.weights)
    module = nnx.RNN(nnx.OptimizedLSTMCell(I, H, rngs=nnx.Rngs(0)), time_major=True)
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)

    def of_flax(parameters: Any, xs: Any) -> Any:
        return nnx.merge(graph, parameters, rest)(xs, rngs=nnx.Rngs(0))

    found = {
        "xrnn": step(lambda weights, xs: apply(layer, weights, xs)[0], weights, xs),
        "jax.lax.scan": step(by_hand, weights, xs),
        "flax.nnx.RNN": step(of_flax, parameters, xs),
    }
    losses = [run() for run in found.values()]
    if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
        raise ValueError(f"{(T, B, I, H)}: the losses are {losses}")
    return found


def by_hand(weights: Any, xs: Any) -> Any:
    """The outputs (T, B, H) of an LSTM, with xrnn's weights."""
    import jax
    import jax.numpy as jnp

    W, U, b = (weights[f"{name}_l0"] for name in "WUb")

    def one(state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(x @ W.T + h @ U.T + b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((xs.shape[1], U.shape[1]), xs.dtype)
    return jax.lax.scan(one, (zero, zero), xs)[1]


def step(function: Callable[..., Any], parameters: Any, xs: Any) -> Callable[[], float]:
    """A compiled training step of a function (parameters, xs) → ys, always from the same point."""
    import jax
    import jax.numpy as jnp

    def update(parameters: Any, xs: Any) -> Any:
        def loss(parameters: Any) -> Any:
            return jnp.mean(function(parameters, xs) ** 2)

        value, gradients = jax.value_and_grad(loss)(parameters)
        return jax.tree.map(lambda w, d: w - 1e-3 * d, parameters, gradients), value

    compiled = jax.jit(update)

    def run(parameters: Any, xs: Any) -> float:
        return float(jax.block_until_ready(compiled(parameters, xs))[1])

    return partial(run, parameters, xs)


if __name__ == "__main__":
    sys.exit(main())
