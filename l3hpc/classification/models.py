"""The three classifiers, their published grids, and one way to fit and to ask them.

Multi-layer perceptron (512 and 128 ReLU units, softmax, L2 penalty, Adam), support vector machine
(RBF) and random forest, all by scikit-learn. Nothing fitted is written to disk: a fit is repeated
from its parameters and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KINDS = ("mlp", "svm", "rf")
HIDDEN = (512, 128)
_TENS = (1e-5, 1e-4, 1e-3)
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    "mlp": tuple({"learning_rate": rate, "weight_decay": decay}
                 for rate in _TENS for decay in _TENS),
    "svm": tuple({"C": value} for value in (0.1, 1.0, 10.0, 100.0, 1000.0)),
    "rf": tuple({"trees": value} for value in (100, 500, 1000)),
}
_LEAST = 1e-15  # probability in a logarithm


@dataclass(frozen=True)
class Setting:
    """What a fit depends on besides its samples.

    kind: ``mlp``, ``svm`` or ``rf``. epochs, patience, batch_size: of the MLP; patience counts
    epochs without a smaller validation loss. tol, max_iterations (-1: no limit), kernel: of the
    SVM. threads: of the forest. classes: of the whole data set, also those without a sample.
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
    """A fitted classifier. epochs: that the MLP was trained for (the best one's number), else 0;
    history: (training loss, validation loss) of every epoch."""

    setting: Setting
    estimator: Any
    epochs: int = 0
    history: list[tuple[float, float | None]] = field(default_factory=list)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """float64 (samples, classes): probabilities, or one-against-rest decision values of the
        SVM. A class that was not learned gets 0, or less than every other."""
        if self.setting.kind == "svm":
            found = np.asarray(self.estimator.decision_function(x), np.float64)
            if found.ndim == 1:  # two classes
                found = np.stack([-found, found], axis=1)
            fill = float(found.min()) - 1.0 if found.size else 0.0
        else:
            found, fill = np.asarray(self.estimator.predict_proba(x), np.float64), 0.0
        scores = np.full((len(x), self.setting.classes), fill)
        scores[:, self.estimator.classes_] = found
        return scores

    def loss(self, scores: np.ndarray, y: np.ndarray) -> float:
        """Mean cross-entropy; of the SVM the multi-class hinge loss, max(0, 1 - margin)."""
        rows = np.arange(len(y))
        if self.setting.kind != "svm":
            return float(-np.log(np.maximum(scores[rows, y], _LEAST)).mean())
        others = scores.copy()
        others[rows, y] = -np.inf
        return float(np.maximum(0.0, 1.0 - (scores[rows, y] - others.max(axis=1))).mean())


Samples = tuple[np.ndarray, np.ndarray]


def fit(setting: Setting, params: Mapping[str, float], train: Samples,
        valid: Samples | None = None,
        on_epoch: Callable[[int], None] = lambda epoch: None) -> Fitted:
    """Fit on ``train`` (x, y), y being indices of classes.

    params: as in ``GRIDS``. valid: for the MLP's early stopping; without it every epoch is trained.
    """
    if setting.kind == "mlp":
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # batches are small: more threads only wait for each other
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


def _fit_mlp(setting: Setting, params: Mapping[str, float], train: Samples,
             valid: Samples | None, on_epoch: Callable[[int], None]) -> Fitted:
    """Epoch by epoch with Adam; the weights of the smallest validation loss are kept.

    scikit-learn's penalty is alpha / 2 · |W|² per batch, so alpha = 2 · batch · decay is the
    published decay · |W|² per sample.
    """
    from sklearn.neural_network import MLPClassifier

    x, y = train
    batch = min(setting.batch_size, len(x))
    network = MLPClassifier(
        HIDDEN, alpha=2.0 * batch * params["weight_decay"], batch_size=batch,
        learning_rate_init=params["learning_rate"],
        random_state=np.random.RandomState(setting.seed))  # an int would shuffle all epochs alike
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
            kept = [one.copy() for one in (*network.coefs_, *network.intercepts_)]
        elif epoch - fitted.epochs >= setting.patience:
            break
    if kept is not None:
        layers = len(network.coefs_)
        network.coefs_, network.intercepts_ = kept[:layers], kept[layers:]
    return fitted
