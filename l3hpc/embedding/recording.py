"""One recording in a file to embeddings, piece by piece: memory for a few seconds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from l3hpc.audio.files import AudioError, Contents, is_hdf5, sound_blocks
from l3hpc.audio.framing import frame_blocks
from l3hpc.audio.kaiser import resample_kaiser_blocks
from l3hpc.audio.resample import resample_blocks
from l3hpc.embedding.model import KERAS_BATCH, Model
from l3hpc.embedding.settings import Settings, warn_of
from l3hpc.models.embedder import check_network

PIECE = 256  # frames that go to the network at once
BLOCKS = {"soxr": resample_blocks, "kaiser_best": resample_kaiser_blocks}
Embedding = tuple[np.ndarray, np.ndarray]


def embed_file(path: str | Path, model: Model, settings: Settings | None = None,
               on_batch: Callable[[int], None] | None = None) -> Embedding:
    """``get_embedding`` of a sound file, read in memory for a few seconds of it.

    Raises ``AudioError`` for a file that is damaged or empty; warns as ``get_embedding`` does.
    """
    contents = Contents()
    found = list(embed_pieces(Path(path), model, settings or Settings(), contents, on_batch))
    warn_of(contents.odd(), str(path), 2)
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def embed_pieces(path: Path, model: Model, settings: Settings, contents: Contents,
                 on_batch: Callable[[int], None] | None = None) -> Iterator[Embedding]:
    """Embeddings (n, dim) and times (n,) of a sound file, one piece after the other.

    ``contents`` is filled while it is read. Raises ``AudioError`` for a file that is damaged or
    empty, or whose embeddings are not finite.
    """
    if is_hdf5(path):
        raise AudioError("is HDF5, whose rows are separate recordings", where=str(path),
                         hint="the step embed reads them: l3hpc run embed")
    blocks = sound_blocks(path, contents)
    first = next((block for block in blocks if len(block)), None)
    if first is None:
        raise AudioError("holds no samples", reason="empty", where=str(path))

    def all_blocks() -> Iterator[np.ndarray]:
        yield first
        yield from blocks

    yield from embed_blocks(all_blocks(), contents.rate, model, settings, str(path), on_batch)


def embed_blocks(blocks: Iterable[np.ndarray], rate: int, model: Model, settings: Settings,
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
