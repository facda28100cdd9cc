"""Embedding: a vector for every token.

x_t = E[token_t]              (1)   a row of E for a token (derivation "Tanh RNN", eq. 1)
dE = Σ_t token_t ⊗ dx_t       (2)   the same, eqs 16-17 (corrected: see the errata in the guide):
                                    dx_t is added to the row of its token
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import array_api_compat

from xrnn.backends import backend_of
from xrnn.cells.base import check_sizes
from xrnn.engine.checks import REAL_DTYPES, Spec, accept_dtype
from xrnn.engine.module import Module, drawn
from xrnn.engine.values import check_index
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.scatter import indices
from xrnn.typing import Array, GivenDType, Size, is_integer


class Embedding(Module):
    """A table E with one row for every token of a vocabulary.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        V and I: the number of different tokens, and the size of their vectors.
    padding_idx : int, optional
        A token in 0…V−1 that stands for padding: its row of E is 0 at the start, and its gradient
        is 0.
    dtype, device, rng
        As for `xrnn.Layer`.

    Attributes
    ----------
    weights : Parameters
        ``E`` (V, I), drawn from the normal distribution with variance 1/I.

    Raises
    ------
    ValueError
        If a size is not an integer of at least 1.
    ImportError
        If the library of the device is not installed, or finds no device.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> embedding = xrnn.Embedding(10, 4)
    >>> tokens = np.array([[1, 2], [2, 9]])
    >>> xs, tape = embedding.forward(tokens)
    >>> xs.shape
    (2, 2, 4)
    >>> _, dweights = embedding.backward(tape, np.ones_like(xs))
    >>> dweights["E"][:, 0].tolist()
    [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """

    _fixed = frozenset({"num_embeddings", "embedding_dim", "padding_idx", "dtype"})

    def __init__(
        self,
        num_embeddings: Size,
        embedding_dim: Size,
        *,
        padding_idx: Size | None = None,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        sizes = {"num_embeddings": num_embeddings, "embedding_dim": embedding_dim}
        check_sizes("embedding", **sizes)
        V, I = int(num_embeddings), int(embedding_dim)
        self.num_embeddings, self.embedding_dim = V, I
        self.dtype = accept_dtype("embedding", dtype, REAL_DTYPES)
        if padding_idx is not None:
            check_index("embedding", "padding_idx", padding_idx, V)
            padding_idx = int(padding_idx)
        self.padding_idx = padding_idx
        specs = {"E": Spec((V, I), "(V, I)")}
        options: Any = {"rng": rng, "dtype": self.dtype, "device": device}
        self._parameters = drawn("embedding", specs, partial(_draw, V, I, padding_idx), **options)

    def __call__(self, tokens: Array) -> Array:
        """The vectors (…, I) of integer tokens (…); exceptions as for `forward`."""
        return self.forward(tokens)[0]

    def forward(self, tokens: Array) -> tuple[Array, Array]:
        """Look up the vectors of tokens.

        Parameters
        ----------
        tokens : integers (…)
            Of any shape and integer dtype, each in 0…V−1.

        Returns
        -------
        xs : array (…, I)
            Their rows of E.
        tape : integers (…)
            For `backward`: a copy of the tokens.

        Raises
        ------
        TypeError
            If the tokens are not integers, or of another library than E.
        ValueError
            If a token is outside 0…V−1.
        """
        E = self.weights["E"]
        placement = self.weights.placement
        if backend_of(tokens, "tokens") is not placement.backend:
            raise TypeError(
                f"embedding: tokens are an array of {backend_of(tokens).name} and E is one of "
                f"{placement.backend.name}; move one of them"
            )
        xp = placement.backend.xp
        if not is_integer(tokens.dtype):
            raise TypeError(f"embedding: tokens are {tokens.dtype}; they must be integers")
        flat = indices(xp.reshape(tokens, (prod(tokens.shape),)), xp=xp)
        self._check_range("tokens", flat)
        xs = xp.take(E, flat, axis=0)  # (1)
        tape = placement.backend.read_only(xp.asarray(tokens, copy=True))
        return xp.reshape(xs, (*tokens.shape, self.embedding_dim)), tape

    def backward(self, tape: Array, dxs: Array) -> tuple[None, dict[str, Array]]:
        """The gradient of E; row v is the sum of dxs over all positions of token v.

        Gradients of half precision are summed in float32.

        Parameters
        ----------
        tape : integers (…)
            From `forward`.
        dxs : array (…, I)
            The gradient of the vectors.

        Returns
        -------
        None
            Tokens have no gradient.
        dweights : dict of str to array
            ``E`` (V, I).

        Raises
        ------
        TypeError, ValueError
            If the tape is not that of `forward`, or dxs does not have the library, dtype or
            shape of the vectors.
        """
        placement = self.weights.placement
        if (
            not array_api_compat.is_array_api_obj(tape)
            or backend_of(tape, "tape") is not placement.backend
            or not is_integer(tape.dtype)
        ):
            raise TypeError(
                f"embedding: tape is {_described(tape)}; it must be the tape that forward "
                "returned, integer tokens"
            )
        shape = (*tape.shape, self.embedding_dim)
        dxs = placement.accept_shaped("dxs", dxs, shape, "that of the vectors")
        backend, N = placement.backend, prod(tape.shape)
        xp = backend.xp
        rows = xp.reshape(dxs, (N, self.embedding_dim))
        tokens = indices(xp.reshape(tape, (N,)), xp=xp)
        # The tape of a larger embedding would be an error of the library, or lose gradients.
        self._check_range("the tokens of the tape", tokens)
        dE = backend.scatter_add(rows, tokens, self.num_embeddings, xp=xp)  # (2)
        if self.padding_idx is not None:
            row = xp.arange(self.num_embeddings, device=placement.standard_device)
            dE = apply_mask((row != self.padding_idx)[:, None], dE, xp=xp)
        return None, {"E": dE}

    def _check_range(self, name: str, tokens: Array) -> None:
        """Raise ValueError unless all tokens (N,) have a row in E."""
        xp = self.weights.placement.backend.xp
        if tokens.shape[0] == 0:
            return
        low, high = int(xp.min(tokens)), int(xp.max(tokens))
        if low < 0 or high >= self.num_embeddings:
            raise ValueError(
                f"embedding: {name} go from {low} to {high}; "
                f"they must lie in 0…V−1 = 0…{self.num_embeddings - 1}"
            )

    def __repr__(self) -> str:
        return f"<Embedding({self.num_embeddings}, {self.embedding_dim}): {self.weights!r}>"

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this embedding."""
        return {
            "kind": "embedding",
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            # Files of earlier versions do not have this option.
            **({} if self.padding_idx is None else {"padding_idx": self.padding_idx}),
            "dtype": self.dtype,
        }


def _described(tape: Any) -> str:
    dtype = getattr(tape, "dtype", None)
    return f"a {type(tape).__name__}" + (f" of {dtype}" if dtype is not None else "")


def _draw(V: int, I: int, padding_idx: int | None, random: Any) -> dict[str, Array]:
    """E, normal with variance 1/I, and 0 in the row of padding."""
    E = random.normal(0, I**-0.5, (V, I))
    if padding_idx is not None:
        E[padding_idx] = 0
    return {"E": E}
