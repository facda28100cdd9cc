"""Compute what the LSTMs of kraken's model give, as kraken does: coremltools reads the weights, and
PyTorch runs them.

By hand, where both are installed: ``python tests/make_real_outputs.py PATH/kraken/blla.mlmodel``.
It prints the table `KRAKEN` of ``tests/test_real_files.py``.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from coremltools.proto import Model_pb2


def weights(params: object) -> list[torch.Tensor]:
    """Those of one direction, in PyTorch's order i f g o; there is one bias."""
    gates = ("inputGate", "forgetGate", "blockInput", "outputGate")
    joined = []
    for kind in ("WeightMatrix", "RecursionMatrix", "BiasVector"):
        arrays = [np.array(getattr(params, gate + kind).floatValue, "float32") for gate in gates]
        joined.append(np.concatenate(arrays))
    H = len(joined[2]) // 4
    W, U, b = joined[0].reshape(4 * H, -1), joined[1].reshape(4 * H, H), joined[2]
    return [torch.from_numpy(a) for a in (W, U, b, np.zeros_like(b))]


def main(path: str) -> None:
    model = Model_pb2.Model()
    with open(path, "rb") as file:
        model.ParseFromString(file.read())
    for layer in model.neuralNetwork.layers:
        if layer.WhichOneof("layer") == "biDirectionalLSTM":
            params = layer.biDirectionalLSTM
            I, H = params.inputVectorSize, params.outputVectorSize
            lstm = torch.nn.LSTM(I, H, bidirectional=True)
            with torch.no_grad():
                both = [w for one in params.weightParams for w in weights(one)]
                for mine, given in zip(lstm.parameters(), both, strict=True):
                    mine.copy_(given)
                xs = np.sin(0.7 * np.arange(6 * I, dtype="float32")).reshape(6, 1, I)
                ys, _ = lstm(torch.from_numpy(xs))
            few = [round(float(y), 5) for y in ys[2, 0, :: H // 2]]
            print(f'    "{layer.name}": {few},')


if __name__ == "__main__":
    main(sys.argv[1])
