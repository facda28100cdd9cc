"""Recurrent estimators inside scikit-learn: data of every form, its tools, its own checks."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the adapter is for scikit-learn, which is not installed")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from xrnn.adapters.sklearn import RecurrentClassifier, RecurrentRegressor

BOTH = pytest.mark.parametrize("make", [RecurrentClassifier, RecurrentRegressor])


def sequences(n: int = 80, d: int = 2, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, d)) for length in rng.integers(2, 9, n)]


def labels(X: Any) -> Any:
    return np.array(["up" if one[:, 0].sum() > 0 else "down" for one in X])


def quick(make: Any = RecurrentClassifier, **how: Any) -> Any:
    return make(**({"epochs": 25, "hidden_size": 16, "random_state": 0} | how))


def test_classes_of_sequences() -> None:
    X = sequences(200)
    model = quick().fit(X, labels(X))
    other = sequences(100, seed=1)
    assert model.score(other, labels(other)) > 0.85
    p = model.predict_proba(other)
    assert p.shape == (100, 2)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert (model.classes_[p.argmax(1)] == model.predict(other)).all()
    assert model.n_features_in_ == 2
    assert model.n_iter_ == len(model.history_) <= 25


def test_classes_of_steps() -> None:
    X = sequences(100)
    y = [np.where(np.cumsum(one[:, 0]) > 0, 5, 3) for one in X]
    model = quick(per_step=True).fit(X, y)
    assert model.score(X, y) > 0.85
    assert [one.shape for one in model.predict(X)] == [one.shape for one in y]
    assert {v for one in model.predict(X) for v in one} == {3, 5}
    assert model.predict_proba(X)[3].shape == (len(X[3]), 2)


def test_numbers_of_sequences_and_of_steps() -> None:
    X = sequences(150)
    y = np.array([[one[:, 0].sum() * 100 + 7, one[-1, 1]] for one in X])
    model = quick(RecurrentRegressor, epochs=60).fit(X, y)
    assert model.predict(X).shape == y.shape
    assert model.score(X, y) > 0.8
    single = quick(RecurrentRegressor, epochs=60).fit(X, y[:, 0])
    assert single.predict(X).shape == (150,)
    steps = [np.cumsum(one[:, 0]) for one in X]
    each = quick(RecurrentRegressor, epochs=40, per_step=True).fit(X, steps)
    assert each.predict(X)[2].shape == steps[2].shape
    assert each.score(X, steps) > 0.8


def test_every_form_of_data_gives_the_same() -> None:
    X = np.random.default_rng(0).normal(size=(40, 5, 1))
    y = (X[:, :, 0].sum(1) > 0).astype(int)
    objects = np.empty(40, object)
    objects[:] = list(X)
    expected = quick(epochs=3).fit(X, y).predict_proba(X)
    for form in (list(X), X[:, :, 0], objects, X.tolist(), X[:, :, 0].tolist()):
        np.testing.assert_allclose(quick(epochs=3).fit(form, y).predict_proba(form), expected)


@pytest.mark.parametrize(
    "how",
    [
        {"cell": "lstm"},
        {"cell": "rnn", "num_layers": 2, "dropout": 0.2},
        {"bidirectional": True, "pooling": "mean"},
        {"pooling": "max", "standardize": False},
        {"dtype": "float64", "clip": None, "weight_decay": 0.01},
        {"validation_fraction": 0.2, "patience": 9},
    ],
    ids=str,
)
def test_parameters(how: Any) -> None:
    X = sequences(120)
    model = quick(**how).fit(X, labels(X))
    assert model.score(X, labels(X)) > 0.75
    assert model.get_params()["epochs"] == 25


def test_the_same_random_state_gives_the_same_bits() -> None:
    X = sequences()
    a, b, c = (quick(epochs=3, random_state=s).fit(X, labels(X)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert (a.predict_proba(X) != c.predict_proba(X)).any()


def test_tools_of_scikit_learn() -> None:
    X = np.random.default_rng(0).normal(size=(60, 4, 2))
    y = (X[:, :, 0].sum(1) > 0).astype(int)
    assert cross_val_score(quick(epochs=10), X, y, cv=3).mean() > 0.6
    pipe = make_pipeline(FunctionTransformer(lambda a: 10 * a), quick(epochs=10))
    assert pipe.fit(X, y).score(X, y) > 0.7
    search = GridSearchCV(quick(epochs=5), {"hidden_size": [2, 8], "cell": ["gru", "rnn"]}, cv=2)
    assert set(search.fit(X, y).best_params_) == {"hidden_size", "cell"}
    model = search.best_estimator_
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert not hasattr(clone(model), "model_")


def test_partial_fit() -> None:
    X = sequences(100)
    y = labels(X)
    model = quick(learning_rate=0.02)
    model.partial_fit(X[:5], ["up"] * 5, classes=["up", "down"])
    for _ in range(15):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.n_iter_ == 16
    with pytest.raises(ValueError, match="y has the class 'left'"):
        model.partial_fit(X[:1], ["left"])
    regressor = quick(RecurrentRegressor).partial_fit(X, np.ones(100))
    assert regressor.predict(X).shape == (100,)


def test_what_is_refused() -> None:
    X, y = sequences(10), labels(sequences(10))
    for given, targets, words in [
        ([one[:0] for one in X], y, r"X\[0\] has shape \(0, 2\)"),
        ([*X[:-1], X[-1][:, :1]], y, r"X\[9\] has shape"),
        ([one * np.nan for one in X], y, r"X\[0\] contains NaN"),
        (X, y[:-1], "X holds 10 sequences and y 9 targets"),
        (X, ["up"] * 10, "y has 1 class"),
        ([], [], "Found array with 0 sample|holds no sequence|Expected 2D"),
    ]:
        with pytest.raises(ValueError, match=words):
            quick(epochs=1).fit(given, targets)
    with pytest.raises(ValueError, match=r"y\[0\] has shape .* one for each step of X\[0\]"):
        quick(epochs=1, per_step=True).fit(X, [[1]] * 10)
    with pytest.raises(ValueError, match="cell is 'tcn'"):
        quick(cell="tcn").fit(X, y)
    model = quick(epochs=1).fit(X, y)
    with pytest.raises(
        ValueError, match="X has 3 features, but RecurrentClassifier is expecting 2"
    ):
        model.predict(sequences(3, d=3))


@BOTH
def test_the_checks_of_scikit_learn(make: Any) -> None:
    """All of them pass: an array (n, p) is n sequences of p steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(make(random_state=0, epochs=40), on_fail=None, on_skip=None)
    failed = [(one["check_name"], one["exception"]) for one in found if one["status"] == "failed"]
    assert failed == []
    assert sum(one["status"] == "passed" for one in found) > 40
