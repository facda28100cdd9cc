"""Gradients where everything meets: deep layers both ways, lengths, masks with holes and resets.

A complex step is exact to rounding.  It moves all arguments at once, each in a direction of its
own: then an error in any gradient shows in the sum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import MADE, NOISY, ROWS

from xrnn import cells
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import HOLES, RESETS, Inputs, Option, Trial, each, leaves

#: `ElmanReLU` takes no complex numbers
CELLS = [
    cell for cell in (*(row.cell for row in ROWS), *MADE, *NOISY) if cell is not cells.ElmanReLU
]

STEPS: dict[str, Any] = {"T": 5, "left_out": HOLES, "resets": RESETS}
DEEP: dict[str, Any] = {"num_layers": 3, "bidirectional": True, **STEPS}

USES = (
    Option("deep, both", lengths=(5, 3, 4), **DEEP),
    Option("deep, both, held", lengths=(4, 5, 3), masked="hold", batch_first=True, **DEEP),
    Option("deep, both, learned", lengths=(5, 3, 0), state=False, learn_state=True, **DEEP),
    Option("held", num_layers=2, masked="hold", **STEPS),
    Option("held, reverse", num_layers=3, reverse=True, masked="hold", bias=False, **STEPS),
)

#: norms of small numbers make rounding errors larger
BOUND = 1e-9

every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
every_use = pytest.mark.parametrize("use", USES, ids=lambda use: use.name)


@every_cell
@every_use
def test_gradients_by_complex_steps(cell: Any, use: Option) -> None:
    # Functions with kinks are analytic between them.  This copy has no kernels: see `test_twin`.
    trial = Trial(replace(cell, analytic=True), use)
    inputs, out = trial.inputs, trial.run(trial.inputs)
    dweights = [out.dweights[name] for name in trial.layer.weights]
    gradients = [out.dxs, *dweights, *leaves(out.dfirst if use.state else None)]
    rng = np.random.default_rng(0)
    moves = [rng.normal(size=g.shape) for g in gradients]
    products = [g * move for g, move in zip(gradients, moves, strict=True)]
    exact, scale = (sum(f(p).sum() for p in products) for f in (np.asarray, abs))
    assert abs(exact - numeric(trial, inputs, moves)) <= BOUND * scale


def numeric(trial: Trial, inputs: Inputs, moves: list[Any]) -> float:
    """The derivative of ⟨ys, dys⟩ + ⟨last, dlast⟩ as xs, the weights and the states move."""
    weights = trial.layer.weights
    values = [inputs.xs, *weights.values(), *leaves(inputs.state)]
    xs, *moved = [a + 1e-30j * move for a, move in zip(values, moves, strict=True)]
    layer = trial.make_layer(dict(zip(weights, moved, strict=False)))
    states = iter(moved[len(weights) :])
    state = each(lambda a: next(states), inputs.state)
    ys, last, _ = layer.forward(xs, state, inputs.lengths, seed=trial.seed, **inputs.steps)
    assert inputs.dys is not None
    valid = ~trial.silent()
    pairs = [(ys[valid], inputs.dys[valid]), *zip(last, inputs.dlast, strict=True)]
    return float(sum((a * d).sum().imag for a, d in pairs) / 1e-30)


@every_cell
@every_use
@pytest.mark.parametrize("law", ["twin", "contract"])
def test_law(law: str, cell: Any, use: Option) -> None:
    error = LAWS[law](Trial(cell, use))
    assert error is not None
    assert error <= bound(cell, law, "float64")
