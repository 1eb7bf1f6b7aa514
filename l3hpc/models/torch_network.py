"""The front end and a folded network as PyTorch computes them on one device.

The front end is a batched FFT and one matrix product with the mel filters. (A DFT by matrix product
in full float32 would cost a tenth of the network's operations, on units that are a tenth as fast.)

What keeps a GPU busy: channels-last maps, the first convolution as a matrix product, and bias and
ReLU after max pooling, which gives the same numbers (rounding is monotonic) with a quarter of the
memory traffic. Which of PyTorch's operators pools fastest depends on the GPU and on the precision,
so they are timed when a layer is first computed. ``benchmarks.gpu`` measures all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio.frontends import RANGE_DB, Frontend, hann
from l3hpc.models.parameters import FoldedNetwork

if TYPE_CHECKING:
    import torch

TAPS = 16  # columns of the first layer's product: its 9 taps, and zeros for aligned rows


class TorchFrontend:
    """``Frontend`` on a device: call it on frames (n, rate) float32 for (n, bands, times) dB."""

    def __init__(self, frontend: Frontend, place: torch.device) -> None:
        import torch

        self._frontend = frontend
        self._type = torch.float64 if frontend.dtype is np.float64 else torch.float32
        self._window = torch.tensor(hann(frontend.n_dft), dtype=self._type, device=place)
        self._filters = None if frontend.n_mels is None else torch.tensor(
            frontend.filterbank(), dtype=torch.float32, device=place)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        import torch

        own = self._frontend
        padded = torch.nn.functional.pad(frames.to(self._type), own.padding())
        windows = padded.unfold(1, own.n_dft, own.hop) * self._window
        energy = torch.fft.rfft(windows).abs()
        if own.power:
            energy = energy.square_()
        if self._filters is not None:
            energy = energy @ self._filters
        decibels = energy.clamp_(min=own.floor).log10_().mul_(own.decibel_factor).float()
        decibels -= decibels.amax((1, 2), keepdim=True)
        return decibels.clamp_(min=-RANGE_DB).transpose(1, 2)


class TorchNetwork:
    """A ``FoldedNetwork`` on a device: call it on spectrograms (n, bands, times) float32."""

    def __init__(self, network: FoldedNetwork, place: torch.device, precision: str) -> None:
        import torch

        self._network = network
        self._gpu = place.type == "cuda"
        self._type = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._weights = [
            torch.tensor(layer.kernel, dtype=self._type, device=place).permute(3, 2, 0, 1)
            .contiguous(memory_format=torch.channels_last) for layer in network.convolutions]
        self._biases = [torch.tensor(layer.bias, dtype=self._type, device=place)
                        for layer in network.convolutions]
        self.halvings: dict[int, Halving] = {}  # by the number of the convolution

    def __call__(self, spectrograms: torch.Tensor) -> torch.Tensor:
        spec = self._network.spec
        last = len(self._weights) - 1
        x = (spectrograms * self._network.scale + self._network.shift).to(self._type)
        x = self.first_by_product(x) if self._gpu else self.layer(x[:, None], 0, None)
        for index in range(1, last + 1):
            pool = (2, 2) if index in spec.halvings else spec.pool if index == last else None
            x = self.layer(x, index, pool)
        return x.permute(0, 2, 3, 1).reshape(len(x), spec.dim).float()

    def layer(self, x: torch.Tensor, index: int, pool: tuple[int, int] | None) -> torch.Tensor:
        """Convolution, bias, ReLU where the layer has one, and max pooling where one follows."""
        import torch
        from torch.nn import functional

        weight, bias = self._weights[index], self._biases[index]
        relu = self._network.convolutions[index].relu
        if pool is None and relu and self._gpu:
            return torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)
        x = functional.conv2d(x, weight, padding=1)
        if pool == (2, 2):
            if index not in self.halvings:
                self.halvings[index] = fastest(HALVINGS.values(), x) if self._gpu \
                    else HALVINGS["max_pool2d"]
            x = self.halvings[index](x)
        elif pool is not None:
            x = functional.max_pool2d(x, pool)
        x += bias[:, None, None]
        return x.relu_() if relu else x

    def first_by_product(self, x: torch.Tensor) -> torch.Tensor:
        """The first convolution and its ReLU, of (n, bands, times), as one matrix product: cuDNN's
        kernels are made for many input channels, and take three times as long for one."""
        import torch
        from torch.nn import functional

        weight = self._weights[0]
        taps = x.new_zeros((*x.shape, TAPS))
        taps[..., :9].unflatten(-1, (3, 3)).copy_(
            functional.pad(x, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1))
        matrix = functional.pad(weight.reshape(len(weight), 9), (0, TAPS - 9)).t()
        products = torch._addmm_activation(self._biases[0], taps.view(-1, TAPS), matrix)
        return products.view(*x.shape, -1).permute(0, 3, 1, 2)


def _pooled(x: torch.Tensor) -> torch.Tensor:
    """By the operator made for it, which also finds and writes where each maximum was."""
    import torch

    return torch.nn.functional.max_pool2d(x, 2)


def _reduced(x: torch.Tensor) -> torch.Tensor:
    """As one reduction, which reads each value once."""
    last = _even(x).permute(0, 2, 3, 1)  # in the order of memory, so that the result has it too
    return last.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).amax((2, 4)).permute(0, 3, 1, 2)


def _largest_of_four(x: torch.Tensor) -> torch.Tensor:
    """Value by value."""
    import torch

    x = _even(x)
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _even(x: torch.Tensor) -> torch.Tensor:
    """Without the last row or column of an odd number, as pooling drops them."""
    return x[:, :, :x.shape[2] // 2 * 2, :x.shape[3] // 2 * 2]


Halving = Callable[["torch.Tensor"], "torch.Tensor"]
HALVINGS: dict[str, Halving] = {"max_pool2d": _pooled, "amax": _reduced,
                                "largest of four": _largest_of_four}


def fastest(ways: Iterable[Halving], x: torch.Tensor) -> Halving:
    """The way that pools ``x`` fastest on its GPU; all of them give the same values.

    Parameters
    ----------
    ways
        To choose from, at least one.
    x
        (n, channels, bands, times) on a GPU, channels last in memory.

    Returns
    -------
    Halving
        One of ``ways``.
    """
    import torch

    def milliseconds(way: Halving) -> float:
        way(x)  # loads its kernel
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(3):
            way(x)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    return min(ways, key=milliseconds)
