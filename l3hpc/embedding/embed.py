"""Audio to embeddings in one call, as openl3 and edgel3 are called: ``get_embedding``.

What they do, this does: mono by averaging, resampling to the model's rate, half a second of zeros
in front (``center``), zeros at the end so that no sample is lost, frames of one second every
``hop_size`` seconds, times that are centres of windows (or their starts). Empty audio is an error,
silence and audio shorter than a second are warnings. What they pass on, this refuses: samples that
are not finite, arrays whose scale or shape is not certain.

``EmbedSettings`` checks the arguments, for Python and for the command line; ``embed_file`` and
``embed_pieces`` embed one sound file piece by piece, in memory for a few seconds of it.
"""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.files import AudioError, Contents, is_hdf5, probe, sound_blocks
from l3hpc.audio.framing import JoinedFrames, cut_frames, frame_blocks, hop_samples
from l3hpc.audio.resample import resample, resample_blocks, resample_kaiser, resample_kaiser_blocks
from l3hpc.audio.samples import MAX_CHANNELS, check_rate, is_number, to_mono
from l3hpc.embedding.model import KERAS_BATCH, Model, load_model
from l3hpc.errors import InputError, check_choice
from l3hpc.models.embedder import check_network

HOP_S = 0.1
LONGEST_HOP_S = 3600.0
RESAMPLERS = {"soxr": resample, "kaiser_best": resample_kaiser}
PIECE = 256  # frames that go to the network at once
BLOCKS = {"soxr": resample_blocks, "kaiser_best": resample_kaiser_blocks}
NO_MODEL = "l3hpc ships no weights: model='weights.h5', or a name: model='sea-64'"
LONG_S = 600  # a longer array is embedded in pieces, as a file is: resampling multiplies its size
BLOCK = 1 << 18  # samples of it at once
AUDIO = "an array, the path of a sound file, or a list of such"


class AudioWarning(UserWarning):
    """Audio that can be embedded, but may not be what was meant: silent, very short, ends early,
    or an array whose scale or shape had to be worked out."""


@dataclass(frozen=True)
class EmbedSettings:
    """How to embed: see ``get_embedding``. Raises ``InputError`` for an invalid value."""

    hop_size: float = HOP_S
    center: bool = True
    batch_size: int | None = None
    overwrite: bool = False
    resampler: str = "soxr"

    def __post_init__(self) -> None:
        hop = self.hop_size
        if not is_number(hop) or not 0 < hop <= LONGEST_HOP_S or not math.isfinite(hop):
            raise InputError(f"a hop of {hop!r:.40}", where="hop_size",
                             allowed=f"seconds: a number above 0, at most {LONGEST_HOP_S:,.0f}")
        size = self.batch_size
        if size is not None and (not isinstance(size, numbers.Integral) or isinstance(size, bool)
                                 or size < 1):
            raise InputError(f"a batch of {size!r:.40} frames", where="batch_size",
                             allowed="a whole number, at least 1; or None: by memory")
        if not isinstance(self.center, (bool, np.bool_)) and self.center not in (0, 1):
            raise InputError(f"center is {self.center!r:.40}", where="center",
                             allowed="True, False")
        get_resampler(self.resampler)


def get_resampler(name: object) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """The function of one of ``RESAMPLERS``."""
    return RESAMPLERS[check_choice("resampler", name, RESAMPLERS, where="resampler")]


def warn_about(words: Iterable[str], where: str | None, depth: int) -> None:
    """Warn (``AudioWarning``) of what is odd about a recording.

    depth: of calls from here to the line that the warning names.
    """
    for one in words:
        place = f"{where}: " if where else ""
        warnings.warn(f"{place}{one}", AudioWarning, stacklevel=depth + 1)


Embedding = tuple[np.ndarray, np.ndarray]


def embed_file(path: str | Path, model: Model, settings: EmbedSettings | None = None,
               on_batch: Callable[[int], None] | None = None) -> Embedding:
    """``get_embedding`` of a sound file, in memory for a few seconds of it.

    Parameters
    ----------
    path
        The sound file.
    model
        From ``load_model``.
    settings
        Hop, centring, batch and resampler; None: the defaults of ``get_embedding``.
    on_batch
        Called with the number of frames just finished.

    Returns
    -------
    embeddings
        (T, D) float32.
    times
        (T,) float64 seconds.

    Raises
    ------
    AudioError
        The file is damaged or empty.
    """
    contents = Contents()
    found = list(embed_pieces(Path(path), model, settings or EmbedSettings(), contents, on_batch))
    warn_about(contents.warnings(), str(path), 2)
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def embed_pieces(path: Path, model: Model, settings: EmbedSettings, contents: Contents,
                 on_batch: Callable[[int], None] | None = None) -> Iterator[Embedding]:
    """Embeddings (n, dim) and times (n,) of a sound file, one piece after the other.

    ``contents`` is filled while it is read. Raises ``AudioError`` for a file that is damaged or
    empty, or whose embeddings are not finite.
    """
    if is_hdf5(path):
        raise AudioError("is an HDF5 file, whose rows are separate recordings", where=str(path),
                         hint="use the step embed for them: l3hpc run embed")
    blocks = sound_blocks(path, contents)
    first = next((block for block in blocks if len(block)), None)
    if first is None:
        raise AudioError("contains no samples", reason="empty", where=str(path))

    def all_blocks() -> Iterator[np.ndarray]:
        yield first
        yield from blocks

    yield from embed_blocks(all_blocks(), contents.rate, model, settings, str(path), on_batch)


