"""Estimators of scikit-learn: `RecurrentClassifier` and `RecurrentRegressor`.

They take sequences as an array (n, T, d), as a list of n arrays (T_i, d) of any lengths, or as an
array (n, T) of sequences with one value at each step.  They need scikit-learn, version 1.6 or
later: ``pip install scikit-learn``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from xrnn.adapters.sequences import Scale, accept_sequences, accept_steps
from xrnn.backends import host
from xrnn.cells.base import check_flags
from xrnn.engine.checks import check_choice
from xrnn.layers.dropout import Dropout
from xrnn.layers.gru import GRU
from xrnn.layers.linear import Linear
from xrnn.layers.lstm import LSTM
from xrnn.layers.pooling import Last, Max, Mean
from xrnn.layers.rnn import RNN
from xrnn.layers.sequential import Sequential
from xrnn.learn import losses, optim
from xrnn.recurrence.softmax import masked_softmax
from xrnn.training.fit import fit
from xrnn.training.predict import predict
from xrnn.typing import Array

LAYERS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
POOLS: tuple[str, ...] = ("last", "mean", "max")


class _Recurrent(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share.

    Parameters
    ----------
    cell : {"gru", "lstm", "rnn"}
        The recurrent layer.
    hidden_size : int
        Hidden units of each layer.
    num_layers : int
        Layers one on top of the other.
    bidirectional : bool
        Whether layers run in both directions.
    dropout : float
        The fraction of the outputs of each layer that is dropped in training.
    pooling : {"last", "mean", "max"}
        What is made of all outputs; "last" sees one step of a reverse direction.
    per_step : bool
        Whether there is a target for each step: y is then a list of arrays (T_i,), or an array
        (n, T), and `predict` returns a list.
    epochs : int
        How often all sequences are gone through, at most.
    patience : int or None
        Stop after so many epochs without a smaller loss; None: never.
    validation_fraction : float
        The fraction of the sequences that decides about this and is not trained on; with 0 the
        training loss decides.
    batch_size : int
        Sequences in a batch.
    learning_rate, weight_decay : float
        Of Adam.
    clip : float or None
        The largest norm of all gradients together.
    standardize : bool
        Whether inputs, and the targets of a regressor, are scaled to mean 0 and variance 1 by
        those of the training data.
    dtype : {"float32", "float64"}
        Of the computation.
    random_state : int, RandomState or None
        For weights, batches and dropout.
    verbose : bool
        Whether to show how far training is.
    """

    def __init__(
        self,
        cell: Literal["gru", "lstm", "rnn"] = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: Literal["last", "mean", "max"] = "last",
        per_step: bool = False,
        epochs: int = 100,
        patience: int | None = 20,
        validation_fraction: float = 0.0,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        standardize: bool = True,
        dtype: Literal["float32", "float64"] = "float32",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.per_step = per_step
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip = clip
        self.standardize = standardize
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train anew.

        Parameters
        ----------
        X : array (n, T, d) or (n, T), or list of n arrays (T_i, d)
            The sequences.
        y : array (n,), or with `per_step` a list of n arrays (T_i,)
            The targets; (n, O) for several outputs of a regressor.

        Returns
        -------
        self
            With ``model_`` (the `xrnn.Sequential`), ``history_``, ``n_iter_``, and for a classifier
            ``classes_``.

        Raises
        ------
        TypeError, ValueError
            If data or parameters have the wrong form.
        """
        sequences, targets = self._accept(X, y, first=True)
        self._build(sequences, targets, check_random_state(self.random_state))
        self.history_ = self._train(
            sequences,
            targets,
            validation=self.validation_fraction or None,
            epochs=self.epochs,
            patience=self.patience,
        )
        self.n_iter_ = len(self.history_)
        return self

    def _partial_fit(self, X: Any, y: Any, first: bool) -> Self:
        """One epoch on these data."""
        sequences, targets = self._accept(X, y, first=first)
        if first:
            self._build(sequences, targets, check_random_state(self.random_state))
            self.n_iter_ = 0
        self.history_ = self._train(sequences, targets, validation=None, epochs=1, patience=None)
        self.n_iter_ += 1
        return self

    def _accept(self, X: Any, y: Any, first: bool) -> tuple[list[Array], Any]:
        """Sequences and targets as `xrnn.fit` takes them, after all checks."""
        check_choice("estimator", "cell", self.cell, LAYERS)
        check_choice("estimator", "pooling", self.pooling, POOLS)
        check_choice("estimator", "dtype", self.dtype, ("float32", "float64"))
        check_flags("estimator", per_step=self.per_step, standardize=self.standardize)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        sequences = accept_sequences(self, X, first)
        if self.per_step:
            targets = accept_steps(y, sequences)
        else:
            targets = host.xp.asarray(y)
            if len(targets) != len(sequences):
                raise ValueError(
                    f"X holds {len(sequences)} sequences and y {len(targets)} targets; there must "
                    "be one for each"
                )
        return sequences, self._encoded(targets, first)

    def _build(self, sequences: list[Array], targets: Any, random: Any) -> None:
        """The model, with random weights, and the scale of its inputs."""
        self._scale = Scale.of(sequences) if self.standardize else None
        seeds = [int(seed) for seed in random.randint(2**31 - 1, size=3)]
        layer = LAYERS[self.cell](
            sequences[0].shape[1],
            self.hidden_size,
            self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout if self.num_layers > 1 else 0.0,
            dtype=self.dtype,
            rng=seeds[0],
        )
        units = layer.directions * layer.hidden_size
        readout = Linear(units, self._outputs(targets), dtype=self.dtype, rng=seeds[1])
        pools = {"last": Last(both_ends=self.bidirectional), "mean": Mean(), "max": Max()}
        parts: dict[str, Any] = {"rnn": layer, "pool": pools[self.pooling], "out": readout}
        if self.dropout:
            parts = {**parts, "dropout": Dropout(self.dropout), "out": parts.pop("out")}
        if self.per_step:
            del parts["pool"]
        self.model_ = Sequential(**parts)
        self._optimizer = optim.Adam(self.learning_rate, weight_decay=self.weight_decay)
        self._seed, self._trained = seeds[2], 0

    def _train(self, sequences: list[Array], targets: Any, **how: Any) -> Any:
        self._trained += 1
        return fit(
            self.model_,
            (self._scaled(sequences), targets),
            self._loss,
            batch_size=self.batch_size,
            optimizer=self._optimizer,
            clip=self.clip,
            rng=self._seed + self._trained,
            progress=bool(self.verbose),
            **how,
        )

    def _scaled(self, sequences: list[Array]) -> list[Array]:
        return sequences if self._scale is None else [self._scale(one) for one in sequences]

    def _predicted(self, X: Any) -> Any:
        """The outputs of the model: (n, O), or a list of arrays (T_i, O)."""
        check_is_fitted(self, "model_")
        return predict(self.model_, self._scaled(accept_sequences(self, X, first=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # What classifier and regressor have of their own

    _loss: Any

    def _encoded(self, targets: Any, first: bool) -> Any:
        """The targets as numbers."""
        raise NotImplementedError

    def _outputs(self, targets: Any) -> int:
        """The number of outputs."""
        raise NotImplementedError


class RecurrentClassifier(ClassifierMixin, _Recurrent):  # type: ignore[misc]
    __doc__ = f"""A recurrent network that classifies sequences, or each step of them.

    It minimises softmax cross-entropy with Adam, stops early, and keeps the best weights.
    {(_Recurrent.__doc__ or "").partition("share.")[2]}
    Examples
    --------
    >>> import numpy as np
    >>> from xrnn.adapters.sklearn import RecurrentClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(n, 2)) for n in rng.integers(3, 12, 200)]
    >>> y = np.where([one[:, 0].sum() > 0 for one in X], "up", "down")
    >>> model = RecurrentClassifier(epochs=30, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9), model.predict(X[:2]).dtype
    (True, dtype('<U4'))
    """

    _loss = staticmethod(losses.softmax_cross_entropy)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """One epoch on these data; the first call makes the model.

        Parameters
        ----------
        X, y
            As for `fit`.
        classes : array, optional
            All classes; required in the first call if y lacks some of them.

        Returns
        -------
        self
        """
        first = not hasattr(self, "model_")
        if classes is not None:
            self._given_classes = host.xp.unique(host.xp.asarray(classes))
        return self._partial_fit(X, y, first)

    def predict(self, X: Any) -> Any:
        """The class of each sequence, an array (n,); with `per_step` a list of arrays (T_i,)."""
        found = self._predicted(X)
        if self.per_step:
            return [self.classes_[one.argmax(axis=-1)] for one in found]
        return self.classes_[found.argmax(axis=-1)]

    def predict_proba(self, X: Any) -> Any:
        """The probability of each of ``classes_``: (n, classes); with `per_step` a list."""
        found = self._predicted(X)
        rows = found if self.per_step else [found]
        xp = host.xp
        chances = [masked_softmax(one, xp.ones_like(one, bool), axis=-1, xp=xp) for one in rows]
        return chances if self.per_step else chances[0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The fraction of sequences, or of steps, whose class is right."""
        return float(accuracy_score(_flat(y), _flat(self.predict(X)), sample_weight=sample_weight))

    def _encoded(self, targets: Any, first: bool) -> Any:
        flat = host.xp.concat(targets) if self.per_step else column_or_1d(targets, warn=True)
        check_classification_targets(flat)
        if first:
            given = self.__dict__.pop("_given_classes", None)
            self.classes_ = host.xp.unique(flat) if given is None else given
        if odd := sorted(set(flat.tolist()) - set(self.classes_.tolist()), key=str):
            raise ValueError(
                f"y has the class {odd[0]!r:.80}; the classes are {self.classes_.tolist()!r:.80}"
            )
        if len(self.classes_) < 2:
            raise ValueError("y has 1 class; a classifier needs at least 2 classes")
        if self.per_step:
            return [host.xp.searchsorted(self.classes_, one) for one in targets]
        return host.xp.searchsorted(self.classes_, flat)

    def _outputs(self, targets: Any) -> int:
        return len(self.classes_)


