"""Every cell once more, written from its equations in PyTorch; autograd gives the gradients.

One sequence at a time and over its own steps only: no batch, no mask, no padding, no rule of
differentiation written by hand.  What xrnn could get wrong there cannot go wrong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from oracles.flat import Arrays, over, under

Tensor: TypeAlias = torch.Tensor
Tensors: TypeAlias = Mapping[str, Tensor]
State: TypeAlias = tuple[Tensor, ...]

#: what a step may find among its weights for one sequence, drawn at each step, or once
NOISE = ("zoneout_h", "zoneout_c", "dropout_h", "noise")

# The vectors are tiny: on a busy machine threads would spend their time waiting for each other.
torch.set_num_threads(1)


def elman(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    return (torch.tanh(_input(w, x) + w["U"] @ h),)


def elman_relu(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    return (torch.relu(_input(w, x) + w["U"] @ h),)


def lstm(w: Tensors, x: Tensor, state: State) -> State:
    h, c = state
    i, f, g, o = (_input(w, x) + w["U"] @ h).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def peephole(w: Tensors, x: Tensor, state: State) -> State:
    h, c = state
    i, f, g, o = (_input(w, x) + w["U"] @ h).chunk(4)
    p_i, p_f, p_o = w["p"].chunk(3)
    c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


def input_gated(w: Tensors, x: Tensor, state: State) -> State:
    _, c = state
    i, f, g, o = _input(w, x).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    x_r, x_z, x_n = _input(w, x).chunk(3)
    U_r, U_z, U_n = w["U"].chunk(3)
    inner = U_n @ h + w["v"] if "v" in w else U_n @ h
    r, z = torch.sigmoid(x_r + U_r @ h), torch.sigmoid(x_z + U_z @ h)
    n = torch.tanh(x_n + r * inner)
    return (z * h + (1 - z) * n,)


def gru_before(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    x_r, x_z, x_n = _input(w, x).chunk(3)
    U_r, U_z, U_n = w["U"].chunk(3)
    r, z = torch.sigmoid(x_r + U_r @ h), torch.sigmoid(x_z + U_z @ h)
    n = torch.tanh(x_n + U_n @ (r * h))
    return (z * h + (1 - z) * n,)


def mingru(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    z, n = _input(w, x).chunk(2)
    return (h + torch.sigmoid(z) * (n - h),)


def janet(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    s, g = (_input(w, x) + w["U"] @ h).chunk(2)
    return (torch.sigmoid(s) * h + (1 - torch.sigmoid(s - 1)) * torch.tanh(g),)


def mgu(w: Tensors, x: Tensor, state: State) -> State:
    (h,) = state
    (x_f, x_h), (U_f, U_h) = _input(w, x).chunk(2), w["U"].chunk(2)
    f = torch.sigmoid(x_f + U_f @ h)
    return ((1 - f) * h + f * torch.tanh(x_h + U_h @ (f * h)),)


def _input(w: Tensors, x: Tensor) -> Tensor:
    return w["W"] @ x + w["b"] if "b" in w else w["W"] @ x


@dataclass(frozen=True)
class Oracle:
    """One cell: its step, its number of gates, its states and further weights, in units of H."""

    step: Callable[[Tensors, Tensor, State], State]
    gates: int
    states: tuple[str, ...] = ("h",)
    recurrent: bool = True
    extras: Mapping[str, int] = field(default_factory=dict)
    biases: tuple[str, ...] = ("b",)


CELLS = {
    "rnn": Oracle(elman, 1),
    "rnn-relu": Oracle(elman_relu, 1),
    "lstm": Oracle(lstm, 4, ("h", "c")),
    "gru": Oracle(gru, 3, extras={"v": 1}, biases=("b", "v")),
    "gru-before": Oracle(gru_before, 3),
    "input-gated": Oracle(input_gated, 4, ("h", "c"), recurrent=False),
    "peephole": Oracle(peephole, 4, ("h", "c"), extras={"p": 3}),
    "mingru": Oracle(mingru, 2, recurrent=False),
    "janet": Oracle(janet, 2),
    "mgu": Oracle(mgu, 2),
}


def shapes(
    cell: str, I: int, H: int, num_layers: int, bidirectional: bool, bias: bool = True
) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of a layer."""
    oracle, D = CELLS[cell], 2 if bidirectional else 1
    rows = oracle.gates * H
    named: dict[str, tuple[int, ...]] = {}
    for k in range(num_layers):
        for suffix in _suffixes(k, D):
            named[f"W{suffix}"] = (rows, I if k == 0 else D * H)
            if oracle.recurrent:
                named[f"U{suffix}"] = (rows, H)
            vectors = {"b": rows} | {name: n * H for name, n in oracle.extras.items()}
            for name, n in vectors.items():
                if bias or name not in oracle.biases:
                    named[f"{name}{suffix}"] = (n,)
    return named


