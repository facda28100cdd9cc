"""Learning online: exact gradients computed forward in time, without storing past steps.

Let s be the state, θ a weight, and P_t = ∂s_t/∂θ the total derivative.  Then

P_t = J_t P_{t-1} + D_t,   J_t = ∂s_t/∂s_{t-1},   D_t = ∂s_t/∂θ at step t alone    (1)
∂L_t/∂θ = (∂L_t/∂h_t)ᵀ P_t^h                                                       (2)

is real-time recurrent learning.  P is called the sensitivity of the state to the weights.

In a cell that is a linear recurrence, row m of a weight acts on unit m alone.  J_t is then
diagonal, and P_t has only as many numbers as θ for each state.  In other cells, keeping the
diagonal alone is the approximation SnAp-1.

Sources: Williams & Zipser (1989); Menick et al., "Practical real time recurrent learning with
a sparse approximation" (2021), arXiv:2006.07232; derivations "ReLU RNN, LSTM and GRU", eqs 6-8 and
31-54, and "Input-gated LSTM", line 312 (corrected: see the errata in
``xrnn/guide/derivations.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal

from xrnn.backends import host
from xrnn.cells.base import Cell, check_cell, check_sizes
from xrnn.cells.numbers import accept_number
from xrnn.engine.checks import Spec, cell_weights, check_choice, check_numbers
from xrnn.engine.parameters import count
from xrnn.engine.signature import signature
from xrnn.engine.states import accept_state
from xrnn.engine.values import accept_rows
from xrnn.recurrence.masks import select_state
from xrnn.recurrence.precision import accumulation_dtype, widen
from xrnn.recurrence.projection import input_projection
from xrnn.recurrence.sensitivity import Diagonal, Full, Sensitivity
from xrnn.typing import Array, GivenState, Namespace, S, State, Weights, dtype_name

METHODS = ("exact", "snap1")


class Online(Generic[S]):
    """One cell on a stream; after each step it gives the gradient of that step's loss.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.InputGatedLSTM`.
    weights : mapping of str to array
        Names and shapes of ``cell.shapes(I, H)``; biases may be left out.  The mapping is
        kept, not copied: changes in it take effect from the next step on, and newly assigned
        arrays are checked then.  After a change the sensitivities still depend on the old
        weights of past steps, an error that is small for small learning rates.  Of float16 and
        bfloat16 only weights and states are stored: steps, sensitivities and sums are computed
        in float32.
    batch : int
        B, the number of streams that run in parallel.
    state : tuple of array (B, H) or None, optional
        The state to start from, which is copied.  Default: zeros, for the tuple or any of
        its parts.
    method : {"exact", "snap1"}
        "exact": the exact gradient.  For a linear cell (`InputGatedLSTM`, `MinGRU`) the
        sensitivities are B·S·P numbers, for P parameters and S states, and the work of a step
        is proportional to that.  For any other cell they are B·S·H·P numbers, and the work is
        S·H times as much, so it is meant for small H.
        "snap1": the diagonal approximation, which costs as much as a linear cell.  It does not
        serve cells with a projection or layer norm.
    limit : int
        The largest number of bytes that the sensitivities may take.

    Attributes
    ----------
    state : named tuple of array (B, H)
        The state after the last step, a copy; `reset` gives streams another one.
    nbytes : int
        The size of the sensitivities in bytes, which does not depend on the length of the stream.
    cell, weights, method, limit
        As they were given.

    A cell that draws random numbers (`Cell.noise`) runs as in inference.

    Streams do not touch each other: what is NaN in one of them is NaN there alone, and in
    gradients of losses that it takes part in, until `reset`.

    A deep copy, a pickle or a file of `xrnn.save` goes on as the original does, bit by bit, on
    copies of the weights.  ``copy.copy`` gives another learner on the same weights.

    Raises
    ------
    TypeError
        If weights and state are of different libraries or dtypes, or `limit` is no number.
    ValueError
        If a size, a shape or the method is wrong, or the sensitivities would take more than
        `limit` bytes.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import InputGatedLSTM
    >>> rng = np.random.default_rng(0)
    >>> weights = {k: rng.normal(size=s) for k, s in InputGatedLSTM.shapes(3, 5).items()}
    >>> xs, dys = rng.normal(size=(2, 100, 1, 3)), rng.normal(size=(100, 1, 5))
    >>> online = xrnn.online.Online(InputGatedLSTM, weights, batch=1)
    >>> total = 0
    >>> for x, dh in zip(xs[0], dys):
    ...     h = online.step(x)
    ...     total = total + online.gradient(dh)["W"]
    >>> _, _, tape = xrnn.unroll(InputGatedLSTM, weights, xs[0])
    >>> bool(np.allclose(total, xrnn.unroll_backward(tape, dys)[2]["W"]))
    True
    """

    def __init__(
        self,
        cell: Cell[S],
        weights: Weights,
        batch: int,
        state: GivenState | None = None,
        *,
        method: Literal["exact", "snap1"] = "exact",
        limit: int = 2**30,
    ) -> None:
        check_cell(cell)
        check_sizes(cell.name, batch=batch)
        check_choice(cell.name, "method", method, METHODS)
        must = "a number of bytes ≥ 0"
        most = accept_number(f"{cell.name}: limit", limit, must, lambda number: number >= 0)
        self.cell, self.weights, self.B = cell, weights, int(batch)
        self.method, self.limit = method, most
        self._complete, self._placement = cell_weights(cell, weights)
        check_numbers(cell, self._complete["W"], self._placement.backend, "W")
        self._set_seen(dict(weights))
        rows, self.I = self._complete["W"].shape
        self.H: int = rows // len(cell.gates)
        self._widths = cell.widths(self.H)
        self._state = self._copies(self._accepted(state))
        diagonal = method == "snap1" or cell.linear is not None
        if diagonal and (cell.projection is not None or cell.bias_in_step):
            word = "normalises whole rows" if cell.projection is None else "has a projection"
            raise ValueError(
                f"{cell.name}: method is 'snap1', and the cell {word}, through which every unit "
                'acts on all others within a step; give method="exact"'
            )
        rows = len(self._widths) if diagonal else sum(self._widths)
        numbers = rows * self.B * count(weights)
        wide = accumulation_dtype(self._placement.dtype, xp=self.xp)
        #: whether numbers are stored in another dtype than they are computed in
        self._half: bool = wide != self._placement.dtype
        self.nbytes = numbers * self.xp.finfo(wide).bits // 8
        if self.nbytes > most:
            raise ValueError(
                f"{cell.name}: the sensitivities would take {self.nbytes:,} bytes ({numbers:,} "
                f"numbers: {rows} rows · B = {self.B} · {count(weights):,} parameters), more "
                f'than limit = {most:,.0f}; take a smaller H or batch, or method="snap1"'
            )
        zeros = tuple(self._widened(self._placement.zeros((self.B, n))) for n in self._widths)
        self._rule = (Diagonal if diagonal else Full)(cell, weights, zeros, xp=self.xp)
        self._P: Sensitivity = self._rule.start(zeros, xp=self.xp)

    @property
    def xp(self) -> Namespace:
        """The functions of the weights' library."""
        return self._placement.backend.xp

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this learner."""
        own = self.cell.identity != self.cell.name
        return {
            "kind": "online",
            "cell": self.cell.identity,
            **({"signature": signature(self.cell)} if own else {}),
            "input_size": self.I,
            "hidden_size": self.H,
            "weights": sorted(self.weights),
            "batch": self.B,
            "method": self.method,
            "dtype": dtype_name(self._placement.dtype),
        }

    def memory(self) -> dict[str, Array]:
        """What the learner knows of the past, for files: ``state.h`` …, and ``sensitivity.W`` …,
        those of the states to the weights.  The arrays are its own, not copies."""
        states = zip(self.cell.states, self._state, strict=True)
        kept = {f"state.{name}": part for name, part in states}
        return kept | {f"sensitivity.{name}": part for name, part in self._P.items()}

    def remember(self, memory: Mapping[str, Array]) -> None:
        """Take over what `memory` of an equal learner has given; the arrays are not copied."""
        state = tuple(memory[f"state.{name}"] for name in self.cell.states)
        P = {name: memory[f"sensitivity.{name}"] for name in self._P}
        # In one statement: Ctrl-C comes before it or after it.
        self.__dict__.update(_state=state, _P=P)

    @property
    def state(self) -> S:
        """The state after the last step, a copy."""
        return self.cell.state(self._copies(self._state))

    @state.setter
    def state(self, state: Any) -> None:
        raise AttributeError(
            f"{self.cell.name}: state cannot be assigned, because the sensitivities are those of "
            "the present one; use reset(rows, state), which starts streams anew"
        )

    def reset(self, rows: Any = None, state: GivenState | None = None) -> None:
        """Start streams anew: their past no longer counts.

        Their states become those that are given, and their sensitivities exactly 0, even where
        they were NaN.  Other streams go on.

        Parameters
        ----------
        rows : integers, or bools (B,), optional
            Which streams: their numbers in 0…B−1, or a mask.  Default: all.
        state : tuple of array (B, H) or None, optional
            The states to start from, of which those of other streams are not read.  Default:
            zeros, for the tuple or any of its parts.

        Raises
        ------
        TypeError
            If the state is of another library, device or dtype than the weights.
        ValueError
            If a shape does not fit, or `rows` are not streams.

        Examples
        --------
        >>> import numpy as np, xrnn
        >>> weights = {k: np.ones(s) for k, s in xrnn.cells.GRU.shapes(3, 5).items()}
        >>> online = xrnn.online.Online(xrnn.cells.GRU, weights, batch=2)
        >>> _ = online.step(np.array([[1.0, 0.0, 2.0], [np.nan, 0.0, 0.0]]))
        >>> online.reset(1)
        >>> online.state.h[1].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0]
        >>> bool(np.isfinite(online.gradient(np.ones((2, 5)))["U"]).all())
        True
        """
        given, chosen = self._accepted(state), self._mask(rows)
        new = select_state(chosen[:, None], given, self._state, xp=self.xp)
        # CuPy's `where` returns float32 for bfloat16.
        self._state = tuple(self._stored(part) for part in new)
        self._P = self._rule.only(~chosen, self._P, xp=self.xp)

    def _mask(self, rows: Any) -> Array:
        """Which streams `rows` are, all for None: bools (B,) of the weights' library."""
        mask = host.xp.zeros(self.B, bool)
        mask[accept_rows(self.cell.name, range(self.B) if rows is None else rows, self.B)] = True
        return self._placement.from_host(mask)

    def _accepted(self, state: GivenState | None) -> State:
        """The parts of a state, checked; None becomes zeros."""
        sizes = zip(self._widths, self.cell.width_letters, strict=True)
        specs = [Spec((self.B, width), f"(B, {letter})") for width, letter in sizes]
        return accept_state(self.cell, "state", state, self._placement, specs)

    def _set_seen(self, seen: dict[str, Array]) -> None:
        """Remember the arrays that were checked, and of which ones there are copies."""
        self._seen = seen
        self._copied = [name for name, w in seen.items() if self._complete[name] is not w]

    def _bind(self) -> None:
        """Check the weights as they are now, and complete them.  After an error the next step
        checks them again."""
        seen, kind = dict(self.weights), self.cell.name
        if odd := sorted(set(seen) ^ set(self._seen)):
            raise ValueError(
                f"{kind}: weights added or taken away since the start: {', '.join(odd)}; the "
                "sensitivities are of those given then: make another Online"
            )
        given = {name: self._placement.accept(name, w) for name, w in seen.items()}
        self._complete, _ = cell_weights(self.cell, given, I=self.I, H=self.H)
        self._set_seen(seen)

    def _now(self) -> dict[str, Array]:
        """The weights as they are now, checked and complete, in the dtype of computations."""
        seen, now = self._seen, self.weights
        if len(now) != len(seen) or any(now.get(name) is not w for name, w in seen.items()):
            self._bind()
        dense = self._placement.backend.dense
        # An array in another layout was copied, and the copy does not follow changes in place.
        weights = {**self._complete, **{name: dense(self._seen[name]) for name in self._copied}}
        return {name: self._widened(w) for name, w in weights.items()}

    def _widened(self, array: Array) -> Array:
        """The array in the dtype of computations."""
        return widen(array, xp=self.xp) if self._half else array

    def _stored(self, array: Array) -> Array:
        """The array in the dtype of the weights."""
        return self.xp.astype(array, self._placement.dtype, copy=False) if self._half else array

    def _copies(self, state: State) -> State:
        return tuple(self.xp.asarray(part, copy=True) for part in state)

    @host.ignore_underflow
    def step(self, x: Array) -> Array:
        """One time step.

        Parameters
        ----------
        x : array (B, I)
            The inputs of this step, one for each stream.

        Returns
        -------
        h : array (B, H)
            The outputs of this step, a copy.

        Raises
        ------
        TypeError
            If x is of another library, device or dtype than the weights.
        ValueError
            If its shape does not fit, or that of a weight that was assigned since.
        """
        weights, xp = self._now(), self.xp
        x = self._placement.accept_shaped("x", x, (self.B, self.I), "(B, I)")
        x, state = self._widened(x), tuple(map(self._widened, self._state))
        ax = input_projection(x[None, ...], weights, bias=not self.cell.bias_in_step, xp=xp)[0, ...]
        state, saved = self.cell.step(ax, state, weights, xp=xp)
        self._P = self._rule.advance(self._P, saved, x, weights, xp=xp)
        self._state = tuple(self._stored(part) for part in state)
        # A copy, so that a change of h does not change the state.
        return xp.asarray(self._state[0], copy=True)

    @host.ignore_underflow
    def gradient(self, dh: Array) -> dict[str, Array]:
        """∂L_t/∂weights of the loss at this step, through all of the past.

        Parameters
        ----------
        dh : array (B, H)
            ∂L_t/∂h_t, for h as `step` has just returned it.  A stream for which it is exactly 0
            takes no part in the sum, even if it is NaN.

        Returns
        -------
        dict of str to array
            Names and shapes of the weights that were given.

        Raises
        ------
        TypeError
            If dh is of another library, device or dtype than the weights.
        ValueError
            If its shape does not fit.
        """
        letters = f"(B, {self.cell.width_letters[0]})"
        dh = self._placement.accept_shaped("dh", dh, (self.B, self._widths[0]), letters)
        xp, P, live = self.xp, self._P, self.xp.any(dh != 0, axis=1)
        if not bool(xp.all(live)):
            P = self._rule.only(live, P, xp=xp)
        found = self._rule.gradient(P, self._widened(dh), xp=xp)
        return {name: self._stored(found[name]) for name in self.weights}
