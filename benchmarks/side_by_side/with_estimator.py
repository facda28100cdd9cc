"""xrnn's estimator of scikit-learn."""

import joblib
from task import folder, seed, x, x_test, y, y_test

from xrnn.adapters.sklearn import RecurrentClassifier

model = RecurrentClassifier(patience=10, validation_fraction=0.2, random_state=seed).fit(x, y)
joblib.dump(model, folder / "model.joblib")
model = joblib.load(folder / "model.joblib")
accuracy = model.score(x_test, y_test)
epochs = model.n_iter_
print(accuracy, epochs)
