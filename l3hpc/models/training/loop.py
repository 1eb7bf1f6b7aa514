"""Train a student on cached spectra: epochs, best models, checkpoints, restart at the next batch.

The loop over compiled steps is our own, because a restart must continue in the middle of an epoch
with the same bits; losses are those that Keras's ``fit`` would report, and patience counts as its
callbacks do. The loop knows engines by the protocol ``TrainingEngine`` alone.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.console.progress import Progress, doing
from l3hpc.errors import L3hpcError, option
from l3hpc.io.files import write_text
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.state import (
    COLUMNS,
    BatchOrder,
    Checkpoint,
    Schedule,
    Status,
    bn_momentum,
)
from l3hpc.models.weights import STUDENT_FILES, save

LATEST, BEST_LOSS, BEST_MAE = STUDENT_FILES
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
CHECKPOINT_EVERY_S = 300.0
SHOW_EVERY_S = 1.0


class TrainingData(Protocol):
    """Examples by row number."""

    def batch(self, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        """The examples of some rows.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        inputs
            What the network takes, such as spectra (n, bands, times, 1).
        targets
            (n, dim) float32.
        """


class TrainingEngine(Protocol):
    """A network, its Adam optimizer, one training step and one validation step.

    Losses are those that Keras reports: mean squared error plus the kernels' L2 penalty, averaged
    over the epoch with the batch sizes as weights. Between two calls the state is always that after
    a whole number of batches.
    """

    @property
    def replicas(self) -> int:
        """Devices that a batch is divided over."""

    @property
    def precision(self) -> str:
        """The precision of the convolutions, for the results of a run."""

    @property
    def position(self) -> int:
        """Batches trained since the first epoch began."""

    def train(self, batch: tuple[Any, Any], first: bool) -> None:
        """Make one step of Adam.

        Parameters
        ----------
        batch
            Inputs and targets, from ``put``.
        first
            Whether to start the epoch's sums with it.
        """

    def validate(self, batches: Iterable[tuple[Any, Any]]) -> tuple[float, float]:
        """Compute the losses of some batches; weights stay as they are.

        Parameters
        ----------
        batches
            Inputs and targets of each, from ``put``.

        Returns
        -------
        loss
            With the penalty.
        error
            Mean absolute error.
        """

    def averages(self) -> tuple[float, float]:
        """Loss and mean absolute error of the epoch so far."""

    def put(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Put a batch on the device. May be called from any thread.

        Parameters
        ----------
        batch
            Inputs and targets; either may be a tuple of arrays.

        Returns
        -------
        inputs
            As ``train`` and ``validate`` take them.
        targets
            Likewise.
        """

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate.

        Parameters
        ----------
        rate
            The new rate.
        """

    def parameters(self) -> Parameters:
        """The current weights."""

    def state(self) -> dict[str, np.ndarray]:
        """All arrays that a restart needs, by name."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what ``state`` returned.

        Parameters
        ----------
        arrays
            By name.
        """


@dataclass
class Training:
    """One training run, kept in a folder so that it can be killed and started again.

    Attributes
    ----------
    spec
        The network.
    data
        The examples.
    rows
        Training rows and validation rows of ``data``.
    folder
        Takes models, history and checkpoint.
    schedule
        When to stop and to lower the learning rate.
    learning_rate
        Of the first epoch.
    batch_size, validation_batch_size
        Examples per batch.
    epoch_size, validation_epoch_size
        Batches per epoch; None: all data.
    bn_momentum
        Momentum of the moving statistics; None: by the steps of an epoch (see
        ``state.bn_momentum``).
    seed
        Decides the first weights and the order of examples.
    engine_name
        What computes: ``tensorflow`` or ``torch``. Either continues a checkpoint of the other.
    precision
        Of the engine torch: see ``TorchTrainingEngine``.
    mixed_precision
        Of the engine tensorflow: see ``TensorFlowTrainingEngine``.
    deterministic, threads
        See the engines.
    checkpoint_every
        Epochs from one checkpoint to the next.
    checkpoint_batches
        Batches from one checkpoint to the next within an epoch; None: five minutes.
    settings
        Digest of all that decides the result; a checkpoint of other settings is ignored.
    provenance
        JSON-ready values that are written into the models.
    tensorboard
        Folder for TensorBoard; None: none.
    progress
        Shows epochs and losses.
    on_epoch
        Called with the status after every epoch.
    guard
        Makes a context manager from the function that saves a checkpoint at once.
    """

    spec: NetworkSpec
    data: TrainingData
    rows: tuple[np.ndarray, np.ndarray]
    folder: Path
    schedule: Schedule = field(default_factory=Schedule)
    learning_rate: float = 1e-4
    batch_size: int = 64
    validation_batch_size: int = 64
    epoch_size: int | None = None
    validation_epoch_size: int | None = None
    bn_momentum: float | None = None
    seed: int = 20180216
    engine_name: str = "tensorflow"
    precision: str = "float32"
    mixed_precision: bool = False
    deterministic: bool = True
    threads: int | None = None
    checkpoint_every: int = 1
    checkpoint_batches: int | None = None
    settings: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tensorboard: Path | None = None
    progress: Progress = field(default_factory=Progress)
    on_epoch: Callable[[Status], None] = lambda status: None
    guard: Callable[[Callable[[], None]], AbstractContextManager[Any]] = (
        lambda save: nullcontext())

    def run(self) -> Status:
        """Train until the schedule ends it.

        ``folder`` then holds the latest model, the best by validation loss and error, and
        ``history.csv``.

        Returns
        -------
        Status
            After the last epoch.

        Raises
        ------
        L3hpcError
            The loss is no longer a finite number.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.bn_momentum is None:
            self.bn_momentum = bn_momentum(
                self.epoch_size or math.ceil(len(self.rows[0]) / self.batch_size))
        with doing("building the network"):
            self.engine = self.make_engine()
        self.order = BatchOrder(self.rows[0], self.batch_size, self.seed,
                                epoch_size=self.epoch_size, whole=self.engine.replicas > 1)
        self.status = Status(rate=self.learning_rate)
        self.checkpoint = Checkpoint(self.folder / CHECKPOINT, self.settings)
        self._continue()
        self.progress.start("training", total=self.schedule.epochs, unit="epochs")
        self.progress.advance(self.status.epoch, **self._details())
        try:
            with self.guard(self.save):
                while not self.status.finished(self.schedule):
                    self._epoch()
                    self.on_epoch(self.status)
        except (KeyboardInterrupt, SystemExit):  # a request to stop: save what is done
            self.save()
            raise
        self._write_history()
        return self.status

    def make_engine(self) -> TrainingEngine:
        """Build the network and its compiled steps; other kinds of training override this.

        Returns
        -------
        TrainingEngine
            Ready to train.
        """
        if self.engine_name == "torch":
            from l3hpc.models.training.torch_engine import TorchTrainingEngine

            return TorchTrainingEngine(self.spec, precision=self.precision,
                                       **self.common_options())
        from l3hpc.models.training.tensorflow_engine import TensorFlowTrainingEngine

        return TensorFlowTrainingEngine(self.spec, **self.engine_options())

    def common_options(self) -> dict[str, Any]:
        """Arguments that the engines of all libraries take."""
        return {"seed": self.seed, "learning_rate": self.learning_rate, "threads": self.threads,
                "bn_momentum": self.bn_momentum, "deterministic": self.deterministic}

    def engine_options(self) -> dict[str, Any]:
        """Arguments that all engines with TensorFlow take."""
        return {**self.common_options(), "mixed_precision": self.mixed_precision}

    def save(self) -> None:
        """Write a checkpoint at once: safe between any two Python instructions.

        An engine's weights, optimizer, position and sums change together; the rest changes by one
        assignment at the end of an epoch.
        """
        self.checkpoint.save(self.status, self.engine.state())

    def _continue(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.status, arrays = state
        self.engine.restore(arrays)
        done = self.engine.position - self.status.epoch * self.order.epoch_size
        self.progress.note(f"continuing in epoch {self.status.epoch + 1}, after batch {done} of "
                           f"{self.order.epoch_size}")

    def _epoch(self) -> None:
        started = time.monotonic()
        size = self.order.epoch_size
        first = self.status.epoch * size
        position = self.engine.position
        self.engine.set_rate(self.status.rate)
        saved = shown = time.monotonic()
        with closing(self._batches(self.order.batch, position, first + size)) as batches:
            for number, batch in enumerate(batches, position + 1):
                self.engine.train(batch, first=number == first + 1)
                now = time.monotonic()
                if self.checkpoint_batches:
                    due = (number - first) % self.checkpoint_batches == 0
                else:
                    due = now - saved > CHECKPOINT_EVERY_S
                # Not after the last batch: validation follows, and then the epoch's own checkpoint.
                if due and number < first + size:
                    self.save()
                    saved = now
                if now - shown > SHOW_EVERY_S:
                    shown = now
                    self.progress.advance(0, batch=f"{number - first}/{size}",
                                          loss=self.engine.averages()[0])
        train, validation = self.engine.averages(), self._validation()
        # Before anything is written, so that the latest model and the checkpoint are those of the
        # epoch before.
        if not all(math.isfinite(value) for value in (*train, *validation)):
            raise L3hpcError(
                f"the loss is not finite in epoch {self.status.epoch + 1} "
                f"(training {train[0]}, validation {validation[0]})",
                hint=f"Lower the learning rate: {option('learning-rate', '1e-5')}")
        after = self.status.after(self.schedule, train, validation)
        # Models first: killed in between, the run repeats this epoch's validation and writes the
        # same files. The other way round, a best model could be missing for ever.
        self._save_models(after)
        self.status = after
        self._write_history()
        if after.epoch % self.checkpoint_every == 0 or after.finished(self.schedule):
            self.save()
        self._summarise(after)
        # The last batch that was shown would be taken for one of the next epoch.
        self.progress.advance(1, **self._details(), batch=None,
                              seconds_per_epoch=time.monotonic() - started)

    def _validation(self) -> tuple[float, float]:
        rows, size = self.rows[1], self.validation_batch_size
        count = -(-len(rows) // size)
        if self.validation_epoch_size is not None:
            count = min(count, self.validation_epoch_size)
        with closing(self._batches(
                lambda number: rows[number * size:(number + 1) * size], 0, count)) as batches:
            return self.engine.validate(batches)

    def _batches(self, rows_of: Callable[[int], np.ndarray], start: int,
                 stop: int) -> Generator[tuple[Any, Any], None, None]:
        """Batches ``start`` to ``stop`` on the device, read ahead of the network."""
        def load(number: int) -> tuple[Any, Any]:
            return self.engine.put(self.data.batch(rows_of(number)))

        return read_ahead(load, range(start, stop))

    # files --------------------------------------------------------------------------------------

    def _save_models(self, after: Status) -> None:
        parameters = self.engine.parameters()
        # Files count epochs from 0, as Keras and the published ones do.
        provenance = {**self.provenance, "epoch": after.epoch - 1,
                      "val_loss": after.history[-1]["val_loss"],
                      "val_mean_absolute_error": after.history[-1]["val_mean_absolute_error"]}
        save(parameters, self.folder / LATEST, provenance)
        if after.best_loss_epoch == after.epoch - 1:
            save(parameters, self.folder / BEST_LOSS, provenance)
        if after.best_mae_epoch == after.epoch - 1:
            save(parameters, self.folder / BEST_MAE, provenance)

    def _write_history(self) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.status.history)
        write_text(self.folder / HISTORY, stream.getvalue())

    def _summarise(self, after: Status) -> None:
        if self.tensorboard is None:
            return
        import tensorflow as tf

        if self.engine_name != "tensorflow":
            # Or TensorFlow would reserve the memory of the GPU on which the other one computes.
            tf.config.set_visible_devices([], "GPU")
        # The same as tf.summary.scalar writes, which needs TensorBoard to be installed.
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        kind = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)
        writer = tf.summary.create_file_writer(str(self.tensorboard))
        with writer.as_default():
            for name, value in after.history[-1].items():
                if name != "epoch":
                    tf.summary.write(name, np.float32(value), step=after.epoch - 1, metadata=kind)
        writer.close()

    def _details(self) -> dict[str, Any]:
        if not self.status.history:
            return {"epoch": 0}
        return {"epoch": self.status.epoch, "loss": self.status.history[-1]["loss"],
                "val_loss": self.status.history[-1]["val_loss"], "best": self.status.best_loss,
                "best_epoch": self.status.best_loss_epoch + 1,
                "learning_rate": self.status.rate}
