"""A trial: one cell, in one option, on one backend and in one dtype, to test the laws on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from xrnn.backends import Backend, host, locate
from xrnn.cells import Cell
from xrnn.engine.axes import each_array
from xrnn.layers.layer import Layer
from xrnn.typing import Array, Form, Masked, Precision, dtype_name

#: inputs, hidden units, and the hidden units of layers that differ in them
I, H, UNEVEN = 3, 4, (4, 2)

#: a state as NumPy arrays: for each part an array, or a tuple of them, or None
Parts = tuple[Any, ...]


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
    uneven: bool = False
    #: the sequences and steps (b, t) that a mask leaves out, and those with a reset
    left_out: tuple[tuple[int, int], ...] = ()
    resets: tuple[tuple[int, int], ...] = ()
    masked: Masked = "zero"
    learn_state: bool = False
    #: how the weights are frozen; inference alone is tested then
    weights: Form | None = None

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of time and batch in xs."""
        return (1, 0) if self.batch_first else (0, 1)


#: what a mask leaves out, (b, t): steps in front, between and at the end, and all of sequence 1
HOLES = ((0, 0), (0, 2), (2, 1), (2, 3), (2, 4), *((1, t) for t in range(5)))

#: at the first step, at steps that `HOLES` has (in front, between, at the end), and at others
RESETS = ((0, 0), (0, 2), (0, 4), (1, 2), (2, 2), (2, 3))

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
    Option("all end early", T=6, lengths=(2, 0, 3), num_layers=2, bidirectional=True),
    Option("3 layers", num_layers=3),
    Option("3 layers, both", lengths=(1, 4, 0), num_layers=3, bidirectional=True),
    Option("dropout", num_layers=2, dropout=0.4),
    Option("uneven", lengths=(1, 4, 0), num_layers=2, uneven=True, bidirectional=True),
    Option("mask held", T=5, left_out=HOLES, masked="hold", batch_first=True),
    Option("mask held, reverse", T=5, left_out=HOLES, masked="hold", reverse=True),
    Option("resets", T=5, resets=RESETS),
    Option("resets, dropout", resets=RESETS, num_layers=2, dropout=0.4),
    Option("mask and resets", T=5, lengths=(5, 3, 4), left_out=HOLES, resets=RESETS),
    Option("both, in both", T=5, left_out=HOLES, resets=RESETS, bidirectional=True),
    Option("learned state", lengths=(2, 0, 4), state=False, num_layers=2, learn_state=True),
    Option("learned, resets", T=5, state=False, resets=RESETS, learn_state=True),
)

#: the same with frozen weights of 8 bits
COMPACT = (
    Option("int8", weights="int8"),
    Option("int8, B=1", B=1, num_layers=2, weights="int8"),
    Option("int8, both", lengths=(2, 0, 4), bidirectional=True, bias=False, weights="int8"),
    Option("int8, resets", T=5, left_out=HOLES, resets=RESETS, batch_first=True, weights="int8"),
)


class Inputs(NamedTuple):
    """The arguments of a forward and a backward pass, as NumPy arrays."""

    xs: Array
    state: Parts | None
    lengths: list[int] | None
    dys: Array | None
    dlast: Parts
    steps: dict[str, Any]
    """The arguments that say more about the steps: mask, resets"""


class Results(NamedTuple):
    """The results of the two passes, as NumPy arrays."""

    ys: Array
    last: Parts
    dxs: Array
    dfirst: Parts
    dweights: dict[str, Array]

    def arrays(self) -> list[Array]:
        """All results as one list."""
        last, dfirst = leaves(self.last), leaves(self.dfirst)
        return [self.ys, *last, self.dxs, *dfirst, *self.dweights.values()]


def leaves(state: Parts | None) -> list[Array]:
    """All arrays of a state."""
    found: list[Array] = []
    for part in state or ():
        found += part if isinstance(part, tuple) else [] if part is None else [part]
    return found


def each(change: Callable[[Array], Array], state: Parts | None) -> Any:
    """A state with a change to each of its arrays; None, and parts that are, stay so."""
    if state is None:
        return None
    return tuple([None if part is None else each_array(change, part) for part in state])


