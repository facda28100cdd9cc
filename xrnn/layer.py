"""The layers most users hold: stacked, in both directions, with dropout between layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from numbers import Integral
from typing import Any, NamedTuple, Self

from xrnn import stack
from xrnn.backends import backend_of, get
from xrnn.backends.cpu import generator
from xrnn.cells.base import Cell
from xrnn.door import check_precision
from xrnn.stack import StackTape
from xrnn.trust import direct, path
from xrnn.typing import Array, State
from xrnn.weights import Weighted, cast, check_sizes, draw

#: what a layer may store its weights in
DTYPES = ("float16", "bfloat16", "float32", "float64")


class LayerTape(NamedTuple):
    """What `Layer.backward` needs.  Made by `Layer.forward`; not an interface."""

    layer: Layer
    stack: StackTape


class Layer(Weighted):
    """One cell in L layers and D directions.

    A layer holds weights and nothing else: what passes from call to call is in the states
    and tapes that it returns, so one layer serves many streams and threads at once.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.PeepholeLSTM`, or one of your own.
    I, H : int
        Inputs and hidden units.
    num_layers : int
        L; each layer reads the outputs of the one below.
    bidirectional : bool
        Whether a second set of weights runs from the end to the start (D = 2); the outputs
        of both stand side by side.
    dropout : float
        The part of the outputs of each layer but the last that `forward` sets to 0; the
        rest is scaled by 1/(1 − dropout).  Inference (`__call__`, `step`) drops nothing.
    bias : bool
        Whether the cells have biases.
    batch_first : bool
        Whether inputs and outputs are (B, T, …) instead of (T, B, …).  States are not
        affected.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        The dtype of the weights, and so of everything.  bfloat16 needs ml_dtypes, and a
        backend that computes in it: "cuda", by fused kernels, or "torch".
    device : str
        "cpu", "cuda" or the import name of an array library, such as "torch".
    rng : int or numpy.random.Generator
        Seed of the weights; an int is also the default seed of the dropout masks.
    init : {"orthogonal", "uniform"}
        How the weights are drawn, see `xrnn.weights.draw`.
    forget_bias : float
        The bias of the forget gate at the start (with "orthogonal").
    precision : {"ieee", "tf32"}
        As `xrnn.unroll`; may be changed at any time.

    Attributes
    ----------
    weights : dict of str to array
        The cell's weights by name, layer and direction: ``W_l0``, ``U_l0``, ``b_l0``,
        ``W_l0_reverse``, ``W_l1`` …; assign or update in place.

    Raises
    ------
    ValueError, ImportError
        If a parameter is out of range, or the device's library or device is missing.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 5)
    >>> ys, state = layer(np.zeros((7, 2, 3), "float32"))
    >>> ys.shape
    (7, 2, 5)
    """

    def __init__(
        self,
        cell: Cell,
        I: int,
        H: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        rng: Any = 0,
        *,
        init: str = "orthogonal",
        forget_bias: float = 1.0,
        precision: str = "ieee",
    ) -> None:
        check_sizes(cell.name, I=I, H=H, num_layers=num_layers)
        if not 0 <= dropout < 1:
            raise ValueError(f"{cell.name}: dropout is {dropout!r}; it must be in [0, 1)")
        check_precision(cell.name, precision)
        if dtype not in DTYPES:
            raise ValueError(
                f"{cell.name}: dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}"
            )
        self.cell = cell
        self.I, self.H = int(I), int(H)
        self.num_layers, self.bidirectional = int(num_layers), bool(bidirectional)
        self.dropout, self.bias, self.batch_first = float(dropout), bool(bias), bool(batch_first)
        self.dtype, self.precision = dtype, precision
        self.seed = int(rng) if isinstance(rng, Integral) else 0
        backend, random = get(device), generator(rng)
        how: dict[str, Any] = {
            "bias": bias,
            "init": init,
            "forget_bias": forget_bias,
            "rng": random,
        }
        self.weights: dict[str, Array] = {}
        for k, suffix in self.parts():
            drawn = draw(cell, self.inputs(k), H, **how)
            named = {f"{name}{suffix}": w for name, w in drawn.items()}
            self.weights |= cast(named, dtype, backend)

    def inputs(self, k: int) -> int:
        """What layer k reads: I, or the D·H outputs of the layer below."""
        return self.I if k == 0 else self.directions * self.H

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    def parts(self) -> list[tuple[int, str]]:
        """(layer, suffix of its weights' names) of every cell, in the order of the states."""
        return [(k, suffix) for k in range(self.num_layers) for suffix in self.suffixes(k)]

    def suffixes(self, k: int) -> tuple[str, ...]:
        """What the names of layer k's weights end in, one for each direction."""
        return (f"_l{k}", f"_l{k}_reverse")[: self.directions]

    def named(self, found: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
        """One dict for each cell of `parts` as one for the layer: ``f`` → ``f_l0`` …"""
        parts = zip(self.parts(), found, strict=True)
        return {f"{name}{suffix}": a for (_, suffix), part in parts for name, a in part.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every weight."""
        return {
            f"{name}{suffix}": shape
            for k, suffix in self.parts()
            for name, shape in self.cell.shapes(self.inputs(k), self.H, self.bias).items()
        }

    def __call__(
        self, xs: Array, state: State | None = None, lengths: Array | None = None
    ) -> tuple[Array, State]:
        """Inference: as `forward`, but nothing is kept for backward and nothing is dropped."""
        if self._direct is not None and lengths is None:
            if self.batch_first:
                self._check_inputs(xs, "xs", "(B, T, I)")
            out = self._direct.run(self.weights, self.time_first(xs), state)
            if out is not None:
                return self.time_first(out[0]), out[1]
        ys, last, _ = self._run(xs, state, lengths, seed=None, keep=False)
        return ys, last

    def forward(
        self,
        xs: Array,
        state: State | None = None,
        lengths: Array | None = None,
        *,
        seed: int | None = None,
    ) -> tuple[Array, State, LayerTape]:
        """Run the layer and keep what `backward` needs.

        Parameters
        ----------
        xs : array (T, B, I), or (B, T, I) with ``batch_first``
            The inputs.
        state : tuple of array (L·D, B, H), optional
            The states to start from, one array for each of ``cell.states``; layer 0
            forward, layer 0 reverse, layer 1 forward …  Default: zeros.
        lengths : integers (B,), optional
            Steps that each sequence really has, 0…T, in any order.  Default: T.
        seed : int, optional
            Of the dropout masks, which depend on it, the layer and the position alone:
            give another one at every training step.  Default: the layer's ``rng``.

        Returns
        -------
        ys : array (T, B, D·H), or (B, T, D·H)
            The outputs of the last layer; exactly 0 past a sequence's end.
        state : named tuple of array (L·D, B, H)
            Where every sequence ended.
        tape : LayerTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            As `xrnn.unroll`.
        """
        return self._run(xs, state, lengths, seed=self.seed if seed is None else seed, keep=True)

    def backward(
        self,
        tape: LayerTape,
        dys: Array | None = None,
        dstate: State | None = None,
        *,
        gates: bool = False,
    ) -> Any:
        """Carry gradients back through the layers and through time.

        Parameters
        ----------
        tape : LayerTape
            From `forward`.
        dys : array like ys, optional
            The gradient of the outputs.  Default: zeros.
        dstate : tuple of array (L·D, B, H) or None, optional
            The gradient of the state that `forward` returned.  Default: zeros.
        gates : bool
            Whether to return what stands in the middle too, see `xrnn.unroll_backward`.

        Returns
        -------
        dxs : array like xs
            The gradient of the inputs.
        dstate : named tuple of array (L·D, B, H)
            The gradient of the state that `forward` was given.
        dweights : dict of str to array
            Names and shapes of `weights`.
        dgates, dstates : dict of str to array (T, B, H), or (B, T, H)
            Only with ``gates``: as from `xrnn.unroll_backward`, for every layer and
            direction: ``f_l0``, ``f_l0_reverse`` …; ``h_l0``, ``c_l0`` …
        """
        if tape.layer is not self:
            raise ValueError(f"{self.cell.name}: the tape was made by another layer")
        T, B, _ = tape.stack.tapes[0].xs.shape
        dlasts = stack.split_state(self.cell, dstate, "dstate", (len(self.parts()), B, self.H))
        if dys is not None:
            shape = (*((B, T) if self.batch_first else (T, B)), self.directions * self.H)
            stack.check_output_gradient(self.cell, dys, shape)
            dys = self.time_first(dys)
        dxs, found = stack.backward(tape.stack, self.directions, dys, dlasts, gates=gates)
        xp = tape.stack.tapes[0].xp
        dfirsts = [xp.stack(arrays) for arrays in zip(*(f[1] for f in found), strict=True)]
        dweights = self.named(f[2] for f in found)
        out = self.time_first(dxs), self.cell.state(dfirsts), dweights
        if not gates:
            return out
        looks = (self.named(f[n] for f in found) for n in (3, 4))
        return *out, *({k: self.time_first(a) for k, a in look.items()} for look in looks)

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """One time step, for streams.

        Parameters
        ----------
        x : array (B, I)
            One input for each stream.
        state : tuple of array (L, B, H), optional
            From the step before.  Default: zeros.

        Returns
        -------
        y : array (B, H)
            The output of the last layer.
        state : named tuple of array (L, B, H)
            For the next step.

        Raises
        ------
        ValueError
            If the layer is bidirectional: the reverse direction starts at the end, which a
            stream does not have.
        """
        if self._direct is not None and state is not None:
            out: tuple[Array, State] | None = self._direct.step(self.weights, x, state)
            if out is not None:
                return out
        if self.bidirectional:
            raise ValueError(
                f"{self.cell.name}: a bidirectional layer cannot step; "
                "make one with bidirectional=False, or call it on whole sequences"
            )
        self._check_inputs(x, "x", "(B, I)")
        ys, last, _ = self._run_layers(x[None, ...], state, None, seed=None, keep=False)
        return ys[0, ...], last

    def path(self, shape: tuple[int, ...]) -> dict[str, str]:
        """What runs for xs of such a shape, by layer and direction: ``{"_l0": "native loop"}``."""
        T, B = (shape[1], shape[0]) if self.batch_first else shape[:2]
        W = self._cell_weights("_l0")["W"]
        return {
            suffix: path(
                backend_of(W), self.cell, (T, B, self.inputs(k), self.H), W.dtype, self.precision
            )
            for k, suffix in self.parts()
        }

    @cached_property
    def _direct(self) -> Any:
        """What runs the layer with the least delay, if there is such."""
        if self.bidirectional:
            return None
        W = self._cell_weights("_l0")["W"]
        sizes = (self.num_layers, self.I, self.H)
        return direct(backend_of(W), self.cell, W.dtype, sizes, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but what was trusted on this machine."""
        return {name: value for name, value in self.__dict__.items() if name != "_direct"}

    def to(self, device: str) -> Self:
        """As `Weighted.to`."""
        self.__dict__.pop("_direct", None)
        return super().to(device)

    def config(self) -> dict[str, Any]:
        """What a file must agree on to be loaded into this layer."""
        return {
            "kind": "layer",
            "cell": self.cell.name,
            "I": self.I,
            "H": self.H,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "bias": self.bias,
            "dtype": self.dtype,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config()}>"

    def _run(
        self, xs: Array, state: State | None, lengths: Array | None, *, seed: int | None, keep: bool
    ) -> tuple[Array, State, Any]:
        self._check_inputs(xs, "xs", "(B, T, I)" if self.batch_first else "(T, B, I)")
        xs = self.time_first(xs)
        ys, last, tape = self._run_layers(xs, state, lengths, seed=seed, keep=keep)
        return self.time_first(ys), last, tape

    def _run_layers(
        self, xs: Array, state: State | None, lengths: Array | None, *, seed: int | None, keep: bool
    ) -> tuple[Array, State, Any]:
        firsts = stack.split_state(
            self.cell, state, "state", (len(self.parts()), xs.shape[1], self.H)
        )
        weights = [
            [self._cell_weights(suffix) for suffix in self.suffixes(k)]
            for k in range(self.num_layers)
        ]
        drop = None
        if seed is not None and self.dropout:
            drop = partial(stack.dropout_mask, self.dropout, seed, dtype=self.dtype)
        ys, lasts, tape = stack.forward(
            self.cell, weights, xs, firsts, lengths, drop, keep=keep, precision=self.precision
        )
        last = self.cell.state(backend_of(ys).xp.stack(a) for a in zip(*lasts, strict=True))
        return ys, last, LayerTape(self, tape)

    def _cell_weights(self, suffix: str) -> dict[str, Array]:
        names = self.cell.shapes(1, 1, self.bias)
        try:
            return {name: self.weights[f"{name}{suffix}"] for name in names}
        except KeyError as error:
            raise ValueError(
                f"{self.cell.name}: layer.weights lacks {error}; it must hold "
                f"{', '.join(self.shapes())}"
            ) from None

    def time_first(self, a: Array) -> Array:
        """(B, T, n) ⇄ (T, B, n) where the layer is batch_first."""
        return backend_of(a).xp.permute_dims(a, (1, 0, 2)) if self.batch_first else a

    def _check_inputs(self, x: Array, name: str, letters: str) -> None:
        backend_of(x, name)
        if x.ndim != letters.count(",") + 1 or x.shape[-1] != self.I:
            raise ValueError(
                f"{self.cell.name}: {name} has shape {tuple(x.shape)}; "
                f"it must be {letters} with I = {self.I}"
            )
