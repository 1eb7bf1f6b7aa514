"""The mel scale and its triangular filters."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

ON_CORNER = 1e-10  # weights below this, relative to the height of the filter, are rounding errors
BANDS_PER_BLOCK = 16


def hz_to_mel(frequency: np.ndarray, htk: bool = True) -> np.ndarray:
    """Convert frequencies in Hz to mel.

    Parameters
    ----------
    frequency
        Hz, of any shape.
    htk
        HTK's formula; otherwise Slaney's, which is linear below 1 kHz.

    References
    ----------
    See ``mel_filterbank``.

    Examples
    --------
    >>> hz_to_mel(np.array([0.0, 1000.0])).round().tolist()
    [0.0, 1000.0]
    """
    frequency = np.asarray(frequency, dtype=np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    log_part = 15.0 + 27.0 * np.log(np.maximum(frequency, 1e-9) / 1000.0) / np.log(6.4)
    return np.where(frequency < 1000.0, frequency * 3.0 / 200.0, log_part)


def mel_to_hz(mel: np.ndarray, htk: bool = True) -> np.ndarray:
    """Convert mel to frequencies in Hz; the inverse of ``hz_to_mel``."""
    mel = np.asarray(mel, dtype=np.float64)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def mel_corners(rate: int, n_mels: int, fmax: float | None = None, htk: bool = True) -> np.ndarray:
    """Return the corners of mel filters, evenly spaced in mel.

    Parameters
    ----------
    rate, n_mels, fmax, htk
        As for ``mel_filterbank``.

    Returns
    -------
    numpy.ndarray
        (n_mels + 2,) Hz: band m rises from corner m, peaks at m + 1 and ends at m + 2.
    """
    top = hz_to_mel(np.array(rate / 2 if fmax is None else fmax), htk)
    return mel_to_hz(np.linspace(0.0, float(top), n_mels + 2), htk)


def mel_filterbank(rate: int, n_dft: int, n_mels: int, fmax: float | None = None,
                   htk: bool = True) -> np.ndarray:
    """Return triangular mel filters of unit area.

    The corners are evenly spaced in mel from 0 Hz to ``fmax``; each triangle, as a function of Hz,
    has area 1 (Slaney's normalisation). A bin on a corner has weight 0, regardless of rounding.

    Parameters
    ----------
    rate
        Hz.
    n_dft
        Length of the DFT in samples.
    n_mels
        Number of filters.
    fmax
        Upper edge of the highest filter in Hz; None for ``rate / 2``.
    htk
        HTK's mel scale; otherwise Slaney's (linear below 1 kHz).

    Returns
    -------
    numpy.ndarray
        (n_dft // 2 + 1, n_mels) float64.

    References
    ----------
    S. Young et al., "The HTK Book", 2006, section 5.4.

    M. Slaney, "Auditory Toolbox", Technical Report 1998-010, Interval Research Corporation, 1998.
    """
    corners = mel_corners(rate, n_mels, fmax, htk)
    bins = np.arange(n_dft // 2 + 1)[:, None] * (rate / n_dft)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    sides = np.minimum(rising, falling)
    return np.where(sides > ON_CORNER, sides, 0.0) * (2.0 / (right - left))


def max_mels_without_empty(rate: int, n_dft: int, fmax: float | None = None) -> int:
    """Return the largest number of HTK mels up to which no number has an empty band.

    Parameters
    ----------
    rate, n_dft, fmax
        As for ``mel_filterbank``.

    Returns
    -------
    int
        0 if even a single band is empty. Some larger numbers may have no empty band either.
    """
    count = 0
    while not bands_without_bin(mel_corners(rate, count + 1, fmax), rate / n_dft).any():
        count += 1
    return count


def bands_without_bin(corners: np.ndarray, spacing: float) -> np.ndarray:
    """Find the bands without a DFT bin strictly between their outer corners.

    Parameters
    ----------
    corners
        (n_mels + 2,) Hz.
    spacing
        Hz from one bin to the next.

    Returns
    -------
    numpy.ndarray
        (n_mels,) bool.
    """
    # The margins keep a bin that is on a corner, up to rounding, out of the band.
    first = np.floor(corners[:-2] / spacing + 1e-9) + 1
    return first * spacing >= corners[2:] * (1 - 1e-12)


@functools.lru_cache(maxsize=16)
def filter_blocks(rate: int, n_dft: int, n_mels: int, fmax: float | None, htk: bool, size: int
                  ) -> list[tuple[int, int, int, int, np.ndarray]]:
    """Split a mel filterbank into narrow dense blocks, for fast products.

    Parameters
    ----------
    rate, n_dft, n_mels, fmax, htk
        As for ``mel_filterbank``.
    size
        Most weights in a block of more than one band.

    Returns
    -------
    list of tuple
        First band and the one after the last, first bin and the one after the last, and the
        weights (bands, bins) float32.
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
    """The first bin with a weight in any of these bands, and the one after the last."""
    used = np.flatnonzero(bank.any(axis=1))
    # A band without a bin still needs a row of its block, of one weight 0.
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)


def format_bands(bands: Sequence[int]) -> str:
    """Format band numbers with ranges, such as ``0, 3-5, 9``.

    Parameters
    ----------
    bands
        Ascending numbers.

    Returns
    -------
    str
        Separated by commas; '' for none.
    """
    runs: list[list[int]] = []
    for band in bands:
        if runs and band == runs[-1][1] + 1:
            runs[-1][1] = band
        else:
            runs.append([band, band])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
