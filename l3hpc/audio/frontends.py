"""Decibel spectrograms of frames of audio, as the networks were trained on.

There are five conventions among published weights and packages (see ``conventions``). All use a
periodic Hann window, triangular mel filters of unit area from 0 Hz, a floor of 1e-10 and a range of
80 dB. Without mels, the DFT bins are used ("valid" framing in all but ``embedding-approx``).

Mel spectrograms are computed in float32, linear ones in float64. On noise, float32 is within 1e-3
dB of float64, except for about one value in 10^7, where a band with a single bin has almost no
energy. For pure tones the limit of -80 dB is below float32 rounding, so that the agreement holds
for sounds with energy in every band.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.audio import fft
from l3hpc.audio.conventions import letter_of, name_of
from l3hpc.audio.framing import format_seconds, window_samples
from l3hpc.audio.mels import bands_without_bin, filter_blocks, mel_corners, mel_filterbank
from l3hpc.errors import InputError

AMIN = 1e-10
RANGE_DB = 80.0
CHUNK_BYTES = 6 << 20  # windowed samples and spectrum per thread at one time
# Multiply-adds per filter block. With more, OpenBLAS would start threads of its own, which would
# slow down the threads over frames.
BLOCK_PRODUCTS = 1 << 18
LONGEST_FRAME_S = 60
MAX_WEIGHTS = 1 << 25  # of a mel filterbank: 256 MB


@dataclass(frozen=True)
class Frontend:
    """A spectrogram, defined by geometry and convention; call it on frames to compute it.

    Parameters
    ----------
    rate
        Hz.
    n_dft, hop
        Window length (even) and step in samples, at most a frame.
    n_mels
        Number of mel bands; None for the linear spectrogram of ``n_dft // 2 + 1`` bins.
    fmax
        Upper edge of the highest mel band in Hz; None for ``rate / 2``.
    convention
        Name or letter (see ``l3hpc.audio.conventions``). The attribute ``convention`` is the
        letter, ``name`` is the name.
    window_s
        Length of a frame in seconds.

    Attributes
    ----------
    samples : int
        Length of a frame in samples.

    Raises
    ------
    InputError
        The geometry does not fit a frame, or there is no such convention.

    Examples
    --------
    >>> Frontend(8000, 1024, 160, 64).shape
    (64, 50)
    >>> Frontend(8000, 1024, 160, 64, window_s=3.0).shape
    (64, 150)
    """

    rate: int
    n_dft: int
    hop: int
    n_mels: int | None
    fmax: float | None = None
    convention: str = "A"
    window_s: float = 1.0

    def __post_init__(self) -> None:
        # Stored as the letter, so that a name and its letter give equal, equally hashed front ends.
        object.__setattr__(self, "convention", letter_of(self.convention))
        problem = None
        if self.rate < 1:
            problem = f"a rate of {self.rate} Hz"
        elif not 0 < self.window_s <= LONGEST_FRAME_S:
            problem = f"frames of {self.window_s:g} s"
        elif self.n_dft < 2 or self.n_dft % 2 or self.n_dft > self.samples:
            problem = f"a DFT of {self.n_dft} samples at {self.rate} Hz"
        elif self.hop < 1 or self.hop > self.samples:
            problem = f"a hop of {self.hop} samples at {self.rate} Hz"
        elif self.n_mels is not None and self.n_mels < 1:
            problem = f"{self.n_mels} mel bands"
        elif (self.n_mels or 0) * (self.n_dft // 2 + 1) > MAX_WEIGHTS:
            problem = f"{self.n_mels:,} mel bands of a DFT of {self.n_dft} samples"
        elif self.fmax is not None and not 0 < self.fmax <= self.rate / 2:
            problem = f"fmax {self.fmax} Hz at {self.rate} Hz"
        if problem:
            raise InputError(f"no spectrogram can have {problem}",
                             allowed=f"frames of at most {LONGEST_FRAME_S} s, an even DFT and a "
                                     "hop of at most one frame, at least 1 mel and at most "
                                     f"{MAX_WEIGHTS // (self.n_dft // 2 + 1) or 1:,}, "
                                     "0 < fmax <= rate / 2")

    @property
    def samples(self) -> int:
        """Samples of a frame."""
        return window_samples(self.window_s, self.rate)

    @property
    def name(self) -> str:
        """The name of the convention, such as ``kapre-0.1``."""
        return name_of(self.convention)

    @property
    def bands(self) -> int:
        """Rows of the spectrogram: mel bands, or DFT bins if there are no mels."""
        return self.n_dft // 2 + 1 if self.n_mels is None else self.n_mels

    @property
    def shape(self) -> tuple[int, int]:
        """(bands, times) of the spectrogram of one frame."""
        before, after = self.padding()
        return self.bands, 1 + (self.samples + before + after - self.n_dft) // self.hop

    def padding(self) -> tuple[int, int]:
        """Return the number of zeros before and after a frame."""
        if self.convention == "D" or (self.convention == "C" and self.n_mels is not None):
            return self.n_dft // 2, self.n_dft // 2
        if self.n_mels is None:
            return 0, 0
        total = max((-(-self.samples // self.hop) - 1) * self.hop + self.n_dft - self.samples, 0)
        before = 0 if self.convention == "B" else total // 2
        return before, total - before

    @property
    def dtype(self) -> type[np.floating]:
        """Type of the DFT: float32, or float64 if there are no mels."""
        # Single bins of noise come close to zero, where the rounding of float32 would show; the
        # sums of the mel filters do not.
        return np.float64 if self.n_mels is None else np.float32

    @property
    def htk(self) -> bool:
        """Whether the mel scale is that of HTK (otherwise Slaney's)."""
        return self.convention not in ("B", "C")

    @property
    def power(self) -> bool:
        """Whether the mel filters apply to the power spectrum (otherwise to the magnitude)."""
        return self.convention in ("A", "A'")

    @property
    def decibel_factor(self) -> float:
        """Factor of log10 of the filtered values: 5 (square root of power), 10 or 20."""
        return {"A": 5.0, "A'": 5.0, "D": 20.0}.get(self.convention, 10.0)

    @property
    def floor(self) -> float:
        """The smallest value before the logarithm, in the unit of the filtered values."""
        # AMIN applies to the amplitude. A has its square, the power, here, whose root is in the
        # factor 5; D squares the magnitude later, so its root is compared.
        return {"A": AMIN**2, "A'": AMIN**2, "D": AMIN**0.5}.get(self.convention, AMIN)

    def filterbank(self) -> np.ndarray:
        """Return the mel weights, (n_dft // 2 + 1, n_mels) float64.

        Raises
        ------
        InputError
            The spectrogram is linear.
        """
        if self.n_mels is None:
            raise InputError("a linear spectrogram has no mel filters")
        return mel_filterbank(self.rate, self.n_dft, self.n_mels, self.fmax, self.htk)

    def empty_bands(self) -> list[int]:
        """List mel bands that contain no DFT bin, and so no information about the sound."""
        if self.n_mels is None:
            return []
        corners = mel_corners(self.rate, self.n_mels, self.fmax, self.htk)
        return np.flatnonzero(bands_without_bin(corners, self.rate / self.n_dft)).tolist()

    def __call__(self, frames: np.ndarray, threads: int | None = 1,
                 out: np.ndarray | None = None) -> np.ndarray:
        """Compute the spectrograms of frames, in decibels below the maximum.

        Spectra that overlapping frames share are computed once, if the frames are a view of one
        signal (as from ``frame_audio``) and a whole number of hops apart. The result does not
        depend on which frames are computed together, except for ``kapre-0.1-batch``.

        Parameters
        ----------
        frames
            (n, samples) floating-point samples.
        threads
            Number of threads; None for one per core that this process may use.
        out
            Array for the result; None for a new one.

        Returns
        -------
        numpy.ndarray
            (n, bands, times) float32 in dB, from -80 to 0. The further memory that is used does
            not depend on n.

        Raises
        ------
        InputError
            The frames have another shape.
        """
        frames = np.asarray(frames)
        if frames.ndim != 2 or frames.shape[1] != self.samples:
            raise InputError(f"frames of shape {frames.shape} do not fit a front end at "
                             f"{self.rate} Hz", allowed=f"(n, {self.samples}): "
                             + format_seconds(self.window_s))
        bands, times = self.shape
        result = np.empty((len(frames), bands, times), np.float32) if out is None else out
        apart = self._spectra_apart(frames)
        each = times if apart is None else times - len(self._whole()) + apart
        step = max(1, CHUNK_BYTES // (each * self.n_dft * 8))
        workers = allocated_cores() if threads is None else threads

        def work(start: int) -> None:
            part, target = frames[start:start + step], result[start:start + step]
            if apart is None or len(part) == 1:
                self._separately(part, target)
            else:
                self._together(part, target, apart)
            if self.convention != "A'":
                target -= target.max(axis=(1, 2), keepdims=True)
                np.maximum(target, np.float32(-RANGE_DB), out=target)

        _run(work, range(0, len(frames), step), workers)
        if self.convention == "A'" and len(frames):
            # kapre 0.1.3.1 took the maximum over the batch: it has to wait for the last chunk.
            result -= result.max()
            np.maximum(result, -RANGE_DB, out=result)
        return result

    def _whole(self) -> range:
        """The spectra of a frame whose windows contain no padding."""
        before, _ = self.padding()
        first = -(-before // self.hop)
        last = (self.samples + before - self.n_dft) // self.hop
        return range(first, max(last + 1, first))

    def _spectra_apart(self, frames: np.ndarray) -> int | None:
        """The hops from one frame to the next, if the frames overlap in one signal."""
        if len(frames) < 2 or frames.strides[1] != frames.itemsize:
            return None
        apart, rest = divmod(frames.strides[0], frames.itemsize * self.hop)
        return apart if not rest and 0 < apart < len(self._whole()) else None

    def _separately(self, frames: np.ndarray, out: np.ndarray) -> None:
        before, after = self.padding()
        padded = np.zeros((len(frames), before + self.samples + after), self.dtype)
        padded[:, before:before + self.samples] = frames
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.n_dft, axis=1)
        self._decibels(windows[:, ::self.hop], out)

    def _together(self, frames: np.ndarray, out: np.ndarray, apart: int) -> None:
        """Frames of one signal, ``apart`` hops from one to the next."""
        whole, times = self._whole(), self.shape[1]
        before, _ = self.padding()
        ends = [index for index in range(times) if index not in whole]
        samples = np.zeros((len(frames), len(ends), self.n_dft), self.dtype)
        for number, index in enumerate(ends):
            start = index * self.hop - before
            low, high = max(start, 0), min(start + self.n_dft, self.samples)
            samples[:, number, low - start:high - start] = frames[:, low:high]
        padded = np.empty((len(frames), self.bands, len(ends)), np.float32)
        self._decibels(samples, padded)
        out[:, :, ends] = padded

        count = (len(frames) - 1) * apart + len(whole)
        # As many spectra at once as in a frame, for which BLOCK_PRODUCTS is meant.
        groups = -(-count // times)
        signal = np.zeros((groups * times - 1) * self.hop + self.n_dft, self.dtype)
        start = whole[0] * self.hop - before
        length = (count - 1) * self.hop + self.n_dft
        signal[:length] = np.lib.stride_tricks.as_strided(
            frames[:, start:], (length,), (frames.itemsize,), writeable=False)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.n_dft)[::self.hop]
        shared = np.empty((groups, self.bands, times), np.float32)
        self._decibels(windows.reshape(groups, times, self.n_dft), shared)
        line = shared.transpose(1, 0, 2).reshape(self.bands, -1)
        cut = np.lib.stride_tricks.sliding_window_view(line, len(whole), axis=1)
        out[:, :, whole[0]:whole[-1] + 1] = cut[:, :count:apart][:, :len(frames)].transpose(1, 0, 2)

    def _decibels(self, windows: np.ndarray, out: np.ndarray) -> None:
        """Decibels (m, bands, t) of windows (m, t, n_dft), not yet relative to a maximum."""
        window = hann(self.n_dft).astype(self.dtype, copy=False)
        spectrum = fft.rfft(windows * window)
        parts = spectrum.view(self.dtype)
        # As pairs of real numbers, squared in place: np.abs of complex numbers takes a square root
        # that the default convention would have to undo.
        np.square(parts, out=parts)
        energy = parts[..., 0::2] + parts[..., 1::2]
        if not self.power:
            np.sqrt(energy, out=energy)
        if self.n_mels is None:
            np.log(np.maximum(energy, self.floor, out=energy), out=energy)
            out[:] = energy.transpose(0, 2, 1)
        else:
            for first, last, low, high, weights in self._blocks():
                np.matmul(weights, energy[:, :, low:high].transpose(0, 2, 1),
                          out=out[:, first:last])
            np.log(np.maximum(out, np.float32(self.floor), out=out), out=out)
        out *= np.float32(self.decibel_factor / np.log(10.0))

    def _blocks(self) -> list[tuple[int, int, int, int, np.ndarray]]:
        return filter_blocks(self.rate, self.n_dft, self.n_mels or 0, self.fmax, self.htk,
                             BLOCK_PRODUCTS // self.shape[1])


OPENL3_FRONTENDS = {
    "linear": Frontend(48000, 512, 242, None),
    "mel128": Frontend(48000, 2048, 242, 128),
    "mel256": Frontend(48000, 2048, 242, 256),
}


@functools.lru_cache(maxsize=32)
def hann(length: int) -> np.ndarray:
    """The periodic Hann window, float64 (read-only)."""
    # Divided by the length, not by length - 1: periodic, as scipy's get_window gives by default.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    window.flags.writeable = False
    return window


def _run(work: Callable[[int], None], starts: range, workers: int) -> None:
    if workers < 2 or len(starts) < 2:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, starts))
