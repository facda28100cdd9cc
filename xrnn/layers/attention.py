"""Attention of a decoder over the outputs of an encoder.

s_ij = q_iᵀ U m_j           (1)   score "general"; of query i and step j of the memory
s_ij = q_iᵀ m_j / √H        (2)   score "dot"
α_i = softmax_j(s_ij)       (3)   over the valid steps of the memory
c_i = Σ_j α_ij m_j          (4)
y_i = tanh(W [c_i; q_i])    (5)

Sources: Luong, Pham & Manning (2015), EMNLP, 1412-1421, eqs 5, 7 and 8; the scale of (2): Vaswani
et al. (2017), arXiv:1706.03762, eq. 1.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any, Literal

from xrnn.backends import host
from xrnn.cells.base import check_flags, check_sizes
from xrnn.engine.checks import REAL_DTYPES, Spec, accept_dtype, check_choice
from xrnn.engine.module import Module, drawn
from xrnn.layers.linear import linear
from xrnn.layers.part import PartTape, accept_tape, valid_steps
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.precision import cast, widen
from xrnn.recurrence.softmax import masked_softmax, softmax_backward
from xrnn.typing import Array, GivenDType, Namespace, Size

Score = Literal["general", "dot"]


class Attention(Module):
    """Every query reads from a memory what fits it best, and is joined with what it has read.

    The queries are the outputs of a decoder, the memory those of an encoder.

    Parameters
    ----------
    query_size : int
        H, the number of values of a query.
    memory_size : int, optional
        M, the number of values of a step of the memory.  Default: H.
    output_size : int, optional
        O, the number of outputs.  Default: H.
    score : {"general", "dot"}
        How a query and a step are compared: by a learned matrix, or by their scalar product
        divided by √H, for which M must be H.
    batch_first : bool
        Whether sequences are (B, T, …) instead of (T, B, …).
    dtype, device, rng
        As for `xrnn.Layer`.

    Attributes
    ----------
    weights : Parameters
        ``W`` (O, M+H) and, with the score "general", ``U`` (H, M), initially Glorot uniform.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer of at least 1, an option is of a wrong type or unknown, or the
        sizes do not fit the score.
    ImportError
        If the library of the device is not installed, or finds no device.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> attention = xrnn.Attention(5, 4, rng=0)
    >>> queries, memory = np.ones((3, 2, 5), "float32"), np.ones((7, 2, 4), "float32")
    >>> ys, tape = attention.forward(queries, memory, lengths=[7, 2])
    >>> dqueries, dmemory, dweights = attention.backward(tape, ys)
    >>> ys.shape, dqueries.shape, dmemory.shape
    ((3, 2, 5), (3, 2, 5), (7, 2, 4))
    >>> attention.attention(queries, memory, lengths=[7, 2])[0, 1, :4].tolist()
    [0.5, 0.5, 0.0, 0.0]
    """

    _names = ("query_size", "memory_size", "output_size", "score", "batch_first", "dtype")
    _fixed = frozenset(_names)

    def __init__(
        self,
        query_size: Size,
        memory_size: Size | None = None,
        output_size: Size | None = None,
        *,
        score: Score = "general",
        batch_first: bool = False,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        check_sizes("attention", query_size=query_size)
        memory_size = query_size if memory_size is None else memory_size
        output_size = query_size if output_size is None else output_size
        check_sizes("attention", memory_size=memory_size, output_size=output_size)
        check_choice("attention", "score", score, ("general", "dot"))
        check_flags("attention", batch_first=batch_first)
        H, M, O = int(query_size), int(memory_size), int(output_size)
        if score == "dot" and M != H:
            raise ValueError(
                f"attention: memory_size is {M} and query_size is {H}; for the score 'dot' they "
                "must be equal; give score='general'"
            )
        self.query_size, self.memory_size, self.output_size = H, M, O
        self.score: Score = score
        self.batch_first = bool(batch_first)
        self.dtype = accept_dtype("attention", dtype, REAL_DTYPES)
        specs = {"W": Spec((O, M + H), "(O, M+H)")}
        if score == "general":
            specs["U"] = Spec((H, M), "(H, M)")
        options: Any = {"rng": rng, "dtype": self.dtype, "device": device}
        shapes = {name: spec.shape for name, spec in specs.items()}
        self._parameters = drawn("attention", specs, partial(_draw, shapes), **options)

    def __call__(
        self, queries: Array, memory: Array, lengths: Any = None, *, mask: Any = None
    ) -> Array:
        """The outputs alone, without a tape; arguments and exceptions are those of `forward`."""
        return self.forward(queries, memory, lengths, mask=mask)[0]

    def attention(
        self, queries: Array, memory: Array, lengths: Any = None, *, mask: Any = None
    ) -> Array:
        """The weights α of the steps of the memory, whose sum is 1 for each query; see `forward`.

        Returns
        -------
        array (T2, B, T1), or (B, T2, T1) with ``batch_first``, or (T2, T1) for one sequence
            0 at steps that are not valid.
        """
        *_, alpha = self._read(*self._taken(queries, memory, lengths, mask))
        placement = self.weights.placement
        alpha = cast(alpha, placement.dtype, xp=placement.backend.xp)
        return self._as_given(alpha, queries.ndim, xp=placement.backend.xp)

    @host.ignore_underflow
    def forward(
        self, queries: Array, memory: Array, lengths: Any = None, *, mask: Any = None
    ) -> tuple[Array, PartTape]:
        """Read from the memory.

        Parameters
        ----------
        queries : array (T2, B, H), or (B, T2, H) with ``batch_first``, or (T2, H)
            The queries; for one sequence without the axis B, as the memory.
        memory : array (T1, B, M), or (B, T1, M) with ``batch_first``, or (T1, M)
            What is read.
        lengths : integers (B,), optional
            The number of valid steps of each sequence of the memory, 0…T1.  Default: T1.
        mask : bools (T1, B), or (B, T1) with ``batch_first``, optional
            Which of these steps are valid.  Default: all.

        Returns
        -------
        ys : array (T2, B, O), or (B, T2, O), or (T2, O)
            The queries joined with what they have read; where no step is valid that is 0.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            If an array is of another library or dtype than the weights, or a shape does not fit.
        """
        parameters = self._parameters
        q, m, valid = self._taken(queries, memory, lengths, mask)
        placement = parameters.placement
        xp = placement.backend.xp
        keys, alpha = self._read(q, m, valid)
        joined = xp.concat([alpha @ m, q], axis=2)  # (4)
        y = xp.tanh(linear(joined, widen(parameters["W"], xp=xp), None, None, xp=xp))  # (5)
        ys = self._as_given(cast(y, placement.dtype, xp=xp), queries.ndim, xp=xp)
        if ys.dtype == y.dtype:
            ys = xp.asarray(ys, copy=True)  # backward reads y again
        kept = (queries.ndim, q, m, keys, alpha, joined, y, parameters, parameters.version)
        return ys, PartTape(self, placement, tuple(ys.shape), kept)

    @host.ignore_underflow
    def backward(self, tape: PartTape, dys: Array) -> tuple[Array, Array, dict[str, Array]]:
        """The gradients of the queries, of the memory and of the weights.

        Parameters
        ----------
        tape : PartTape
            From `forward`.
        dys : array like ys
            The gradient of the outputs.

        Returns
        -------
        dqueries : array like the queries
            The gradient of the queries.
        dmemory : array like the memory
            The gradient of the memory; 0 at steps that are not valid.
        dweights : dict of str to array
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, dys is not like ys, or the weights
            have changed since.
        """
        tape, dys = accept_tape("attention", self, tape, dys)
        ndim, q, m, keys, alpha, joined, y, parameters, version = tape.kept
        self.check_unchanged(parameters, version)
        xp, H, M = tape.placement.backend.xp, self.query_size, self.memory_size
        W = widen(parameters["W"], xp=xp)
        da = widen(self._batch_first(dys, xp=xp), xp=xp) * (1 - y * y)  # (5)
        dweights = {"W": _products(da, joined, xp=xp)}
        djoined = linear(da, W.T, None, None, xp=xp)
        dc, dq = djoined[..., :M], djoined[..., M:]
        m_T = xp.matrix_transpose(m)
        dscores = softmax_backward(dc @ m_T, alpha, axis=2, xp=xp)  # (4), (3)
        dm = xp.matrix_transpose(alpha) @ dc + xp.matrix_transpose(dscores) @ keys  # (4), (1)
        dkeys = dscores @ m
        if self.score == "general":
            dq = dq + linear(dkeys, widen(parameters["U"], xp=xp), None, None, xp=xp)  # (1)
            dweights["U"] = _products(q, dkeys, xp=xp)
        else:
            dq = dq + dkeys / H**0.5  # (2)
        dqueries, dmemory = (
            self._as_given(cast(d, dys.dtype, xp=xp), ndim, xp=xp) for d in (dq, dm)
        )
        return dqueries, dmemory, {n: cast(d, dys.dtype, xp=xp) for n, d in dweights.items()}

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this part."""
        return {"kind": "attention", **{name: getattr(self, name) for name in self._names}}

    def __repr__(self) -> str:
        sizes = f"{self.query_size}, {self.memory_size}, {self.output_size}"
        return f"<Attention({sizes}, score={self.score!r}): {self.weights!r}>"

    def _taken(
        self, queries: Array, memory: Array, lengths: Any, mask: Any
    ) -> tuple[Array, Array, Array]:
        """The queries (B, T2, H), the valid steps of the memory (B, T1, M), both in the dtype of
        sums, and which those are (B, 1, T1), after all checks."""
        placement, given = self.weights.placement, {"queries": queries, "memory": memory}
        sizes = {"queries": self.query_size, "memory": self.memory_size}
        for name, array in given.items():
            given[name] = array = placement.accept(name, array)
            if array.ndim not in (2, 3) or array.shape[-1] != sizes[name]:
                letters = "(B, T, n)" if self.batch_first else "(T, B, n)"
                raise ValueError(
                    f"attention: {name} has shape {tuple(array.shape)}; it must be {letters}, or "
                    f"(T, n), with n = {sizes[name]}"
                )
        xp = placement.backend.xp
        q, m = (self._batch_first(array, xp=xp) for array in given.values())
        if queries.ndim != memory.ndim or q.shape[0] != m.shape[0]:
            raise ValueError(
                f"attention: queries has shape {tuple(queries.shape)} and memory has shape "
                f"{tuple(memory.shape)}; both must have the same number of sequences B"
            )
        B, T, _ = m.shape
        valid = valid_steps("attention", (T, B), lengths, mask, self.batch_first, memory.ndim == 2)
        valid = placement.moved(host.xp.ascontiguousarray(valid.T)[:, None, :])
        m = apply_mask(xp.matrix_transpose(valid), m, xp=xp)
        return widen(q, xp=xp), widen(m, xp=xp), valid

    def _read(self, q: Array, m: Array, valid: Array) -> tuple[Array, Array]:
        """What is compared with the memory, (B, T2, M), and α (B, T2, T1)."""
        xp = self.weights.placement.backend.xp
        if self.score == "general":
            keys = linear(q, widen(self.weights["U"], xp=xp).T, None, None, xp=xp)  # (1)
        else:
            keys = q / self.query_size**0.5  # (2)
        scores = keys @ xp.matrix_transpose(m)
        return keys, masked_softmax(scores, valid, axis=2, xp=xp)  # (3)

    def _batch_first(self, a: Array, *, xp: Namespace) -> Array:
        """Sequences as (B, T, n)."""
        if a.ndim == 2:
            return a[None, ...]
        return a if self.batch_first else xp.permute_dims(a, (1, 0, 2))

    def _as_given(self, a: Array, ndim: int, *, xp: Namespace) -> Array:
        """Sequences (B, T, n) with the axes in the order of the user's."""
        if ndim == 2:
            return a[0, ...]
        return a if self.batch_first else xp.permute_dims(a, (1, 0, 2))


def _products(a: Array, b: Array, *, xp: Namespace) -> Array:
    """Σ a_i b_iᵀ over all sequences and steps."""
    rows = prod(a.shape[:-1])
    return xp.reshape(a, (rows, a.shape[-1])).T @ xp.reshape(b, (rows, b.shape[-1]))


def _draw(shapes: dict[str, tuple[int, ...]], random: Any) -> dict[str, Array]:
    """All weights, Glorot uniform (Glorot & Bengio, 2010)."""
    return {
        name: random.uniform(-1, 1, shape) * (6 / sum(shape)) ** 0.5
        for name, shape in shapes.items()
    }
