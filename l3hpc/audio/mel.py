"""Mel filters: triangles of unit area, evenly spaced in mel, and which of them hold no DFT bin."""

from __future__ import annotations

import functools

import numpy as np

ON_CORNER = 1e-10  # part of a mel filter's height that rounding may give
BANDS_PER_BLOCK = 16


def hz_to_mel(frequency: np.ndarray, htk: bool = True) -> np.ndarray:
    """Mel values of frequencies in Hz: HTK's formula, or Slaney's (linear below 1 kHz)."""
    frequency = np.asarray(frequency, dtype=np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    log_part = 15.0 + 27.0 * np.log(np.maximum(frequency, 1e-9) / 1000.0) / np.log(6.4)
    return np.where(frequency < 1000.0, frequency * 3.0 / 200.0, log_part)


def mel_to_hz(mel: np.ndarray, htk: bool = True) -> np.ndarray:
    """Frequencies in Hz of mel values; the inverse of ``hz_to_mel``."""
    mel = np.asarray(mel, dtype=np.float64)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def mel_corners(rate: int, n_mels: int, fmax: float | None = None, htk: bool = True) -> np.ndarray:
    """Corners in Hz, (n_mels + 2,): band m rises from [m], peaks at [m + 1] and ends at [m + 2]."""
    top = hz_to_mel(np.array(rate / 2 if fmax is None else fmax), htk)
    return mel_to_hz(np.linspace(0.0, float(top), n_mels + 2), htk)


def mel_filterbank(rate: int, n_dft: int, n_mels: int, fmax: float | None = None,
                   htk: bool = True) -> np.ndarray:
    """Triangular mel filters of unit area (Slaney's normalisation), (bins, n_mels) float64.

    Corners are evenly spaced in mel from 0 Hz to ``fmax``; each triangle, as a function of Hz, has
    area 1. A bin on a corner has weight 0, whatever the rounding of the corner.
    """
    corners = mel_corners(rate, n_mels, fmax, htk)
    bins = np.arange(n_dft // 2 + 1)[:, None] * (rate / n_dft)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    sides = np.minimum(rising, falling)
    return np.where(sides > ON_CORNER, sides, 0.0) * (2.0 / (right - left))


def max_mels_without_empty(rate: int, n_dft: int, fmax: float | None = None) -> int:
    """The largest number of HTK mels such that it and every smaller number have no empty band.

    Larger counts may happen to work too; this one is safe. 0 if even a single band is empty.
    """
    count = 0
    while not hold_no_bin(mel_corners(rate, count + 1, fmax), rate / n_dft).any():
        count += 1
    return count


def hold_no_bin(corners: np.ndarray, spacing: float) -> np.ndarray:
    """Which bands have no multiple of ``spacing`` strictly between their outer corners."""
    first = np.floor(corners[:-2] / spacing + 1e-9) + 1
    return first * spacing >= corners[2:] * (1 - 1e-12)


@functools.lru_cache(maxsize=16)
def filter_blocks(rate: int, n_dft: int, n_mels: int, fmax: float | None, htk: bool, size: int
                   ) -> list[tuple[int, int, int, int, np.ndarray]]:
    """The filterbank as narrow dense blocks: (first band, last, first bin, last, (bands, bins)).

    size: the most numbers in a block that has more than one band.
    """
    bank = mel_filterbank(rate, n_dft, n_mels, fmax, htk)
    blocks = []
    first = 0
    while first < n_mels:
        last, (low, high) = first + 1, _used(bank[:, first:first + 1])
        while last < min(first + BANDS_PER_BLOCK, n_mels):
            wider = _used(bank[:, first:last + 1])
            if (last + 1 - first) * (wider[1] - wider[0]) > size:
                break
            last, (low, high) = last + 1, wider
        weights = np.ascontiguousarray(bank[low:high, first:last].T, dtype=np.float32)
        blocks.append((first, last, low, high, weights))
        first = last
    return blocks


def _used(bank: np.ndarray) -> tuple[int, int]:
    """The first bin that any of these bands uses, and the one behind the last."""
    used = np.flatnonzero(bank.any(axis=1))
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