class RecurrentRegressor(RegressorMixin, _Recurrent):  # type: ignore[misc]
    __doc__ = f"""A recurrent network that predicts numbers for sequences, or for each step of them.

    It minimises the squared error with Adam, stops early, and keeps the best weights.
    {(_Recurrent.__doc__ or "").partition("share.")[2]}
    Examples
    --------
    >>> import numpy as np
    >>> from xrnn.adapters.sklearn import RecurrentRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 6, 1))
    >>> y = X[:, :, 0].sum(axis=1)
    >>> bool(RecurrentRegressor(epochs=40, random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _loss = staticmethod(losses.squared_error)

    def partial_fit(self, X: Any, y: Any) -> Self:
        """One epoch on these data; the first call makes the model and the scale of its data.

        Parameters and results are those of `fit`.
        """
        return self._partial_fit(X, y, first=not hasattr(self, "model_"))

    def predict(self, X: Any) -> Any:
        """The numbers for each sequence, (n,) or (n, O); with `per_step` a list of arrays."""
        found = self._predicted(X)
        shaped = found if self.per_step else [found]
        if self._target_scale is not None:
            shaped = [self._target_scale.back(one) for one in shaped]
        if self._single:
            shaped = [one[..., 0] for one in shaped]
        return shaped if self.per_step else shaped[0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R² over all sequences, or all steps."""
        return float(r2_score(_flat(y), _flat(self.predict(X)), sample_weight=sample_weight))

    def _encoded(self, targets: Any, first: bool) -> Any:
        rows = [
            host.xp.asarray(one, dtype="float64")
            for one in (targets if self.per_step else [targets])
        ]
        if not all(host.xp.isfinite(one).all() for one in rows):
            raise ValueError("y contains NaN or infinity; targets must be finite numbers")
        single = rows[0].ndim == 1
        rows = [one[:, None] if one.ndim == 1 else one for one in rows]
        if first:
            self._single = single
            self._target_scale = Scale.of(rows) if self.standardize else None
        if self._target_scale is not None:
            rows = [self._target_scale(one) for one in rows]
        return rows if self.per_step else rows[0]

    def _outputs(self, targets: Any) -> int:
        return int(targets[0].shape[-1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _flat(y: Any) -> Any:
    """All targets as one array."""
    if isinstance(y, Sequence) and len(y) and host.xp.ndim(y[0]):
        return host.xp.concat([host.xp.asarray(one) for one in y])
    return host.xp.asarray(y)
