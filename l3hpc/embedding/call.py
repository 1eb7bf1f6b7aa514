"""``get_embedding``: audio in memory to embeddings, as openl3 and edgel3 are called.

What they do, this does: mono by averaging, resampling to the model's rate, half a second of zeros
in front (``center``), zeros behind so that no sample is lost, frames of one second every
``hop_size`` seconds, times that are centres of windows (or their starts). Empty audio is an error,
silence and audio shorter than a second are warnings. What they pass on, this refuses: samples that
are not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from l3hpc.audio.files import AudioError, to_float
from l3hpc.audio.framing import JoinedFrames, frame_audio
from l3hpc.audio.kaiser import resample_kaiser
from l3hpc.audio.resample import resample
from l3hpc.embedding.model import Model, load_model
from l3hpc.errors import InputError, nearest

HOP_S = 0.1
RESAMPLERS = {"soxr": resample, "kaiser_best": resample_kaiser}
NO_MODEL = "l3hpc ships no weights: model='weights.h5', or a name: model='sea-64'"
Embedding = tuple[np.ndarray, np.ndarray]


class AudioWarning(UserWarning):
    """Audio that can be embedded, but hardly means what was meant: silent, or under a second."""


def get_embedding(audio: np.ndarray | Sequence[np.ndarray], sr: int | Sequence[int],
                  model: Model | str | Path | None = None, *, center: bool = True,
                  hop_size: float = HOP_S, batch_size: int | None = None,
                  resampler: str = "soxr", on_batch: Callable[[int], None] | None = None
                  ) -> Embedding | tuple[list[np.ndarray], list[np.ndarray]]:
    """Embeddings (T, D) float32 of audio, and the times (T,) float64 of their frames in seconds.

    Parameters
    ----------
    audio: (N,) or (N, C) samples in [-1, 1] or integers, or a list of such arrays.
    sr: samples per second, of all arrays or one number for each.
    model: what ``load_model`` gave (do that once for many calls), or what it takes.
    center: times are centres of windows, the first at 0; otherwise starts of windows.
    hop_size: seconds from one frame to the next.
    batch_size: frames computed at once (None: by memory); it changes no number, except in
        convention A'.
    resampler: to the model's rate: ``soxr`` (the best there is), or ``kaiser_best``, which gives
        the numbers of openl3 and edgel3.
    on_batch: called with the number of frames just finished.

    A list gives a list of embeddings and a list of times; a recording's embeddings are those that
    it has alone. Raises ``AudioError`` for audio that is empty or holds NaN or infinity, and
    ``InputError`` for a wrong shape, rate or hop; warns (``AudioWarning``) of silence and of less
    than a second, which is padded with zeros.
    """
    if model is None:
        raise InputError("no model is named", allowed=NO_MODEL)
    if not isinstance(model, Model):
        model = load_model(model)
    change = resampler_of(resampler)

    def cut(array: np.ndarray, rate: int, where: str | None = None) -> Embedding:
        mono = _mono(array, rate, where)
        return frame_audio(change(mono, rate, model.rate), model.rate, hop_size, center)

    if not isinstance(audio, (np.ndarray, np.generic)) and not _is_samples(audio):
        return _many(list(audio), sr, model, cut, batch_size, on_batch)
    frames, times = cut(np.asarray(audio), _rate(sr))
    return model.embed(frames, batch_size, on_batch), times


def resampler_of(name: str) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """The function of one of ``RESAMPLERS``."""
    if name not in RESAMPLERS:
        raise InputError(f"unknown resampler {name!r}", allowed=nearest(name, RESAMPLERS))
    return RESAMPLERS[name]


def _many(arrays: list[np.ndarray], sr: int | Sequence[int], model: Model,
          cut: Callable[[np.ndarray, int, str], Embedding], batch_size: int | None,
          on_batch: Callable[[int], None] | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rates = [_rate(one) for one in sr] if isinstance(sr, (Sequence, np.ndarray)) else (
        [_rate(sr)] * len(arrays))
    if len(rates) != len(arrays):
        raise InputError(f"{len(rates)} sampling rates for {len(arrays)} arrays",
                         allowed="one for all, or one for each")
    if not arrays:
        return [], []
    framed = []
    for number, (array, rate) in enumerate(zip(arrays, rates, strict=True)):
        framed.append(cut(np.asarray(array), rate, f"audio[{number}]"))
    times = [one for _, one in framed]
    if model.batch_wide:
        return [model.embed(frames, batch_size, on_batch) for frames, _ in framed], times
    together = model.embed(JoinedFrames([frames for frames, _ in framed]), batch_size, on_batch)
    return np.split(together, np.cumsum([len(one) for one in times])[:-1]), times


def _is_samples(audio: object) -> bool:
    """Whether a sequence is of numbers (one recording) and not of arrays."""
    return isinstance(audio, Sequence) and len(audio) > 0 and np.ndim(audio[0]) == 0


def _rate(sr: object) -> int:
    number = np.asarray(sr)
    if number.ndim or number.dtype.kind not in "iuf" or not number >= 1 or number % 1:
        raise InputError(f"no sampling rate is {sr!r:.40}",
                         allowed="a positive whole number of Hz")
    return int(number)


def _mono(audio: np.ndarray, sr: int, where: str | None) -> np.ndarray:
    """One channel, float32."""
    if audio.dtype.kind not in "iuf":
        raise InputError(f"audio of type {audio.dtype}", where=where,
                         allowed="floating-point numbers in [-1, 1], or integers")
    if audio.ndim not in (1, 2):
        raise InputError(f"audio of shape {audio.shape}", where=where,
                         allowed="(samples,) or (samples, channels)")
    if not audio.size:
        raise AudioError("holds no samples", reason="empty", where=where)
    samples = audio if audio.dtype.kind == "f" else to_float(audio)
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    if not np.isfinite(mono).all():
        raise AudioError("holds samples that are not finite numbers", where=where)
    warn_of(len(mono) / sr, bool(mono.any()), where, 7 if where else 6)
    return np.asarray(mono, np.float32)


def warn_of(seconds: float, sounds: bool, where: str | None = None, depth: int = 3) -> None:
    """Warn (``AudioWarning``) of a recording that is silent or shorter than a second.

    depth: of calls from here to the line that the warning names.
    """
    for words in odd(seconds, sounds):
        place = f"{where}: " if where else ""
        warnings.warn(f"{place}{words}", AudioWarning, stacklevel=depth - 1)


def odd(seconds: float, sounds: bool) -> list[str]:
    """What is odd about a recording, in words."""
    silent = [] if sounds else ["every sample is zero"]
    return silent if seconds >= 1.0 else [
        *silent, f"is {seconds:.3f} s long; padded with zeros to one second"]
