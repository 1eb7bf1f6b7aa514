"""The state of a training run between two epochs: history, best values, patience. No TensorFlow.

Early stopping and the learning-rate plateau count exactly as Keras's callbacks do.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.io.files import write_bytes
from l3hpc.io.npz import read_npz
from l3hpc.models.parameters import BN_MOMENTUM

COLUMNS = ("epoch", "loss", "mean_absolute_error", "val_loss", "val_mean_absolute_error",
           "learning_rate")


@dataclass(frozen=True)
class Schedule:
    """When to stop, and when and how to lower the learning rate.

    Attributes
    ----------
    epochs
        Most epochs.
    patience
        Epochs without improvement of the validation loss after which training stops.
    min_delta
        Smaller decreases of the validation loss do not count as improvement.
    plateau_patience
        Epochs without improvement after which the learning rate is lowered.
    plateau_factor
        What it is multiplied by.
    rule
        ``'plateau'`` (by the validation loss) or ``'cosine'``: half a cosine from the first rate to
        0 over ``epochs`` (Loshchilov & Hutter 2017, without restarts), one value per epoch.
    """

    epochs: int = 300
    patience: int = 10
    min_delta: float = 1e-4
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    rule: str = "plateau"


@dataclass(frozen=True)
class Status:
    """The state after some whole epochs.

    Attributes
    ----------
    rate
        Learning rate of the next epoch.
    history
        One entry per epoch with the fields ``COLUMNS``; epochs count from 0, as in the published
        files.
    best_loss, best_mae
        Lowest validation values.
    best_loss_epoch, best_mae_epoch
        The epochs that reached them; -1 before the first.
    stop_best, stop_wait
        Early stopping: best loss so far, and epochs without improvement.
    plateau_best, plateau_wait
        The same for the learning rate.
    stopped
        Whether early stopping has ended the training.
    """

    rate: float
    history: tuple[dict[str, float], ...] = ()
    best_loss: float = float("inf")
    best_loss_epoch: int = -1
    best_mae: float = float("inf")
    best_mae_epoch: int = -1
    stop_best: float = float("inf")
    stop_wait: int = 0
    plateau_best: float = float("inf")
    plateau_wait: int = 0
    stopped: bool = False

    @property
    def epoch(self) -> int:
        """Number of finished epochs, which is also the number of the next one."""
        return len(self.history)

    def finished(self, schedule: Schedule) -> bool:
        """Whether training is over.

        Parameters
        ----------
        schedule
            When to stop.

        Returns
        -------
        bool
            By early stopping, or by the number of epochs.
        """
        return self.stopped or self.epoch >= schedule.epochs

    def after(
        self, schedule: Schedule, train: tuple[float, float], validation: tuple[float, float],
    ) -> Status:
        """The state after one more epoch.

        Parameters
        ----------
        schedule
            When to stop and to lower the learning rate.
        train
            Loss and mean absolute error in training.
        validation
            Loss and mean absolute error in validation.

        Returns
        -------
        Status
            A new object.
        """
        epoch, loss, mae = self.epoch, validation[0], validation[1]
        row = dict(zip(COLUMNS, (epoch, *train, *validation, self.rate), strict=True))
        new: dict[str, Any] = {"history": (*self.history, row)}
        if loss < self.best_loss:
            new |= {"best_loss": loss, "best_loss_epoch": epoch}
        if mae < self.best_mae:
            new |= {"best_mae": mae, "best_mae_epoch": epoch}
        # Keras adds the margin on this side in EarlyStopping, and on the other one in
        # ReduceLROnPlateau, below. The two round differently, and published runs stopped by this
        # rule.
        if loss + schedule.min_delta < self.stop_best:
            new |= {"stop_best": loss, "stop_wait": 0}
        else:
            wait = self.stop_wait + 1
            # Keras never stops after the first epoch, whatever the patience.
            new |= {"stop_wait": wait, "stopped": wait >= schedule.patience and epoch > 0}
        if schedule.rule == "cosine":
            # From the history, because self.rate has been lowered since, also by runs that were cut
            # off.
            first = new["history"][0]["learning_rate"]
            new |= {"rate": first * (1 + math.cos(math.pi * (epoch + 1) / schedule.epochs)) / 2}
        elif loss < self.plateau_best - schedule.min_delta:
            new |= {"plateau_best": loss, "plateau_wait": 0}
        elif self.plateau_wait + 1 >= schedule.plateau_patience:
            # In float32, as Keras computes it.
            lower = float(np.float32(self.rate) * np.float32(schedule.plateau_factor))
            new |= {"rate": lower, "plateau_wait": 0}
        else:
            new |= {"plateau_wait": self.plateau_wait + 1}
        return replace(self, **new)

    def lowest(self, column: str) -> float:
        """The lowest value of a history column so far.

        Parameters
        ----------
        column
            One of ``COLUMNS``.

        Returns
        -------
        float
            Infinity before the first epoch.
        """
        return min((row[column] for row in self.history), default=float("inf"))

    def to_json(self) -> str:
        """JSON text, which ``from_json`` reads; infinities are written as Python writes them."""
        return json.dumps({**asdict(self), "history": list(self.history)})

    @classmethod
    def from_json(cls, text: str) -> Status:
        """The status that ``to_json`` described.

        Parameters
        ----------
        text
            JSON.

        Returns
        -------
        Status
            The state.
        """
        values = json.loads(text)
        return cls(**{**values, "history": tuple(values["history"])})


@dataclass
class Checkpoint:
    """One file that holds all that a restart needs; replaced by rename.

    Attributes
    ----------
    path
        The file.
    settings
        Digest of what decides the result; a checkpoint of other settings is ignored.
    saved
        How often it was written.
    """

    path: Path
    settings: str
    saved: int = field(default=0, init=False)

    def save(self, status: Status, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the state.

        Parameters
        ----------
        status
            Between epochs.
        arrays
            Of the engine.
        """
        stream = io.BytesIO()
        # Text as an array of characters: an object would have to be pickled.
        contents: dict[str, Any] = {**arrays, "status": np.array(status.to_json()),
                                    "settings": np.array(self.settings)}
        np.savez(stream, **contents)
        write_bytes(self.path, stream.getvalue())
        self.saved += 1

    def load(self) -> tuple[Status, dict[str, np.ndarray]] | None:
        """Read the state.

        Returns
        -------
        tuple or None
            Status and arrays; None without a checkpoint of these settings.
        """
        if not self.path.is_file():
            return None
        arrays = read_npz(self.path)
        # A checkpoint of other settings would give a model that no setting describes.
        if str(arrays["settings"]) != self.settings:
            return None
        return Status.from_json(str(arrays.pop("status"))), arrays


