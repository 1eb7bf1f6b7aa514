"""Each front-end convention once more, in plain float64, one frame and one spectrum at a time.

Written from the definitions of the conventions, sharing no code with ``l3hpc.audio``.
"""

import math

import numpy as np


def mel_of(hz, htk):
    if htk:
        return 2595.0 * math.log10(1.0 + hz / 700.0)
    return hz / (200.0 / 3.0) if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) / (
        math.log(6.4) / 27.0)


def hz_of(mel, htk):
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return mel * 200.0 / 3.0 if mel < 15.0 else 1000.0 * math.exp((mel - 15.0) * math.log(6.4) / 27)


def filters(rate, n_dft, n_mels, fmax, htk):
    top = mel_of(rate / 2 if fmax is None else fmax, htk)
    corners = [hz_of(top * i / (n_mels + 1), htk) for i in range(n_mels + 2)]
    bank = np.zeros((n_dft // 2 + 1, n_mels))
    for band in range(n_mels):
        left, centre, right = corners[band:band + 3]
        for k in range(n_dft // 2 + 1):
            hz = k * rate / n_dft
            if left + 1e-9 < hz < right - 1e-9:  # a bin on a corner is outside
                side = (hz - left) / (centre - left) if hz <= centre else (
                    right - hz) / (right - centre)
                bank[k, band] = side * 2.0 / (right - left)
    return bank


def spectra(signal, n_dft, hop, count):
    """|DFT| of ``count`` windows, (bins, times)."""
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / n_dft) for i in range(n_dft)])
    return np.stack([np.abs(np.fft.rfft(signal[t * hop:t * hop + n_dft] * window))
                     for t in range(count)], axis=1)


def before_decibels(frame, rate, n_dft, hop, n_mels, fmax, convention):
    x = np.asarray(frame, dtype=np.float64)
    length = len(x)
    valid = 1 + (length - n_dft) // hop
    same = math.ceil(length / hop)
    missing = max((same - 1) * hop + n_dft - length, 0)
    half = np.zeros(n_dft // 2)
    if convention in ("A", "A'"):
        if n_mels is None:
            return spectra(x, n_dft, hop, valid)
        left = missing // 2
        x = np.concatenate([np.zeros(left), x, np.zeros(missing - left)])
        power = spectra(x, n_dft, hop, same) ** 2
        return np.sqrt(filters(rate, n_dft, n_mels, fmax, True).T @ power)
    if convention == "B":
        if n_mels is None:
            return spectra(x, n_dft, hop, valid)
        magnitude = spectra(np.concatenate([x, np.zeros(missing)]), n_dft, hop, same)
        return filters(rate, n_dft, n_mels, fmax, False).T @ magnitude
    if convention == "C":
        if n_mels is None:
            return spectra(x, n_dft, hop, valid)
        magnitude = spectra(np.concatenate([half, x, half]), n_dft, hop, 1 + length // hop)
        return filters(rate, n_dft, n_mels, fmax, False).T @ magnitude
    magnitude = spectra(np.concatenate([half, x, half]), n_dft, hop, 1 + length // hop)
    if n_mels is not None:
        magnitude = filters(rate, n_dft, n_mels, fmax, True).T @ magnitude
    return magnitude**2


def spectrograms(frames, rate, n_dft, hop, n_mels, fmax=None, convention="A"):
    raw = np.stack([before_decibels(frame, rate, n_dft, hop, n_mels, fmax, convention)
                    for frame in frames])
    decibels = 10.0 * np.log10(np.maximum(raw, 1e-10))
    if convention == "A'":
        decibels -= decibels.max()
    else:
        decibels -= decibels.max(axis=(1, 2), keepdims=True)
    return np.maximum(decibels, -80.0)
