"""Keras 3; the environment variable KERAS_BACKEND chooses what computes."""

import keras
from task import folder, seed, x, x_test, y, y_test

keras.utils.set_random_seed(seed)
x = keras.utils.pad_sequences(x, dtype="float32", padding="post")
x_test = keras.utils.pad_sequences(x_test, dtype="float32", padding="post")
layers = keras.layers
model = keras.Sequential(
    [keras.Input((None, 12)), layers.Masking(), layers.GRU(32), layers.Dense(9)]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
history = model.fit(x, y, batch_size=32, epochs=100, validation_split=0.2, callbacks=[stop])
model.save(folder / "model.keras")
model = keras.models.load_model(folder / "model.keras")
_, accuracy = model.evaluate(x_test, y_test)
epochs = len(history.epoch)
print(accuracy, epochs)
