"""Read recordings of any format, rate, depth and channel count as mono float32, or say why not.

Sound files go through libsndfile, or through ffmpeg where it is needed (``decoding``); HDF5 files
with an ``audio`` data set are the layout of the published corpora: one row is one recording,
``(rows, n)`` or ``(rows, 1, n)``, in int16, float32 or float64. A stated length is not believed:
what is there is read, and ``Contents`` says where that is less or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio import decoding
from l3hpc.audio.decoding import Decoder, open_sound
from l3hpc.audio.formats import HDF5_SUFFIXES, REASONS, AudioError, is_hdf5
from l3hpc.audio.samples import LOUD, LOUDEST, RATES, is_sample_type, to_float
from l3hpc.errors import InputError

__all__ = ["HDF5_SUFFIXES", "REASONS", "AudioError", "AudioInfo", "Contents", "all_row_blocks",
           "check_samples", "check_usable", "count_rows", "is_hdf5", "probe", "read_audio",
           "read_rows", "row_blocks", "sound_blocks", "to_float", "usable_blocks"]

EMPTY_RATE = 48_000  # Hz, of rows that hold no samples: any rate is right for them

QUIET = 1e-4  # a peak below this is hardly a recording: -80 dB of full scale


@dataclass(frozen=True)
class AudioInfo:
    """What a file's structure states: samples per channel (over all rows of an HDF5 file), Hz,
    channels."""

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


@dataclass
class Contents:
    """What was found in a recording; filled by whoever reads it, complete at its end.

    Attributes
    ----------
    frames: samples per channel that were read. rate: Hz. peak: the largest absolute sample, of the
    mean of the channels. stated: samples per channel that the header states (None: none). unstated:
    whether a header that should state them does not. there: those that the structure shows (None:
    only reading tells). cut: whether the file ends early. slack: samples by which ``stated`` may be
    off.
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
        """What was read, in seconds."""
        return self.frames / self.rate

    def add(self, samples: np.ndarray) -> None:
        """Count a block of mono samples."""
        self.frames += len(samples)
        if len(samples):
            self.peak = max(self.peak, peak_of(samples))

    def length_words(self) -> str:
        """How the length found differs from the one stated; '' where both agree."""
        there = self.frames if self.there is None else self.there
        if self.stated is not None and abs(there - self.stated) > self.slack:
            words = "ends early" if there < self.stated else "holds more than its header states"
            return (f"{words}: {there / self.rate:.3f} s are there, "
                    f"{self.stated / self.rate:.3f} s are stated")
        if self.cut and self.stated is None:
            return f"ends early: {there / self.rate:.3f} s are there"
        return ""

    def odd(self) -> list[str]:
        """What is unusual about a recording that can be embedded nevertheless."""
        found = []
        if not self.peak:
            found.append("every sample is zero")
        elif self.peak < QUIET:
            found.append(f"is very quiet: its largest sample is {self.peak:.1e} of full scale")
        elif self.peak > LOUD:
            found.append(f"has samples of up to {self.peak:,.0f}, where full scale is 1")
        if self.seconds < 1.0:
            found.append(f"is {self.seconds:.3f} s long; padded with zeros to one second")
        length = self.length_words()
        return [*found, length] if length else found