def bn_momentum(steps: int) -> float:
    """Momentum of the normalisations' moving statistics for an epoch length.

    0.99 as published, less where an epoch has fewer than 459 steps: then after every epoch, values
    from before it have a weight of 1%. With 0.99 and few steps the statistics would still be
    mostly the initial 0 and 1, and a validation loss would not reflect the weights.

    Parameters
    ----------
    steps
        Steps per epoch.

    Returns
    -------
    float
        In (0, 0.99].

    Examples
    --------
    >>> bn_momentum(1000), round(bn_momentum(10), 3)
    (0.99, 0.631)
    """
    return min(BN_MOMENTUM, 0.01 ** (1 / steps))


class BatchOrder:
    """Which rows make up which batch: a new permutation for every pass, from the seed alone.

    Parameters
    ----------
    rows
        All row numbers.
    batch
        Batch size.
    seed
        Decides the permutations.
    epoch_size
        Batches per epoch; None: those of one pass, of which the last is smaller. Where it is given,
        batches continue across passes.
    whole
        Whether all batches must be whole; then they continue across passes too.
    """

    def __init__(
        self, rows: np.ndarray, batch: int, seed: int, *, epoch_size: int | None = None,
        whole: bool = False,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch, seed
        self.per_pass = -(-len(rows) // batch)
        self.epoch_size = epoch_size or self.per_pass
        self.stream = epoch_size is not None or whole
        self._cached: tuple[int, np.ndarray] = (-1, rows)

    def batch(self, number: int) -> np.ndarray:
        """The rows of a batch.

        Parameters
        ----------
        number
            Counted over all epochs.

        Returns
        -------
        numpy.ndarray
            Row numbers.
        """
        if not self.stream:
            turn, position = divmod(number, self.per_pass)
            start = position * self.batch_size
            return self._pass(turn)[start:start + self.batch_size]
        parts = []
        # Computed from the number alone, so that a restart in mid-epoch finds the same rows.
        position, missing = number * self.batch_size, self.batch_size
        while missing:
            turn, start = divmod(position, len(self.rows))
            part = self._pass(turn)[start:start + missing]
            parts.append(part)
            position, missing = position + len(part), missing - len(part)
        return np.concatenate(parts)

    def _pass(self, turn: int) -> np.ndarray:
        """The order of rows in one pass; the last one that was asked for is kept."""
        cached, order = self._cached
        if cached != turn:
            order = np.random.default_rng([self.seed, turn]).permutation(self.rows)
            self._cached = (turn, order)
        return order