def verdict(
    cell: str | Oracle, given: Arrays, num_layers: int = 1, bidirectional: bool = False
) -> Arrays:
    """What a stacked or bidirectional layer must make of a case; see `oracles`.

    The case may hold random numbers: ``noise.zoneout_h_l0`` (T, B, H) or (B, H) …, which the step
    finds among the weights, and ``drop.U_l0`` …, with which a weight is multiplied.
    """
    oracle = CELLS[cell] if isinstance(cell, str) else cell
    T, B, _ = given["xs"].shape
    leaves = leaves_of(given)
    weights, state = under(leaves, "weights"), under(leaves, "state")
    if not state:
        H = weights["W_l0"].shape[0] // oracle.gates
        shape = (num_layers * (2 if bidirectional else 1), B, H)
        state = {
            s: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for s in oracle.states
        }
        leaves |= over("state", state)
    lengths = [int(n) for n in given.get("lengths", [T] * B)]
    drop, noise = (
        {name: torch.tensor(a) for name, a in under(given, kind).items()}
        for kind in ("drop", "noise")
    )
    ys, last = forward(
        oracle,
        weights | {name: weights[name] * mask for name, mask in drop.items()} | noise,
        leaves["xs"],
        tuple(state[s] for s in oracle.states),
        lengths,
        num_layers,
        bidirectional,
    )
    outputs = {"ys": ys, **over("last", dict(zip(oracle.states, last, strict=True)))}
    return {k: a.detach().numpy() for k, a in outputs.items()} | gradients(outputs, leaves, given)


def forward(
    oracle: Oracle,
    weights: Tensors,
    xs: Tensor,
    state: State,
    lengths: Sequence[int],
    num_layers: int,
    bidirectional: bool,
) -> tuple[Tensor, State]:
    """ys (T, B, D·H), zero past the ends, and the last states, each (L·D, B, H)."""
    D = 2 if bidirectional else 1
    lasts = []
    for k in range(num_layers):
        outputs = []
        for d, suffix in enumerate(_suffixes(k, D)):
            mine = {n.removesuffix(suffix): w for n, w in weights.items() if n.endswith(suffix)}
            first = tuple(s[k * D + d] for s in state)
            ys, last = _one_direction(oracle, mine, xs, first, lengths, reverse=d == 1)
            outputs.append(ys)
            lasts.append(last)
        xs = torch.cat(outputs, dim=2)
    return xs, tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _one_direction(
    oracle: Oracle, w: Tensors, xs: Tensor, first: State, lengths: Sequence[int], reverse: bool
) -> tuple[Tensor, State]:
    columns, lasts = [], []
    for b, length in enumerate(lengths):
        state = tuple(s[b] for s in first)
        rows = [torch.zeros_like(state[0])] * len(xs)
        for t in reversed(range(length)) if reverse else range(length):
            state = oracle.step(_at(w, t, b), xs[t, b], state)
            rows[t] = state[0]
        columns.append(torch.stack(rows))
        lasts.append(state)
    return torch.stack(columns, dim=1), tuple(torch.stack(p) for p in zip(*lasts, strict=True))


def _at(w: Tensors, t: int, b: int) -> Tensors:
    """The weights, and what is drawn for step t of sequence b."""
    drawn = {n: a[t, b] if a.ndim == 3 else a[b] for n, a in w.items() if n in NOISE}
    return {**w, **drawn}


def leaves_of(given: Arrays) -> dict[str, Tensor]:
    """xs, the weights and the state of a case as tensors that autograd follows."""
    return {
        name: torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for name, a in given.items()
        if name == "xs" or name.startswith(("weights.", "state."))
    }


def gradients(outputs: Tensors, leaves: Tensors, given: Arrays) -> Arrays:
    """dxs, dfirst and dweights, by autograd, for the dys and dstate of a case."""
    pairs = {"ys": "dys"} | {k: k.replace("last", "dstate") for k in outputs if k != "ys"}
    # An output that depends on nothing (all lengths zero) has no gradient to ask for.
    asked = [k for k, d in pairs.items() if d in given and outputs[k].requires_grad]
    found = torch.autograd.grad(
        [outputs[k] for k in asked],
        list(leaves.values()),
        [torch.tensor(given[pairs[k]], dtype=torch.float64) for k in asked],
        allow_unused=True,
        materialize_grads=True,
    )
    named = {name: a.numpy() for name, a in zip(leaves, found, strict=True)}
    return {
        "dxs": named["xs"],
        **over("dfirst", under(named, "state")),
        **over("dweights", under(named, "weights")),
    }


def _suffixes(k: int, D: int) -> list[str]:
    return [f"_l{k}{direction}" for direction in ("", "_reverse")[:D]]