def probe(path: Path) -> AudioInfo:
    """Length, rate and channels of a file from its structure alone.

    Parameters
    ----------
    path
        A sound file, or an HDF5 file with a data set ``audio``.

    Returns
    -------
    AudioInfo
        ``frames`` (samples per channel), ``rate`` (Hz), ``channels``. A file whose structure states
        no length (a FLAC file written into a pipe, an AAC stream) is read to find it.

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
    """A whole recording as mono float32, and its rate.

    Parameters
    ----------
    path
        A sound file or an HDF5 file. The rows of an HDF5 file are joined end to end; ``read_rows``
        keeps them apart.
    rate
        Hz to resample to (see ``resample``); None: the file's own.
    contents
        Filled with what was found in the recording.

    Returns
    -------
    signal
        (n,) float32, the mean of all channels. Integer samples are divided by ``2**(bits - 1)``, so
        they lie in [-1, 1); floating-point samples are taken as they are.
    rate
        Hz.

    Raises
    ------
    AudioError
        ``reason`` is ``'unreadable'`` (no sound file, damaged, not finite) or ``'empty'``.
    """
    contents = contents if contents is not None else Contents()
    if is_hdf5(path):
        rows, source_rate = read_rows(path)
        signal = rows.reshape(-1)
        check_samples(signal, path)
        contents.rate = source_rate
        contents.add(signal)
    else:
        signal = np.concatenate([np.empty(0, np.float32), *sound_blocks(path, contents)])
        source_rate = contents.rate
    if not len(signal):
        raise AudioError("holds no samples", reason="empty", where=str(path))
    if rate is not None and rate != source_rate:
        from l3hpc.audio.resample import resample

        return resample(signal, source_rate, rate), rate
    return signal, source_rate


def sound_blocks(path: Path, contents: Contents | None = None) -> Iterator[np.ndarray]:
    """The samples of a sound file as ``read_audio`` gives them, in blocks of ``BLOCK`` samples.

    Blocks may be shorter. ``contents`` is filled: its rate before the first block, all of it at the
    end. Raises ``AudioError`` ('unreadable') where the file is damaged.
    """
    contents = contents if contents is not None else Contents()
    with open_sound(path) as sound:
        _describe(sound, contents)
        for block in sound.blocks():
            with np.errstate(invalid="ignore", over="ignore"):  # refused in the next line
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
        contents.there = None  # what was decoded tells


def usable_blocks(path: Path, min_seconds: float = 1.0, contents: Contents | None = None
                  ) -> Iterator[np.ndarray]:
    """``sound_blocks`` of a recording worth embedding; else ``AudioError`` before the first block.

    See ``check_usable``. Only a long recording that begins with silence is read twice.
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
    known = max(info.frames, len(first) + len(second)) / info.rate
    if known < min_seconds:
        raise _too_short(known, min_seconds, str(path))
    if not first.any() and not any(block.any() for block in sound_blocks(path)):
        raise _silent(str(path))
    yield from itertools.chain((first, second), stream)


def check_samples(samples: np.ndarray, path: Path | str | None) -> None:
    """Raise ``AudioError`` ('unreadable') for samples that no recording has: NaN, infinite, or
    beyond ``LOUDEST``."""
    if not len(samples):
        return
    peak = peak_of(samples)
    where = None if path is None else str(path)
    if not np.isfinite(peak):
        raise AudioError("holds samples that are not finite numbers", where=where)
    if peak > LOUDEST:
        raise AudioError(f"holds samples of up to {peak:.1e}, which no recording has", where=where,
                         allowed="floating-point samples lie in [-1, 1]",
                         hint="Damaged, or written in the other byte order?")


def peak_of(samples: np.ndarray) -> float:
    """The largest absolute value of floating-point samples, at least one; NaN where one is."""
    return max(float(samples.max()), -float(samples.min()))


def check_usable(signal: np.ndarray, rate: int, *, min_seconds: float = 1.0,
                 where: str | None = None) -> None:
    """Refuse audio that is not worth embedding.

    Silent means that every sample is zero. The published code only warns, and pads with zeros.

    Parameters
    ----------
    signal
        (n,) samples.
    rate
        Hz.
    min_seconds
        What is shorter is refused.
    where
        What the message calls the recording.

    Raises
    ------
    AudioError
        ``reason`` is ``'empty'``, ``'too short'`` or ``'silent'``.
    """
    if not len(signal):
        raise AudioError("holds no samples", reason="empty", where=where)
    if len(signal) < min_seconds * rate:
        raise _too_short(len(signal) / rate, min_seconds, where)
    if not signal.any():
        raise _silent(where)


def _too_short(seconds: float, least: float, where: str | None) -> AudioError:
    return AudioError(f"is {seconds:.3f} s long", reason="too short", where=where,
                      allowed=f"at least {least:g} s are needed")


def _silent(where: str | None) -> AudioError:
    return AudioError("every sample is zero", reason="silent", where=where)


