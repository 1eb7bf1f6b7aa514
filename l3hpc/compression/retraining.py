"""Re-train a pruned network without losing its zeros. Importing this module imports TensorFlow.

A weight that is zero when training begins gets no gradient, so that Adam's moments and the weight
itself stay exactly zero, on one device or on several, also across a restart. (The published code
multiplied by a mask in the forward pass and recomputed it from the live weights, so that weights
which training made small were dropped as well, and the number of zeros drifted upwards.)

``MaskedTraining`` learns from a teacher's embeddings; ``CorrespondenceTraining`` learns from pairs,
by categorical cross-entropy on ``correspondence.VisionPairs``, and reports the share of pairs that
are classified wrongly (1 - accuracy) in place of the mean absolute error. Epochs, checkpoints and
the restart at the next batch with the same bits are those of ``l3hpc.models.training``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from l3hpc.compression.correspondence import Head
from l3hpc.compression.pruning import convolution_indices, nonzero_masks
from l3hpc.errors import InputError
from l3hpc.models.network import WEIGHT_DECAY, assign, build, parameters_of, weighted_layers
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.loop import Training
from l3hpc.models.training.tensorflow_engine import Errors, Inputs, TensorFlowTrainingEngine


class MaskedEngine(TensorFlowTrainingEngine):
    """``TensorFlowTrainingEngine`` that starts from given weights and keeps a kernel's zeros.

    Parameters
    ----------
    spec
        The network.
    first
        Its first weights.
    options
        Arguments of ``TensorFlowTrainingEngine``.

    Raises
    ------
    InputError
        ``first`` is a network of another spec.
    """

    def __init__(self, spec: NetworkSpec, *, first: Parameters, **options: Any) -> None:
        if spec != first.spec:
            raise InputError("the initial network has another shape than the one to train")
        self.first = first
        super().__init__(spec, **options)

    def _network(self, bn_momentum: float, seed: int) -> keras.Model:
        return self._audio_network(bn_momentum)

    def _audio_network(self, bn_momentum: float) -> keras.Model:
        """Build the audio network with its first weights, and the masks of its zeros."""
        model = build(self.spec, bn_momentum, fused=True)
        assign(model, self.first)
        layers = weighted_layers(model)
        # By identity: Keras variables are compared element by element.
        self._masks = {
            id(layers[index].kernel): tf.constant(mask, tf.float32)
            for index, mask in zip(convolution_indices(self.first), nonzero_masks(self.first),
                                   strict=True)
            if not mask.all()}
        return model

    def _gradients(self, gradients: list[Any]) -> list[Any]:
        # The gradient, not the weight: a zero gradient keeps Adam's moments at zero too.
        return [gradient if id(variable) not in self._masks
                else gradient * tf.cast(self._masks[id(variable)], gradient.dtype)
                for gradient, variable in zip(gradients, self.model.trainable_variables,
                                              strict=True)]


@dataclass
class MaskedTraining(Training):
    """``Training`` that continues from a given network and keeps its zeros.

    Attributes
    ----------
    first
        The network to continue from; its spec is ``spec``.
    """

    first: Parameters | None = None

    def make_engine(self) -> MaskedEngine:
        """Build the network to continue from, and its compiled steps.

        Returns
        -------
        MaskedEngine
            Ready to train.
        """
        assert self.first is not None
        return MaskedEngine(self.spec, first=self.first, **self.engine_options())


class CorrespondenceEngine(MaskedEngine):
    """Audio network and fusion head, trained on embeddings of images.

    Parameters
    ----------
    spec
        The audio network.
    first
        Its first weights.
    head
        The fusion head to continue from.
    options
        Arguments of ``TensorFlowTrainingEngine``.

    Raises
    ------
    InputError
        The head takes no more values than the audio embedding has.
    """

    def __init__(self, spec: NetworkSpec, *, first: Parameters, head: Head, **options: Any) -> None:
        self.first_head = head
        self.vision_dim = head.joint - spec.dim
        if self.vision_dim < 1:
            raise InputError(f"the fusion head takes {head.joint} values, the audio embedding "
                             f"alone has {spec.dim}")
        super().__init__(spec, first=first, **options)

    def parameters(self) -> Parameters:
        """The current weights of the audio network."""
        return parameters_of(self._audio, self.spec)

    def head(self) -> Head:
        """The current fusion head."""
        return Head(tuple(tuple(layer.get_weights()) for layer in self._dense))

    def _network(self, bn_momentum: float, seed: int) -> keras.Model:
        self._audio = self._audio_network(bn_momentum)
        sound = keras.Input(self._audio.input_shape[1:], name="spectrogram")
        vision = keras.Input((self.vision_dim,), name="vision")
        x = keras.layers.Concatenate(name="both", dtype="float32")(
            [vision, self._audio(sound)])
        self._dense = []
        for (kernel, bias), name, activation in zip(
                # No softmax: the loss is computed from logits, which keeps its digits where the
                # network is sure.
                self.first_head.layers, ("fusion", "correspondence"), ("relu", None), strict=True):
            layer = keras.layers.Dense(len(bias), activation, name=name, dtype="float32",
                                       kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY))
            x = layer(x)
            layer.set_weights([kernel, bias])
            self._dense.append(layer)
        return keras.Model([sound, vision], x, name="l3_correspondence")

    def _batch_signature(self) -> Any:
        if self.replicas > 1:
            return None
        return [(tf.TensorSpec((None, *self.spec.frontend.shape, 1)),
                 tf.TensorSpec((None, self.vision_dim))), tf.TensorSpec((None, 2))]

    def _errors(self, x: Inputs, y: tf.Tensor, training: bool) -> Errors:
        logits = self.model(list(x), training=training)
        wrong = tf.not_equal(tf.argmax(logits, axis=-1), tf.argmax(y, axis=-1))
        penalty = tf.add_n([tf.cast(loss, tf.float32) for loss in self.model.losses])
        return (tf.nn.softmax_cross_entropy_with_logits(y, logits), tf.cast(wrong, tf.float32),
                penalty)


@dataclass
class CorrespondenceTraining(MaskedTraining):
    """``MaskedTraining`` on correspondence; ``data`` is a ``VisionPairs``.

    The status' ``best_mae`` is the lowest share of pairs classified wrongly.

    Attributes
    ----------
    head
        The fusion head to continue from.
    """

    head: Head | None = None

    def make_engine(self) -> CorrespondenceEngine:
        """Build the audio network with its head, and its compiled steps.

        Returns
        -------
        CorrespondenceEngine
            Ready to train.
        """
        assert self.first is not None and self.head is not None
        return CorrespondenceEngine(self.spec, first=self.first, head=self.head,
                                    **self.engine_options())
