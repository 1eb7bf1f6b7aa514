"""Train with PyTorch, on one GPU or the CPU. Importing this module imports PyTorch.

The mathematics is that of ``tensorflow_engine``, to rounding: Keras's batch normalisation (moving
variances without Bessel's correction), its Adam and its L2 penalty. Checkpoints have the same
arrays in the same order, so that either engine continues a run of the other.

Nothing here draws random numbers: the first weights are those of ``parameters.untrained``, and the
batches those of ``state.BatchOrder``, both from NumPy and the seed alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from l3hpc.errors import InputError
from l3hpc.models.parameters import BN_EPSILON, BN_MOMENTUM, Parameters, untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.torch_engine import PRECISIONS, check_tf32

WEIGHT_DECAY = 1e-5  # as in l3hpc.models.network, which imports TensorFlow
BETAS = (0.9, 0.999)
EPSILON = 1e-7  # Keras's; PyTorch's default is 1e-8


class TorchTrainingEngine:
    """A network in PyTorch, its Adam optimizer, and the two steps (see ``TrainingEngine``).

    Parameters
    ----------
    spec
        The network.
    seed
        Decides the first weights.
    learning_rate
        Of the first epoch.
    bn_momentum
        Momentum of the normalisations' moving statistics, as Keras counts it: the weight of what
        they were before.
    precision
        Of the convolutions: ``float32``; ``tf32`` (a GPU's products of numbers cut to 10 bits of
        mantissa); or ``bfloat16`` by autocast, with weights, statistics and losses in float32.
    deterministic
        Whether cuDNN may use deterministic algorithms alone, chosen without timing. The CPU's
        always are, for one number of threads.
    threads
        CPU threads; None: PyTorch's choice.
    device
        Such as ``cuda:1``; None: the first GPU that this task sees, else the CPU.

    Raises
    ------
    InputError
        There is no such precision, or none on this device.
    """

    replicas = 1

    def __init__(
        self, spec: NetworkSpec, *, seed: int, learning_rate: float,
        bn_momentum: float = BN_MOMENTUM, precision: str = "float32", deterministic: bool = True,
        threads: int | None = None, device: str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"the engine torch does not train in {precision}", where="precision",
                             allowed=", ".join(PRECISIONS))
        self.device = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        if precision == "tf32":
            check_tf32([self.device])
        if threads is not None and self.device.type == "cpu":
            torch.set_num_threads(threads)
        self.spec, self.precision = spec, precision
        self._momentum, self._deterministic = bn_momentum, deterministic
        self._convolutions: list[_Convolution] = []
        self._normalisations: list[_Normalisation] = []
        layers: list[_Convolution | _Normalisation] = []
        for (kind, _), arrays in zip(spec.layers(), untrained(spec, seed).layers, strict=True):
            variables = [self._variable(array) for array in arrays]
            if kind == "conv":
                self._convolutions.append(_Convolution(*variables))
                layers.append(self._convolutions[-1])
            else:
                self._normalisations.append(_Normalisation(*variables))
                layers.append(self._normalisations[-1])
        # In the order in which Keras lists them, which is that of the checkpoint's arrays.
        self._weights = [array for layer in layers for array in layer.arrays()]
        trained = [array for layer in layers for array in layer.trained()]
        for array in trained:
            array.requires_grad_()
        self._adam = torch.optim.Adam(trained, betas=BETAS, fused=True)
        for array in trained:  # now, so that a checkpoint can be restored into the moments
            self._adam.state[array] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(array), "exp_avg_sq": torch.zeros_like(array)}
        self._moments = [self._adam.state[array][name] for array in trained
                         for name in ("exp_avg", "exp_avg_sq")]
        # Loss, MAE and windows; float64, because an epoch adds tens of thousands of batches.
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        # What a step changes, and a copy of it as it was before the step under way.
        self._live = [array.detach() for array in self._weights] + [*self._moments, self._sums]
        self._before = [array.clone() for array in self._live]
        self._mark = (0, False)
        self.set_rate(learning_rate)

    def _variable(self, array: np.ndarray) -> torch.Tensor:
        """An array on the device; a kernel as (out, in, 3, 3), channels last."""
        found = _from_keras(array).to(self.device)
        return found.contiguous(memory_format=torch.channels_last) if found.ndim == 4 \
            else found.clone()

    @property
    def position(self) -> int:
        """Batches trained since the first epoch began."""
        return self._mark[0]

    # steps --------------------------------------------------------------------------------------

    def train(self, batch: tuple[torch.Tensor, torch.Tensor], first: bool) -> None:
        """Make one step of Adam.

        Parameters
        ----------
        batch
            Inputs and targets, from ``put``.
        first
            Whether to start the epoch's sums with it.
        """
        position = self.position
        # A signal may ask for a checkpoint, or end the run, between any two lines of this step:
        # until it is complete, ``state`` is the copy.
        torch._foreach_copy_(self._before[:-1], self._live[:-1])
        self._before[-1].copy_(self._sums)
        self._mark = (position, True)
        with self._flags():
            squared, absolute, penalty = self._errors(*batch, training=True)
            self._adam.zero_grad(set_to_none=True)
            (squared.mean() + penalty).backward()
            # Keras adds epsilon to the root of the second moment before the correction of its bias,
            # PyTorch after it.
            self._adam.param_groups[0]["eps"] = EPSILON / math.sqrt(
                1 - BETAS[1] ** (position + 1))
            self._adam.step()
        if first:
            self._sums.zero_()
        self._sums += _sums(squared, absolute, penalty)
        self._mark = (position + 1, False)

    def validate(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
                 ) -> tuple[float, float]:
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
        total = torch.zeros_like(self._sums)
        with torch.no_grad(), self._flags():
            for x, y in batches:
                total += _sums(*self._errors(x, y, training=False))
        return _averages(total)

    def averages(self) -> tuple[float, float]:
        """Loss and mean absolute error of the epoch so far."""
        return _averages(self._sums)

    def put(self, batch: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a batch on the device. May be called from any thread.

        Parameters
        ----------
        batch
            Spectra (n, bands, times, 1) and targets (n, dim).

        Returns
        -------
        inputs
            (n, 1, bands, times) float32.
        targets
            (n, dim) float32.
        """
        spectra, targets = (torch.from_numpy(np.ascontiguousarray(array, np.float32))
                            for array in batch)
        if self.device.type == "cuda":
            # From page-locked memory the copy goes on while the network computes.
            spectra, targets = (array.pin_memory().to(self.device, non_blocking=True)
                                for array in (spectra, targets))
        return spectra.permute(0, 3, 1, 2), targets

    @contextlib.contextmanager
    def _flags(self) -> Iterator[None]:
        """Compute as this engine's settings say; they are those of the whole process."""
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision
        cudnn.deterministic, cudnn.benchmark = self._deterministic, not self._deterministic
        cudnn.conv.fp32_precision = "tf32" if self.precision == "tf32" else "ieee"
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = before

    def _errors(self, x: torch.Tensor, y: torch.Tensor, training: bool
                ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Squared and absolute error of each example (n,), and the penalty."""
        with torch.autocast(self.device.type, torch.bfloat16,
                            enabled=self.precision == "bfloat16"):
            embeddings = self.forward(x, training)
        difference = embeddings - y
        penalty = WEIGHT_DECAY * torch.stack(
            [layer.kernel.square().sum() for layer in self._convolutions]).sum()
        return difference.square().mean(1), difference.abs().mean(1), penalty

    def forward(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Compute embeddings.

        Parameters
        ----------
        x
            Spectra (n, 1, bands, times).
        training
            Whether to normalise by the statistics of the batch, and to update the moving ones.

        Returns
        -------
        torch.Tensor
            (n, dim) float32.
        """
        spec = self.spec
        x = self._normalise(x, self._normalisations[0], training)
        for index, convolution in enumerate(self._convolutions):
            last = index == len(spec.filters) - 1
            x = functional.conv2d(x, convolution.kernel, convolution.bias, padding=1)
            if not last or spec.final_norm:
                x = self._normalise(x, self._normalisations[index + 1], training)
            if not last or (spec.final_norm and spec.head == "relu"):
                x = functional.relu(x)
            if index in spec.halvings:
                x = functional.max_pool2d(x, 2)
        x = functional.max_pool2d(x, spec.pool)
        return x.permute(0, 2, 3, 1).reshape(len(x), spec.dim).float()

    def _normalise(self, x: torch.Tensor, layer: _Normalisation, training: bool) -> torch.Tensor:
        if not training:
            return functional.batch_norm(x, layer.mean, layer.variance, layer.gamma, layer.beta,
                                         eps=BN_EPSILON)
        mean, variance = torch.zeros_like(layer.mean), torch.zeros_like(layer.variance)
        # With a momentum of 1 both become the statistics of this batch.
        x = functional.batch_norm(x, mean, variance, layer.gamma, layer.beta, training=True,
                                  momentum=1.0, eps=BN_EPSILON)
        count = x.numel() / x.shape[1]
        # PyTorch gives the unbiased variance; Keras uses the biased one.
        biased = variance * ((count - 1) / count)
        for moving, new in ((layer.mean, mean), (layer.variance, biased)):
            moving.mul_(self._momentum).add_(new, alpha=1 - self._momentum)
        return x

    # state --------------------------------------------------------------------------------------

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate.

        Parameters
        ----------
        rate
            The new rate.
        """
        # In float32, as Keras keeps it.
        self._adam.param_groups[0]["lr"] = float(np.float32(rate))

    def parameters(self) -> Parameters:
        """The current weights."""
        arrays = (_to_keras(array) for array in self._weights)
        return Parameters(self.spec, tuple(
            tuple(next(arrays) for _ in shapes) for _, shapes in self.spec.layers()))

    def state(self) -> dict[str, np.ndarray]:
        """All arrays that a restart needs, named and ordered as those of TensorFlow's engine."""
        position, under_way = self._mark
        *arrays, sums = map(_to_keras, self._before if under_way else self._live)
        count = len(self._weights)
        rate = np.array(self._adam.param_groups[0]["lr"], np.float32)
        optimizer: list[np.ndarray] = [np.array(position, np.int64), rate, *arrays[count:]]
        found = {f"weight_{number:03d}": array for number, array in enumerate(arrays[:count])}
        found |= {f"optimizer_{number:03d}": array for number, array in enumerate(optimizer)}
        return found | {"position": np.array(position, np.int64), "sums": sums}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what ``state`` returned, or that of TensorFlow's engine.

        Parameters
        ----------
        arrays
            By name.

        Raises
        ------
        InputError
            They are of another network, or of float16, whose optimizer has a scale of losses.
        """
        names = [f"weight_{number:03d}" for number in range(len(self._weights))] + [
            f"optimizer_{number:03d}" for number in range(2, 2 + len(self._moments))] + ["sums"]
        shapes = [_to_keras(array).shape for array in self._live]
        expected = {*names, "optimizer_000", "optimizer_001", "position"}
        if set(arrays) - {"settings"} != expected or any(
                arrays[name].shape != shape for name, shape in zip(names, shapes, strict=True)):
            raise InputError("the checkpoint is of another network, or of a training in float16",
                             hint="continue it with the engine that wrote it")
        for array, name in zip(self._live, names, strict=True):
            array.copy_(_from_keras(arrays[name]))
        position = int(arrays["position"])
        for state in self._adam.state.values():
            state["step"].fill_(position)
        self._mark = (position, False)
        self.set_rate(float(arrays["optimizer_001"]))


@dataclass
class _Convolution:
    kernel: torch.Tensor
    bias: torch.Tensor

    def arrays(self) -> list[torch.Tensor]:
        return [self.kernel, self.bias]

    trained = arrays


@dataclass
class _Normalisation:
    gamma: torch.Tensor
    beta: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    def arrays(self) -> list[torch.Tensor]:
        return [*self.trained(), self.mean, self.variance]

    def trained(self) -> list[torch.Tensor]:
        return [self.gamma, self.beta]


def device_count() -> int:
    """Number of GPUs that training would use: one, or 0 for the processor."""
    return int(torch.cuda.is_available())


def _sums(squared: torch.Tensor, absolute: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        count = torch.tensor(float(len(squared)), dtype=torch.float64, device=squared.device)
        return torch.stack([squared.double().sum() + penalty.double() * count,
                            absolute.double().sum(), count])


def _averages(sums: torch.Tensor) -> tuple[float, float]:
    loss, error, windows = sums.tolist()
    return loss / windows, error / windows


def _from_keras(array: np.ndarray) -> torch.Tensor:
    """A kernel (3, 3, in, out) as (out, in, 3, 3); other arrays as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor


def _to_keras(tensor: torch.Tensor) -> np.ndarray:
    """A copy in the host's memory, with kernels as Keras has them."""
    tensor = tensor.detach()
    array = (tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor).cpu().numpy()
    return np.array(array, order="C")
