"""Files of one version of xrnn with what they compute, which later versions must read.

Run it by the code of that version, before it is released:

    PYTHONPATH=a/checkout/of/0.1.0 python tests/make_golden.py 0.1.0
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import xrnn

FOLDER = Path(__file__).parent / "golden"


def parts(name: str, rng: int) -> Any:
    """The part that the files of this name hold, with other weights for another seed."""
    if name == "lstm":
        return xrnn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=rng)
    if name == "gru":
        return xrnn.GRU(3, 4, bias=False, dtype="float64", rng=rng)
    if name == "peephole":
        return xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 4, batch_first=True, rng=rng)
    if name == "float16":
        return xrnn.RNN(3, 4, num_layers=2, dropout=0.5, dtype="float16", rng=rng)
    if name == "bfloat16":
        return xrnn.GRU(3, 4, dtype="bfloat16", rng=rng)
    if name == "options":
        return xrnn.LSTM(
            *(3, (4, 5)),
            activations=["hard_sigmoid", ("scaled_tanh", 1.7, 0.6), "softsign"],
            clip=3.0,
            cell_clip=0.5,
            coupled=True,
            peephole=True,
            proj_size=2,
            layer_norm="gates",
            zoneout=(0.1, 0.2),
            recurrent_dropout=0.3,
            weight_drop=0.4,
            learn_state=True,
            rng=rng,
        )
    if name == "training":
        return training(rng)
    if name == "model":
        block = xrnn.Residual(xrnn.LayerNorm(4), xrnn.Dropout(0.25), rnn=xrnn.GRU(4, 4, rng=rng))
        return xrnn.Sequential(
            xrnn.Embedding(7, 4, padding_idx=0, rng=rng),
            first=block,
            second=block,
            pool=xrnn.Max(),
            out=xrnn.Linear(4, 2, activation="softplus", rng=rng),
        )
    assert name == "parts", name
    return {
        "embedding": xrnn.Embedding(7, 3, rng=rng),
        "layer": xrnn.LSTM(3, 4, rng=rng),
        "readout": xrnn.Linear(4, 7, activation="relu", rng=rng),
    }


def training(rng: int) -> dict[str, Any]:
    """A layer under two names, an optimizer and a learner with weights of that layer, midway."""
    net = xrnn.GRU(3, 4, dtype="float64", rng=rng)
    weights = {name: net.weights[f"{name}_l0"] for name in ("W", "U", "b", "v")}
    learner = xrnn.online.Online(net.cell, weights, batch=2)
    adam = xrnn.optim.Adam(1e-2, weight_decay=0.1)
    for t in range(2):
        h = learner.step(np.cos(np.arange(6.0) + t + rng).reshape(2, 3))
        adam.update(weights, learner.gradient(h))
    return {"net": net, "adam": adam, "same": net, "learner": learner}


NAMES = ("lstm", "gru", "peephole", "float16", "bfloat16", "options", "parts", "training", "model")


def results(name: str, part: Any) -> list[float]:
    """What the part computes; the weights themselves where NumPy does not compute."""
    if name == "bfloat16":
        found = np.concatenate([w.astype("float32").ravel() for w in part.weights.values()])
    elif name == "model":
        found = part(np.asarray([[0, 6], [3, 1], [0, 2]]))
    elif name == "training":
        gradient = part["learner"].gradient(np.ones((2, 4)))
        arrays = [*gradient.values(), *part["net"].weights.values(), *part["adam"].state.values()]
        found = np.concatenate([a.ravel() for a in [*part["learner"].state, *arrays]])
    elif name == "parts":
        ys, _ = part["layer"](part["embedding"](np.asarray([[0, 6], [3, 1]])))
        found = part["readout"](ys)
    else:
        xs = np.cos(np.arange(18.0)).reshape(3, 2, 3).astype(part.weights["W_l0"].dtype)
        found = part(xs)[0]
    return [float(value) for value in found.ravel()]


def main(version: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        part = parts(name, rng=7)
        about = {"results": results(name, part)}
        xrnn.save(FOLDER / f"{version}-{name}.safetensors", part, about)


if __name__ == "__main__":
    main(sys.argv[1])
