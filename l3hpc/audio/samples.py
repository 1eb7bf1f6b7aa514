"""Samples in memory, of any kind that a caller may hold, as checked mono float32.

How loud an integer is depends on how many bits its recording has, which the type of an array tells
only where it is a type that recordings have: 16 bits in an int16 array, but perhaps as well in an
int64 one, after some arithmetic. Dividing those by 2^63 would leave silence. So wide integers are
taken by what their values are, and where the values fit a narrow recording and a quiet wide one
alike, they are refused: no recording becomes louder or silent by a guess.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np

from l3hpc.audio.formats import AudioError
from l3hpc.errors import InputError

MOST_CHANNELS = 64  # of an array's two axes, one longer than this is time
LOUD = 8.0  # floating-point samples above this are scaled to something else than 1
LOUDEST = 2.0**31  # no sample is larger, whatever it was scaled to: full scale of 32-bit integers
RATES = (1, 10_000_000)  # Hz; the fastest recorders, for bats and machines, have about 1 MHz
WIDTHS = (16, 24, 32)  # bits of recordings
TYPES = "floating-point numbers in [-1, 1], or int16"


def to_mono(audio: object, where: str | None = None) -> tuple[np.ndarray, list[str]]:
    """One channel of float32 samples in [-1, 1].

    Parameters
    ----------
    audio
        (samples,) or (samples, channels); (channels, samples) where that is certain. Floating
        point, int8, int16, uint8, or wider integers whose values show how many bits they have.
    where
        What the messages call the array.

    Returns
    -------
    signal
        (samples,) float32.
    notes
        What was assumed, in words.

    Raises
    ------
    InputError
        The array is no recording, or could be two; the hint says what to type.
    AudioError
        The array is empty, or holds NaN, infinity, or numbers beyond any recording.
    """
    if isinstance(audio, np.ma.MaskedArray) and np.ma.is_masked(audio):
        raise InputError("audio with masked samples", where=where,
                         hint="Fill them first: audio.filled(0)")
    try:
        array = np.asarray(audio)
    except ValueError:
        raise InputError("audio with rows of different lengths", where=where,
                         allowed="one array for each recording; several as a list of arrays"
                         ) from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"audio of type {array.dtype}" if array.dtype.kind != "O" else
                         f"audio is {_kind(audio)}, not an array of numbers", where=where,
                         allowed=TYPES)
    array, notes = _oriented(array.astype(array.dtype.newbyteorder("="), copy=False), where)
    samples, scaled = _full_scale(array, where)
    mono = samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else samples
    return np.ascontiguousarray(mono, np.float32), notes + scaled


def check_rate(sr: object) -> int:
    """A sampling rate as a whole number of Hz; anything else is an ``InputError``."""
    number = np.asarray(sr)
    if isinstance(sr, (bool, np.bool_)) or number.ndim or number.dtype.kind not in "iuf" \
            or not RATES[0] <= number <= RATES[1] or number % 1:
        raise InputError(f"sr is {sr!r:.40}, which is not a sampling rate",
                         allowed=f"a whole number of Hz, {RATES[0]} to {RATES[1]:,}",
                         hint="sr is the rate of the samples: soundfile.read and librosa.load "
                              "return it with them" if sr is None else None)
    return int(number)


def is_sample_type(kind: np.dtype) -> bool:
    """Whether an array of this type tells full scale: floating point, or what recordings have."""
    return kind.kind == "f" or kind.kind in "iu" and (kind.itemsize == 1 or kind.str[1:] == "i2")


def to_float(samples: np.ndarray, where: str | None = None) -> np.ndarray:
    """Samples of a type that recordings have, as float32 in [-1, 1): int8 and int16 divided by
    ``2**(bits - 1)``, uint8 centred before, floating-point numbers as they are.

    Wider integers are an ``InputError``: their type does not tell how many bits the recording has.
    """
    kind = samples.dtype.newbyteorder("=")
    if kind == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if kind in (np.int8, np.int16):
        signal = samples.astype(np.float32)
        signal *= np.float32(2.0 ** (1 - 8 * kind.itemsize))
        return signal
    if kind.kind != "f":
        raise InputError(f"samples of type {kind}", where=where,
                         allowed=f"{TYPES}, int8, uint8: the full scale of other types is unknown",
                         hint="16-bit values: samples.astype('int16'); 32-bit ones: "
                              "samples / 2**31" if kind.kind in "iu" else None)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)


def _oriented(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    """(samples,) or (samples, channels), and what was assumed."""
    name = "audio" if where is None else where
    if array.ndim not in (1, 2):
        raise InputError(f"audio of shape {array.shape}", where=where,
                         allowed="(samples,) or (samples, channels)",
                         hint=f"One recording each: list({name})" if array.ndim == 3 else None)
    if not array.size:
        raise AudioError("holds no samples", reason="empty", where=where)
    if array.ndim == 1 or array.shape[1] == 1:
        return array.reshape(-1), []
    rows, columns = array.shape
    if columns <= MOST_CHANNELS and rows > columns:
        return array, []
    if rows <= MOST_CHANNELS < columns:
        words = "1 channel" if rows == 1 else f"{rows} channels"
        return array.T, [f"shape {array.shape} is taken as {words} of {columns:,} samples; "
                         f"(samples, channels) is {name}.T"]
    raise InputError(f"audio of shape {array.shape}: which of them are the channels?", where=where,
                     allowed=f"(samples, channels), of at most {MOST_CHANNELS} channels",
                     hint=f"If the channels come first: {name}.T; if these are recordings of one "
                          f"channel each: list({name})")


def _full_scale(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    """The samples as float32 with full scale at 1, and what was assumed."""
    if array.dtype.kind == "f":
        return _floats(array, where)
    if array.dtype.itemsize == 1 or array.dtype == np.int16:
        return to_float(array), []
    low, high = int(array.min()), int(array.max())
    peak = max(-low, high)
    if array.dtype.kind == "u":
        raise InputError(f"audio of type {array.dtype}, from {low:,} to {high:,}", where=where,
                         allowed=TYPES, hint=_hint(16 if peak < 1 << 16 else 32, unsigned=True)
                         if peak < 1 << 32 else None)
    if peak > 1 << 31:
        raise InputError(f"{array.dtype} samples of up to {peak:,}: no recording has that many "
                         "bits", where=where, allowed=TYPES)
    left = not (np.bitwise_or.reduce(array.reshape(-1)) & 0xFF)  # 24 bits, moved to the left
    if peak and (peak <= 1 << 15 or peak <= 1 << 23 and not left):
        fits = next(bits for bits in WIDTHS if peak <= 1 << bits - 1)
        raise InputError(
            f"{array.dtype} samples of up to {peak:,}: a recording of {fits} bits, or a quiet one "
            "of 32?", where=where, allowed=TYPES,
            hint=f"{_hint(fits)}; 32 bits: audio / 2**31")
    return (array * 2.0**-31).astype(np.float32), []


def _floats(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    with np.errstate(invalid="ignore", over="ignore"):
        peak = float(np.abs(array).max())
    if not np.isfinite(peak):
        raise AudioError("holds samples that are not finite numbers", where=where)
    if peak > LOUDEST:
        raise AudioError(f"holds samples of up to {peak:.1e}, which no recording has", where=where,
                         allowed="floating-point samples lie in [-1, 1]")
    if peak <= LOUD:
        return np.asarray(array, np.float32), []
    bits = next(bits for bits in WIDTHS if peak <= 1 << bits - 1)
    scaled = (array * 2.0 ** (1 - bits)).astype(np.float32)  # float16 would underflow in place
    return scaled, [f"has {array.dtype} samples of up to {peak:,.0f}; taken as {bits}-bit integers "
                    f"(divided by 2**{bits - 1})"]


def _hint(bits: int, unsigned: bool = False) -> str:
    offset = f"(audio.astype('float64') - 2**{bits - 1}) / 2**{bits - 1}"
    return f"{bits} bits: " + (offset if unsigned else
                               "audio.astype('int16')" if bits == 16 else
                               f"audio / 2**{bits - 1}")


def _kind(audio: object) -> str:
    if audio is None:
        return "None"
    if isinstance(audio, Sequence) and not isinstance(audio, (str, bytes)) and len(audio):
        return f"a {type(audio).__name__} of {type(audio[0]).__name__}"
    return f"of type {type(audio).__name__}"


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number: not a bool, not text, not an array."""
    return isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, np.bool_))
