"""The LSTM with options: other activation functions, limits, peepholes, and more.

a_k = W_k x_t + U_k h_{t-1} + p_k ⊙ c + b_k            (1)   for k of i, f, g, o
i_t, f_t, o_t = σ(a_i), σ(a_f), σ(a_o)                  (2)   coupled: f_t = 1 − i_t
g_t = φ(a_g)                                            (3)
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                         (4)
m_t = o_t ⊙ ψ(c_t)                                      (5)
h_t = m_t, or P m_t                                     (6)

- `activations`: σ, φ and ψ; the usual ones are sigmoid, tanh and tanh.
- `clip`: the pre-activations a are limited to ±clip before (2) and (3).
- `cell_clip`: c_t is limited to ±cell_clip after (4).
- `coupled`: (2) has f_t = 1 − i_t; there are no rows for f in W, U and b.
- `peephole`: p_k ⊙ c in (1), with c_{t-1} for i and f, and c_t for o; otherwise there is no such
  term.  The weight p holds p_i, p_f, p_o (p_i, p_o where coupled).
- `proj_size`: (6) has the projection P (proj_size, H), and U is (G·H, proj_size).
- `recurrent_dropout`: in training (1) has d ⊙ h_{t-1} in the place of h_{t-1}, with a mask d for
  each sequence that is 0 or 1/(1 − p).
- `layer_norm`, "products" (or True): (1) is N(W x_t) + N(U h_{t-1}) + b, each normalised over all
  gates, with the gains gain_x and gain_h (G·H,), and ψ(c_t) in (5) is ψ(N(c_t) + bias_c) with the
  gain gain_c (H,).  "gates": each a_k is normalised before b_k is added, with its part of the gain
  gain (G·H,).

The derivative where a limit is reached is 0.

Sources: Hochreiter & Schmidhuber (1997) and Gers, Schmidhuber & Cummins (2000) for (1)-(5); the
operator LSTM of ONNX (activations, clip, input_forget, peepholes); Greff et al. (2017) for the
coupled gates; Sak, Senior & Beaufays (2014), arXiv:1402.1128, eq. 7, for the projection, as in
`torch.nn.LSTM`; the layer norm of haste's LayerNormLSTM ("products") and of TensorFlow Lite
("gates"), whose limits are cell_clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf
from numbers import Integral
from typing import Any, ClassVar, Literal

from xrnn.cells.activations import Spec, activate, limited, limited_slope, slope
from xrnn.cells.base import Cell, blocks, check_flags, check_sizes
from xrnn.cells.lstm import LSTM
from xrnn.cells.noise import dropout_noise, dropped, dropped_backward, rate_of, without_mask
from xrnn.cells.normalisation import EPS, normalise, normalise_backward
from xrnn.cells.options import GivenActivations, Options, activations_of, limit_of
from xrnn.cells.peephole import PeepholeLSTM
from xrnn.cells.zoneout import with_zoneout, zoneout_rates
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights

#: what is normalised
LayerNorm = Literal["products", "gates"]


@dataclass(frozen=True)
class LSTMOptions(Options):
    """The options of an LSTM, checked; see `lstm_with`."""

    kind: ClassVar[str] = "lstm"
    usual: ClassVar[tuple[str, ...]] = ("sigmoid", "tanh", "tanh")

    cell_clip: float = inf
    coupled: bool = False
    peephole: bool = False
    proj_size: int = 0
    layer_norm: str = ""

    @property
    def elementwise(self) -> bool:
        return super().elementwise and not self.proj_size and not self.layer_norm

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that have rows in W, U and b."""
        return ("i", "g", "o") if self.coupled else ("i", "f", "g", "o")

    @property
    def looking(self) -> tuple[str, ...]:
        """The gates that look at c through a peephole, in the order of p."""
        return tuple(k for k in self.gates if k != "g") if self.peephole else ()


