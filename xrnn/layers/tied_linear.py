"""A linear map whose matrix is the table of an embedding, for models that read and write tokens.

y = φ(E h + b)                (1)   φ is the activation, or nothing

Sources: Press & Wolf (2017), EACL, 157-163; Inan, Khosravi & Socher (2017), ICLR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from xrnn.backends import host
from xrnn.cells.base import check_flags, check_sizes
from xrnn.engine.checks import REAL_DTYPES, Spec, accept_dtype, check_choice
from xrnn.engine.module import Module, drawn
from xrnn.layers.composite import Composite
from xrnn.layers.embedding import Embedding
from xrnn.layers.linear import SLOPES, LinearActivation, linear, linear_backward
from xrnn.layers.part import PartTape, accept_tape
from xrnn.typing import Array, GivenDType, Size, dtype_name


class Bias(Module):
    """The bias of a tied map: ``b`` (V,), initially zero."""

    _fixed = frozenset({"size"})

    def __init__(self, size: Size, *, dtype: GivenDType, device: str) -> None:
        check_sizes("bias", size=size)
        V = self.size = int(size)

        def draw(random: Any) -> dict[str, Array]:
            return {"b": host.xp.zeros(V)}

        options: Any = {"rng": 0, "dtype": accept_dtype("bias", dtype, REAL_DTYPES)}
        specs = {"b": Spec((V,), "(V,)")}
        self._parameters = drawn("tied_linear", specs, draw, device=device, **options)

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this bias."""
        return {"kind": "bias", "size": self.size}

    def __repr__(self) -> str:
        return f"<Bias({self.size}): {self.weights!r}>"


