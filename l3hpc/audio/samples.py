"""Conversion of arrays of samples, of any type and shape, to checked mono float32.

The level of an integer sample depends on the number of bits of the recording. The type of the array
gives it only for types that recordings have: an int16 array has 16 bits, but so may an int64 array
after some arithmetic, and dividing that by 2^63 would give silence. So the scale of wide integers
is inferred from their values. Values that fit both a narrow recording and a quiet wide one are
refused, so that a guess never makes a recording louder or silent.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from l3hpc.audio.formats import AudioError
from l3hpc.errors import InputError

MAX_CHANNELS = 64  # an axis longer than this is time
LOUD = 8.0  # floating-point samples above this do not have full scale at 1
LOUDEST = 2.0**31  # full scale of 32-bit integers: no sample is larger, whatever its scale
RATES = (1, 10_000_000)  # Hz; the fastest recorders, for bats and machines, have about 1 MHz
WIDTHS = (16, 24, 32)  # bits of recordings
TYPES = "floating-point numbers in [-1, 1], or int16"


def to_mono(audio: object, where: str | None = None) -> tuple[np.ndarray, list[str]]:
    """Convert audio to one channel of float32 samples in [-1, 1].

    Parameters
    ----------
    audio
        (samples,) or (samples, channels); (channels, samples) if that is unambiguous. Floating
        point, int8, int16, uint8, or wider integers whose values show their number of bits.
    where
        The name of the array in messages.

    Returns
    -------
    signal
        (samples,) float32.
    notes
        The assumptions that were made, for a warning.

    Raises
    ------
    InputError
        The array is not a recording, or is ambiguous; the hint shows what to type.
    AudioError
        The array is empty, or contains NaN, infinity, or numbers larger than any recording has.

    Examples
    --------
    >>> to_mono(np.array([0, 16384, -32768], np.int16))[0].tolist()
    [0.0, 0.5, -1.0]
    """
    if isinstance(audio, np.ma.MaskedArray) and np.ma.is_masked(audio):
        raise InputError("audio has masked samples", where=where,
                         hint="Fill them first: audio.filled(0)")
    try:
        array = np.asarray(audio)
    except ValueError:
        raise InputError("audio has rows of different lengths", where=where,
                         allowed="one array for each recording; several as a list of arrays"
                         ) from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"audio has type {array.dtype}" if array.dtype.kind != "O" else
                         f"audio is {_kind(audio)}, not an array of numbers", where=where,
                         allowed=TYPES)
    array, notes = _oriented(array.astype(array.dtype.newbyteorder("="), copy=False), where)
    samples, scaled = _full_scale(array, where)
    mono = samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else samples
    return np.ascontiguousarray(mono, np.float32), notes + scaled


def check_rate(sr: object) -> int:
    """Check a sampling rate.

    Parameters
    ----------
    sr
        A whole number of Hz in the range ``RATES``, of any numeric type.

    Returns
    -------
    int
        Hz.

    Raises
    ------
    InputError
        It is anything else.
    """
    number = np.asarray(sr)
    if isinstance(sr, (bool, np.bool_)) or number.ndim or number.dtype.kind not in "iuf" \
            or not RATES[0] <= number <= RATES[1] or number % 1:
        raise InputError(f"sr is {sr!r:.40}, which is not a sampling rate",
                         allowed=f"a whole number of Hz, {RATES[0]} to {RATES[1]:,}",
                         hint="sr is the rate of the samples: soundfile.read and librosa.load "
                              "return it with them" if sr is None else None)
    return int(number)


def is_sample_type(kind: np.dtype) -> bool:
    """Whether full scale is known from the type alone: floating point, int8, uint8 or int16."""
    return kind.kind == "f" or kind.kind in "iu" and (kind.itemsize == 1 or kind.str[1:] == "i2")


def to_float(samples: np.ndarray) -> np.ndarray:
    """Convert samples of a type that recordings have to float32 in [-1, 1).

    int8 and int16 are divided by ``2**(bits - 1)``, uint8 is centred first, and floating-point
    numbers are not scaled.

    Parameters
    ----------
    samples
        Samples of any shape.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape.

    Raises
    ------
    InputError
        Wider integers, whose type does not show the number of bits, and other types.
    """
    kind = samples.dtype.newbyteorder("=")
    if kind == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if kind in (np.int8, np.int16):
        signal = samples.astype(np.float32)
        signal *= np.float32(2.0 ** (1 - 8 * kind.itemsize))
        return signal
    if kind.kind != "f":
        raise InputError(f"samples have type {kind}",
                         allowed=f"{TYPES}, int8, uint8: the full scale of other types is unknown",
                         hint="16-bit values: samples.astype('int16'); 32-bit ones: "
                              "samples / 2**31" if kind.kind in "iu" else None)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)


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


def _oriented(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    """The array as (samples,) or (samples, channels), and the assumptions made."""
    name = "audio" if where is None else where
    if array.ndim not in (1, 2):
        raise InputError(f"audio has shape {array.shape}", where=where,
                         allowed="(samples,) or (samples, channels)",
                         hint=f"Pass several recordings as a list: list({name})"
                         if array.ndim == 3 else None)
    if not array.size:
        raise AudioError("contains no samples", reason="empty", where=where)
    if array.ndim == 1 or array.shape[1] == 1:
        return array.reshape(-1), []
    rows, columns = array.shape
    if columns <= MAX_CHANNELS and rows > columns:
        return array, []
    # Channels first, as librosa and torchaudio have them: no recording has so many channels.
    if rows <= MAX_CHANNELS < columns:
        channels = "1 channel" if rows == 1 else f"{rows} channels"
        return array.T, [f"shape {array.shape} is taken as {channels} of {columns:,} samples; "
                         f"(samples, channels) is {name}.T"]
    raise InputError(f"audio has shape {array.shape}, and it is not clear which axis is the "
                     "channels", where=where,
                     allowed=f"(samples, channels) with at most {MAX_CHANNELS} channels",
                     hint=f"If the channels come first: {name}.T; if these are recordings of one "
                          f"channel each: list({name})")


def _full_scale(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    """The samples as float32 with full scale at 1, and the assumptions made."""
    if array.dtype.kind == "f":
        return _floats(array, where)
    if array.dtype.itemsize == 1 or array.dtype == np.int16:
        return to_float(array), []
    low, high = int(array.min()), int(array.max())
    peak = max(-low, high)
    if array.dtype.kind == "u":
        bits = 16 if peak < 1 << 16 else 32
        raise InputError(f"audio has type {array.dtype}, with values from {low:,} to {high:,}",
                         where=where, allowed=TYPES,
                         hint=_hint(bits, unsigned=True) if peak < 1 << 32 else None)
    if peak > 1 << 31:
        raise InputError(f"{array.dtype} samples of up to {peak:,}: no recording has that many "
                         "bits", where=where, allowed=TYPES)
    # 24-bit samples are often stored in the upper three bytes of 32.
    shifted = not (np.bitwise_or.reduce(array.reshape(-1)) & 0xFF)
    if peak and (peak <= 1 << 15 or peak <= 1 << 23 and not shifted):
        fits = next(bits for bits in WIDTHS if peak <= 1 << bits - 1)
        raise InputError(
            f"{array.dtype} samples of up to {peak:,} are either a recording of {fits} bits or a "
            "quiet one of 32", where=where, allowed=TYPES,
            hint=f"{_hint(fits)}; 32 bits: audio / 2**31")
    return (array * 2.0**-31).astype(np.float32), []


def _floats(array: np.ndarray, where: str | None) -> tuple[np.ndarray, list[str]]:
    with np.errstate(invalid="ignore", over="ignore"):
        check_samples(array, where)
        peak = peak_of(array)
    if peak <= LOUD:
        return np.asarray(array, np.float32), []
    bits = next(bits for bits in WIDTHS if peak <= 1 << bits - 1)
    # Not scaled in place: float16 would underflow.
    scaled = (array * 2.0 ** (1 - bits)).astype(np.float32)
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
    """Whether ``value`` is a real number (not a bool, a string or an array)."""
    return isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, np.bool_))
