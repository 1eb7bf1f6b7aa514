"""What the steps that train share (``train``, ``avc_train``, ``distill``, ``finetune``).

Parameters of the training loop, and the row of the ledger that is updated after every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from l3hpc.steps.base import Params
from l3hpc.steps.params import LEAST, MAX_BATCH, MOST
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.models.training.state import Schedule

_SAME_NAMES = ("batch_size", "validation_batch_size", "epoch_size", "validation_epoch_size",
               "bn_momentum", "seed", "mixed_precision", "deterministic", "checkpoint_every",
               "checkpoint_batches")  # of parameters of a step and of its training


class LoopParams(Params):
    """Early stopping, learning-rate schedule, precision and checkpoints."""

    patience: int = Field(10, ge=1, le=MOST, description=(
        "Early stopping: epochs without improvement."))
    min_delta: float = Field(1e-4, ge=0, le=MOST, description=(
        "Smallest decrease of the validation loss that counts as an improvement."))
    plateau_patience: int = Field(5, ge=1, le=MOST, description=(
        "Epochs without improvement before the learning rate is reduced."))
    plateau_factor: float = Field(0.1, ge=LEAST, lt=1, description=(
        "Factor by which the learning rate is multiplied."))
    mixed_precision: bool = Field(False, description=(
        "Compute in bfloat16 (float16 on GPUs without bfloat16); weights and losses stay float32."))
    deterministic: bool = Field(True, description=(
        "Bit-identical results for the same seed, also after a restart; slower on a GPU."))
    checkpoint_every: int = Field(1, ge=1, le=MOST, description="Epochs between checkpoints.")
    checkpoint_batches: int | None = Field(None, ge=1, le=MOST, description=(
        "Also write a checkpoint after this many batches (none: every five minutes)."))


class EpochParams(LoopParams):
    """Epochs, their batches and the published recipe, for training and re-training."""

    published: ClassVar[Mapping[str, Any]] = {}  # what ``recipe: published`` sets by default

    recipe: Literal["default", "published"] = "default"

    epochs: int = Field(30, ge=1, le=MOST, description="Maximum number of epochs.")
    epoch_size: int | None = Field(None, ge=1, le=MOST, description=(
        "Batches per epoch (none: all data)."))
    validation_epoch_size: int | None = Field(None, ge=1, le=MOST, description=(
        "Batches per validation (none: all data)."))
    batch_size: int = Field(64, ge=1, le=MAX_BATCH, description="Windows per training batch.")
    validation_batch_size: int = Field(64, ge=1, le=MAX_BATCH, description=(
        "Windows per validation batch."))

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("recipe") == "published":
            return {**cls.published, **values}
        return values


def loop_fields(params: Any, task: Task, rows: tuple[Sized, Sized], rate: float,
                gpus: int | None = None) -> dict[str, Any]:
    """The columns that all tabs of trainings have.

    Parameters
    ----------
    params
        Parameters of the step.
    task
        The task.
    rows
        Rows of the training and of the validation data.
    rate
        Initial learning rate.
    gpus
        GPUs that will train; None: all that TensorFlow finds.

    Returns
    -------
    dict
        Field → value.
    """
    if gpus is None:
        from l3hpc.models.training.tensorflow_engine import device_count

        gpus = device_count()

    def steps(data: Sized, batch_size: int, requested: int | None) -> int:
        return requested or math.ceil(len(data) / batch_size)

    return {
        "state": "running", "username": task.labels.get("username", ""),
        "num_epochs": params.epochs,
        "train_epoch_size": steps(rows[0], params.batch_size, params.epoch_size),
        "validation_epoch_size": steps(rows[1], params.validation_batch_size,
                                       params.validation_epoch_size),
        "train_batch_size": params.batch_size,
        "validation_batch_size": params.validation_batch_size, "random_state": params.seed,
        "learning_rate": rate, "gpus": gpus,
        "checkpoint_interval": params.checkpoint_every,
    }


def schedule_of(params: Any) -> Schedule:
    """The schedule of a training, from the parameters of its step."""
    from l3hpc.models.training.state import Schedule

    return Schedule(params.epochs, params.patience, params.min_delta, params.plateau_patience,
                    params.plateau_factor, getattr(params, "schedule", "plateau"))


def loop_options(params: Any, task: Task, row: TrainingRow) -> dict[str, Any]:
    """What every training is given under the same names.

    Parameters
    ----------
    params
        Parameters of the step.
    task
        The task.
    row
        Its row of the ledger, which every epoch updates.
    """
    return {**{name: getattr(params, name) for name in _SAME_NAMES}, "threads": task.threads,
            "progress": task.progress, "on_epoch": row.epoch, "guard": task.preemption.on_signal}


class TrainingRow:
    """A row of the ledger: fixed columns, and the latest and best values after every epoch.

    Parameters
    ----------
    task
        The task, for its recorder.
    tab
        The tab of the ledger.
    fixed
        Columns that do not change.
    measure
        The metric besides the loss: ``mae``, ``acc`` (one minus the mean absolute error of the
        probabilities of two classes), or None.
    """

    def __init__(self, task: Task, tab: str, fixed: Mapping[str, Any],
                 measure: Literal["mae", "acc"] | None) -> None:
        self._task, self._tab, self._fixed, self._measure = task, tab, dict(fixed), measure

    def record(self, values: Mapping[str, Any], epoch: int | None = None) -> None:
        """Add values to the row."""
        self._task.recorder.record(self._tab, {**self._fixed, **values}, epoch=epoch)

    def epoch(self, status: Any, state: str = "running") -> None:
        """Record the latest and the best values; epochs count from 0, as published.

        Parameters
        ----------
        status
            The state of the training (``models.training.state.Status``).
        state
            ``running`` or ``finished``.
        """
        if not status.history:
            return
        last = status.history[-1]
        values = {
            "state": state, "latest_epoch": last["epoch"], "latest_train_loss": last["loss"],
            "latest_validation_loss": last["val_loss"],
            "best_train_loss": status.lowest("loss"), "best_validation_loss": status.best_loss}
        if self._measure is not None:
            errors = {"latest_train": last["mean_absolute_error"],
                      "latest_validation": last["val_mean_absolute_error"],
                      "best_train": status.lowest("mean_absolute_error"),
                      "best_validation": status.best_mae}
            values |= {f"{name}_{self._measure}": 1 - value if self._measure == "acc" else value
                       for name, value in errors.items()}
        self.record(values, epoch=int(last["epoch"]))
