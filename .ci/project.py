"""A project of its own that uses the installed wheel: ten lines that learn to remember."""

import numpy as np

import xrnn

rng = np.random.default_rng(0)
layer, readout, adam = xrnn.GRU(1, 16), xrnn.Linear(16, 1), xrnn.optim.Adam(0.01)
for _ in range(300):
    xs = rng.choice([-1, 1], (6, 32, 1)).astype("float32")
    hs, _, tape = layer.forward(xs)
    ys, readout_tape = readout.forward(hs[-1])
    loss, dys = xrnn.losses.squared_error(ys, xs[0])
    dh, dreadout = readout.backward(readout_tape, dys)
    _, _, dlayer = layer.backward(tape, dstate=(dh[None],))
    adam.update({"l": layer.weights, "r": readout.weights}, {"l": dlayer, "r": dreadout})
print(f"{xrnn.__file__}: loss {float(loss):.4f}")
assert loss < 0.05, "a GRU remembers six steps"
