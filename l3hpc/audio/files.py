"""Read sound files of any rate, depth and channel count as mono float32, and say why one cannot be.

Sound files (WAV, FLAC, OGG) go through libsndfile; HDF5 files with an ``audio`` data set are the
layout of the published corpora: one row is one recording, ``(rows, n)`` or ``(rows, 1, n)``, in
int16, float32 or float64.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError, L3hpcError

HDF5_SUFFIXES = (".h5", ".hdf5")
REASONS = ("unreadable", "empty", "silent", "too short")
EMPTY_RATE = 48_000  # Hz, of rows that hold no samples: any rate is right for them
MOST_RATE = 10_000_000  # Hz; the fastest recorders for bats and machines have about 1 MHz
BLOCK = 1 << 20  # samples per channel read at once
MOST = 1 << 40  # samples: a header that tells of more tells nothing (libsndfile's "unknown")


class AudioError(L3hpcError):
    """One recording cannot be used.

    ``reason`` is one of ``'unreadable'``, ``'empty'``, ``'silent'``, ``'too short'``.
    """

    def __init__(self, message: str, *, reason: str = "unreadable", where: str | None = None,
                 allowed: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, allowed=allowed, hint=hint)
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; valid: {', '.join(REASONS)}")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        state = {"where": self.where, "allowed": self.allowed, "hint": self.hint,
                 "reason": self.reason}
        return (type(self), (self.message,), state)


@dataclass(frozen=True)
class AudioInfo:
    """What a header says: samples per channel (over all rows of an HDF5 file), Hz, channels."""

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


def is_hdf5(path: Path) -> bool:
    """Whether ``path`` is named as an HDF5 file (its rows are separate recordings)."""
    return Path(path).suffix.lower() in HDF5_SUFFIXES


def probe(path: Path) -> AudioInfo:
    """Length, rate and channels from the header alone. Raises ``AudioError`` ('unreadable').

    A header without a length (a FLAC file written into a pipe) costs reading the file.
    """
    if is_hdf5(path):
        with _open_rows(path) as (audio, rate):
            return AudioInfo(int(np.prod(audio.shape)), rate, 1)
    with _open_sound(path) as sound:
        frames = int(sound.frames) if _told(sound) else sum(map(len, _blocks(sound, path)))
        return AudioInfo(frames, int(sound.samplerate), int(sound.channels))


def read_audio(path: Path, rate: int | None = None) -> tuple[np.ndarray, int]:
    """A whole recording as mono float32 and its rate in Hz.

    Integer samples are divided by ``2**(bits - 1)``, so they lie in [-1, 1); float files are taken
    as they are. Channels are averaged. ``rate`` resamples (see ``resample``). The rows of an HDF5
    file are joined end to end; use ``read_rows`` to keep them apart.

    Raises ``AudioError``: 'unreadable' (no sound file, damaged, not finite) or 'empty' (no sample).
    """
    if is_hdf5(path):
        rows, source_rate = read_rows(path)
        signal = rows.reshape(-1)
        check_finite(signal, path)
    else:
        source_rate = probe(path).rate
        signal = np.concatenate([np.empty(0, np.float32), *sound_blocks(path)])
    if not len(signal):
        raise AudioError("holds no samples", reason="empty", where=str(path))
    if rate is not None and rate != source_rate:
        from l3hpc.audio.resample import resample

        return resample(signal, source_rate, rate), rate
    return signal, source_rate


def sound_blocks(path: Path) -> Iterator[np.ndarray]:
    """The samples of a sound file as ``read_audio`` gives them, in blocks of ``BLOCK`` samples.

    The last block may be shorter. Raises ``AudioError`` ('unreadable') where the file is damaged.
    """
    with _open_sound(path) as sound:
        for block in _blocks(sound, path):
            mono = np.mean(block, axis=1)
            check_finite(mono, path)
            yield mono


def usable_blocks(path: Path, min_seconds: float = 1.0) -> Iterator[np.ndarray]:
    """``sound_blocks`` of a recording worth embedding; else ``AudioError`` before the first block.

    See ``check_usable``. Only a long recording that begins with silence is read twice.
    """
    info = probe(path)
    stream = sound_blocks(path)
    first = next(stream, np.empty(0, np.float32))
    second = next(stream, None)
    if second is None:
        check_usable(first, info.rate, min_seconds=min_seconds, where=str(path))
        yield first
        return
    if info.seconds < min_seconds:
        raise _too_short(info.seconds, min_seconds, str(path))
    if not first.any() and not any(block.any() for block in sound_blocks(path)):
        raise _silent(str(path))
    yield from itertools.chain((first, second), stream)


def check_finite(samples: np.ndarray, path: Path) -> None:
    """Raise ``AudioError`` ('unreadable') for NaN or infinite samples."""
    if not np.isfinite(samples).all():
        raise AudioError("holds samples that are not finite numbers", where=str(path))


def check_usable(signal: np.ndarray, rate: int, *, min_seconds: float = 1.0,
                 where: str | None = None) -> None:
    """Raise ``AudioError`` ('empty', 'too short' or 'silent') for audio not worth embedding.

    Silent means that every sample is zero. The published code only warns, and pads with zeros.
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
    """Rows ``start:stop`` of an HDF5 file's ``audio`` as float32 ``(rows, n)``, and the rate in Hz.

    The rate is the attribute ``rate``, ``sample_rate`` or ``sr`` of the data set or the file; where
    there is none, a row is taken to last one second, as in the published corpora.
    """
    with _open_rows(path) as (audio, rate):
        rows = audio[start:stop]
    rows = rows.reshape(rows.shape[0], rows.shape[-1])
    return to_float(rows), rate