def embed_blocks(blocks: Iterable[np.ndarray], rate: int, model: Model, settings: EmbedSettings,
                 where: str | None, on_batch: Callable[[int], None] | None = None
                 ) -> Iterator[Embedding]:
    """Embeddings and times of one signal that comes in blocks of samples, piece by piece."""
    signal = BLOCKS[settings.resampler](blocks, rate, model.rate)
    pieces: Iterable[Embedding] = (
        (frames, times) for _, frames, times in frame_blocks(
            signal, model.rate, settings.hop_size, bool(settings.center), size=PIECE))
    if model.batch_wide:  # an embedding depends on its batch: the batches are those of the whole
        size = int(settings.batch_size or KERAS_BATCH)
        pieces = _regrouped(pieces, size * max(PIECE // size, 1))
    for frames, times in pieces:
        embedding = model.embed(frames, settings.batch_size, on_batch)
        check_embedding(embedding, model, where)
        yield embedding, times


def check_embedding(embedding: np.ndarray, model: Model, where: str | None) -> None:
    """Raise ``AudioError`` for embeddings that hold NaN or infinity, and ``InputError`` where the
    network gives such for any sound."""
    wrong = int((~np.isfinite(embedding)).any(axis=1).sum()) if embedding.size else 0
    if wrong:
        check_network(model, str(model.recognised.file or model.recognised.label))
        raise AudioError(f"gives embeddings that are not finite ({wrong:,} of "
                         f"{len(embedding):,} frames)", where=where,
                         hint="Listen to it: l3hpc data check --listen")


def _regrouped(pieces: Iterable[Embedding], size: int) -> Iterator[Embedding]:
    """The same frames in groups of ``size``; the last may be smaller."""
    held: list[Embedding] = []
    count = 0
    for frames, times in pieces:
        held.append((frames, times))
        count += len(frames)
        while count >= size:
            whole, moments = (np.concatenate(part) for part in zip(*held, strict=True))
            yield whole[:size], moments[:size]
            held, count = [(whole[size:], moments[size:])], count - size
    if count:
        whole, moments = (np.concatenate(part) for part in zip(*held, strict=True))
        yield whole, moments


def get_embedding(audio: Any, sr: int | Sequence[int] | None = None,
                  model: Model | str | Path | None = None, *, center: bool = True,
                  hop_size: float = HOP_S, batch_size: int | None = None,
                  resampler: str = "soxr", on_batch: Callable[[int], None] | None = None
                  ) -> Embedding | tuple[list[np.ndarray], list[np.ndarray]]:
    """Embeddings of audio, and the times of their frames.

    Parameters
    ----------
    audio
        (N,) or (N, C) samples, the path of a sound file, or a list of arrays and paths. Floating
        point in [-1, 1], int16, int8 or uint8; int32 and int64 where the values show how many bits
        they have. (C, N) with at most 64 channels is taken as such, with a warning.
    sr
        Samples per second, of all arrays or one number for each; None for files, which state their
        own.
    model
        A ``Model`` from ``load_model`` (load it once for many calls), or what ``load_model`` takes.
    center
        Times are centres of windows, the first at 0; otherwise starts of windows.
    hop_size
        Seconds from one frame to the next.
    batch_size
        Frames computed at once; None: by memory. It changes no number, except in convention
        ``kapre-0.1-batch``.
    resampler
        To the model's rate: ``soxr`` (the best quality), or ``kaiser_best``, which gives the
        numbers of openl3 and edgel3.
    on_batch
        Called with the number of frames just finished.

    Returns
    -------
    embeddings
        (T, D) float32. For a list, a list of such: each recording's embeddings are those that it
        has alone.
    times
        (T,) float64 seconds. For a list, a list of such.

    Raises
    ------
    AudioError
        Audio that is empty, holds NaN or infinity, or gives embeddings that do.
    InputError
        A wrong shape, type, rate or hop, or no model.

    Warns
    -----
    AudioWarning
        Silence, a peak below 1e-4, less than a second (padded with zeros), a file that ends before
        its stated length, or an array whose scale or shape had to be worked out.
    """
    settings = EmbedSettings(hop_size, center, batch_size, resampler=resampler)
    if model is None:
        raise InputError("no model was given", allowed=NO_MODEL)
    if audio is None:
        raise InputError("no audio was given", where="audio", allowed=AUDIO)
    single = _is_path(audio) or not isinstance(audio, (list, tuple)) or _is_samples(audio)
    audios = [audio] if single else list(audio)
    _refuse_pairs(audios)
    rates = _rates(audios, sr, single)
    loaded = model if isinstance(model, Model) else load_model(model)
    hop_samples(loaded.rate, settings.hop_size)
    names = [None] if single else [f"audio[{number}]" for number in range(len(audios))]
    found = _Request(loaded, settings, on_batch).embed(audios, rates, names)
    if single:
        return found[0]
    return [one for one, _ in found], [one for _, one in found]


class _Request:
    """Model and settings of one call of ``get_embedding``."""

    def __init__(self, model: Model, settings: EmbedSettings,
                 on_batch: Callable[[int], None] | None) -> None:
        self._model, self._settings, self._on_batch = model, settings, on_batch

    def embed(self, audios: Sequence[Any], rates: Sequence[int | None],
              names: Sequence[str | None]) -> list[Embedding]:
        """Embeddings and times of each: arrays together, files one by one."""
        model, size = self._model, self._settings.batch_size
        found: dict[int, Embedding] = {}
        cut: dict[int, tuple[Any, np.ndarray]] = {}
        for number, (audio, rate, name) in enumerate(zip(audios, rates, names, strict=True)):
            if _is_path(audio):
                found[number] = self._file(Path(audio), rate)
            else:
                assert rate is not None
                mono = self._mono(audio, rate, name)
                if len(mono) > LONG_S * rate:
                    found[number] = self._long(mono, rate, name)
                else:
                    cut[number] = self._cut(mono, rate)
        if cut:
            parts = [frames for frames, _ in cut.values()]
            if model.batch_wide or len(parts) == 1:
                arrays = [model.embed(frames, size, self._on_batch) for frames in parts]
            else:
                joined = model.embed(JoinedFrames(parts), size, self._on_batch)
                arrays = np.split(joined, np.cumsum([len(one) for one in parts])[:-1])
            for (number, (_, times)), embedding in zip(cut.items(), arrays, strict=True):
                check_embedding(embedding, model, names[number])
                found[number] = embedding, times
        return [found[number] for number in range(len(audios))]

    def _file(self, path: Path, rate: int | None) -> Embedding:
        if rate is not None and rate != (own := probe(path).rate):
            raise InputError(f"sr is {rate}, but the file has {own} Hz", where=str(path),
                             allowed="sr=None: the rate is read from the file")
        contents = Contents()
        found = _joined(embed_pieces(path, self._model, self._settings, contents, self._on_batch))
        warn_about(contents.warnings(), str(path), 4)
        return found

    def _long(self, mono: np.ndarray, rate: int, name: str | None) -> Embedding:
        blocks = (mono[at:at + BLOCK] for at in range(0, len(mono), BLOCK))
        return _joined(embed_blocks(blocks, rate, self._model, self._settings, name,
                                    self._on_batch))

    def _mono(self, audio: Any, rate: int, name: str | None) -> np.ndarray:
        mono, notes = to_mono(audio, name)
        contents = Contents(rate=rate)
        contents.add(mono)
        warn_about([*notes, *contents.warnings()], name, 4)
        return mono

    def _cut(self, mono: np.ndarray, rate: int) -> tuple[Any, np.ndarray]:
        there = get_resampler(self._settings.resampler)(mono, rate, self._model.rate)
        return cut_frames(there, self._model.rate, self._settings.hop_size,
                          bool(self._settings.center))


def _joined(pieces: Iterable[Embedding]) -> Embedding:
    embeddings, times = zip(*pieces, strict=True)
    return np.concatenate(embeddings), np.concatenate(times)


def _is_path(audio: object) -> bool:
    return isinstance(audio, (str, os.PathLike))


def _is_samples(audio: Sequence[Any]) -> bool:
    """Whether a sequence is of numbers (one recording) and not of arrays or paths."""
    return len(audio) > 0 and not _is_path(audio[0]) and audio[0] is not None \
        and not isinstance(audio[0], (list, tuple)) and np.ndim(audio[0]) == 0


def _refuse_pairs(audios: Sequence[Any]) -> None:
    """(N, C) samples as nested lists are not N recordings of C samples each."""
    most = max((len(audio) for audio in audios if isinstance(audio, (list, tuple))), default=0)
    if len(audios) > MAX_CHANNELS >= most > 0:
        raise InputError(f"a list of {len(audios):,} lists of at most {most} samples",
                         where="audio", allowed="(samples, channels) as an array: "
                                                "numpy.array(audio)")


def _rates(audios: Sequence[Any], sr: Any, single: bool) -> list[int | None]:
    """The rate of each; None for a file, which knows its own."""
    each = not single and isinstance(sr, (Sequence, np.ndarray)) and not isinstance(sr, str)
    stated = list(sr) if each else [sr] * len(audios)
    if len(stated) != len(audios):
        raise InputError(f"{len(stated)} sampling rates for {len(audios)} arrays",
                         allowed="one for all, or one for each")
    return [None if rate is None and _is_path(audio) else check_rate(rate)
            for audio, rate in zip(audios, stated, strict=True)]
