"""What all steps that train a network share: parameters of the loop, and the ledger row that grows.

The steps themselves (``train``, ``avc_train``, ``distill``, ``finetune``) say what is trained on
what, and which further columns their tab has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Any, Literal

from pydantic import Field

from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task


class LoopParams(BaseParams):
    """When the loop stops, how its rate falls, and what it keeps."""

    patience: int = Field(10, ge=1, description="Early stopping: epochs without improvement.")
    min_delta: float = Field(1e-4, ge=0, description="The least that counts as improvement.")
    plateau_patience: int = Field(5, ge=1, description=(
        "Epochs without improvement before the learning rate falls."))
    plateau_factor: float = Field(0.1, gt=0, lt=1, description="By what the rate is multiplied.")
    mixed_precision: bool = Field(False, description=(
        "Compute in bfloat16 (float16 on GPUs that lack it); weights and losses stay float32."))
    deterministic: bool = Field(True, description=(
        "The same bits for the same seed, also after a restart; slower on a GPU."))
    checkpoint_every: int = Field(1, ge=1, description="Epochs between checkpoints.")
    checkpoint_batches: int | None = Field(None, ge=1, description=(
        "Also a checkpoint after so many batches (none: every five minutes)."))


def loop_fields(params: Any, task: Task, rows: tuple[Sized, Sized], rate: float) -> dict[str, Any]:
    """The columns that every tab of trainings has. rows: those of training and of validation."""
    from l3hpc.models.training_engine import device_count

    def steps(some: Sized, size: int, wanted: int | None) -> int:
        return wanted or math.ceil(len(some) / size)

    return {
        "state": "running", "username": task.labels.get("username", ""),
        "num_epochs": params.epochs,
        "train_epoch_size": steps(rows[0], params.batch_size, params.epoch_size),
        "validation_epoch_size": steps(rows[1], params.validation_batch_size,
                                       params.validation_epoch_size),
        "train_batch_size": params.batch_size,
        "validation_batch_size": params.validation_batch_size, "random_state": params.seed,
        "learning_rate": rate, "gpus": device_count(),
        "checkpoint_interval": params.checkpoint_every,
    }


class TrainingRow:
    """One row of ``tab``: fixed columns, and the latest and the best values of every epoch.

    measure: what stands beside the loss: ``mae``, ``acc`` (one minus the mean absolute error of
    the probabilities of two classes), or None.
    """

    def __init__(self, task: Task, tab: str, fixed: Mapping[str, Any],
                 measure: Literal["mae", "acc"] | None) -> None:
        self._task, self._tab, self._fixed, self._measure = task, tab, dict(fixed), measure

    def record(self, values: Mapping[str, Any], epoch: int | None = None) -> None:
        """Add values to the row."""
        self._task.recorder.record(self._tab, {**self._fixed, **values}, epoch=epoch)

    def epoch(self, status: Any, state: str = "running") -> None:
        """Record the latest and the best values; epochs count from 0, as published."""
        if not status.history:
            return
        last = status.history[-1]
        values = {
            "state": state, "latest_epoch": last["epoch"], "latest_train_loss": last["loss"],
            "latest_validation_loss": last["val_loss"],
            "best_train_loss": status.lowest("loss"), "best_validation_loss": status.best_loss}
        if self._measure is not None:
            found = {"latest_train": last["mean_absolute_error"],
                     "latest_validation": last["val_mean_absolute_error"],
                     "best_train": status.lowest("mean_absolute_error"),
                     "best_validation": status.best_mae}
            values |= {f"{name}_{self._measure}": 1 - value if self._measure == "acc" else value
                       for name, value in found.items()}
        self.record(values, epoch=int(last["epoch"]))
