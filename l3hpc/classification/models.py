"""Three classifiers of scikit-learn with their published grids and one interface.

Multi-layer perceptron (512 and 128 ReLU units, softmax, L2 penalty, Adam), support vector machine
(RBF) and random forest. Fitted classifiers are not written to disk: a fit can be repeated from its
parameters and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KINDS = ("mlp", "svm", "rf")
HIDDEN = (512, 128)
_POWERS = (1e-5, 1e-4, 1e-3)
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    "mlp": tuple({"learning_rate": rate, "weight_decay": decay}
                 for rate in _POWERS for decay in _POWERS),
    "svm": tuple({"C": value} for value in (0.1, 1.0, 10.0, 100.0, 1000.0)),
    "rf": tuple({"trees": value} for value in (100, 500, 1000)),
}
_MIN_PROBABILITY = 1e-15  # in a logarithm


@dataclass(frozen=True)
class FitSettings:
    """What a fit depends on besides samples and grid parameters.

    Attributes
    ----------
    kind : str
        ``mlp``, ``svm`` or ``rf``.
    classes : int
        Classes of the whole data set, including those without a sample.
    seed : int
        Seed of the fit.
    epochs, patience, batch_size : int
        Of the MLP; patience: epochs without a smaller validation loss.
    tol : float
        Tolerance of the SVM.
    max_iterations : int
        Of the SVM; −1: no limit.
    kernel : str
        Of the SVM.
    threads : int
        Of the forest.
    """

    kind: str
    classes: int
    seed: int = 20171021
    epochs: int = 150
    patience: int = 20
    batch_size: int = 64
    tol: float = 1e-5
    max_iterations: int = -1
    kernel: str = "rbf"
    threads: int = 1


@dataclass
class Fitted:
    """A fitted classifier.

    Attributes
    ----------
    setting : FitSettings
        How it was fitted.
    estimator : object
        The estimator of scikit-learn.
    epochs : int
        The best epoch of the MLP, from 1; 0 for the others.
    history : list of (float, float or None)
        Training and validation loss of every epoch.
    """

    setting: FitSettings
    estimator: Any
    epochs: int = 0
    history: list[tuple[float, float | None]] = field(default_factory=list)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Score every class.

        Parameters
        ----------
        x
            Samples, shape (samples, dim).

        Returns
        -------
        ndarray of float64, shape (samples, classes)
            Probabilities, or one-against-rest decision values of the SVM. A class without training
            samples gets 0, or less than every other.
        """
        if self.setting.kind == "svm":
            values = np.asarray(self.estimator.decision_function(x), np.float64)
            if values.ndim == 1:  # two classes
                values = np.stack([-values, values], axis=1)
            # A class without training samples has no score: below all others, so that it is never
            # chosen.
            fill = float(values.min()) - 1.0 if values.size else 0.0
        else:
            values, fill = np.asarray(self.estimator.predict_proba(x), np.float64), 0.0
        scores = np.full((len(x), self.setting.classes), fill)
        scores[:, self.estimator.classes_] = values
        return scores

    def loss(self, scores: np.ndarray, y: np.ndarray) -> float:
        """Mean cross-entropy, or for the SVM the multi-class hinge loss, max(0, 1 − margin).

        Parameters
        ----------
        scores
            What ``scores`` returned, shape (samples, classes).
        y
            Class indices, shape (samples,).
        """
        rows = np.arange(len(y))
        if self.setting.kind != "svm":
            return float(-np.log(np.maximum(scores[rows, y], _MIN_PROBABILITY)).mean())
        others = scores.copy()
        others[rows, y] = -np.inf
        return float(np.maximum(0.0, 1.0 - (scores[rows, y] - others.max(axis=1))).mean())


Samples = tuple[np.ndarray, np.ndarray]  # x (samples, dim), class indices (samples,)


def fit(setting: FitSettings, params: Mapping[str, float], train: Samples,
        valid: Samples | None = None,
        on_epoch: Callable[[int], None] = lambda epoch: None) -> Fitted:
    """Fit a classifier.

    Parameters
    ----------
    setting
        Kind of classifier, and what does not vary in a grid.
    params
        One entry of ``GRIDS[setting.kind]``.
    train
        Training samples.
    valid
        Validation samples for the MLP's early stopping (None: train all epochs).
    on_epoch
        Called after every epoch of the MLP, with its number.

    Returns
    -------
    Fitted
        The fitted classifier.
    """
    if setting.kind == "mlp":
        from threadpoolctl import threadpool_limits

        # Batches are so small that several threads would spend their time on synchronisation.
        with threadpool_limits(1):
            return _fit_mlp(setting, params, train, valid, on_epoch)
    if setting.kind == "svm":
        from sklearn.svm import SVC

        estimator: Any = SVC(C=params["C"], kernel=setting.kernel, tol=setting.tol,
                             max_iter=setting.max_iterations, decision_function_shape="ovr",
                             cache_size=500, random_state=setting.seed)
    else:
        from sklearn.ensemble import RandomForestClassifier

        estimator = RandomForestClassifier(int(params["trees"]), random_state=setting.seed,
                                           n_jobs=setting.threads)
    return Fitted(setting, estimator.fit(*train))


def _fit_mlp(setting: FitSettings, params: Mapping[str, float], train: Samples,
             valid: Samples | None, on_epoch: Callable[[int], None]) -> Fitted:
    """Train with Adam, and keep the weights of the epoch with the smallest validation loss."""
    from sklearn.neural_network import MLPClassifier

    x, y = train
    batch = min(setting.batch_size, len(x))
    # scikit-learn's penalty is alpha / 2 · |W|² per batch, so alpha = 2 · batch · decay is the
    # published decay · |W|² per sample. With an int as random_state, partial_fit would shuffle
    # every epoch alike.
    network = MLPClassifier(
        HIDDEN, alpha=2.0 * batch * params["weight_decay"], batch_size=batch,
        learning_rate_init=params["learning_rate"],
        random_state=np.random.RandomState(setting.seed))
    fitted = Fitted(setting, network)
    best, kept = np.inf, None
    for epoch in range(1, setting.epochs + 1):
        network.partial_fit(x, y, classes=np.arange(setting.classes) if epoch == 1 else None)
        loss = None if valid is None else fitted.loss(fitted.scores(valid[0]), valid[1])
        fitted.history.append((float(network.loss_), loss))
        on_epoch(epoch)
        if loss is None:
            fitted.epochs = epoch
        elif loss < best:
            best, fitted.epochs = loss, epoch
            # Copied, because partial_fit changes these arrays in place.
            kept = [one.copy() for one in (*network.coefs_, *network.intercepts_)]
        elif epoch - fitted.epochs >= setting.patience:
            break
    if kept is not None:
        layers = len(network.coefs_)
        network.coefs_, network.intercepts_ = kept[:layers], kept[layers:]
    return fitted