def lstm_with(
    *,
    activations: GivenActivations = None,
    clip: float | None = None,
    cell_clip: float | None = None,
    coupled: bool = False,
    peephole: bool = False,
    proj_size: int = 0,
    layer_norm: bool | LayerNorm = False,
    zoneout: float | tuple[float, float] = 0.0,
    recurrent_dropout: float = 0.0,
) -> Cell[HCState]:
    """The LSTM cell with these options; without any it is `LSTM`.

    Parameters
    ----------
    activations : sequence of 3, optional
        σ of the gates, φ of the candidate and ψ of the cell state.  Each is a name of
        `xrnn.cells.activations.ACTIVATIONS`, or (name, alpha) or (name, alpha, beta).
    clip : float, optional
        What the pre-activations are limited to.
    cell_clip : float, optional
        What the cell state is limited to.
    coupled : bool
        Whether the forget gate is 1 − i.
    peephole : bool
        Whether the gates look at the cell state.
    proj_size : int
        The size of h after a projection; 0 for none.
    layer_norm : bool or {"products", "gates"}
        Whether and what is normalised: the two products and c ("products", or True), or the sum of
        each gate ("gates"); the equations stand in ``xrnn/cells/lstm_options.py``.
    zoneout : (float, float)
        The probabilities that a unit of h and of c keeps its old value in training, see
        `with_zoneout`.
    recurrent_dropout : float
        The fraction of h_{t-1} that the product in (1) does not see in training.

    Returns
    -------
    Cell
        The same one for the same options.  Besides W, U and b it has the weights p (with
        `peephole`), P (with `proj_size`), and gains and bias_c (with `layer_norm`).

    Raises
    ------
    TypeError, ValueError
        If an option is of a wrong type or out of range, or two exclude each other.

    Examples
    --------
    >>> from xrnn import cells
    >>> cells.lstm_with(cell_clip=10.0)
    <cell lstm(cell_clip=10.0)>
    >>> cells.lstm_with(peephole=True) is cells.PeepholeLSTM
    True
    >>> cells.lstm_with(coupled=True, proj_size=2).shapes(3, 5)
    {'W': (15, 3), 'U': (15, 2), 'b': (15,), 'P': (2, 5)}
    """
    check_flags("lstm", coupled=coupled, peephole=peephole)
    if not isinstance(proj_size, Integral) or isinstance(proj_size, bool) or proj_size < 0:
        raise ValueError(f"lstm: proj_size is {proj_size!r:.80}; it must be an integer ≥ 0")
    if proj_size:
        check_sizes("lstm", proj_size=proj_size)
    options = LSTMOptions(
        activations_of("lstm", activations, LSTMOptions.usual),
        limit_of("lstm", "clip", clip),
        rate_of("lstm", "recurrent_dropout", recurrent_dropout),
        limit_of("lstm", "cell_clip", cell_clip),
        bool(coupled),
        bool(peephole),
        int(proj_size),
        _layer_norm(layer_norm),
    )
    if options.peephole and options.layer_norm == "products":
        raise ValueError(
            "lstm: peephole and layer_norm='products' exclude each other; give layer_norm='gates'"
        )
    return with_zoneout(made(options), *zoneout_rates("lstm", 2, zoneout))


def _layer_norm(given: Any) -> str:
    if given is False or given is True:
        return "products" if given else ""
    if not isinstance(given, str) or given not in EPS:
        raise ValueError(
            f"lstm: layer_norm is {given!r:.80}; it must be True, False, or of {', '.join(EPS)}"
        )
    return given


@cache
def made(options: LSTMOptions) -> Cell[HCState]:
    """The cell of these options."""
    if options.name in ("lstm", "lstm(peephole=True)"):
        return PeepholeLSTM if options.peephole else LSTM

    def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
        return _step(options, ax, state, weights, xp=xp)

    def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
        return _total(options, dstate, saved, weights, xp=xp)[0]

    def step_backward(
        dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]:
        return _step_backward(options, dstate, saved, weights, xp=xp)

    G, norm = len(options.gates), options.layer_norm
    extras = {"p": (len(options.looking),)} if options.peephole else {}
    if norm == "products":
        extras |= {"gain_x": (G,), "gain_h": (G,), "gain_c": (1,), "bias_c": (1,)}
    if norm == "gates":
        extras |= {"gain": (G,)}
    return Cell(
        name=options.name,
        gates=options.gates,
        states=("h", "c"),
        step=step,
        step_backward=step_backward,
        total=total,
        extras=extras,
        biases=("b", "bias_c") if norm == "products" else ("b",),
        bias_in_step=bool(norm),
        ones=tuple(name for name in extras if name.startswith("gain")),
        projection=options.proj_size or None,
        noise=dropout_noise(options.recurrent_dropout),
        analytic=options.analytic and options.cell_clip == inf,
        options=options,
        maker=made,
    )