def count_rows(path: Path) -> int:
    """The number of recordings (rows) in an HDF5 file's ``audio`` data set."""
    with _open_rows(path) as (audio, _):
        return int(audio.shape[0])


def read_rows(path: Path, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Rows of an HDF5 file's ``audio``: one recording each.

    Parameters
    ----------
    path
        The HDF5 file.
    start, stop
        The first row, and the one after the last (None: to the end).

    Returns
    -------
    rows
        (rows, n) float32 in [-1, 1].
    rate
        Hz: the attribute ``rate``, ``sample_rate`` or ``sr`` of the data set or the file. Without
        one a row is taken to last one second, as in the published corpora.

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
    """Row ``number`` of an HDF5 file's ``audio`` as float32, in blocks: memory for one of them.

    Raises ``AudioError`` ('unreadable') for a damaged row and for samples that no recording has.
    """
    with _open_rows(path) as (audio, _):
        row = (number, 0) if audio.ndim == 3 else (number,)
        for start in range(0, audio.shape[-1], decoding.BLOCK):
            samples = to_float(audio[(*row, slice(start, start + decoding.BLOCK))])
            check_samples(samples, path)
            yield samples


def all_row_blocks(path: Path) -> Iterator[np.ndarray]:
    """The samples of all rows of an HDF5 file one after the other, in memory for one block."""
    with _open_rows(path) as (audio, _):
        rows, samples = audio.shape[0], audio.shape[-1]
    if samples > decoding.BLOCK:
        for number in range(rows):
            yield from row_blocks(path, number)
        return
    step = max(decoding.BLOCK // max(samples, 1), 1)
    for start in range(0, rows, step):
        found = read_rows(path, start, start + step)[0].reshape(-1)
        check_samples(found, path)
        yield found


class _open_rows:
    """Context: the ``audio`` data set of an HDF5 file and its rate."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def __enter__(self) -> tuple[Any, int]:
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

    def _audio(self) -> tuple[Any, int]:
        from l3hpc.io.hdf5 import numeric_dataset, read_attributes

        path = self._path
        audio = numeric_dataset(self._file, "audio") if "audio" in self._file else None
        if audio is None or not (audio.ndim == 2 or (audio.ndim == 3 and audio.shape[1] == 1)):
            words = "contains no data set 'audio'" if audio is None else (
                f"'audio' has shape {audio.shape}")
            raise AudioError(words, where=str(path),
                             allowed="'audio' of shape (rows, n) or (rows, 1, n), int16 or float")
        if not is_sample_type(audio.dtype):
            raise AudioError(f"holds 'audio' in {audio.dtype}, whose full scale is unknown",
                             where=str(path),
                             allowed="int16, or float32 or float64 in [-1, 1]")
        for owner in (audio, self._file):
            values = read_attributes(owner, path)
            for name in ("rate", "sample_rate", "sr"):
                if name in values:
                    return audio, _rate(values[name], name, path)
        return audio, int(audio.shape[-1]) or EMPTY_RATE

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._file.__exit__(kind, error, trace)
        except InputError as found:
            raise _unreadable(found) from None


def _unreadable(error: InputError) -> AudioError:
    return AudioError(error.message, where=error.where, allowed=error.allowed, hint=error.hint)


def _rate(value: Any, name: str, path: Path) -> int:
    """The rate that an attribute gives; one that cannot be meant is refused."""
    found = np.asarray(value)
    if found.size == 1 and found.dtype.kind in "iuf" and np.isfinite(found).all():
        rate = float(found.reshape(-1)[0])
        if RATES[0] <= rate <= RATES[1] and rate == int(rate):
            return int(rate)
    text = " ".join(repr(value.decode("utf-8", "replace") if isinstance(value, bytes)
                         else value.tolist() if isinstance(value, (np.ndarray, np.generic))
                         else value).split())
    raise AudioError(f"attribute '{name}' is {text[:80]}", where=str(path),
                     allowed=f"samples per second, a whole number from {RATES[0]} to {RATES[1]:,}")
