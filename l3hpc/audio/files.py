"""Reading of recordings in any format, rate, depth and number of channels as mono float32.

Sound files are decoded by libsndfile or ffmpeg (``decoding``). The published corpora are HDF5 files
with a data set ``audio``, in which each row is a recording: ``(rows, n)`` or ``(rows, 1, n)``, in
int16, float32 or float64. The length that a header states is not trusted: all samples are read, and
``Contents`` records where there are fewer or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio import decoding
from l3hpc.audio.decoding import Decoder, open_sound
from l3hpc.audio.formats import HDF5_SUFFIXES, REASONS, AudioError, is_hdf5, unchanged
from l3hpc.audio.samples import LOUD, LOUDEST, RATES, is_sample_type, to_float
from l3hpc.errors import InputError

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5_SUFFIXES", "REASONS", "AudioError", "AudioInfo", "Contents", "all_row_blocks",
           "check_samples", "check_usable", "count_rows", "is_hdf5", "probe", "read_audio",
           "read_rows", "row_blocks", "sound_blocks", "to_float", "unchanged", "usable_blocks"]

EMPTY_RATE = 48_000  # Hz, for rows without samples, for which any rate is right
QUIET = 1e-4  # a lower peak (-80 dB of full scale) is reported as very quiet


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of a file, from its structure.

    Attributes
    ----------
    frames : int
        Samples per channel; of an HDF5 file, of all rows together.
    rate, channels : int
        Hz, and number of channels.
    """

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


@dataclass
class Contents:
    """Facts about a recording, filled while it is read and complete at its end.

    Attributes
    ----------
    frames : int
        Samples per channel that were read.
    rate : int
        Hz.
    peak : float
        The largest absolute sample of the mean of the channels.
    unstated : bool
        Whether the header should state a length and does not.
    stated : int or None
        Samples per channel that the header states; None if it states none.
    there : int or None
        Samples per channel that the structure shows; None if only decoding can tell.
    cut : bool
        Whether the file ends early.
    slack : int
        Samples by which ``stated`` may differ in a complete file.
    """

    frames: int = 0
    rate: int = 1
    peak: float = 0.0
    unstated: bool = False
    stated: int | None = None
    there: int | None = None
    cut: bool = False
    slack: int = field(default=0, repr=False)

    @property
    def seconds(self) -> float:
        """Length of what was read, in seconds."""
        return self.frames / self.rate

    def add(self, samples: np.ndarray) -> None:
        """Count a block of mono samples."""
        self.frames += len(samples)
        if len(samples):
            self.peak = max(self.peak, peak_of(samples))

    def length_warning(self) -> str:
        """Describe how the actual length differs from the stated one; empty if it does not."""
        there = self.frames if self.there is None else self.there
        if self.stated is not None and abs(there - self.stated) > self.slack:
            problem = "ends early" if there < self.stated else "is longer than its header states"
            return (f"{problem}: {there / self.rate:.3f} s of audio, header states "
                    f"{self.stated / self.rate:.3f} s")
        if self.cut and self.stated is None:
            return f"ends early: {there / self.rate:.3f} s of audio"
        return ""

    def warnings(self) -> list[str]:
        """List what is unusual about a recording that can be embedded nevertheless."""
        messages = []
        if not self.peak:
            messages.append("every sample is zero")
        elif self.peak < QUIET:
            messages.append(f"is very quiet: its largest sample is {self.peak:.1e} of full scale")
        elif self.peak > LOUD:
            messages.append(f"has samples of up to {self.peak:,.0f}, where full scale is 1")
        if self.seconds < 1.0:
            messages.append(f"is {self.seconds:.3f} s long; padded with zeros to one second")
        length = self.length_warning()
        return [*messages, length] if length else messages


