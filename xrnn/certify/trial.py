"""A trial: one cell, in one option, on one backend and in one dtype, to test the laws on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from xrnn.backends import Backend, host, locate
from xrnn.cells import Cell
from xrnn.layers.layer import Layer
from xrnn.typing import Array, dtype_name

I, H = 3, 4


@dataclass(frozen=True)
class Option:
    """One way to use a layer, and the shapes of its inputs."""

    name: str
    T: int = 4
    B: int = 3
    lengths: tuple[int, ...] | None = None
    state: bool = True
    num_layers: int = 1
    bidirectional: bool = False
    reverse: bool = False
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of time and batch in xs."""
        return (1, 0) if self.batch_first else (0, 1)


OPTIONS = (
    Option("plain"),
    Option("T=1", T=1),
    Option("T=0", T=0),
    Option("B=1", B=1),
    Option("B=0", B=0),
    Option("no state", state=False),
    Option("no bias", bias=False),
    Option("lengths", lengths=(2, 0, 4)),
    Option("batch first", lengths=(2, 0, 4), batch_first=True),
    Option("both directions", lengths=(4, 1, 3), bidirectional=True),
    Option("reverse", lengths=(3, 0, 4), num_layers=2, reverse=True),
    Option("3 layers", num_layers=3),
    Option("3 layers, both", lengths=(1, 4, 0), num_layers=3, bidirectional=True),
    Option("dropout", num_layers=2, dropout=0.4),
)


class Inputs(NamedTuple):
    """The arguments of a forward and a backward pass, as NumPy arrays."""

    xs: Array
    state: tuple[Array, ...] | None
    lengths: list[int] | None
    dys: Array | None
    dlast: tuple[Array | None, ...]


class Results(NamedTuple):
    """The results of the two passes, as NumPy arrays."""

    ys: Array
    last: tuple[Array, ...]
    dxs: Array
    dfirst: tuple[Array, ...]
    dweights: dict[str, Array]

    def arrays(self) -> list[Array]:
        """All results as one list."""
        return [self.ys, *self.last, self.dxs, *self.dfirst, *self.dweights.values()]


@dataclass(frozen=True)
class Trial:
    """One cell, one option, one backend, one dtype: a layer and random inputs for it."""

    cell: Cell[Any]
    option: Option
    device: str = "cpu"
    dtype: str = "float64"

    @cached_property
    def backend(self) -> Backend:
        return locate(self.device)[0]

    @cached_property
    def layer(self) -> Layer[Any]:
        return self.make_layer({k: w.astype(self.dtype) for k, w in self.weights.items()})

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Twice the initial weights, on the host, so that activations are not nearly linear."""
        layer = self.make_layer(None, device="cpu")
        return {k: 2 * w.astype("float64") for k, w in layer.weights.items()}

    @property
    def seed(self) -> dict[str, int]:
        """The further argument of `Layer.forward`: a seed, if there is dropout."""
        return {"seed": 0} if self.option.dropout else {}

    def make_layer(self, weights: dict[str, Array] | None, device: str | None = None) -> Layer[Any]:
        """A layer with this trial's option and these NumPy weights in their dtype."""
        o, device = self.option, self.device if device is None else device
        dtype: Any = self.dtype
        if weights is not None:
            dtype = dtype_name(next(iter(weights.values())).dtype)
        layer = Layer(
            self.cell,
            I,
            H,
            num_layers=o.num_layers,
            bidirectional=o.bidirectional,
            reverse=o.reverse,
            dropout=o.dropout,
            bias=o.bias,
            batch_first=o.batch_first,
            dtype=dtype,
            device=device,
            rng=0,
            init="uniform",
        )
        if weights is not None:
            put = layer.weights.placement.from_host
            layer.weights = {name: put(w) for name, w in weights.items()}
        return layer

    @cached_property
    def inputs(self) -> Inputs:
        o, parts = self.option, len(self.layer.parts())
        shape = [0, 0]
        shape[o.axes[0]], shape[o.axes[1]] = o.T, o.B
        states = [(parts, o.B, H)] * len(self.cell.states)
        return Inputs(
            self._padded(self._random(1, (*shape, I))),
            tuple(map(self._random, (2, 3), states)) if o.state else None,
            None if o.lengths is None else list(o.lengths),
            self._padded(self._random(4, (*shape, self.layer.directions * H))),
            tuple(map(self._random, (5, 6), states)),
        )

    def run(self, inputs: Inputs, layer: Layer[Any] | None = None) -> Results:
        """Forward and backward on the backend."""
        ys, last, dxs, dfirst, dweights = self.run_there(self.on_device(inputs), layer)
        host = self.backend.to_host
        named = {name: host(g) for name, g in dweights.items()}
        return Results(host(ys), tuple(map(host, last)), host(dxs), tuple(map(host, dfirst)), named)

    def run_there(self, inputs: Inputs, layer: Layer[Any] | None = None) -> Results:
        """Forward and backward with arrays of the backend."""
        layer = layer or self.layer
        ys, last, tape = layer.forward(inputs.xs, inputs.state, inputs.lengths, **self.seed)
        return Results(ys, last, *layer.backward(tape, inputs.dys, inputs.dlast))

    def on_device(self, inputs: Inputs) -> Inputs:
        """The inputs as arrays of the backend."""

        def put(a: Array | None) -> Array | None:
            return None if a is None else self.layer.weights.placement.from_host(a)

        state = None if inputs.state is None else tuple(map(put, inputs.state))
        dlast = tuple(map(put, inputs.dlast))
        return Inputs(put(inputs.xs), state, inputs.lengths, put(inputs.dys), dlast)

    def padding(self) -> Array:
        """Whether a sequence has ended: booleans in the layout of xs, without its last axis."""
        o, xp = self.option, host.xp
        lengths = xp.asarray(o.lengths or [o.T] * o.B, dtype=xp.int64)
        past = xp.arange(o.T)[:, None] >= lengths[None, :]
        return past.T if o.batch_first else past

    def _random(self, seed: int, shape: tuple[int, ...]) -> Array:
        return host.generator(seed).normal(size=shape).astype(self.dtype)

    def _padded(self, a: Array) -> Array:
        """a with NaN past the ends of sequences, which shows in the results if it is read."""
        a[self.padding()] = float("nan")
        return a
