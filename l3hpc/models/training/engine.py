"""What the training loop needs of an engine, whichever library computes. No TensorFlow.

There are ``tensorflow_engine``, the default, and ``torch_engine``; ``loop`` knows no more of an
engine than is said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from l3hpc.models.parameters import Parameters


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
