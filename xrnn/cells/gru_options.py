"""The GRU with options: other activation functions, a limit, and layer norm.

r_t = σ(a_r),  a_r = W_r x_t + U_r h_{t-1} + b_r              (1)
z_t = σ(a_z),  a_z = W_z x_t + U_z h_{t-1} + b_z              (2)
n_t = φ(a_n),  a_n = W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + v)   (3)   reset after
               a_n = W_n x_t + b_n + U_n (r_t ⊙ h_{t-1})       (4)   reset before
h_t = z_t ⊙ h_{t-1} + (1 − z_t) ⊙ n_t                         (5)

- `activations`: σ and φ; the usual ones are sigmoid and tanh.
- `clip`: the pre-activations a are limited to ±clip.
- `recurrent_dropout`: in training the products with U take d ⊙ h_{t-1} in the place of h_{t-1},
  with a mask d for each sequence that is 0 or 1/(1 − p).
- `layer_norm` (with (3)): W x_t and U h_{t-1} are each normalised over all gates, with the gains
  gain_x and gain_h (3·H,).

The derivative where the limit is reached is 0.

Sources: as `xrnn.cells.gru` and `xrnn.cells.gru_before`; the operator GRU of ONNX (activations,
clip); the layer norm of haste's LayerNormGRU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, ClassVar, Literal

from xrnn.cells.activations import activate, limited, limited_slope, slope
from xrnn.cells.base import Cell, blocks, check_flags
from xrnn.cells.gru import GRU
from xrnn.cells.gru_before import GRUBefore
from xrnn.cells.noise import dropout_noise, dropped, dropped_backward, rate_of, without_mask
from xrnn.cells.normalisation import EPS, normalise, normalise_backward
from xrnn.cells.options import GivenActivations, Options, activations_of, limit_of
from xrnn.cells.zoneout import with_zoneout, zoneout_rates
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights

Reset = Literal["after", "before"]


@dataclass(frozen=True)
class GRUOptions(Options):
    """The options of a GRU, checked; see `gru_with`."""

    kind: ClassVar[str] = "gru"
    usual: ClassVar[tuple[str, ...]] = ("sigmoid", "tanh")

    reset: str = "after"
    layer_norm: bool = False

    @property
    def family(self) -> str:
        return "gru" if self.reset == "after" else "gru-before"

    @property
    def elementwise(self) -> bool:
        return super().elementwise and not self.layer_norm


def gru_with(
    *,
    reset: Reset = "after",
    activations: GivenActivations = None,
    clip: float | None = None,
    layer_norm: bool = False,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
) -> Cell[HState]:
    """The GRU cell with these options; without any it is `GRU`, or `GRUBefore`.

    Parameters
    ----------
    reset : {"after", "before"}
        Whether the reset gate acts after the product with U (3) or before it (4).
    activations : sequence of 2, optional
        σ of the gates and φ of the candidate.  Each is a name of
        `xrnn.cells.activations.ACTIVATIONS`, or (name, alpha) or (name, alpha, beta).
    clip : float, optional
        What the pre-activations are limited to.
    layer_norm : bool
        Whether the products are normalised.
    zoneout : float
        The probability that a unit keeps its old value in training, see `with_zoneout`.
    recurrent_dropout : float
        The fraction of h_{t-1} that the products with U do not see in training.

    Returns
    -------
    Cell
        The same one for the same options.

    Raises
    ------
    TypeError, ValueError
        If an option is of a wrong type or out of range, or two exclude each other.

    Examples
    --------
    >>> from xrnn import cells
    >>> cells.gru_with(clip=3.0)
    <cell gru(clip=3.0)>
    >>> cells.gru_with(reset="before") is cells.GRUBefore
    True
    """
    if not isinstance(reset, str) or reset not in ("after", "before"):
        raise ValueError(f"gru: reset is {reset!r:.80}; it must be 'after' or 'before'")
    check_flags("gru", layer_norm=layer_norm)
    if layer_norm and reset == "before":
        raise ValueError("gru: layer_norm and reset='before' exclude each other; give one")
    options = GRUOptions(
        activations_of("gru", activations, GRUOptions.usual),
        limit_of("gru", "clip", clip),
        rate_of("gru", "recurrent_dropout", recurrent_dropout),
        reset,
        bool(layer_norm),
    )
    return with_zoneout(made(options), *zoneout_rates("gru", 1, zoneout))


@cache
def made(options: GRUOptions) -> Cell[HState]:
    """The cell of these options."""
    if options.name in ("gru", "gru(reset=before)"):
        return GRU if options.reset == "after" else GRUBefore

    def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
        return _step(options, ax, state, weights, xp=xp)

    def step_backward(
        dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]:
        return _step_backward(options, dstate, saved, weights, xp=xp)

    after, norm = options.reset == "after", options.layer_norm
    gains = {"gain_x": (3,), "gain_h": (3,)} if norm else {}
    return Cell(
        name=options.name,
        gates=("r", "z", "n"),
        step=step,
        step_backward=step_backward,
        extras=({"v": (1,)} if after else {}) | gains,
        biases=("b", "v") if after else ("b",),
        bias_in_step=norm,
        ones=tuple(gains),
        noise=dropout_noise(options.recurrent_dropout),
        analytic=options.analytic,
        options=options,
        maker=made,
    )


def _step(
    o: GRUOptions, ax: Array, state: State, weights: Weights, *, xp: Namespace
) -> tuple[State, Any]:
    (h_prev,) = state
    sigma, phi = o.activations
    U_rz, U_n = _rows(weights["U"])
    after = o.reset == "after"
    normalised: tuple[Array, ...] = ()
    seen, mask = dropped(o.recurrent_dropout, h_prev, weights, xp=xp)
    uh = seen @ (weights["U"] if after else U_rz).T
    if o.layer_norm:
        ax, of_x = normalise(ax, weights["gain_x"], EPS["products"], xp=xp)
        uh, of_h = normalise(uh, weights["gain_h"], EPS["products"], xp=xp)
        ax, normalised = ax + weights["b"], (*of_x, *of_h)
    x_r, x_z, x_n = blocks(ax, 3)
    u_r, u_z, *u_n = blocks(uh, 3 if after else 2)
    a_r, a_z = _limited(o, x_r + u_r, xp=xp), _limited(o, x_z + u_z, xp=xp)
    r = activate(sigma, a_r, xp=xp)  # (1)
    z = activate(sigma, a_z, xp=xp)  # (2)
    m = u_n[0] + weights["v"] if after else r * seen
    a_n = _limited(o, x_n + (r * m if after else m @ U_n.T), xp=xp)
    n = activate(phi, a_n, xp=xp)  # (3), (4)
    h = z * h_prev + (1 - z) * n  # (5)
    return (h,), (r, z, n, a_r, a_z, a_n, m, h_prev, seen, *normalised, *mask)


def _step_backward(
    o: GRUOptions, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    sigma, phi = o.activations
    saved, mask = without_mask(o.recurrent_dropout, saved)
    r, z, n, a_r, a_z, a_n, m, h_prev, seen, *normalised = saved
    U_rz, U_n = _rows(weights["U"])
    dz, dh_prev = dh * (h_prev - n), dh * z  # (5)
    dn = dh * (1 - z)
    da_n = _limited_backward(o, dn * slope(phi, a_n, n, xp=xp), a_n, xp=xp)
    if o.reset == "after":
        dr, dm = da_n * m, da_n * r  # (3)
    else:
        dm = da_n @ U_n  # (4)
        dr, dseen = dm * seen, dm * r
    da_z = _limited_backward(o, dz * slope(sigma, a_z, z, xp=xp), a_z, xp=xp)  # (2)
    da_r = _limited_backward(o, dr * slope(sigma, a_r, r, xp=xp), a_r, xp=xp)  # (1)
    dax = xp.concat((da_r, da_z, da_n), axis=-1)
    if o.reset == "before":
        da_rz = xp.concat((da_r, da_z), axis=-1)
        dseen = dropped_backward(dseen + da_rz @ U_rz, mask)
        return dax, (dh_prev + dseen,), {"U": ((da_rz, seen), (da_n, m))}
    du = xp.concat((da_r, da_z, dm), axis=-1)
    parts: dict[str, Contribution] = {"v": dm}
    if o.layer_norm:
        parts["b"], (of_x, of_h) = dax, (tuple(normalised[:2]), tuple(normalised[2:]))
        dax, parts["gain_x"] = normalise_backward(dax, weights["gain_x"], of_x, xp=xp)
        du, parts["gain_h"] = normalise_backward(du, weights["gain_h"], of_h, xp=xp)
    dseen = dropped_backward(du @ weights["U"], mask)
    return dax, (dh_prev + dseen,), parts | {"U": ((du, seen),)}


def _rows(U: Array) -> tuple[Array, Array]:
    """The rows of U for r and z, and those for n."""
    H = U.shape[1]
    return U[: 2 * H, :], U[2 * H :, :]


def _limited(o: GRUOptions, a: Array, *, xp: Namespace) -> Array:
    return a if o.clip == inf else limited(a, o.clip, xp=xp)


def _limited_backward(o: GRUOptions, da: Array, a: Array, *, xp: Namespace) -> Array:
    return da if o.clip == inf else da * limited_slope(a, o.clip, xp=xp)