def probe(path: Path) -> AudioInfo:
    """Find the length, rate and channels of a file from its structure.

    A file without a stated length (a FLAC file written into a pipe, an AAC stream) is decoded.

    Parameters
    ----------
    path
        A sound file, or an HDF5 file with a data set ``audio``.

    Returns
    -------
    AudioInfo
        Samples per channel, Hz, and channels.

    Raises
    ------
    AudioError
        The file cannot be read (``reason`` is ``'unreadable'``).
    """
    if is_hdf5(path):
        with _open_rows(path) as (audio, rate):
            return AudioInfo(int(np.prod(audio.shape)), rate, 1)
    with open_sound(path) as sound:
        frames = sound.there if sound.there is not None else sound.stated
        if frames is None:
            frames = sum(map(len, sound.blocks()))
        return AudioInfo(frames, sound.rate, sound.channels)


def read_audio(path: Path, rate: int | None = None, contents: Contents | None = None
               ) -> tuple[np.ndarray, int]:
    """Read a whole recording as mono float32.

    Parameters
    ----------
    path
        A sound file or an HDF5 file. The rows of an HDF5 file are joined end to end; ``read_rows``
        keeps them apart.
    rate
        Hz to resample to (see ``resample``); None for the file's own rate.
    contents
        Filled with facts about the recording.

    Returns
    -------
    signal
        (n,) float32, the mean of all channels. Integer samples are divided by ``2**(bits - 1)``,
        which gives values in [-1, 1); floating-point samples are not scaled.
    rate
        Hz.

    Raises
    ------
    AudioError
        ``reason`` is ``'unreadable'`` (not a sound file, damaged, not finite) or ``'empty'``.
    """
    contents = contents if contents is not None else Contents()
    if is_hdf5(path):
        with unchanged(path):
            rows, source_rate = read_rows(path)
        signal = rows.reshape(-1)
        check_samples(signal, path)
        contents.rate = source_rate
        contents.add(signal)
    else:
        signal = np.concatenate([np.empty(0, np.float32), *sound_blocks(path, contents)])
        source_rate = contents.rate
    if not len(signal):
        raise AudioError("contains no samples", reason="empty", where=str(path))
    if rate is not None and rate != source_rate:
        from l3hpc.audio.resample import resample

        return resample(signal, source_rate, rate), rate
    return signal, source_rate


def sound_blocks(path: Path, contents: Contents | None = None) -> Iterator[np.ndarray]:
    """Read a sound file as ``read_audio`` does, in blocks.

    Parameters
    ----------
    path
        The sound file.
    contents
        Its rate is set before the first block, the rest at the end.

    Yields
    ------
    numpy.ndarray
        (n,) float32 with n at most ``decoding.BLOCK``.

    Raises
    ------
    AudioError
        The file cannot be read, is damaged or changes meanwhile (``reason`` is ``'unreadable'``).
    """
    contents = contents if contents is not None else Contents()
    with unchanged(path), open_sound(path) as sound:
        _describe(sound, contents)
        for block in sound.blocks():
            with np.errstate(invalid="ignore", over="ignore"):  # check_samples refuses these
                mono = np.mean(block, axis=1) if block.shape[1] > 1 else block[:, 0]
            check_samples(mono, path)
            contents.add(mono)
            yield mono
        _describe(sound, contents)


def _describe(sound: Decoder, contents: Contents) -> None:
    contents.rate, contents.stated, contents.there = sound.rate, sound.stated, sound.there
    contents.cut, contents.slack = sound.cut, sound.slack
    contents.unstated = sound.unstated
    if isinstance(sound, decoding.Ffmpeg):
        contents.there = None  # ffmpeg's duration is inexact; the samples are counted instead


