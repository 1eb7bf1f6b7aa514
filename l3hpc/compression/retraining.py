"""Re-train a pruned network without losing its zeros. Importing this module imports TensorFlow.

A weight that is zero when training begins gets no gradient, so that Adam's moments and the weight
itself stay exactly zero, on one device or on several, also across a restart. (The published code
multiplied by a mask in the forward pass and recomputed it from the live weights, so that weights
which training made small were dropped as well, and the number of zeros drifted upwards.)

``MaskedTraining`` learns from a teacher's embeddings, ``CorrespondenceTraining`` from pairs:
categorical cross-entropy on ``correspondence.Seen``, and instead of the mean absolute error the
share of pairs judged wrongly (1 - accuracy). Epochs, checkpoints and the restart at the next batch
with the same bits are those of ``l3hpc.models.training``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from l3hpc.compression.judges import Head
from l3hpc.compression.pruning import masks_of, places
from l3hpc.errors import InputError
from l3hpc.models.network import WEIGHT_DECAY, assign, build, parameters_of, weighted_layers
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.engine import Engine
from l3hpc.models.training.loop import Training


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


class CorrespondenceEngine(MaskedEngine):
    """Audio network and fusion head, learning from vision vectors of ``vision_dim`` values."""

    def __init__(self, spec: NetworkSpec, *, first: Parameters, head: Head, **options: Any) -> None:
        self.first_head = head
        self.vision_dim = head.joint - spec.dim
        if self.vision_dim < 1:
            raise InputError(f"a head of {head.joint} values for an embedding of {spec.dim}")
        super().__init__(spec, first=first, **options)

    def parameters(self) -> Parameters:
        """The present weights of the audio network."""
        return parameters_of(self._audio, self.spec)

    def head(self) -> Head:
        """The present fusion head."""
        return Head(tuple(tuple(layer.get_weights()) for layer in self._dense))

    def _network(self, bn_momentum: float, seed: int) -> Any:
        self._audio = self._ears(bn_momentum)
        sound = keras.Input(self._audio.input_shape[1:], name="spectrogram")
        seen = keras.Input((self.vision_dim,), name="vision")
        x = keras.layers.Concatenate(name="both", dtype="float32")([seen, self._audio(sound)])
        self._dense = []
        for (kernel, bias), name, activation in zip(
                self.first_head.layers, ("fusion", "correspondence"), ("relu", None), strict=True):
            layer = keras.layers.Dense(len(bias), activation, name=name, dtype="float32",
                                       kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY))
            x = layer(x)
            layer.set_weights([kernel, bias])
            self._dense.append(layer)
        return keras.Model([sound, seen], x, name="l3_correspondence")

    def _batch_signature(self) -> Any:
        if self.replicas > 1:
            return None
        return [(tf.TensorSpec((None, *self.spec.frontend.shape, 1)),
                 tf.TensorSpec((None, self.vision_dim))), tf.TensorSpec((None, 2))]

    def _errors(self, x: Any, y: Any, training: bool) -> tuple[Any, Any, Any]:
        logits = self.model(list(x), training=training)
        wrong = tf.not_equal(tf.argmax(logits, axis=-1), tf.argmax(y, axis=-1))
        penalty = tf.add_n([tf.cast(loss, tf.float32) for loss in self.model.losses])
        return (tf.nn.softmax_cross_entropy_with_logits(y, logits), tf.cast(wrong, tf.float32),
                penalty)


@dataclass
class CorrespondenceTraining(MaskedTraining):
    """``MaskedTraining`` on correspondence, with the fusion head to go on from; ``data`` gives what
    ``Seen`` gives. The status' ``best_mae`` is the lowest share of wrong answers."""

    head: Head | None = None

    def make_engine(self) -> CorrespondenceEngine:
        """The audio network with the head, and its compiled steps."""
        assert self.first is not None and self.head is not None
        return CorrespondenceEngine(self.spec, first=self.first, head=self.head,
                                    **self.engine_options())
