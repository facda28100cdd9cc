"""The recurrent layer: one cell, stacked, in both directions, with dropout between layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from xrnn.cells.base import LARGEST, Cell, check_cell, check_flags, check_sizes
from xrnn.engine.bound import Bound, bind
from xrnn.engine.checks import DTYPES, accept_dtype, check_precision
from xrnn.engine.module import drawn
from xrnn.engine.per_sample import PerSample
from xrnn.engine.random import random_numbers
from xrnn.engine.tape import Tape, check_made_by
from xrnn.engine.values import check_index
from xrnn.layers.architecture import LATER, OPTIONS, Architecture
from xrnn.layers.dropout import check_dropout, check_weight_drop
from xrnn.layers.initialisation import check_init, check_learn_state, draw_all
from xrnn.layers.sizes import accept_hidden_sizes, steps_and_batch
from xrnn.typing import (
    Array,
    Checkpoint,
    GivenDType,
    GivenState,
    Init,
    Masked,
    Precision,
    S,
    Size,
    dtype_name,
)


class Layer(Architecture[S]):
    """One cell in L layers and D directions.

    A layer holds weights but no recurrent state: states and tapes are returned to the caller and
    passed in again.  So one layer can serve many streams and threads at the same time.  Options
    are fixed when it is made: only `weights` and `precision` may be assigned later.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.PeepholeLSTM`, or one of your own.
    input_size : int
        I, the inputs.
    hidden_size : int or sequence of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.  Not needed with sizes in `hidden_size`.
    bias : bool
        Whether the cells have biases.
    batch_first : bool
        Whether inputs and outputs are (B, T, …) instead of (T, B, …).  States are not
        affected.
    dropout : float
        The fraction of the outputs of each layer but the last that `forward` sets to 0; the
        others are scaled by 1/(1 − dropout).  Inference (`__call__`, `step`) drops nothing.
    weight_drop : float
        The fraction of the values of U that `forward` sets to 0, the same ones at all steps; the
        others are scaled in the same way (DropConnect; Merity et al., 2018, arXiv:1708.02182).
    bidirectional : bool
        Whether a second set of weights runs from the end to the start (D = 2); the outputs
        of both are concatenated, (T, B, 2·H).
    reverse : bool
        Whether all layers run from the end to the start (D = 1).
    learn_state : bool
        Whether the initial state, that is used where none is given and at resets, is a weight.
        Default: zeros.
    dtype : {"float32", "float64", "float16", "bfloat16", "complex64", "complex128"}
        The dtype of the weights, which inputs and states must have too: its name, or the dtype
        of an array library, such as ``np.float32``.  bfloat16 needs ml_dtypes.  On "cpu" numbers
        of 16 bits are computed with in float32; h is rounded after every step.
        Complex numbers work in the forward pass only, for cells that are `Cell.analytic`.
    device : str
        "cpu", "cuda" or the name of an array library, such as "torch" or "jax"; one of its
        devices after a colon, such as "cuda:0" or "torch:cuda:1".
    rng : int or numpy.random.Generator, optional
        The seed or generator of the initial weights.  Default: a new random seed.
    init : {"orthogonal", "uniform"}
        How the weights are drawn, see `xrnn.layers.initialisation.draw`.
    forget_bias : float
        The initial bias of the forget gate (with "orthogonal"); a cell without one ignores it.
    precision : {"ieee", "tf32", "bf16"}
        As for `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        The cell's weights by name, layer and direction: ``W_l0``, ``U_l0``, ``b_l0``,
        ``W_l0_reverse``, ``W_l1`` …; with `learn_state` also ``h0_l0`` (H,), ``c0_l0`` …

    Raises
    ------
    TypeError, ValueError
        If a parameter is of a wrong type or out of range.
    ImportError
        If the library of the device is not installed, or finds no device.

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
        cell: Cell[S],
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        weight_drop: float = 0.0,
        bidirectional: bool = False,
        reverse: bool = False,
        learn_state: bool = False,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
        init: Init = "orthogonal",
        forget_bias: float = 1.0,
        precision: Precision = "ieee",
    ) -> None:
        check_cell(cell)
        kind = cell.name
        check_sizes(kind, input_size=input_size)
        sizes = self._sizes = accept_hidden_sizes(kind, hidden_size, num_layers)
        flags = {"bias": bias, "batch_first": batch_first}
        ways = {"bidirectional": bidirectional, "reverse": reverse}
        check_flags(kind, **flags, **ways, learn_state=learn_state)
        if learn_state:
            check_learn_state(cell)
        if bidirectional and reverse:
            raise ValueError(f"{kind}: bidirectional and reverse exclude each other; give one")
        check_dropout(kind, dropout, len(sizes))
        check_weight_drop(kind, weight_drop, cell.recurrent)
        self.cell = cell
        self.input_size = int(input_size)
        self.hidden_size = sizes if len(set(sizes)) > 1 else sizes[0]
        self.num_layers, self.bidirectional = len(sizes), bool(bidirectional)
        self.bias, self.batch_first, self.reverse = bool(bias), bool(batch_first), bool(reverse)
        self.learn_state, self.dtype = bool(learn_state), accept_dtype(kind, dtype, DTYPES)
        self.dropout, self.weight_drop = float(dropout), float(weight_drop)
        self._needs_seed = "a layer with dropout" if dropout or weight_drop else ""
        if cell.noise:
            self._needs_seed = "a cell that draws random numbers"
        self.precision = precision
        check_init(kind, init, forget_bias)
        how = {"bias": self.bias, "init": init, "forget_bias": forget_bias}
        draw = partial(draw_all, cell, self._cells(), self.learn_state, **how)
        options: Any = {"rng": rng, "dtype": self.dtype, "device": device}
        self._parameters = drawn(kind, self._specs(), draw, **options)

    @property
    def precision(self) -> Precision:
        """What products of float32 round: "ieee", "tf32" or "bf16", see `xrnn.unroll`."""
        return self._precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        check_precision(self.cell.name, precision, self.dtype)
        self._precision: Precision = precision
        self._last_bound: Bound[S] | None = None

    def initial_state(self, B: Size) -> S:
        """The default state of B sequences: (L·D, B, H) for each of ``cell.states``, zeros unless
        it is learned (or tuples of L·D arrays, see `forward`); an error if B is no integer ≥ 0."""
        check_index(self.cell.name, "B", B, LARGEST)
        return self._bound().initial_state(int(B))

    def __call__(
        self,
        xs: Array,
        state: GivenState | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        masked: Masked = "zero",
        resets: Any = None,
    ) -> tuple[Array, S]:
        """Inference: like `forward`, but without a tape and without random numbers.

        Parameters, shapes and exceptions are those of `forward`.

        Returns
        -------
        ys : array (T, B, D·H), or (B, T, D·H)
            The outputs of the last layer.
        state : named tuple of array (L·D, B, H)
            The state where each sequence ended.
        """
        ys, last, _ = self._bound().forward(
            xs, state, lengths, mask=mask, masked=masked, resets=resets, keep=False
        )
        return ys, last

    def forward(
        self,
        xs: Array,
        state: GivenState | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        masked: Masked = "zero",
        resets: Any = None,
        seed: Size | None = None,
        t: Size = 0,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Array, S, Tape[S]]:
        """Run the layer and keep what `backward` needs.

        Parameters
        ----------
        xs : array (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) for one sequence
            The inputs.
        state : tuple of array (L·D, B, H) or None, optional
            The states to start from, one array for each of ``cell.states``; layer 0
            forward, layer 0 reverse, layer 1 forward …  Default: the initial state, for the
            tuple or any of its parts.  Where the sizes of layers differ, such a part is a tuple
            of L·D arrays (B, H).
        lengths : integers (B,), optional
            The number of valid steps of each sequence, 0…T, in any order.  Default: T.
        mask, masked, resets
            As for `xrnn.unroll`; (B, T) with ``batch_first``.  A reset gives the initial state,
            which may be learned, to all layers and both directions.
        seed : int, optional
            The seed of the random numbers: dropout, and what the cell draws (`Cell.noise`).  They
            depend only on it, the layer, the direction and the position: give a new one at every
            training step.  Required where there are any.
        t : int
            How many steps of the same sequences came before, in earlier calls with the same seed.
        checkpoint : int or "sqrt", optional
            Keep only the states before every k (or √T) steps, and compute the rest again in
            `backward`, as for `xrnn.unroll`: for long sequences.  With two directions the outputs
            of every layer are kept too.

        Returns
        -------
        ys : array (T, B, D·H), or (B, T, D·H)
            The outputs of the last layer; exactly 0 past a sequence's end and, unless they are
            held, at masked steps.  Read-only, where the library has such arrays, because
            `backward` reads them again.
        state : named tuple of array (L·D, B, H)
            The state where each sequence ended.
        tape : Tape
            For `backward`.

        For one sequence (T, I) there is no axis B in outputs, states and gradients.

        Raises
        ------
        TypeError, ValueError
            As `xrnn.unroll`; and if there are random numbers and no seed is given.
        """
        random = None
        # Otherwise nothing is to be checked.
        if seed is not None or self._needs_seed or type(t) is not int or t != 0:
            rates = {"dropout": self.dropout, "weight_drop": self.weight_drop}
            random = random_numbers(self._parameters.placement, seed, t, self._needs_seed, **rates)
        how: Any = {"mask": mask, "masked": masked, "resets": resets, "checkpoint": checkpoint}
        ys, last, tape = self._bound().forward(
            xs, state, lengths, random=random, keep=True, owner=self, **how
        )
        assert tape is not None
        return ys, last, tape

    def backward(
        self,
        tape: Tape[S],
        dys: Array | None = None,
        dstate: GivenState | None = None,
        *,
        omit_dxs: bool = False,
        per_sample: PerSample | None = None,
    ) -> tuple[Array, S, dict[str, Array]]:
        """The gradients of all that `forward` was given (backpropagation through time).

        Parameters
        ----------
        tape : Tape
            From `forward` of this layer.  Its weights must be as they were then.
        dys : array like ys, optional
            The gradient of the outputs.  Default: zeros.
        dstate : tuple of array (L·D, B, H) or None, optional
            The gradient of the state that `forward` returned.  Default: zeros, for the tuple
            or any of its parts.
        omit_dxs : bool
            Whether dxs is not needed, as in training of a first layer; it is None then.
        per_sample : None, or {"gradients", "norms"}
            Whether `dweights` are given for each sequence: gradients, or their Euclidean norms,
            which take no memory for all of these gradients, unless there was a `checkpoint`.
            It does not serve a tape made with a `checkpoint` and with resets or a mask.

        Returns
        -------
        dxs : array like xs
            The gradient of the inputs.
        dstate : named tuple of array (L·D, B, H)
            The gradient of the state that `forward` was given.
        dweights : dict of str to array
            Names and shapes of `weights`; with `per_sample` (B, …), and norms (B,).  That of a
            learned initial state is the sum over the sequences, and the resets, that started so.

        `xrnn.analysis.gate_gradients` gives the gradients of gates and states at every step.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this layer, the weights have changed since, a
            gradient has not the library, dtype and shape of its array, or a word is unknown.
        """
        check_made_by(self, tape)
        check_flags(self.cell.name, omit_dxs=omit_dxs)
        return tape.backward(dys, dstate, omit_dxs, per_sample)

    def step(self, x: Array, state: GivenState | None = None) -> tuple[Array, S]:
        """One time step, for streams.

        Parameters
        ----------
        x : array (B, I), or (I,) for one stream
            One input for each stream.
        state : tuple of array (L, B, H) or None, optional
            From the step before.  Default: zeros.

        Returns
        -------
        y : array (B, H)
            The output of the last layer.
        state : named tuple of array (L, B, H)
            For the next step.

        For one stream (I,) there is no axis B in output and state.

        Raises
        ------
        ValueError
            If a shape does not fit, or the layer runs in reverse or in both directions (the
            reverse direction starts at the end, which a stream does not have).
        TypeError
            If x or the state is of another library or dtype than the weights.
        """
        if self.bidirectional or self.reverse:
            word = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(
                f"{self.cell.name}: a {word} layer cannot step; "
                f"make one with {word}=False, or call it on whole sequences"
            )
        return self._bound().step(x, state)

    def path(self, shape: tuple[int, ...]) -> dict[str, str]:
        """The name of the kernel that runs xs of this shape, for each layer and direction.

        An example is ``{"_l0": "native loop, avx2"}``.  `forward`, inference and (for T = 1)
        `step` use the same choice.  Only the axes T and B of the shape are read.
        """
        return self._bound().path(*steps_and_batch(self.cell.name, shape, self.batch_first))

    def __repr__(self) -> str:
        placement = self._parameters.placement
        words = [str(self.input_size), str(self.hidden_size)]
        if type(self) is Layer:
            words.insert(0, self.cell.name)
        options: dict[str, tuple[Any, Any]] = {
            **{name: (getattr(self, name), usual) for name, usual in (OPTIONS | LATER).items()},
            "dtype": (dtype_name(placement.dtype), "float32"),
            "device": (placement.backend.name, "cpu"),
            "precision": (self.precision, "ieee"),
        }
        words += [f"{k}={value!r}" for k, (value, usual) in options.items() if value != usual]
        state = self._parameters.state_in_words
        return f"<{type(self).__name__}({', '.join(words)}): {self.cell.name}{state}>"

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles: all but the kernels chosen on this machine."""
        return self.__dict__ | {"_last_bound": None}

    def _bound(self) -> Bound[S]:
        """The layer, bound to its present weights; bound again only after they changed."""
        bound, mine = self._last_bound, self._parameters
        if bound is None or bound.parameters is not mine or bound.version != mine.version:
            bound = self._last_bound = bind(
                self.cell,
                mine,
                [self.suffixes(k) for k in range(self.num_layers)],
                bound,
                bias=self.bias,
                reverse=self.reverse,
                batch_first=self.batch_first,
                learn_state=self.learn_state,
                precision=self.precision,
            )
        return bound
