"""Reading of recordings in any format, rate, depth and number of channels as mono float32.

Sound files are decoded by libsndfile or ffmpeg (``decoding``), HDF5 files are read by
``hdf5_rows``. The length that a header states is not trusted: all samples are read, and
``Contents`` records where there are fewer or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3hpc.audio import decoding
from l3hpc.audio.decoding import Decoder, open_sound
from l3hpc.audio.formats import HDF5_SUFFIXES, REASONS, AudioError, is_hdf5, unchanged
from l3hpc.audio.hdf5_rows import open_rows, read_rows
from l3hpc.audio.samples import LOUD, check_samples, peak_of, to_float

__all__ = ["HDF5_SUFFIXES", "REASONS", "AudioError", "AudioInfo", "Contents", "check_usable",
           "is_hdf5", "probe", "read_audio", "sound_blocks", "to_float", "unchanged",
           "usable_blocks"]

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
        with open_rows(path) as (audio, rate):
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