def to_float(samples: np.ndarray) -> np.ndarray:
    """Samples as float32; integers divided by ``2**(bits - 1)``, unsigned ones centred before."""
    if samples.dtype.kind == "i":
        signal = samples.astype(np.float32)
        signal *= np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
        return signal
    if samples.dtype.kind == "u":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        return ((samples.astype(np.float64) - half) / half).astype(np.float32)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _open_sound(path: Path) -> Any:
    import soundfile

    try:
        sound = soundfile.SoundFile(os.fsencode(path))  # bytes: names need not be UTF-8
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, UnicodeError) as error:
        why = getattr(error, "error_string", error)  # without the name, which is told as the place
        raise AudioError(f"not a readable sound file: {why}", where=str(path)) from None
    if not _told(sound):
        sound.seekable = lambda: False  # soundfile would seek to the end, and fail
    return sound


def _told(sound: Any) -> bool:
    """Whether the header tells the length."""
    return 0 <= int(sound.frames) <= MOST


def _blocks(sound: Any, path: Path) -> Iterator[np.ndarray]:
    """The samples (n, channels) as float32, ``BLOCK`` at a time."""
    import soundfile

    while True:
        try:
            block = sound.read(BLOCK, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(f"damaged: {error}", where=str(path)) from None
        if not len(block):
            return
        yield block


class _open_rows:
    """Context: the ``audio`` data set of an HDF5 file and its rate."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def __enter__(self) -> tuple[Any, int]:
        from l3hpc.hdf5 import open_hdf5

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
        from l3hpc.hdf5 import attributes, numbers

        path = self._path
        right = "audio" in self._file
        audio = numbers(self._file, "audio") if right else None
        if audio is None or not (audio.ndim == 2 or (audio.ndim == 3 and audio.shape[1] == 1)):
            raise AudioError("has no usable data set 'audio'", where=str(path),
                             allowed="'audio' of shape (rows, n) or (rows, 1, n), int16 or float")
        for owner in (audio, self._file):
            told = attributes(owner, path)
            for name in ("rate", "sample_rate", "sr"):
                if name in told:
                    return audio, _rate(told[name], name, path)
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
        if 1 <= rate <= MOST_RATE and rate == int(rate):
            return int(rate)
    text = " ".join(repr(value.decode("utf-8", "replace") if isinstance(value, bytes)
                         else value.tolist() if isinstance(value, (np.ndarray, np.generic))
                         else value).split())
    raise AudioError(f"attribute '{name}' is {text[:80]}", where=str(path),
                     allowed=f"samples per second, a whole number from 1 to {MOST_RATE:,}")