class TiedLinear(Composite):
    """The linear map y = E h + b, whose matrix is the table of an embedding.

    There is one array E: a change of the embedding's weights is one of this map.  In a model that
    has both, E is one leaf of the tree of weights, and its gradient is the sum of both.

    Parameters
    ----------
    embedding : Embedding
        The embedding, with its V tokens of I numbers.  Its library and dtype are those of the map.
    activation : None, or {"relu", "tanh", "sigmoid", "softplus"}
        The function applied to E h + b.
    bias : bool
        Whether there is a bias b.

    Attributes
    ----------
    weights : dict of str to Parameters
        "embedding": the weights of the embedding, ``E`` (V, I); "bias": ``b`` (V,), initially zero.

    Raises
    ------
    TypeError, ValueError
        If it is not an embedding, or an option is of a wrong type or unknown.

    Notes
    -----
    A row of E for padding (``padding_idx``) is a row of this map too, and gets the gradient that
    it has as such.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> words = xrnn.Embedding(10, 4, rng=0)
    >>> model = xrnn.Sequential(words=words, rnn=xrnn.GRU(4, 4, rng=0), out=xrnn.TiedLinear(words))
    >>> logits, tape = model.forward(np.array([[1, 2], [3, 4]]))
    >>> _, dweights = model.backward(tape, logits)
    >>> logits.shape, {name: list(part) for name, part in dweights.items()}
    ((2, 2, 10), {'words': ['E'], 'rnn': ['W_l0', 'U_l0', 'b_l0', 'v_l0'], 'out': ['bias']})
    """

    kind = "tied_linear"

    def __init__(
        self,
        embedding: Embedding,
        *,
        activation: LinearActivation | None = None,
        bias: bool = True,
    ) -> None:
        if not isinstance(embedding, Embedding):
            raise TypeError(
                f"tied_linear: embedding is a {type(embedding).__name__}; it must be an "
                "xrnn.Embedding"
            )
        check_flags("tied_linear", bias=bias)
        check_choice("tied_linear", "activation", activation, (None, *SLOPES))
        self.activation, self.bias = activation, bool(bias)
        self._parts = {"embedding": embedding}
        if bias:
            placement = embedding.weights.placement
            own = Bias(embedding.num_embeddings, dtype=embedding.dtype, device="cpu")
            own._parameters = own.weights.moved(placement.backend, placement.standard_device)
            self._parts["bias"] = own

    def __call__(self, hs: Array) -> Array:
        """The outputs (…, V) for hs (…, I), without a tape; exceptions as for `forward`."""
        return self._outputs(self._taken(hs))

    def forward(self, hs: Array) -> tuple[Array, PartTape]:
        """Compute the outputs and keep what `backward` needs.

        Parameters
        ----------
        hs : array (…, I)
            The inputs.

        Returns
        -------
        ys : array (…, V)
            The outputs.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError
            If hs is of another library or dtype than E.
        ValueError
            If hs does not have I values in its last axis.
        """
        hs = self._taken(hs)
        ys = self._outputs(hs)
        placement = self._parts["embedding"].weights.placement
        # Without an activation backward reads no outputs.
        own = placement.backend.xp.asarray(ys, copy=True) if self.activation else None
        versions = [(part, part.weights, part.weights.version) for part in self._parts.values()]
        return ys, PartTape(self, placement, tuple(ys.shape), (hs, own, versions))

    def backward(self, tape: PartTape, dys: Array) -> tuple[Array, dict[str, Any]]:
        """The gradients of hs and of the weights.

        Parameters
        ----------
        tape : PartTape
            From `forward`.
        dys : array (…, V)
            The gradient of the outputs.

        Returns
        -------
        dhs : array (…, I)
            The gradient of the inputs.
        dweights : dict of str to dict
            Names and shapes of `weights`; that of E is of its use here alone.

        Raises
        ------
        TypeError, ValueError
            If dys does not have the library, dtype and shape of the outputs, the tape is not
            from `forward` of this map, or its weights or those of the embedding have changed.
        """
        tape, dys = accept_tape("tied_linear", self, tape, dys)
        hs, ys, versions = tape.kept
        for part, parameters, version in versions:
            part.check_unchanged(parameters, version)
        E, xp = self._parts["embedding"].weights["E"], tape.placement.backend.xp
        dhs, found = linear_backward(dys, hs, ys, E, self.activation, bias=self.bias, xp=xp)
        dweights: dict[str, Any] = {"embedding": {"E": found["W"]}}
        return dhs, dweights | ({"bias": {"b": found["b"]}} if self.bias else {})

    def _taken(self, hs: Array) -> Array:
        """The input, after its library, dtype and shape have been checked."""
        embedding = self._parts["embedding"]
        hs = embedding.weights.placement.accept("hs", hs)
        if hs.ndim < 1 or hs.shape[-1] != embedding.embedding_dim:
            raise ValueError(
                f"tied_linear: hs has shape {tuple(hs.shape)}; it must be (…, I) with "
                f"I = {embedding.embedding_dim}"
            )
        return hs

    def _outputs(self, hs: Array) -> Array:
        weights = self._parts["embedding"].weights
        b = None
        if self.bias:
            # The embedding may have been moved to another library, without this map.
            b = weights.placement.accept("b", self._parts["bias"].weights["b"])
        return linear(hs, weights["E"], b, self.activation, xp=weights.placement.backend.xp)

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "activation": self.activation, "bias": self.bias}

    @classmethod
    def _made_of(cls, parts: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        made = cls(parts["embedding"], **options)
        if made.bias and "bias" in parts:
            made._set_bias(parts["bias"])
        return made

    def _set_bias(self, bias: Any) -> None:
        """Take this bias, after a check, instead of the one that was made."""
        if not isinstance(bias, Bias):
            what = type(bias).__name__
            raise TypeError(f"tied_linear: bias is a {what}; it must be that of a TiedLinear")
        found, needed = (
            (one.size, dtype_name(one.weights.placement.dtype))
            for one in (bias, self._parts["bias"])
        )
        if found != needed:
            raise ValueError(
                f"tied_linear: bias has the size and dtype {found}; they must be {needed}, those "
                "of the embedding"
            )
        self._parts["bias"] = bias
