"""Learning rates that change."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.learn.optim import SGD, Plateau, cosine, warmup


def test_warmup_and_cosine_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedules = torch.optim.lr_scheduler
    falling = schedules.CosineAnnealingLR(optimizer, T_max=7, eta_min=0.1)
    for step in range(8):
        assert cosine(step, 7, least=0.1) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        falling.step()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rising = schedules.LinearLR(optimizer, start_factor=1 / 4, total_iters=3)
    for step in range(6):
        assert warmup(step, 4) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rising.step()


def test_the_ends() -> None:
    assert cosine(0, 5) == 1
    assert cosine(5, 5) == cosine(1e9, 5) == 0
    assert cosine(2.5, 5) == pytest.approx(0.5)
    assert cosine(3, 2, least=1) == 1
    assert [warmup(step, 1) for step in (0, 9)] == [1, 1]
    optimizer = SGD(0.1)
    optimizer.lr = 0.1 * warmup(0, np.int32(2)) * cosine(np.float64(0), 5)
    assert optimizer.lr == 0.05


def test_plateau_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # PyTorch does not count the measure after which it waits.
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=2, threshold=0.01, min_lr=0.02
    )
    ours = Plateau(shrink=0.3, patience=3, threshold=0.01, least=0.02)
    measures = [5, 4, 3.99, 4, 4, 4, 3, 3.1, math.nan, 3.1, 3, 3, 3, 2.98, 2.95, *[3] * 12]
    for measure in measures:
        theirs.step(measure)
        assert ours.update(measure) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.factor == 0.02


def test_plateau_goes_on_from_its_state() -> None:
    measures = [3.0, 2.0, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0]
    whole, first = Plateau(patience=2), Plateau(patience=2)
    assert json.loads(json.dumps(first.state)) == first.state
    known = [whole.update(m) for m in measures]
    found = [first.update(m) for m in measures[:4]]
    second, state = Plateau(patience=2), json.loads(json.dumps(first.state))
    second.state = state
    found += [second.update(np.float32(m)) for m in measures[4:]]
    assert found == known
    assert second.state == whole.state
    assert state == first.state  # what was given is not changed


def test_losses_below_0_can_improve() -> None:
    plateau = Plateau(shrink=0.5, patience=1, threshold=0.1)
    assert [plateau.update(m) for m in (-1, -1.05, -1.2)] == [1, 0.5, 0.5]


Wrong: Any = xrnn.optim


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Wrong.cosine(-1, 5), ValueError, "step is -1; it must be ≥ 0 and finite"),
        (lambda: Wrong.cosine(1, 0), ValueError, "schedule: steps is 0; it must be an integer ≥ 1"),
        (lambda: Wrong.cosine(1, 5, least=2), ValueError, "least is 2; it must be in [0, 1]"),
        (lambda: Wrong.warmup("1", 5), TypeError, "step is '1'; it must be ≥ 0 and finite"),
        (lambda: Wrong.warmup(1, 2.5), ValueError, "schedule: steps is 2.5; it must be an integer"),
        (lambda: Wrong.Plateau(shrink=1), ValueError, "shrink is 1; it must be in [0, 1)"),
        (lambda: Wrong.Plateau(patience=0), ValueError, "plateau: patience is 0; it must be an"),
        (lambda: Wrong.Plateau().update(None), TypeError, "measure is None; it must be a number"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