def _step(
    o: LSTMOptions, ax: Array, state: State, weights: Weights, *, xp: Namespace
) -> tuple[State, Any]:
    h_prev, c_prev = state
    sigma, phi, psi = o.activations
    q, mask = dropped(o.recurrent_dropout, h_prev, weights, xp=xp)
    a, products = _sums(o, ax, q @ weights["U"].T, weights, xp=xp)  # (1)
    gates = _Gates(o, weights, xp)
    i = gates.value("i", sigma, a["i"], c_prev)  # (2)
    f = 1 - i if o.coupled else gates.value("f", sigma, a["f"], c_prev)
    g = gates.value("g", phi, a["g"])  # (3)
    c = f * c_prev + i * g  # (4)
    if o.cell_clip < inf:
        c = limited(c, o.cell_clip, xp=xp)
    out = gates.value("o", sigma, a["o"], c)  # (2)
    seen, state_normalised = _seen(o, c, weights, xp=xp)
    y = activate(psi, seen, xp=xp)
    m = out * y  # (5)
    h = m @ weights["P"].T if o.proj_size else m  # (6)
    others = (c_prev, c, seen, y, *products, *state_normalised)
    return (h, c), (*gates.saved(), *others, q, *mask)


def _total(
    o: LSTMOptions, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[State, _GatesBackward]:
    """The gradients of the new state (see `Cell.total`), and the gates, o of which is done."""
    dh, dc = dstate
    gates = _GatesBackward(o, saved, weights, xp)
    _, c, seen, y, *normalised = gates.others
    dm = dh @ weights["P"] if o.proj_size else dh  # (6)
    if o.proj_size:
        gates.parts["P"] = ((dh, gates.y["o"] * y),)
    dc_o = gates.gradient("o", dm * y, c)  # (5), (2)
    dseen = dm * gates.y["o"] * slope(o.activations[2], seen, y, xp=xp)  # (5)
    if o.layer_norm == "products":
        gates.parts["bias_c"] = dseen
        gain, (unit, scale) = weights["gain_c"], normalised[4:6]
        dseen, gates.parts["gain_c"] = normalise_backward(dseen, gain, (unit, scale), xp=xp)
    return (dh, dc + dseen + dc_o), gates


def _step_backward(
    o: LSTMOptions, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (_, dc), gates = _total(o, dstate, saved, weights, xp=xp)
    others, mask = without_mask(o.recurrent_dropout, gates.others)
    c_prev, c, _, _, *normalised, q = others
    i, f, g = (gates.y[k] for k in "ifg")
    if o.cell_clip < inf:
        dc = dc * limited_slope(c, o.cell_clip, xp=xp)
    df, dc_prev = dc * c_prev, dc * f  # (4)
    di, dg = dc * g, dc * i
    gates.gradient("g", dg)  # (3)
    if o.coupled:
        di = di - df  # (2)
    else:
        dc_prev = dc_prev + gates.gradient("f", df, c_prev)
    dc_prev = dc_prev + gates.gradient("i", di, c_prev)
    dax = du = xp.concat([gates.da[k] for k in o.gates], axis=-1)
    parts = gates.contributions()
    if o.layer_norm == "products":
        parts["b"], (of_x, of_h) = dax, (tuple(normalised[:2]), tuple(normalised[2:4]))
        dax, parts["gain_x"] = normalise_backward(dax, weights["gain_x"], of_x, xp=xp)
        du, parts["gain_h"] = normalise_backward(du, weights["gain_h"], of_h, xp=xp)
    dh_prev = dropped_backward(du @ weights["U"], mask)
    return dax, (dh_prev, dc_prev), parts | {"U": ((du, q),)}


def _sums(
    o: LSTMOptions, ax: Array, uh: Array, weights: Weights, *, xp: Namespace
) -> tuple[dict[str, Array], tuple[Array, ...]]:
    """The sum of each gate without its peephole, and what backward needs of their norms."""
    products: tuple[Array, ...] = ()
    if o.layer_norm == "products":
        ax, of_x = normalise(ax, weights["gain_x"], EPS["products"], xp=xp)
        uh, of_h = normalise(uh, weights["gain_h"], EPS["products"], xp=xp)
        ax, products = ax + weights["b"], (*of_x, *of_h)
    return dict(zip(o.gates, blocks(ax + uh, len(o.gates)), strict=True)), products


def _seen(
    o: LSTMOptions, c: Array, weights: Weights, *, xp: Namespace
) -> tuple[Array, tuple[Array, ...]]:
    """What ψ takes in (5), and what backward needs of its norm."""
    if o.layer_norm != "products":
        return c, ()
    seen, normalised = normalise(c, weights["gain_c"], EPS["products"], xp=xp)
    return seen + weights["bias_c"], normalised


def _part(names: tuple[str, ...], k: str, weight: Array) -> Array:
    """The block of a weight that belongs to the gate k of these."""
    return blocks(weight, len(names))[names.index(k)]


class _Gates:
    """The gates of one step: their values, and what backward needs."""

    def __init__(self, o: LSTMOptions, weights: Weights, xp: Namespace) -> None:
        self.o, self.weights, self.xp = o, weights, xp
        self.kept: dict[str, tuple[Array, ...]] = {}

    def value(self, k: str, spec: Spec, a: Array, seen: Array | None = None) -> Array:
        """The gate k, from the sum a and the cell state that it looks at through a peephole."""
        o, weights = self.o, self.weights
        normalised: tuple[Array, ...] = ()
        if k in o.looking:
            a = a + _part(o.looking, k, weights["p"]) * seen  # (1)
        if o.layer_norm == "gates":
            gain = _part(o.gates, k, weights["gain"])
            a, normalised = normalise(a, gain, EPS["gates"], xp=self.xp)
            a = a + _part(o.gates, k, weights["b"])
        if o.clip < inf:
            a = limited(a, o.clip, xp=self.xp)
        y = activate(spec, a, xp=self.xp)
        self.kept[k] = (y, a, *normalised)
        return y

    def saved(self) -> tuple[Array, ...]:
        """The values of the gates, then what else is kept of all: a, and of their norms."""
        rows = zip(*(self.kept[k] for k in self.o.gates), strict=True)
        values, *others = rows
        return (*values, *(self.xp.concat(part, axis=-1) for part in others))


class _GatesBackward:
    """The same gates in the backward pass.

    - y: their values, that of f where it is coupled too
    - others: what the step saved after `_Gates.saved`
    - da: the gradients of their sums
    - parts: what they add to the gradients of the weights
    """

    def __init__(self, o: LSTMOptions, saved: Any, weights: Weights, xp: Namespace) -> None:
        self.o, self.weights, self.xp, names = o, weights, xp, o.gates
        G, norm = len(names), o.layer_norm == "gates"
        self.y = dict(zip(names, saved[:G], strict=True))
        if o.coupled:
            self.y["f"] = 1 - self.y["i"]  # (2)
        split = [blocks(part, G) for part in saved[G : G + (3 if norm else 1)]]
        self.kept = dict(zip(names, zip(*split, strict=True), strict=True))
        self.others = saved[G + len(split) :]
        self.da: dict[str, Array] = {}
        self.parts: dict[Any, Any] = {}

    def gradient(self, k: str, dy: Array, seen: Array | None = None) -> Any:
        """Compute da of the gate k; returns the gradient of the cell state that it looks at."""
        o, (a, *normalised) = self.o, self.kept[k]
        spec = o.activations[1 if k == "g" else 0]
        da = dy * slope(spec, a, self.y[k], xp=self.xp)  # (2), (3)
        if o.clip < inf:
            da = da * limited_slope(a, o.clip, xp=self.xp)
        if o.layer_norm == "gates":
            self.parts["b", k] = da
            gain, norm = _part(o.gates, k, self.weights["gain"]), tuple(normalised)
            da, self.parts["gain", k] = normalise_backward(da, gain, norm, xp=self.xp)
        self.da[k] = da
        if k not in o.looking:
            return 0
        self.parts["p", k] = da * seen  # (1)
        return da * _part(o.looking, k, self.weights["p"])

    def contributions(self) -> dict[str, Contribution]:
        """What is added to the gradients of the weights, that of single gates side by side."""
        whole = {name: part for name, part in self.parts.items() if isinstance(name, str)}
        for name, names in (("p", self.o.looking), ("gain", self.o.gates), ("b", self.o.gates)):
            if names and (name, names[0]) in self.parts:
                whole[name] = self.xp.concat([self.parts[name, k] for k in names], axis=-1)
        return whole
