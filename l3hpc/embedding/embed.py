"""From audio to embeddings in one call: ``get_embedding``, called as in openl3 and edgel3.

As in these packages, channels are averaged, the signal is resampled to the rate of the model,
``center`` adds half a frame of zeros at the start, zeros at the end keep every sample, frames (of
one second, or as long as the model's) are cut every ``hop_size`` seconds, and times are the centres
of frames (or their starts). Empty audio is an error; silence and audio shorter than a second are
warnings. Unlike in these packages, samples that are not finite and arrays of ambiguous scale or
shape are refused.

``EmbedSettings`` checks the arguments, for Python and for the command line. ``embed_pieces`` embeds
a sound file piece by piece, with memory for a few seconds of it.
"""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import ArrayLike

from l3hpc.arrays.threads import take_ahead
from l3hpc.audio.files import AudioError, Contents, is_hdf5, probe, sound_blocks
from l3hpc.audio.framing import CutFrames, JoinedFrames, cut_frames, frame_blocks, hop_samples
from l3hpc.audio.resample import resample, resample_blocks, resample_kaiser, resample_kaiser_blocks
from l3hpc.audio.samples import MAX_CHANNELS, check_rate, is_number, to_mono
from l3hpc.embedding.model import KERAS_BATCH, Model, load_model
from l3hpc.errors import InputError, check_choice, command_line
from l3hpc.models.embedder import check_network

HOP_S = 0.1
LONGEST_HOP_S = 3600.0
RESAMPLERS = {"soxr": resample, "kaiser_best": resample_kaiser}
BLOCK_RESAMPLERS = {"soxr": resample_blocks, "kaiser_best": resample_kaiser_blocks}
PIECE = 256  # frames that are embedded at once, about
PIECE_BYTES = 24 << 20  # of their samples, at most, about
NO_MODEL = "l3hpc ships no weights: model='weights.h5', or a name: model='sea-64'"
# Seconds; longer arrays are embedded in pieces, as files are, because resampling needs several
# times their memory.
LONG_S = 600
BLOCK = 1 << 18  # samples of a long array at once
AUDIO = "an array, the path of a sound file, or a list of these"
Audio: TypeAlias = ArrayLike | os.PathLike[str]  # samples, or the path of a file
Embedding: TypeAlias = tuple[np.ndarray, np.ndarray]  # embeddings (T, D) and times (T,)
_Piece: TypeAlias = tuple[np.ndarray | JoinedFrames, np.ndarray]  # frames and times (T,)


class AudioWarning(UserWarning):
    """Audio that can be embedded but may be wrong: silent, very short, incomplete, or an array
    whose scale or shape had to be inferred."""


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of an embedding, checked.

    Parameters
    ----------
    hop_size, center, batch_size, resampler
        As for ``get_embedding``.
    overwrite
        Embed recordings again whose output file exists.

    Raises
    ------
    InputError
        A value is not valid.
    """

    hop_size: float = HOP_S
    center: bool = True
    batch_size: int | None = None
    overwrite: bool = False
    resampler: str = "soxr"

    def __post_init__(self) -> None:
        hop = self.hop_size
        if not is_number(hop) or not 0 < hop <= LONGEST_HOP_S or not math.isfinite(hop):
            raise InputError(f"hop_size is {hop!r:.40}", where="hop_size",
                             allowed=f"a number of seconds above 0, at most {LONGEST_HOP_S:,.0f}")
        size = self.batch_size
        if size is not None and (not isinstance(size, numbers.Integral) or isinstance(size, bool)
                                 or size < 1):
            raise InputError(f"batch_size is {size!r:.40}", where="batch_size",
                             allowed="a whole number, at least 1; or None")
        if not isinstance(self.center, (bool, np.bool_)) and self.center not in (0, 1):
            raise InputError(f"center is {self.center!r:.40}", where="center",
                             allowed="True, False")
        get_resampler(self.resampler)


def get_resampler(name: object) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Return one of ``RESAMPLERS``; an ``InputError`` for any other name."""
    return RESAMPLERS[check_choice("resampler", name, RESAMPLERS, where="resampler")]


