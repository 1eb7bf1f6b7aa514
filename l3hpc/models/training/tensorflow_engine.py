"""Train with TensorFlow: two compiled steps, on one device or mirrored over several GPUs.

All that a restart needs is in variables that the compiled step itself updates: weights, optimizer,
position and running sums. Between two calls the state is always that after a whole number of
batches. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from l3hpc.console.progress import doing
from l3hpc.models.network import assign, build, parameters_of
from l3hpc.models.parameters import BN_MOMENTUM, Parameters, untrained
from l3hpc.models.spec import NetworkSpec

Inputs: TypeAlias = "tf.Tensor | tuple[tf.Tensor, ...]"  # spectrograms, or with images
# Squared (or cross-entropy) and absolute error of each example, and the weights' penalty.
Errors: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"


class TensorFlowTrainingEngine:
    """A Keras model, its Adam optimizer, and the two compiled steps (see ``TrainingEngine``).

    Parameters
    ----------
    spec
        The network.
    seed
        Decides the first weights.
    learning_rate
        Of the first epoch.
    bn_momentum
        Momentum of the normalisations' moving statistics.
    mixed_precision
        Whether to compute in bfloat16 (or float16) where that is possible.
    deterministic
        Whether to use deterministic operations alone.
    threads
        CPU threads; None: TensorFlow's choice.
    devices
        Devices to mirror over; None: all GPUs where there are several, else one device.
    """

    def __init__(
        self, spec: NetworkSpec, *, seed: int, learning_rate: float,
        bn_momentum: float = BN_MOMENTUM, mixed_precision: bool = False,
        deterministic: bool = True, threads: int | None = None,
        devices: Iterable[str] | None = None,
    ) -> None:
        keras.utils.set_random_seed(seed)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        if threads:
            limit_threads(threads)
        self.spec = spec
        self.precision = best_precision() if mixed_precision else "float32"
        self.strategy = _strategy(devices)
        self.replicas = self.strategy.num_replicas_in_sync
        # The policy is global: other models of the process must not get it.
        before = keras.mixed_precision.dtype_policy()
        keras.mixed_precision.set_dtype_policy(self.precision)
        try:
            with self.strategy.scope():
                self.model = self._network(bn_momentum, seed)
                optimizer = keras.optimizers.Adam(learning_rate)
                # float16 gradients underflow without a scale; bfloat16 has the range of float32.
                if self.precision == "mixed_float16":
                    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
                # Before the first step, so that a checkpoint can be restored into its variables.
                optimizer.build(self.model.trainable_variables)
                self.optimizer = optimizer
        finally:
            keras.mixed_precision.set_dtype_policy(before)
        self._position = tf.Variable(0, dtype=tf.int64, trainable=False)
        # float64, because an epoch adds tens of thousands of batches.
        self.sums = tf.Variable(tf.zeros(3, tf.float64), trainable=False)  # loss, MAE, windows
        # TensorFlow's own variables: under mixed precision, those of Keras may show rounded values
        self._state = {f"{kind}_{number:03d}": variable.value
                       for kind, variables in (("weight", self.model.variables),
                                               ("optimizer", self.optimizer.variables))
                       for number, variable in enumerate(variables)}
        self._state |= {"position": self._position, "sums": self.sums}
        batch, flag = self._batch_signature(), tf.TensorSpec((), tf.bool)
        self._train = tf.function(self._train_step, reduce_retracing=True,
                                  input_signature=batch and [*batch, flag])
        self._validate = tf.function(self._validation_step, reduce_retracing=True,
                                     input_signature=batch)

    def _network(self, bn_momentum: float, seed: int) -> keras.Model:
        """A new Keras model; its first weights depend on the seed alone."""
        model = build(self.spec, bn_momentum, fused=True)
        assign(model, untrained(self.spec, seed))
        return model

    def _gradients(self, gradients: list[Any]) -> list[Any]:
        """The gradients that the optimizer applies, in the order of ``model.trainable_variables``.
        """
        return gradients

    @property
    def position(self) -> int:
        """Batches trained since the first epoch began."""
        return int(self._position.numpy())

    # steps --------------------------------------------------------------------------------------

    def train(self, batch: tuple[Inputs, tf.Tensor], first: bool) -> None:
        """One step of Adam.

        Parameters
        ----------
        batch
            Inputs and targets, from ``put``.
        first
            Whether to start the epoch's sums with it.
        """
        with _compiling(self._train, "training"):
            self._train(*batch, tf.constant(first))

    def validate(self, batches: Iterable[Any]) -> tuple[float, float]:
        """Loss and mean absolute error over batches; weights stay as they are.

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
        total = np.zeros(3)
        for batch in batches:
            with _compiling(self._validate, "validation"):
                total += self._validate(*batch).numpy()
        return float(total[0] / total[2]), float(total[1] / total[2])

    def averages(self) -> tuple[float, float]:
        """Loss and mean absolute error of the epoch so far."""
        sums = self.sums.numpy()
        return float(sums[0] / sums[2]), float(sums[1] / sums[2])

    def put(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Put a batch on the device, or divide it over several. May be called from any thread.

        Parameters
        ----------
        batch
            Inputs and targets; either may be a tuple of arrays.

        Returns
        -------
        inputs
            Tensors.
        targets
            Tensors.
        """
        convert = tf.convert_to_tensor if self.replicas == 1 else self._share
        return tf.nest.map_structure(convert, batch[0]), tf.nest.map_structure(convert, batch[1])

    def _share(self, array: np.ndarray) -> Any:
        parts = np.array_split(array, self.replicas)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group]))

    def _batch_signature(self) -> Any:
        """One graph for batches of all sizes; None: as inferred, with several devices."""
        if self.replicas > 1:
            return None
        return [tf.TensorSpec((None, *self.spec.frontend.shape, 1)),
                tf.TensorSpec((None, self.spec.dim))]

    def _train_step(self, x: Inputs, y: tf.Tensor, first: tf.Tensor) -> None:
        sums = self._reduce(self.strategy.run(self._train_replica, args=(x, y)))
        self.sums.assign(tf.where(first, tf.zeros_like(sums), self.sums) + sums)
        self._position.assign_add(1)

    def _validation_step(self, x: Inputs, y: tf.Tensor) -> tf.Tensor:
        return self._reduce(self.strategy.run(self._validation_replica, args=(x, y)))

    def _train_replica(self, x: Inputs, y: tf.Tensor) -> tf.Tensor:
        count = tf.shape(y)[0]
        context = tf.distribute.get_replica_context()
        # Replicas may get parts of different sizes: each divides by the size of the whole batch,
        # since gradients are summed over the replicas.
        whole_batch = context.all_reduce("sum", count) if self.replicas > 1 else count
        with tf.GradientTape() as tape:
            squared, absolute, penalty = self._errors(x, y, training=True)
            loss = tf.reduce_sum(squared) / tf.cast(whole_batch, tf.float32)
            # Summed over the replicas, the penalty counts once.
            loss += penalty / self.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = self._gradients(tape.gradient(scaled, self.model.trainable_variables))
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return self._sums(squared, absolute, penalty, count)

    def _validation_replica(self, x: Inputs, y: tf.Tensor) -> tf.Tensor:
        squared, absolute, penalty = self._errors(x, y, training=False)
        return self._sums(squared, absolute, penalty, tf.shape(y)[0])

    def _errors(self, x: Inputs, y: tf.Tensor, training: bool) -> Errors:
        """Squared and absolute error of each example (n,), and the penalty."""
        difference = tf.cast(self.model(x, training=training), tf.float32) - y
        losses = self.model.losses
        penalty = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else 0.0
        return (tf.reduce_mean(tf.square(difference), axis=-1),
                tf.reduce_mean(tf.abs(difference), axis=-1), tf.convert_to_tensor(penalty))

    def _sums(self, squared: tf.Tensor, absolute: tf.Tensor, penalty: tf.Tensor,
              count: tf.Tensor) -> tf.Tensor:
        windows = tf.cast(count, tf.float64)
        return tf.stack([
            tf.reduce_sum(tf.cast(squared, tf.float64)) + tf.cast(penalty, tf.float64) * windows,
            tf.reduce_sum(tf.cast(absolute, tf.float64)), windows])

    def _reduce(self, values: tf.Tensor) -> tf.Tensor:
        if self.replicas == 1:
            return values
        return self.strategy.reduce("sum", values, axis=None)

    # state --------------------------------------------------------------------------------------

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate.

        Parameters
        ----------
        rate
            The new rate.
        """
        self.optimizer.learning_rate = rate

    def parameters(self) -> Parameters:
        """The current weights."""
        return parameters_of(self.model, self.spec)

    def state(self) -> dict[str, np.ndarray]:
        """All arrays that a restart needs, by name."""
        # a signal may ask for them while a step is being compiled, where variables have no values
        with tf.init_scope():
            return {name: np.asarray(variable) for name, variable in self._state.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what ``state`` returned.

        Parameters
        ----------
        arrays
            By name.

        Raises
        ------
        ValueError
            Shapes differ.
        """
        for name, variable in self._state.items():
            variable.assign(arrays[name])


def _compiling(step: Any, name: str) -> AbstractContextManager[None]:
    """Say that a step is compiled, which its first call does."""
    return nullcontext() if step.experimental_get_tracing_count() else doing(
        f"compiling the {name} step")


def best_precision() -> str:
    """``mixed_bfloat16`` where every GPU has it (or there is none), else ``mixed_float16``."""
    for device in tf.config.list_physical_devices("GPU"):
        capability = tf.config.experimental.get_device_details(device).get("compute_capability")
        if capability is not None and capability < (8, 0):
            return "mixed_float16"
    return "mixed_bfloat16"


def limit_threads(threads: int) -> None:
    """Limit the cores that TensorFlow uses, where it has not started yet.

    Parameters
    ----------
    threads
        Number of cores.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(1, min(threads, 2)))
    except RuntimeError:
        return  # already started in this process: its number of threads cannot change


def device_count() -> int:
    """Number of GPUs that training would use; 0: the processor."""
    return len(tf.config.list_logical_devices("GPU"))


def _strategy(devices: Iterable[str] | None) -> Any:
    names = list(devices) if devices is not None else [
        device.name for device in tf.config.list_logical_devices("GPU")]
    if len(names) > 1:
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.get_strategy()
