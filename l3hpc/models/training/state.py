"""What a training run knows between two epochs: history, best values, patience. No TensorFlow.

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
    """When to stop, by the validation loss, and when and how to lower the learning rate.

    patience, plateau_patience: epochs without improvement by more than ``min_delta``.
    plateau_factor: what the rate is multiplied by. rule: ``'plateau'`` (by the validation loss) or
    ``'cosine'``: half a cosine from the first rate to nothing over ``epochs`` (Loshchilov & Hutter
    2017, without restarts), one value per epoch.
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

    rate: learning rate of the next epoch. history: one entry per epoch, fields as ``COLUMNS``
    (epochs count from 0, as in the published files). best_loss, best_mae: lowest validation values,
    with the epochs that reached them.
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
        """Number of finished epochs, which is that of the next one."""
        return len(self.history)

    def finished(self, schedule: Schedule) -> bool:
        """Whether training is over."""
        return self.stopped or self.epoch >= schedule.epochs

    def after(
        self, schedule: Schedule, train: tuple[float, float], validation: tuple[float, float],
    ) -> Status:
        """The state after one more epoch with these (loss, mean absolute error)."""
        epoch, loss, mae = self.epoch, validation[0], validation[1]
        row = dict(zip(COLUMNS, (epoch, *train, *validation, self.rate), strict=True))
        new: dict[str, Any] = {"history": (*self.history, row)}
        if loss < self.best_loss:
            new |= {"best_loss": loss, "best_loss_epoch": epoch}
        if mae < self.best_mae:
            new |= {"best_mae": mae, "best_mae_epoch": epoch}
        if loss + schedule.min_delta < self.stop_best:
            new |= {"stop_best": loss, "stop_wait": 0}
        else:
            wait = self.stop_wait + 1
            new |= {"stop_wait": wait, "stopped": wait >= schedule.patience and epoch > 0}
        if schedule.rule == "cosine":
            first = new["history"][0]["learning_rate"]
            new |= {"rate": first * (1 + math.cos(math.pi * (epoch + 1) / schedule.epochs)) / 2}
        elif loss < self.plateau_best - schedule.min_delta:
            new |= {"plateau_best": loss, "plateau_wait": 0}
        elif self.plateau_wait + 1 >= schedule.plateau_patience:
            lower = float(np.float32(self.rate) * np.float32(schedule.plateau_factor))
            new |= {"rate": lower, "plateau_wait": 0}
        else:
            new |= {"plateau_wait": self.plateau_wait + 1}
        return replace(self, **new)

    def lowest(self, column: str) -> float:
        """The lowest value of a history column so far (infinity before the first epoch)."""
        return min((row[column] for row in self.history), default=float("inf"))

    def to_json(self) -> str:
        """JSON text; infinities are written as Python writes them."""
        return json.dumps({**asdict(self), "history": list(self.history)})

    @classmethod
    def from_json(cls, text: str) -> Status:
        """The inverse of ``to_json``."""
        values = json.loads(text)
        return cls(**{**values, "history": tuple(values["history"])})


@dataclass
class Checkpoint:
    """One file that holds everything a restart needs; replaced by rename.

    settings: digest of what decides the result. Another one means another training: the file is
    ignored.
    """

    path: Path
    settings: str
    saved: int = field(default=0, init=False)

    def save(self, status: Status, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the state."""
        stream = io.BytesIO()
        contents: dict[str, Any] = {**arrays, "status": np.array(status.to_json()),
                                    "settings": np.array(self.settings)}
        np.savez(stream, **contents)
        write_bytes(self.path, stream.getvalue())
        self.saved += 1

    def load(self) -> tuple[Status, dict[str, np.ndarray]] | None:
        """The state, or None where there is none of these settings."""
        if not self.path.is_file():
            return None
        arrays = read_npz(self.path)
        if str(arrays["settings"]) != self.settings:
            return None
        return Status.from_json(str(arrays.pop("status"))), arrays


def bn_momentum(steps: int) -> float:
    """Momentum of the normalisations' moving statistics for epochs of so many steps.

    0.99 as published, less where an epoch has fewer than 459 steps: then after every epoch what is
    older than it weighs 1 %. With 0.99 and few steps the statistics would still be mostly the
    initial 0 and 1, and a validation loss would say nothing about the weights.
    """
    return min(BN_MOMENTUM, 0.01 ** (1 / steps))


class Order:
    """Which rows make up which batch: a new permutation for every pass, from the seed alone.

    size: batches of one pass where it is not stated (the last one is smaller); with
    ``epoch_size``, or where ``whole`` batches are wanted, batches run on across passes.
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
        """The rows of batch ``number``, counted over all epochs."""
        if not self.stream:
            turn, place = divmod(number, self.per_pass)
            start = place * self.batch_size
            return self._pass(turn)[start:start + self.batch_size]
        parts = []
        position, missing = number * self.batch_size, self.batch_size
        while missing:
            turn, start = divmod(position, len(self.rows))
            part = self._pass(turn)[start:start + missing]
            parts.append(part)
            position, missing = position + len(part), missing - len(part)
        return np.concatenate(parts)

    def _pass(self, turn: int) -> np.ndarray:
        cached, order = self._cached
        if cached != turn:
            order = np.random.default_rng([self.seed, turn]).permutation(self.rows)
            self._cached = (turn, order)
        return order
