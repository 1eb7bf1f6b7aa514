"""Train a pruned network again without losing its zeros. Importing this module imports TensorFlow.

A weight that is zero when training begins gets no gradient, so that Adam's moments and the weight
itself stay exactly zero, on one device or on several, also across a restart. (The published code
multiplied by a mask in the forward pass and recomputed it from the live weights, so that weights
which training made small were dropped as well, and the number of zeros drifted upwards.)

Everything else, the epochs, checkpoints and the restart at the next batch with the same bits, is
``l3hpc.models.training``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from l3hpc.compression.pruning import masks_of, places
from l3hpc.errors import InputError
from l3hpc.models.network import assign, build, weighted_layers
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training import Training
from l3hpc.models.training_engine import Engine


class MaskedEngine(Engine):
    """The training step of ``Engine`` from given weights, with a kernel's zeros held at zero.

    first: the network to go on from; its spec is that of the training.
    """

    def __init__(self, spec: NetworkSpec, *, first: Parameters, **options: Any) -> None:
        if spec != first.spec:
            raise InputError("the network to go on from is of another shape than the training")
        self.first = first
        super().__init__(spec, **options)

    def _network(self, bn_momentum: float, seed: int) -> Any:
        return self._ears(bn_momentum)

    def _ears(self, bn_momentum: float) -> Any:
        """The audio network with its first weights; remembers which of them have to stay zero."""
        model = build(self.spec, bn_momentum, fused=True)
        assign(model, self.first)
        layers = weighted_layers(model)
        self._masks = {
            id(layers[place].kernel): tf.constant(mask, tf.float32)
            for place, mask in zip(places(self.first), masks_of(self.first), strict=True)
            if not mask.all()}
        return model

    def _gradients(self, gradients: list[Any]) -> list[Any]:
        return [gradient if id(variable) not in self._masks
                else gradient * tf.cast(self._masks[id(variable)], gradient.dtype)
                for gradient, variable in zip(gradients, self.model.trainable_variables,
                                              strict=True)]


@dataclass
class MaskedTraining(Training):
    """``Training`` that goes on from the network ``first`` and keeps its zeros."""

    first: Parameters | None = None

    def make_engine(self) -> Engine:
        """The network to go on from, and its compiled steps."""
        assert self.first is not None
        return MaskedEngine(self.spec, first=self.first, **self.engine_options())