def warn_about(messages: Iterable[str], where: str | None, depth: int) -> None:
    """Issue an ``AudioWarning`` for each message about a recording.

    Parameters
    ----------
    messages
        From ``Contents.warnings`` and ``to_mono``.
    where
        The recording; None for the only one.
    depth
        The number of calls from here up to the caller's line, which the warning shows.
    """
    prefix = f"{where}: " if where else ""
    for message in messages:
        warnings.warn(f"{prefix}{message}", AudioWarning, stacklevel=depth + 1)


def embed_pieces(path: Path, model: Model, settings: EmbedSettings, contents: Contents,
                 on_batch: Callable[[int], None] | None = None) -> Iterator[Embedding]:
    """Embed a sound file piece by piece.

    Parameters
    ----------
    path
        The sound file.
    model
        From ``load_model``.
    settings
        Hop, centring, batch and resampler.
    contents
        Filled with facts about the recording while it is read.
    on_batch
        Called with the number of frames of each finished batch.

    Yields
    ------
    embeddings
        (n, D) float32.
    times
        (n,) float64 seconds.

    Raises
    ------
    AudioError
        The file is damaged or empty, or its embeddings are not finite.
    """
    if is_hdf5(path):
        raise AudioError("is an HDF5 file, whose rows are separate recordings", where=str(path),
                         hint=f"embed them with the step embed: {command_line('run', 'embed')}")
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
    """Embed a signal that comes in blocks, piece by piece.

    Parameters
    ----------
    blocks
        Blocks (n,) of samples.
    rate
        Hz.
    model, settings, on_batch
        As for ``embed_pieces``.
    where
        The recording, for messages.

    Yields
    ------
    embeddings, times
        As for ``embed_pieces``.

    Raises
    ------
    AudioError
        The embeddings are not finite.
    """
    signal = BLOCK_RESAMPLERS[settings.resampler](blocks, rate, model.rate)
    cut: Iterable[Embedding] = (
        (frames, times) for _, frames, times in frame_blocks(
            signal, model.rate, settings.hop_size, bool(settings.center), model.window_s,
            size=PIECE))
    pieces: Iterable[_Piece]
    if model.batch_wide:  # embeddings depend on the batch, so use the batches of the whole signal
        size = int(settings.batch_size or KERAS_BATCH)
        pieces = _regrouped(cut, size * max(PIECE // size, 1))
    else:
        # Half as much where two pieces are computed at a time.
        share = 2 if model.shares_threads else 1
        pieces = _in_pieces(cut, PIECE // share, int(PIECE_BYTES / share / 4 / model.rate))
    # The next piece is read and resampled while the network computes.
    ready = take_ahead(pieces)
    with closing(ready):
        for embedding, times in model.embed_each(ready, settings.batch_size, on_batch):
            check_embedding(embedding, model, where)
            yield embedding, times


def check_embedding(embedding: np.ndarray, model: Model, where: str | None) -> None:
    """Check that embeddings are finite.

    Parameters
    ----------
    embedding
        (n, D) embeddings.
    model
        The model that computed them.
    where
        The recording, for the message.

    Raises
    ------
    AudioError
        Some contain NaN or infinity.
    InputError
        The network gives such embeddings for any sound.
    """
    wrong = int((~np.isfinite(embedding)).any(axis=1).sum()) if embedding.size else 0
    if wrong:
        check_network(model, str(model.recognised.file or model.recognised.label))
        raise AudioError(f"has embeddings that are not finite ({wrong:,} of "
                         f"{len(embedding):,} frames)", where=where,
                         hint=f"Check the audio: {command_line('data', 'check', '--listen')}")


def _in_pieces(cut: Iterable[Embedding], most: int, seconds: float) -> Iterator[_Piece]:
    """Frames of several blocks together: ``most``, or what ``seconds`` of the signal have.

    A block has a few dozen frames, and at the end of each the network would wait.
    """
    frames: list[np.ndarray] = []
    times: list[np.ndarray] = []
    count = 0
    for some, their_times in cut:
        frames.append(some)
        times.append(their_times)
        count += len(some)
        if count >= most or their_times[-1] - times[0][0] >= seconds:
            yield JoinedFrames(frames), np.concatenate(times)
            frames, times, count = [], [], 0
    if frames:
        yield JoinedFrames(frames), np.concatenate(times)


def _regrouped(pieces: Iterable[Embedding], size: int) -> Iterator[Embedding]:
    """The same frames in groups of ``size``; the last may be smaller."""
    held: list[Embedding] = []
    count = 0
    for frames, times in pieces:
        held.append((frames, times))
        count += len(frames)
        while count >= size:
            frames, times = _joined(held)
            yield frames[:size], times[:size]
            held, count = [(frames[size:], times[size:])], count - size
    if count:
        yield _joined(held)


def get_embedding(audio: Audio | Sequence[Audio], sr: int | Sequence[int] | None = None,
                  model: Model | str | os.PathLike[str] | None = None, *, center: bool = True,
                  hop_size: float = HOP_S, batch_size: int | None = None,
                  resampler: str = "soxr", on_batch: Callable[[int], None] | None = None
                  ) -> Embedding | tuple[list[np.ndarray], list[np.ndarray]]:
    """Compute the embeddings of audio.

    Parameters
    ----------
    audio
        (N,) or (N, C) samples, the path of a sound file, or a list of arrays and paths. Floating
        point in [-1, 1], int16, int8 or uint8; int32 and int64 if the values show their number of
        bits. (C, N) with at most 64 channels is accepted, with a warning.
    sr
        Sampling rate in Hz, of all arrays or one for each; None for files, which state their own.
    model
        A ``Model`` from ``load_model`` (load it once for many calls), or its first argument.
    center
        Times are centres of frames, the first at 0; otherwise starts of frames.
    hop_size
        Seconds from one frame to the next, above 0, at most 3600.
    batch_size
        Frames per batch; None for as many as memory allows. Embeddings do not depend on it, except
        in convention ``kapre-0.1-batch``.
    resampler
        ``soxr`` (the best quality), or ``kaiser_best``, which reproduces openl3 and edgel3.
    on_batch
        Called with the number of frames of each finished batch.

    Returns
    -------
    embeddings
        (T, D) float32, or a list of these for a list. Embeddings of a recording do not depend on
        the others in the list.
    times
        (T,) float64 seconds, or a list of these for a list.

    Raises
    ------
    AudioError
        Audio is empty, or it or its embeddings contain NaN or infinity.
    InputError
        A wrong shape, type, rate or hop, or no model.

    Warns
    -----
    AudioWarning
        Silence, a peak below 1e-4, less than a second (padded with zeros), a file that ends before
        its stated length, or an array whose scale or shape had to be inferred.

    References
    ----------
    A. L. Cramer, H.-H. Wu, J. Salamon and J. P. Bello, "Look, listen, and learn more: design
    choices for deep audio embeddings", ICASSP 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc import get_embedding, load_model
    >>> model = load_model("untrained", engine="ncnn")  # or a file, or a name such as "sea-64"
    >>> noise = np.random.default_rng(0).uniform(-0.1, 0.1, 48000)
    >>> embeddings, times = get_embedding(noise, 48000, model, hop_size=0.5)
    >>> embeddings.shape, times.tolist()
    ((2, 512), [0.0, 0.5])
    """
    settings = EmbedSettings(hop_size, center, batch_size, resampler=resampler)
    if model is None:
        raise InputError("no model was given", allowed=NO_MODEL)
    if audio is None:
        raise InputError("no audio was given", where="audio", allowed=AUDIO)
    single = _is_path(audio) or not isinstance(audio, (list, tuple)) or _is_samples(audio)
    audios: list[object] = [audio] if single else list(cast("Sequence[object]", audio))
    _refuse_pairs(audios)
    rates = _rates(audios, sr, single)
    loaded = model if isinstance(model, Model) else load_model(model)
    hop_samples(loaded.rate, settings.hop_size)
    names = [None] if single else [f"audio[{number}]" for number in range(len(audios))]
    results = _Request(loaded, settings, on_batch).embed(audios, rates, names)
    if single:
        return results[0]
    return [embeddings for embeddings, _ in results], [times for _, times in results]


class _Request:
    """Model and settings of one call of ``get_embedding``."""

    def __init__(self, model: Model, settings: EmbedSettings,
                 on_batch: Callable[[int], None] | None) -> None:
        self._model, self._settings, self._on_batch = model, settings, on_batch

    def embed(self, audios: Sequence[object], rates: Sequence[int | None],
              names: Sequence[str | None]) -> list[Embedding]:
        """Embed files and long arrays one by one, and all other arrays together."""
        model, size = self._model, self._settings.batch_size
        results: dict[int, Embedding] = {}
        cut: dict[int, tuple[np.ndarray | CutFrames, np.ndarray]] = {}
        for number, (audio, rate, name) in enumerate(zip(audios, rates, names, strict=True)):
            if _is_path(audio):
                results[number] = self._file(Path(audio), rate)
            else:
                assert rate is not None
                mono = self._mono(audio, rate, name)
                if len(mono) > LONG_S * rate:
                    results[number] = self._long(mono, rate, name)
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
                results[number] = embedding, times
        return [results[number] for number in range(len(audios))]

    def _file(self, path: Path, rate: int | None) -> Embedding:
        if rate is not None and rate != (stated := probe(path).rate):
            raise InputError(f"sr is {rate}, but the file has {stated} Hz", where=str(path),
                             allowed="sr=None: the rate is read from the file")
        contents = Contents()
        result = _joined(embed_pieces(path, self._model, self._settings, contents, self._on_batch))
        warn_about(contents.warnings(), str(path), 4)
        return result

    def _long(self, mono: np.ndarray, rate: int, name: str | None) -> Embedding:
        blocks = (mono[at:at + BLOCK] for at in range(0, len(mono), BLOCK))
        return _joined(embed_blocks(blocks, rate, self._model, self._settings, name,
                                    self._on_batch))

    def _mono(self, audio: object, rate: int, name: str | None) -> np.ndarray:
        mono, notes = to_mono(audio, name)
        contents = Contents(rate=rate)
        contents.add(mono)
        warn_about([*notes, *contents.warnings()], name, 4)
        return mono

    def _cut(self, mono: np.ndarray, rate: int) -> tuple[np.ndarray | CutFrames, np.ndarray]:
        resampled = get_resampler(self._settings.resampler)(mono, rate, self._model.rate)
        return cut_frames(resampled, self._model.rate, self._settings.hop_size,
                          bool(self._settings.center), self._model.window_s)


def _joined(pieces: Iterable[Embedding]) -> Embedding:
    embeddings, times = zip(*pieces, strict=True)
    return np.concatenate(embeddings), np.concatenate(times)


def _is_path(audio: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(audio, (str, os.PathLike))


def _is_samples(audio: Sequence[object]) -> bool:
    """Whether a sequence contains numbers (one recording) and not arrays or paths."""
    return len(audio) > 0 and not _is_path(audio[0]) and audio[0] is not None \
        and not isinstance(audio[0], (list, tuple)) and np.ndim(cast("ArrayLike", audio[0])) == 0


def _refuse_pairs(audios: Sequence[object]) -> None:
    """Refuse (N, C) samples in nested lists, which would be N recordings of C samples each."""
    most = max((len(audio) for audio in audios if isinstance(audio, (list, tuple))), default=0)
    if len(audios) > MAX_CHANNELS >= most > 0:
        raise InputError(f"audio is a list of {len(audios):,} lists of at most {most} samples",
                         where="audio", allowed="(samples, channels) as an array: "
                                                "numpy.array(audio)")


def _rates(audios: Sequence[object], sr: object, single: bool) -> list[int | None]:
    """The sampling rate of each recording; None for a file without one."""
    if not single and isinstance(sr, (Sequence, np.ndarray)) and not isinstance(sr, str):
        stated = list(sr)
    else:
        stated = [sr] * len(audios)
    if len(stated) != len(audios):
        raise InputError(f"there are {len(stated)} sampling rates for {len(audios)} arrays",
                         allowed="one for all, or one for each")
    return [None if rate is None and _is_path(audio) else check_rate(rate)
            for audio, rate in zip(audios, stated, strict=True)]
