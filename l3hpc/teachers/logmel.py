"""The log-mel spectrogram that a sidecar describes, for networks that do not take audio."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from l3hpc.audio import fft
from l3hpc.audio.frontends import hann
from l3hpc.audio.mels import hz_to_mel, mel_to_hz
from l3hpc.errors import InputError


class LogMel(BaseModel):
    """A log-mel spectrogram, by its values.

    Attributes
    ----------
    n_mels
        Bands.
    n_dft, length, hop
        Samples of the DFT, of the (periodic Hann) window before it, and from one to the next.
    fmin, fmax
        Edges of the lowest and the highest band in Hz; without ``fmax``, half the rate.
    mel
        HTK's scale, or Slaney's, which is linear below 1 kHz.
    norm
        Whether each triangle has height 1 (``height``), or area 1 (``area``).
    power
        1 for the mel of magnitudes, 2 for that of powers.
    center
        Whether the audio is padded with half a DFT at both ends: ``no``, ``zeros`` or ``reflect``.
    log
        ``natural``, ``log10``, or ``decibel`` (10 log10).
    offset, floor
        Added to a value before the logarithm; smallest value there.
    range_db
        Values this far below the maximum of the window are raised to that; None: none are.
    mean, std
        Subtracted from the result, which is then divided.
    layout
        ``bands-times`` or ``times-bands``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_mels: Annotated[int, Field(ge=1, le=1024)]
    n_dft: Annotated[int, Field(ge=2, le=65_536)]
    hop: Annotated[int, Field(ge=1)]
    length: Annotated[int, Field(ge=2)] | None = None
    fmin: Annotated[float, Field(ge=0)] = 0.0
    fmax: Annotated[float, Field(gt=0)] | None = None
    mel: Literal["htk", "slaney"] = "htk"
    norm: Literal["height", "area"] = "height"
    power: Literal[1, 2] = 2
    center: Literal["no", "zeros", "reflect"] = "no"
    log: Literal["natural", "log10", "decibel"] = "natural"
    offset: Annotated[float, Field(ge=0)] = 0.0
    floor: Annotated[float, Field(gt=0)] = 1e-10
    range_db: Annotated[float, Field(gt=0)] | None = None
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    layout: Literal["bands-times", "times-bands"] = "times-bands"

    def shape(self, samples: int) -> tuple[int, int]:
        """The shape of the spectrogram of a window.

        Parameters
        ----------
        samples
            Of the window.

        Raises
        ------
        InputError
            The DFT's window is longer than its DFT, or than the audio.
        """
        length = self.length or self.n_dft
        padded = samples + (0 if self.center == "no" else 2 * (self.n_dft // 2))
        if length > self.n_dft or length > padded:
            raise InputError(f"a window of {length} samples does not fit a DFT of {self.n_dft} and "
                             f"audio of {samples}", where="frontend")
        reach = length if self.center == "no" else self.n_dft
        times = 1 + (padded - reach) // self.hop
        return (self.n_mels, times) if self.layout == "bands-times" else (times, self.n_mels)

    def samples(self, times: int) -> int:
        """The length of the shortest window that gives this number of spectra.

        Parameters
        ----------
        times
            Number of spectra, at least 1.
        """
        if self.center != "no":
            return (times - 1) * self.hop + self.n_dft - 2 * (self.n_dft // 2)
        return (times - 1) * self.hop + (self.length or self.n_dft)

    def filterbank(self, rate: int) -> np.ndarray:
        """The mel weights, (n_dft // 2 + 1, n_mels) float64.

        Parameters
        ----------
        rate
            Hz.
        """
        top = self.fmax or rate / 2
        htk = self.mel == "htk"
        low, high = hz_to_mel(np.array([self.fmin, top]), htk)
        corners = mel_to_hz(np.linspace(low, high, self.n_mels + 2), htk)
        bins = np.arange(self.n_dft // 2 + 1)[:, np.newaxis] * (rate / self.n_dft)
        rise = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
        fall = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
        weights = np.maximum(0.0, np.minimum(rise, fall))
        return weights * (2.0 / (corners[2:] - corners[:-2])) if self.norm == "area" else weights

    def __call__(self, frames: np.ndarray, rate: int) -> np.ndarray:
        """Compute the spectrograms of windows.

        Parameters
        ----------
        frames
            (n, samples) float32.
        rate
            Hz.

        Returns
        -------
        numpy.ndarray
            (n, *shape) float32.
        """
        length = self.length or self.n_dft
        if self.center != "no":
            edge = ((0, 0), (self.n_dft // 2, self.n_dft // 2))
            frames = np.pad(frames, edge, mode="reflect" if self.center == "reflect"
                            else "constant")
            # As in librosa and torch, the window is in the middle of its DFT.
            before = (self.n_dft - length) // 2
            frames = frames[:, before:frames.shape[1] - (self.n_dft - length - before)]
        windows = np.lib.stride_tricks.sliding_window_view(frames, length, axis=1)[:, ::self.hop]
        spectrum = fft.rfft(windows * hann(length), self.n_dft)
        energy = np.abs(spectrum) ** self.power
        values = np.log(np.maximum(energy @ self.filterbank(rate) + self.offset, self.floor))
        if self.log != "natural":
            values *= (10.0 if self.log == "decibel" else 1.0) / np.log(10.0)
        if self.range_db is not None:
            unit = {"natural": np.log(10.0) / 10, "log10": 0.1, "decibel": 1.0}[self.log]
            most = values.max(axis=(1, 2), keepdims=True)
            values = np.maximum(values, most - self.range_db * unit)
        values = (values - self.mean) / self.std
        if self.layout == "bands-times":
            values = values.transpose(0, 2, 1)
        return np.ascontiguousarray(values, np.float32)