def usable_blocks(path: Path, min_seconds: float = 1.0, contents: Contents | None = None
                  ) -> Iterator[np.ndarray]:
    """Read a sound file as ``sound_blocks`` does, if it is worth embedding.

    Parameters
    ----------
    path, contents
        As for ``sound_blocks``.
    min_seconds
        Shorter recordings are refused.

    Yields
    ------
    numpy.ndarray
        (n,) float32.

    Raises
    ------
    AudioError
        As for ``check_usable`` and before the first block; or the file is damaged.
    """
    contents = contents if contents is not None else Contents()
    stream = sound_blocks(path, contents)
    first = next(stream, np.empty(0, np.float32))
    second = next(stream, None)
    if second is None:
        check_usable(first, contents.rate, min_seconds=min_seconds, where=str(path))
        yield first
        return
    info = probe(path)
    seconds = max(info.frames, len(first) + len(second)) / info.rate
    if seconds < min_seconds:
        raise _too_short(seconds, min_seconds, str(path))
    # Only a long recording that begins with silence is read twice.
    if not first.any() and not any(block.any() for block in sound_blocks(path)):
        raise _silent(str(path))
    yield from itertools.chain((first, second), stream)


def check_samples(samples: np.ndarray, path: Path | str | None) -> None:
    """Check samples for values that no recording has.

    Parameters
    ----------
    samples
        (n,) samples.
    path
        The recording, for the message.

    Raises
    ------
    AudioError
        NaN, infinite, or beyond ``LOUDEST`` (``reason`` is ``'unreadable'``).
    """
    if not len(samples):
        return
    peak = peak_of(samples)
    where = None if path is None else str(path)
    if not np.isfinite(peak):
        raise AudioError("contains samples that are not finite numbers", where=where)
    if peak > LOUDEST:
        raise AudioError(f"contains samples of up to {peak:.1e}, which no recording has",
                         where=where, allowed="floating-point samples in [-1, 1]",
                         hint="Is it damaged, or written in the other byte order?")


def peak_of(samples: np.ndarray) -> float:
    """The largest absolute value of floating-point samples, at least one; NaN where one is."""
    return max(float(samples.max()), -float(samples.min()))


def check_usable(signal: np.ndarray, rate: int, *, min_seconds: float = 1.0,
                 where: str | None = None) -> None:
    """Check that audio is worth embedding.

    Silent means that every sample is zero. The published code only warns, and pads with zeros.

    Parameters
    ----------
    signal
        (n,) samples.
    rate
        Hz.
    min_seconds
        Shorter signals are refused.
    where
        The name of the recording in messages.

    Raises
    ------
    AudioError
        ``reason`` is ``'empty'``, ``'too short'`` or ``'silent'``.
    """
    if not len(signal):
        raise AudioError("contains no samples", reason="empty", where=where)
    if len(signal) < min_seconds * rate:
        raise _too_short(len(signal) / rate, min_seconds, where)
    if not signal.any():
        raise _silent(where)


def _too_short(seconds: float, least: float, where: str | None) -> AudioError:
    return AudioError(f"is {seconds:.3f} s long", reason="too short", where=where,
                      allowed=f"at least {least:g} s")


def _silent(where: str | None) -> AudioError:
    return AudioError("every sample is zero", reason="silent", where=where)


def count_rows(path: Path) -> int:
    """Return the number of recordings (rows) in the data set ``audio`` of an HDF5 file."""
    with _open_rows(path) as (audio, _):
        return int(audio.shape[0])


