"""xrnn: `fit`."""

from task import folder, seed, x, x_test, y, y_test

import xrnn

model = xrnn.Sequential(xrnn.GRU(12, 32, rng=seed), xrnn.Last(), xrnn.Linear(32, 9, rng=seed))
loss, optimizer = xrnn.losses.softmax_cross_entropy, xrnn.optim.Adam(0.01)
history = xrnn.fit(
    model, (x, y), loss, validation=0.2, epochs=100, patience=10, optimizer=optimizer, rng=seed
)
xrnn.save(folder / "model.safetensors", model)
model = xrnn.load(folder / "model.safetensors")
accuracy = (xrnn.predict(model, x_test).argmax(axis=1) == y_test).mean()
epochs = len(history)
print(accuracy, epochs)
