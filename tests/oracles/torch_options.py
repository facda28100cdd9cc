"""Cells with options once more, from the definitions of those who made them; see `torch_cells`.

- haste's LayerNormLSTM and LayerNormGRU (lmnt-com/haste), and their zoneout and DropConnect
- TensorFlow Lite's LSTM (`lstm_eval.cc`, in float32 there): layer norm of each gate, coupled gates,
  peepholes, a projection and a limit of the cell state, each or all
- zoneout, Krueger et al. (2016), arXiv:1606.01305
- the leaky network of rates, Yang et al. (2019), and that of currents, Song, Yang & Wang (2016)
- variational dropout, Gal & Ghahramani (2016), arXiv:1512.05287
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import layer_norm

from oracles.torch_cells import Oracle, State, Tensor, Tensors


def haste_lstm(w: Tensors, x: Tensor, state: State) -> State:
    """LayerNormLSTM: all gates of a product are normalised together, and then c is."""
    h, c = state
    a = _normalised(w["W"] @ x, w["gain_x"]) + _normalised(w["U"] @ h, w["gain_h"])
    i, f, g, o = (a + w["b"] if "b" in w else a).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(_normalised(c, w["gain_c"], w.get("bias_c"))), c


def haste_gru(w: Tensors, x: Tensor, state: State) -> State:
    """LayerNormGRU: the bias of the recurrent product comes after the normalisation too."""
    (h,) = state
    of_x = _normalised(w["W"] @ x, w["gain_x"], w.get("b"))
    of_h = _normalised(w["U"] @ h, w["gain_h"])
    (x_r, x_z, x_n), (h_r, h_z, h_n) = of_x.chunk(3), of_h.chunk(3)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * (h_n + w["v"] if "v" in w else h_n))
    return (z * h + (1 - z) * n,)


def _normalised(a: Tensor, gain: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return layer_norm(a, a.shape, gain, bias, eps)


@dataclass(frozen=True)
class TFLite:
    """The step of TensorFlow Lite's LSTM with some of its options.

    Its coupled gates have a forget gate f and i = 1 − f; ours have an input gate i and f = 1 − i.
    Since σ(−a) = 1 − σ(a), and −a has the norm of a with the other sign, its W, U, p and b of f are
    our −W, −U, −p and −b of i, and the gain is the same.
    """

    norm: bool
    coupled: bool
    peephole: bool
    projection: bool
    cell_clip: float
    activation: Any = torch.tanh

    def __call__(self, w: Tensors, x: Tensor, state: State) -> State:
        h, c = state
        names = "igo" if self.coupled else "ifgo"
        sums = dict(zip(names, (w["W"] @ x + w["U"] @ h).chunk(len(names)), strict=True))
        if self.coupled:
            f = torch.sigmoid(-self._finished(w, names, "i", sums["i"], c))
            i = 1 - f
        else:
            i = torch.sigmoid(self._finished(w, names, "i", sums["i"], c))
            f = torch.sigmoid(self._finished(w, names, "f", sums["f"], c))
        c = f * c + i * self.activation(self._finished(w, names, "g", sums["g"]))
        if self.cell_clip > 0:
            c = c.clamp(-self.cell_clip, self.cell_clip)
        o = torch.sigmoid(self._finished(w, names, "o", sums["o"], c))
        m = o * self.activation(c)
        return w["P"] @ m if self.projection else m, c

    def _finished(
        self, w: Tensors, names: str, k: str, a: Tensor, c: Tensor | None = None
    ) -> Tensor:
        """Peephole, norm and bias of the gate k, in this order."""
        if self.peephole and c is not None:
            looking = names.replace("g", "")
            a = a + w["p"].chunk(len(looking))[looking.index(k)] * c
        at = names.index(k)
        if self.norm:
            a = _normalised(a, w["gain"].chunk(len(names))[at], eps=1e-8)
        return a + w["b"].chunk(len(names))[at] if "b" in w else a

    def oracle(self) -> Oracle:
        """The cell."""
        gates = 3 if self.coupled else 4
        extras = {"gain": gates} if self.norm else {}
        extras |= {"p": gates - 1} if self.peephole else {}
        return Oracle(self, gates, ("h", "c"), extras=extras)


HASTE_LSTM = Oracle(
    haste_lstm,
    4,
    ("h", "c"),
    extras={"gain_x": 4, "gain_h": 4, "gain_c": 1, "bias_c": 1},
    biases=("b", "bias_c"),
)
HASTE_GRU = Oracle(haste_gru, 3, extras={"v": 1, "gain_x": 3, "gain_h": 3}, biases=("b", "v"))


def softplus(a: Tensor) -> Tensor:
    """ln(1 + e^a); PyTorch's own is a from 20 on."""
    return torch.logaddexp(a, torch.zeros_like(a))


@dataclass(frozen=True)
class Leaky:
    """The step of a leaky network; ξ is drawn times √(2/α) σ.

    Of rates: r ← (1 − α) r + α φ(W r + W_in u + b + √(2/α) σ ξ).  Of currents:
    x ← (1 − α) x + α (W r + W_in u + b) + √(2α) σ ξ and r = φ(x), whose states are r and x.
    """

    alpha: float
    phi: Any
    currents: bool

    def __call__(self, w: Tensors, x: Tensor, state: State) -> State:
        r, noise = state[0], w.get("noise", torch.zeros(()))
        total = w["W"] @ x + w["U"] @ r
        if "b" in w:
            total = total + w["b"]
        if not self.currents:
            return ((1 - self.alpha) * r + self.alpha * self.phi(total + noise),)
        current = (1 - self.alpha) * state[1] + self.alpha * total + self.alpha * noise
        return self.phi(current), current

    def oracle(self) -> Oracle:
        """The cell."""
        return Oracle(self, 1, ("h", "v") if self.currents else ("h",))


def with_dropout(oracle: Oracle) -> Oracle:
    """The cell, h of which enters its product with U alone, with variational dropout of h."""

    def step(w: Tensors, x: Tensor, state: State) -> State:
        h, *others = state
        return oracle.step(w, x, (w["dropout_h"] * h, *others))

    return replace(oracle, step=step)


def gru_with_dropout(oracle: Oracle) -> Oracle:
    """The same of a GRU: what its update gate keeps is h, and not the dropped h."""

    def step(w: Tensors, x: Tensor, state: State) -> State:
        (h,), dropped = state, w["dropout_h"] * state[0]
        W, U, b = w["W"].chunk(3), w["U"].chunk(3), w["b"].chunk(3)
        r, z = (torch.sigmoid(W[k] @ x + U[k] @ dropped + b[k]) for k in (0, 1))
        inner = U[2] @ (r * dropped) if "v" not in w else r * (U[2] @ dropped + w["v"])
        return (z * h + (1 - z) * torch.tanh(W[2] @ x + b[2] + inner),)

    return replace(oracle, step=step)


def with_zoneout(oracle: Oracle, rates: Sequence[float], training: bool) -> Oracle:
    """The cell whose units keep their old state, or in inference the mean of that.

    Where z = 1 a unit keeps it; the mask of haste is 1 − z.
    """

    def step(w: Tensors, x: Tensor, state: State) -> State:
        mixed = []
        for name, rate, old, new in zip(
            oracle.states, rates, state, oracle.step(w, x, state), strict=True
        ):
            z = w[f"zoneout_{name}"] if training and rate else rate
            mixed.append((new - old) * (1 - z) + old)
        return tuple(mixed)

    return replace(oracle, step=step)
