"""What stands below and above a recurrent layer: an embedding and a linear map.

x_t = E[token_t]              (1)   `Embedding`: seed 001 eq. 1, a row of E for a token
y_t = W h_t + b               (2)   `Linear`: seed 001 eq. 3
y_t = ReLU(W h_t + b)         (3)   `Linear(activation="relu")`: seed 003 eq. 2
dE = Σ_t token_t ⊗ dx_t       (4)   seed 001 eqs 16-17 as corrected: one-hot rows, so dx_t is
                                    added to the row of its token

Softmax has no layer of its own: `xrnn.losses.softmax_cross_entropy` takes the logits,
because its gradient with respect to them is simple and stable.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from xrnn.activations import relu, relu_slope
from xrnn.backends import backend_of, check_library, check_same, get
from xrnn.backends.cpu import generator
from xrnn.typing import Array
from xrnn.weights import Weighted, cast, check_sizes


class Embedding(Weighted):
    """A row of E for every token.

    Parameters
    ----------
    V, I : int
        Tokens, and the size of their vectors.
    dtype, device, rng
        As `xrnn.Layer`.

    Attributes
    ----------
    weights : dict of str to array
        ``E`` (V, I), drawn from the normal distribution with variance 1/I.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> embedding = xrnn.Embedding(10, 4)
    >>> tokens = np.array([[1, 2], [2, 9]])
    >>> xs, tape = embedding.forward(tokens)
    >>> xs.shape
    (2, 2, 4)
    >>> embedding.backward(tape, np.ones_like(xs))["E"][:, 0].tolist()
    [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """

    def __init__(
        self, V: int, I: int, dtype: str = "float32", device: str = "cpu", rng: Any = 0
    ) -> None:
        check_sizes("embedding", V=V, I=I)
        self.V, self.I, self.dtype = int(V), int(I), dtype
        drawn = {"E": generator(rng).normal(0, I**-0.5, (V, I))}
        self.weights = cast(drawn, dtype, get(device))

    def __call__(self, tokens: Array) -> Array:
        """The vectors (…, I) of integer tokens (…)."""
        return self.forward(tokens)[0]

    def forward(self, tokens: Array) -> tuple[Array, Array]:
        """The vectors (…, I) of integer tokens (…), and the tape.

        Raises
        ------
        TypeError
            If the tokens are not integers, or of another library than E.
        ValueError
            If a token is outside 0…V−1.
        """
        E = self.weights["E"]
        check_library("E", E, "tokens", tokens)
        xp = backend_of(E).xp
        if not xp.isdtype(tokens.dtype, "integral"):
            raise TypeError(f"embedding: tokens are {tokens.dtype}; they must be integers")
        flat = xp.reshape(tokens, (prod(tokens.shape),))
        if 0 not in tokens.shape:
            low, high = int(xp.min(flat)), int(xp.max(flat))
            if low < 0 or high >= self.V:
                raise ValueError(
                    f"embedding: tokens go from {low} to {high}; "
                    f"they must lie in 0…V−1 = 0…{self.V - 1}"
                )
        xs = xp.take(E, flat, axis=0)  # (1)
        return xp.reshape(xs, (*tokens.shape, self.I)), tokens

    def backward(self, tape: Array, dxs: Array) -> dict[str, Array]:
        """The gradient of E from that of the vectors: row v sums over the places of token v."""
        backend = backend_of(dxs, "dxs")
        check_same("embedding", "dxs", dxs, "E", self.weights["E"])
        if tuple(dxs.shape) != (*tape.shape, self.I):
            raise ValueError(
                f"embedding: dxs has shape {tuple(dxs.shape)}; "
                f"it must be that of the vectors, {(*tape.shape, self.I)}"
            )
        xp, N = backend.xp, prod(tape.shape)
        rows, tokens = xp.reshape(dxs, (N, self.I)), xp.reshape(tape, (N,))
        return {"E": backend.scatter_add(rows, tokens, self.V, xp=xp)}  # (4)

    def config(self) -> dict[str, Any]:
        """What a file must agree on to be loaded into this embedding."""
        return {"kind": "embedding", "V": self.V, "I": self.I, "dtype": self.dtype}


class LinearTape(NamedTuple):
    """What `Linear.backward` needs."""

    hs: Array
    ys: Array


class Linear(Weighted):
    """y = W h + b, with nothing or a ReLU on top.

    Parameters
    ----------
    H, O : int
        Inputs (the hidden units of the layer below) and outputs.
    activation : None or "relu"
        What stands on top.
    bias : bool
        Whether there is b.
    dtype, device, rng
        As `xrnn.Layer`.

    Attributes
    ----------
    weights : dict of str to array
        ``W`` (O, H), Glorot uniform, and ``b`` (O,), zero at the start.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> readout = xrnn.Linear(5, 2)
    >>> ys, tape = readout.forward(np.ones((7, 3, 5), "float32"))
    >>> dhs, dweights = readout.backward(tape, ys)
    >>> dhs.shape, dweights["W"].shape
    ((7, 3, 5), (2, 5))
    """

    def __init__(
        self,
        H: int,
        O: int,
        activation: str | None = None,
        bias: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
        rng: Any = 0,
    ) -> None:
        check_sizes("linear", H=H, O=O)
        if activation not in (None, "relu"):
            raise ValueError(f"linear: activation is {activation!r}; it must be None or 'relu'")
        self.H, self.O, self.bias = int(H), int(O), bool(bias)
        self.activation, self.dtype = activation, dtype
        limit = (6 / (H + O)) ** 0.5
        drawn = {"W": generator(rng).uniform(-limit, limit, (O, H))}
        if bias:
            drawn["b"] = get("cpu").xp.zeros(O)
        self.weights = cast(drawn, dtype, get(device))

    def __call__(self, hs: Array) -> Array:
        """The outputs (…, O) for hs (…, H)."""
        return self.forward(hs)[0]

    def forward(self, hs: Array) -> tuple[Array, LinearTape]:
        """The outputs (…, O) for hs (…, H), and the tape.

        Raises
        ------
        TypeError
            If hs is of another library or dtype than W.
        ValueError
            If hs does not have H values in its last axis.
        """
        W = self.weights["W"]
        check_same("linear", "W", W, "hs", hs)
        if hs.ndim < 1 or hs.shape[-1] != self.H:
            raise ValueError(
                f"linear: hs has shape {tuple(hs.shape)}; it must be (…, H) with H = {self.H}"
            )
        xp = backend_of(hs).xp
        ys = xp.reshape(hs, (prod(hs.shape[:-1]), self.H)) @ W.T  # (2)
        if self.bias:
            ys = ys + self.weights["b"]
        if self.activation == "relu":
            ys = relu(ys, xp=xp)  # (3)
        ys = xp.reshape(ys, (*hs.shape[:-1], self.O))
        return ys, LinearTape(hs, ys)

    def backward(self, tape: LinearTape, dys: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients of hs and of the weights from that of the outputs."""
        hs, ys = tape
        check_same("linear", "dys", dys, "ys", ys)
        if tuple(dys.shape) != tuple(ys.shape):
            raise ValueError(
                f"linear: dys has shape {tuple(dys.shape)}; "
                f"it must be that of ys, {tuple(ys.shape)}"
            )
        xp = backend_of(dys).xp
        da = dys * relu_slope(ys, xp=xp) if self.activation == "relu" else dys  # (3)
        count = prod(hs.shape[:-1])
        da = xp.reshape(da, (count, self.O))
        dweights = {"W": da.T @ xp.reshape(hs, (count, self.H))}  # (2)
        if self.bias:
            dweights["b"] = xp.sum(da, axis=0)
        return xp.reshape(da @ self.weights["W"], hs.shape), dweights

    def config(self) -> dict[str, Any]:
        """What a file must agree on to be loaded into this map."""
        return {
            "kind": "linear",
            "H": self.H,
            "O": self.O,
            "activation": self.activation,
            "bias": self.bias,
            "dtype": self.dtype,
        }
