"""Two kernels in Triton that ``benchmarks.gpu`` holds against what the engine torch does.

On a GPU the teacher's convolutions with many channels run near the matrix rate; the first one and
the max poolings are limited by memory. Here each reads its input once and writes its output once.
Triton comes with PyTorch's CUDA packages, and needs a C compiler when a kernel is first called.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

PIXELS = 128  # of a program of the first convolution
VALUES = 1024  # of a program of the pooling


def first_convolution(spectrograms: Any, weight: Any, bias: Any, scale: float, shift: float,
                      relu: bool, kind: Any) -> Any:
    """Convolution 3x3 of one channel, ``spectrograms * scale + shift``, with bias and ReLU.

    Parameters
    ----------
    spectrograms
        (n, bands, times) float32, of any strides.
    weight, bias
        (9, channels) and (channels,) float32; tap 3 i + j is row i, column j of the kernel.
    kind
        Type of the result.

    Returns
    -------
    torch.Tensor
        (n, channels, bands, times), channels last in memory.
    """
    count, bands, times = spectrograms.shape
    channels = len(bias)
    out = torch.empty((count, channels, bands, times), dtype=kind, device=spectrograms.device,
                      memory_format=torch.channels_last)
    pixels = count * bands * times
    _first[(triton.cdiv(pixels, PIXELS),)](
        spectrograms, weight, bias, out, scale, shift, bands, times, pixels, channels,
        *spectrograms.stride(), WIDE=triton.next_power_of_2(channels), RELU=relu, PIXELS=PIXELS)
    return out


def pool_2x2(x: Any, bias: Any, relu: bool) -> Any:
    """Max pooling 2x2 (odd ends dropped), then bias (channels,) float32 and ReLU.

    ``x`` (n, channels, bands, times) has channels last in memory, and so has the result.
    """
    count, channels, bands, times = x.shape
    out = torch.empty((count, channels, bands // 2, times // 2), dtype=x.dtype, device=x.device,
                      memory_format=torch.channels_last)
    values = out.numel()
    _pool[(triton.cdiv(values, VALUES),)](
        x, bias, out, values, bands, times, CHANNELS=channels, RELU=relu, VALUES=VALUES)
    return out


@triton.jit
def _first(x, weight, bias, out, scale, shift, bands, times, pixels, channels, step_frame,
           step_band, step_time, WIDE: tl.constexpr, RELU: tl.constexpr, PIXELS: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    time, row = pixel % times, pixel // times
    band, frame = row % bands, row // bands
    channel = tl.arange(0, WIDE)
    real = channel < channels
    total = tl.zeros((PIXELS, WIDE), tl.float32) + tl.load(bias + channel, mask=real)[None, :]
    for tap in tl.static_range(9):
        b, t = band + tap // 3 - 1, time + tap % 3 - 1
        here = inside & (b >= 0) & (b < bands) & (t >= 0) & (t < times)
        value = tl.load(x + frame * step_frame + b * step_band + t * step_time, mask=here)
        value = tl.where(here, value * scale + shift, 0.0)
        total += value[:, None] * tl.load(weight + tap * channels + channel, mask=real)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0)
    tl.store(out + pixel[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty),
             mask=inside[:, None] & real[None, :])


@triton.jit
def _pool(x, bias, out, values, bands, times, CHANNELS: tl.constexpr, RELU: tl.constexpr,
          VALUES: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    inside = place < values
    channel, pixel = place % CHANNELS, place // CHANNELS
    time, row = pixel % (times // 2), pixel // (times // 2)
    band, frame = row % (bands // 2), row // (bands // 2)
    corner = x + ((frame * bands + 2 * band) * times + 2 * time) * CHANNELS + channel
    below = corner + times * CHANNELS
    largest = tl.maximum(
        tl.maximum(tl.load(corner, mask=inside), tl.load(corner + CHANNELS, mask=inside)),
        tl.maximum(tl.load(below, mask=inside), tl.load(below + CHANNELS, mask=inside)))
    value = largest.to(tl.float32) + tl.load(bias + channel, mask=inside)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