@dataclass(frozen=True)
class Trial:
    """One cell, one option, one backend, one dtype, one precision of products: a layer and random
    inputs for it."""

    cell: Cell[Any]
    option: Option
    device: str = "cpu"
    dtype: str = "float64"
    #: of products of float32; layers of other dtypes that a law makes have "ieee"
    precision: Precision = "ieee"

    @cached_property
    def backend(self) -> Backend:
        return locate(self.device)[0]

    @cached_property
    def layer(self) -> Layer[Any]:
        return self.make_layer({k: w.astype(self._kind) for k, w in self.weights.items()})

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Twice the initial weights, on the host, so that activations are not nearly linear."""
        layer = self.make_layer(None, device="cpu")
        return {k: 2 * w.astype("float64") for k, w in layer.weights.items()}

    @property
    def applies(self) -> bool:
        """Whether the option is one of this library and dtype."""
        here = self.backend.name == "cpu" and self.dtype == "float32"
        return self.option.weights is None or here

    @property
    def undecided(self) -> bool:
        """Whether rounding may decide on which side of a kink a pre-activation lies."""
        coarse = self.dtype == "bfloat16" or self.precision == "bf16"
        return coarse and not self.cell.analytic

    @property
    def random(self) -> bool:
        """Whether forward passes draw random numbers."""
        return self.option.dropout > 0 or self.layer.weight_drop > 0 or bool(self.cell.noise)

    @property
    def seed(self) -> int | None:
        """The seed for `Layer.forward`, if it needs one."""
        return 0 if self.random else None

    def make_layer(self, weights: dict[str, Array] | None, device: str | None = None) -> Layer[Any]:
        """A layer with this trial's option and these NumPy weights in their dtype."""
        o, device = self.option, self.device if device is None else device
        dtype: Any = self.dtype
        if weights is not None:
            dtype = dtype_name(next(iter(weights.values())).dtype)
        layer = Layer(
            self.cell,
            I,
            UNEVEN[: o.num_layers] if o.uneven else H,
            num_layers=o.num_layers,
            bidirectional=o.bidirectional,
            reverse=o.reverse,
            dropout=o.dropout,
            bias=o.bias,
            batch_first=o.batch_first,
            learn_state=o.learn_state,
            dtype=dtype,
            device=device,
            rng=0,
            init="uniform",
            precision=self.precision if dtype == "float32" else "ieee",
        )
        if weights is not None:
            put = layer.weights.placement.from_host
            layer.weights = {name: put(w) for name, w in weights.items()}
            if o.weights is not None and self.applies:
                layer.freeze(weights=o.weights)
        return layer

    @cached_property
    def inputs(self) -> Inputs:
        o, layer = self.option, self.layer
        shape = [0, 0]
        shape[o.axes[0]], shape[o.axes[1]] = o.T, o.B
        outputs = layer.directions * layer.widths(o.num_layers - 1)[0]
        return Inputs(
            self._padded(self._random(1, (*shape, I)), self.padding()),
            self._random_state(2) if o.state else None,
            None if o.lengths is None else list(o.lengths),
            self._padded(self._random(4, (*shape, outputs)), self.silent()),
            self._random_state(5),
            self._steps(),
        )

    def run(self, inputs: Inputs, layer: Layer[Any] | None = None) -> Results:
        """Forward and backward on the backend."""
        ys, last, dxs, dfirst, dweights = self.run_there(self.on_device(inputs), layer)
        host = self.backend.to_host
        named = {name: host(g) for name, g in dweights.items()}
        return Results(host(ys), each(host, last), host(dxs), each(host, dfirst), named)

    def run_there(self, inputs: Inputs, layer: Layer[Any] | None = None) -> Results:
        """Forward and backward with arrays of the backend.  If the weights serve inference alone,
        all gradients are 0, and those of weights left out."""
        layer = layer or self.layer
        if self.option.weights is not None:
            xp = self.backend.xp
            steps = {name: value for name, value in inputs.steps.items() if name != "t"}
            ys, last = layer(inputs.xs, inputs.state, inputs.lengths, **steps)
            return Results(ys, last, xp.zeros_like(inputs.xs), each(xp.zeros_like, last), {})
        how: Any = {"seed": self.seed, **inputs.steps}
        ys, last, tape = layer.forward(inputs.xs, inputs.state, inputs.lengths, **how)
        return Results(ys, last, *layer.backward(tape, inputs.dys, inputs.dlast))

    def on_device(self, inputs: Inputs) -> Inputs:
        """The inputs as arrays of the backend."""

        put = self.layer.weights.placement.from_host
        state, dlast = each(put, inputs.state), each(put, inputs.dlast)
        dys = None if inputs.dys is None else put(inputs.dys)
        return Inputs(put(inputs.xs), state, inputs.lengths, dys, dlast, inputs.steps)

    def padding(self) -> Array:
        """Whether a step is not valid: booleans in the layout of xs, without its last axis."""
        past = self._past() | self._at(self.option.left_out)
        return past.T if self.option.batch_first else past

    def silent(self) -> Array:
        """Whether the output of a step is 0 whatever the arguments; in the same layout."""
        o, past = self.option, self._past()
        silent = past | self._at(o.left_out)
        if o.masked == "hold":
            ways = (False, True) if o.bidirectional else (o.reverse,)
            held = [self._held(~silent, reverse) for reverse in ways]
            silent = past | ~host.xp.any(host.xp.stack(held), axis=0)
        return silent.T if o.batch_first else silent

    def _held(self, valid: Array, reverse: bool) -> Array:
        """Whether a step is valid, or one before it since the last reset (T, B)."""
        T, resets = self.option.T, self._at(self.option.resets)
        held = valid.copy()
        # A reset lies between a step and the one before it, in time.
        for t in range(T - 2, -1, -1) if reverse else range(1, T):
            before, cut = (t + 1, resets[t + 1]) if reverse else (t - 1, resets[t])
            held[t] |= held[before] & ~cut
        return held

    def _past(self) -> Array:
        """Whether a sequence has ended (T, B)."""
        o, xp = self.option, host.xp
        lengths = xp.asarray(o.lengths or [o.T] * o.B, dtype=xp.int64)
        return xp.arange(o.T)[:, None] >= lengths[None, :]

    def _at(self, places: tuple[tuple[int, int], ...]) -> Array:
        """Booleans (T, B), True at these (b, t)."""
        found = host.xp.zeros((self.option.T, self.option.B), bool)
        for b, t in places:
            found[t : t + 1, b] = True
        return found

    def _steps(self) -> dict[str, Any]:
        """The mask and the resets as the layer takes them."""
        o, found = self.option, {}
        if o.left_out:
            found["mask"] = ~self._at(o.left_out)
        if o.resets:
            found["resets"] = self._at(o.resets)
        turned = {name: a.T if o.batch_first else a for name, a in found.items()}
        return {**turned, "masked": o.masked} if o.left_out else turned

    @property
    def _kind(self) -> Any:
        """The dtype of NumPy; bfloat16 is one of another package."""
        return host.named_dtype(self.dtype)

    def _random(self, seed: int, shape: tuple[int, ...]) -> Array:
        return host.generator(seed).normal(size=shape).astype(self._kind)

    def _random_state(self, seed: int) -> Parts:
        """A state, its parts from the seeds `seed`, `seed` + 1 …"""
        B, layers = self.option.B, [self.layer.widths(k) for k, _ in self.layer.parts()]
        parts = []
        for n, sizes in enumerate(zip(*layers, strict=True)):
            if len(set(sizes)) == 1:
                parts.append(self._random(seed + n, (len(sizes), B, sizes[0])))
            else:
                parts.append(tuple([self._random(seed + n, (B, size)) for size in sizes]))
        return tuple(parts)

    def _padded(self, a: Array, where: Array) -> Array:
        """a with NaN at some steps, which shows in the results if it is read."""
        a[where] = float("nan")
        return a