def read_rows(path: Path, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Read rows of the data set ``audio`` of an HDF5 file, one recording each.

    Parameters
    ----------
    path
        The HDF5 file.
    start, stop
        The first row, and the one after the last (None for the end).

    Returns
    -------
    rows
        (rows, n) float32 in [-1, 1].
    rate
        Hz: the attribute ``rate``, ``sample_rate`` or ``sr`` of the data set or the file. If there
        is none, a row is one second, as in the published corpora.

    Raises
    ------
    AudioError
        The file or one of the rows cannot be read.
    """
    with _open_rows(path) as (audio, rate):
        rows = audio[start:stop]
    rows = rows.reshape(rows.shape[0], rows.shape[-1])
    return to_float(rows), rate


def row_blocks(path: Path, number: int) -> Iterator[np.ndarray]:
    """Read one row of the data set ``audio`` in blocks, with memory for one block.

    Parameters
    ----------
    path
        The HDF5 file.
    number
        The row, from 0.

    Yields
    ------
    numpy.ndarray
        (n,) float32 in [-1, 1].

    Raises
    ------
    AudioError
        The row is damaged, or has samples that no recording has.
    """
    with _open_rows(path) as (audio, _):
        row = (number, 0) if audio.ndim == 3 else (number,)
        for start in range(0, audio.shape[-1], decoding.BLOCK):
            samples = to_float(audio[(*row, slice(start, start + decoding.BLOCK))])
            check_samples(samples, path)
            yield samples


def all_row_blocks(path: Path) -> Iterator[np.ndarray]:
    """Read all rows of the data set ``audio``, joined end to end, as ``row_blocks`` does."""
    with _open_rows(path) as (audio, _):
        rows, samples = audio.shape[0], audio.shape[-1]
    if samples > decoding.BLOCK:
        for number in range(rows):
            yield from row_blocks(path, number)
        return
    step = max(decoding.BLOCK // max(samples, 1), 1)
    for start in range(0, rows, step):
        block = read_rows(path, start, start + step)[0].reshape(-1)
        check_samples(block, path)
        yield block


class _open_rows:
    """Context manager: the data set ``audio`` of an HDF5 file, and its rate in Hz."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def __enter__(self) -> tuple[h5py.Dataset, int]:
        from l3hpc.io.hdf5 import open_hdf5

        try:
            self._file = open_hdf5(self._path)
        except InputError as error:
            raise _unreadable(error) from None
        try:
            return self._audio()
        except InputError as error:
            self._file.close()
            raise _unreadable(error) from None
        except BaseException:
            self._file.close()
            raise

    def _audio(self) -> tuple[h5py.Dataset, int]:
        from l3hpc.io.hdf5 import numeric_dataset, read_attributes

        path = self._path
        audio = numeric_dataset(self._file, "audio") if "audio" in self._file else None
        if audio is None or not (audio.ndim == 2 or (audio.ndim == 3 and audio.shape[1] == 1)):
            problem = "contains no data set 'audio'" if audio is None else (
                f"'audio' has shape {audio.shape}")
            raise AudioError(problem, where=str(path),
                             allowed="'audio' of shape (rows, n) or (rows, 1, n), int16 or float")
        if not is_sample_type(audio.dtype):
            raise AudioError(f"'audio' has type {audio.dtype}, whose full scale is unknown",
                             where=str(path),
                             allowed="int16, or float32 or float64 in [-1, 1]")
        for owner in (audio, self._file):
            values = read_attributes(owner, path)
            for name in ("rate", "sample_rate", "sr"):
                if name in values:
                    return audio, _rate(values[name], name, path)
        # The published corpora state no rate: each of their rows is one second.
        return audio, int(audio.shape[-1]) or EMPTY_RATE

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self._file.__exit__(kind, error, trace)
        except InputError as damage:
            raise _unreadable(damage) from None


def _unreadable(error: InputError) -> AudioError:
    return AudioError(error.message, where=error.where, allowed=error.allowed, hint=error.hint)


def _rate(value: object, name: str, path: Path) -> int:
    """The sampling rate in an attribute; an ``AudioError`` if it is not one."""
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all():
        rate = float(array.reshape(-1)[0])
        if RATES[0] <= rate <= RATES[1] and rate == int(rate):
            return int(rate)
    text = " ".join(repr(value.decode("utf-8", "replace") if isinstance(value, bytes)
                         else value.tolist() if isinstance(value, (np.ndarray, np.generic))
                         else value).split())
    raise AudioError(f"attribute '{name}' is {text[:80]}", where=str(path),
                     allowed=f"a whole number of Hz from {RATES[0]} to {RATES[1]:,}")
