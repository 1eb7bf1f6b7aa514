"""Embed recordings into one file on disk: windows batched across files, in bounded memory.

Other threads read, resample and cut recordings while the network computes: it embeds one or two
blocks while the next is collected and the one before is written. Finished blocks are kept in a
scratch folder as small NPZ files; a killed run loses only the blocks that it was working on. At the
end they become one HDF5 file with the provenance of every row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from l3hpc.arrays.threads import InOrder, read_ahead
from l3hpc.audio.files import AudioError, Contents, is_hdf5, unchanged
from l3hpc.audio.formats import FileState
from l3hpc.audio.framing import JoinedFrames, window_samples
from l3hpc.console.progress import Progress, doing
from l3hpc.datasets.corpus import Recording
from l3hpc.datasets.extraction_blocks import Block, BlocksOnDisk, Finished
from l3hpc.datasets.windows import Piece, read_pieces, window_count
from l3hpc.errors import L3hpcError, command_line, repair_and_repeat, setting
from l3hpc.io.files import digest, write_text
from l3hpc.io.npz import read_npz
from l3hpc.io.values import count_of, in_number
from l3hpc.models.embedder import check_network
from l3hpc.models.engines import BatchesEngine

if TYPE_CHECKING:
    import h5py

BLOCK_BYTES = 25 << 20  # of windows; two blocks are computed while a third fills
FIRST_BLOCK = 64  # windows
GPU_BLOCK_BYTES = 800 << 20  # of windows, which overlap: half as many samples, at a hop of 0.5 s
AHEAD_BYTES = 16 << 20  # of samples; a longer recording is read piece by piece, when it is used
SHOWN_CHANGED = 3  # recordings in a message
READERS = 16  # at most; each holds a recording
CHUNK_ROWS = 1024
COLUMNS = (("recording", "i4"), ("frame", "i4"), ("start", "f8"), ("timestamp", "f8"),
           ("loudness", "f4"))


class EmbeddingNetwork(Protocol):
    """What extraction needs of an embedder (see ``l3hpc.models.embedder.Embedder``)."""

    @property
    def rate(self) -> int: ...
    @property
    def window_s(self) -> float: ...
    @property
    def dim(self) -> int: ...

    def embed(self, frames: JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Windows (n, window_s * rate) → embeddings (n, dim) float32."""


@dataclass
class Extraction:
    """One task's extraction.

    Attributes
    ----------
    network
        Embeds the windows.
    identity
        Of the network, for the file's attributes and to detect scratch files of other settings.
    folder, recordings
        What to embed; paths of recordings are relative to the folder.
    hop, center
        Seconds from one window to the next, and as in ``frame_audio``.
    scratch
        Folder that survives a killed attempt.
    min_seconds, max_failed
        Shorter sound files are skipped; largest share of unusable recordings.
    batch_size, block
        Windows per batch of the network (None: by memory), and windows embedded at once (None: 50
        MiB of samples).
    progress, threads
        Shows how many windows are done; number of threads that read recordings.
    levels
        Whether loudness is measured (else it is NaN).
    settings
        What to set where more recordings may be unusable, as STEP.NAME, for the message.
    """

    network: EmbeddingNetwork
    identity: Mapping[str, Any]
    folder: Path
    recordings: Sequence[Recording]
    hop: float
    center: bool
    scratch: Path
    min_seconds: float = 1.0
    max_failed: float = 0.05
    batch_size: int | None = None
    progress: Progress = field(default_factory=Progress)
    block: int | None = None
    levels: bool = True
    threads: int = 1
    settings: Sequence[str] = ("extract.max_failed",)
    _messages: dict[int, str] = field(default_factory=dict, init=False, repr=False)
    _files: dict[int, FileState] = field(default_factory=dict, init=False, repr=False)
    _unread: int = field(default=0, init=False, repr=False)
    _blocks: BlocksOnDisk = field(init=False, repr=False)
    _threads: InOrder[Block, np.ndarray] = field(init=False, repr=False)
    _progress_lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run(self, target: Path, skipped_file: Path) -> dict[str, Any]:
        """Embed all recordings.

        Parameters
        ----------
        target
            HDF5 file for the embeddings.
        skipped_file
            CSV file for the unusable recordings.

        Returns
        -------
        dict
            ``rows``, ``recordings``, ``skipped``, ``reasons``, ``dim`` and ``windows_per_s``;
            ``changed`` if recordings are not those that were listed.

        Raises
        ------
        L3hpcError
            As soon as more than ``max_failed`` are unusable, or if all are and it is below 1; what
            is finished stays in scratch.
        """
        self._blocks = BlocksOnDisk(self.scratch, digest([
            dict(self.identity), [recording.as_json() for recording in self.recordings],
            str(self.folder), self.hop, self.center, self.min_seconds, self.levels]))
        done, skipped, self._files = self._resumable()
        start = time.monotonic()
        embedded = self._embed_rest(done, skipped)
        seconds = time.monotonic() - start
        write_skipped(skipped_file, [(self.recordings[index].file, reason)
                                     for index, reason in sorted(skipped.items())])
        self._refuse(skipped)
        changed = self._note_changed()
        rows = self._assemble(target, np.array(sorted(skipped), np.int64))
        reasons: dict[str, int] = {}
        for reason in skipped.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return {"rows": rows, "recordings": len(self.recordings) - len(skipped),
                "skipped": len(skipped), "reasons": reasons, "dim": self.network.dim,
                "windows_per_s": round(embedded / seconds, 2) if embedded else None,
                **({"changed": changed} if changed else {})}

    # work ---------------------------------------------------------------------------------------

    def _resumable(self) -> Finished:
        """What earlier attempts have done, without what has to be done again."""
        found = self._blocks.finished()
        again = [index for index, state in found.files.items()
                 if not state.fits(self.folder / self.recordings[index].file)]
        if again:
            # Of one that was read in part, the rest would be that of another recording.
            self._note(f"{self._named(again, 'since the attempt before')}; all of it is read again")
        if self._has_too_many(found.skipped):
            # The attempt before was refused for them: they may have been repaired since.
            again.extend(found.skipped)
        if again:
            self._blocks.forget(again)
            found = self._blocks.finished()
        return found

    def _embed_rest(self, done: dict[int, int | None], skipped: dict[int, str]) -> int:
        """Embed what is not done; returns the number of windows."""
        size = self.block or self._default_block()
        with doing(f"reading the headers of {count_of(len(self.recordings), 'recording')}"):
            counts = [window_count(self.folder / recording.file, self.hop, self.center,
                                   self.network.window_s)
                      for recording in self.recordings]
        self.progress.start("embedding", total=sum(counts), unit="windows")
        processed = {**done, **dict.fromkeys(skipped)}
        self.progress.advance(
            sum(counts[index] if stop is None else stop for index, stop in processed.items()),
            recordings=sum(stop is None for stop in processed.values()))
        block = Block()
        rest = self._openable([index for index in range(len(self.recordings))
                               if done.get(index, 0) is not None and index not in skipped],
                              counts, block, skipped)
        readers = min(max(self.threads, 1), READERS)
        contents = read_ahead(lambda index: self._read(index, done.get(index) or 0, counts[index]),
                              rest, depth=2 * readers, threads=readers)
        # Two blocks at once where the engine computes their batches side by side: with one, cores
        # would wait for its last frames and for the first spectrograms of the next.
        is_shared = isinstance(getattr(self.network, "engine", None), BatchesEngine)
        self._threads = InOrder(self._embed, 2 if is_shared else 1)
        with closing(contents), self._threads:
            return self._embed_recordings(zip(rest, contents, strict=True), done, skipped, counts,
                                          block, size)

    def _openable(self, rest: Sequence[int], counts: Sequence[int], block: Block,
                  skipped: dict[int, str]) -> list[int]:
        """Skip what cannot even be opened, before the network begins; none are left if these are
        too many already."""
        for index in rest:
            if not counts[index] and (error := self._refusal(index)):
                self._skip(index, error, block, skipped)
        openable = [index for index in rest if index not in skipped]
        self._unread = len(openable)
        return [] if self._exceeds(skipped) else openable

    def _default_block(self) -> int:
        window = window_samples(self.network.window_s, self.network.rate)
        return max(64, BLOCK_BYTES // (4 * window))

    def _embed_recordings(self, recordings: Iterable[tuple[int, _Read]],
                          done: Mapping[int, int | None], skipped: dict[int, str],
                          counts: Sequence[int], block: Block, size: int) -> int:
        """Collect windows into blocks of ``size`` and embed them; returns their number."""
        embedded = 0
        # The first blocks are smaller, so that the network starts soon.
        enough = min(size, FIRST_BLOCK)
        for index, result in recordings:
            self._unread -= 1
            taken = done.get(index) or 0
            try:
                if isinstance(result, AudioError):
                    raise result
                source, contents = result
                for piece in source:
                    block.add(index, piece)
                    self._remember(index, block)
                    taken += len(piece.windows)
                    embedded += len(piece.windows)
                    if block.size >= enough:
                        block = self._exchange(block, skipped)
                        enough = min(2 * enough, size)
                        # Its rows so far are not finite: all of it is left out of the result.
                        if index in skipped:
                            break
            except AudioError as error:
                self._skip(index, error, block, skipped)
                self._advance(max(counts[index] - taken, 0))
            if self._exceeds(skipped):
                # Blocks that are being embedded are finished. Of this one only the reasons are
                # kept, for the next attempt to read these recordings again.
                block = block.without_windows()
                break
            if index not in skipped:
                block.complete.append(index)
                self._remember(index, block)
                if length := contents.length_warning():
                    self._note(f"{self.recordings[index].file} {length}")
        if block.has_content:
            self._exchange(block, skipped)
        for finished in self._threads.rest():
            self._write(*finished, skipped)
        return embedded

    def _remember(self, index: int, block: Block) -> None:
        """Keep with a block what its recording is."""
        if (state := self._files.get(index)) is not None:
            block.files[index] = state

    def _advance(self, count: int, **details: Any) -> None:
        """Update the progress, which the embedding thread updates too."""
        with self._progress_lock:
            self.progress.advance(count, **details)

    def _note(self, text: str) -> None:
        with self._progress_lock:
            self.progress.note(text)

    def _note_changed(self) -> int:
        """Log the recordings that are not as they were listed; returns their number."""
        changed = []
        for index, recording in enumerate(self.recordings):
            try:
                status = os.stat(self.folder / recording.file)
            except OSError:  # missing: skipped, or removed after it was read
                continue
            if (status.st_size, status.st_mtime_ns) != (recording.size, recording.mtime_ns):
                changed.append(index)
        if changed:
            self._note(f"{self._named(changed, 'since the submission')}; the next submission "
                       "computes their tasks again")
        return len(changed)

    def _named(self, changed: Sequence[int], since: str) -> str:
        """``2 recordings have changed since the submission: a.wav, b.wav``."""
        names = ", ".join(self.recordings[index].file for index in changed[:SHOWN_CHANGED])
        more = f" and {len(changed) - SHOWN_CHANGED} more" * (len(changed) > SHOWN_CHANGED)
        return (f"{count_of(len(changed), 'recording has', 'recordings have')} changed {since}: "
                f"{names}{more}")

    def _skip(self, index: int, error: AudioError, block: Block, skipped: dict[int, str]) -> None:
        """Leave a recording out of the result, and say why."""
        self._messages[index] = error.message
        skipped[index] = block.skip(index, error.reason)
        text = "; ".join(part for part in (error.message, error.hint) if part)
        self._note(f"skipped {self.recordings[index].file}: {text} ({error.reason})")

    def _read(self, index: int, start: int, count: int) -> _Read:
        """The pieces of a recording, read or (if it is long) to be read; or the error."""
        file = self.recordings[index].file
        seconds = count * (1.0 if is_hdf5(Path(file)) else min(self.hop, 1.0))
        contents = Contents()
        try:
            pieces = self._watched(index, self._pieces(self.recordings[index], start, contents))
            is_short = 4 * seconds * self.network.rate <= AHEAD_BYTES
            # Short ones are decoded by the reading threads; of a long one that would be too much to
            # hold.
            return (list(pieces) if is_short else pieces), contents
        except AudioError as error:
            return error

    def _watched(self, index: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces of a recording, noting what file it was that they were read from."""
        path = self.folder / self.recordings[index].file
        with unchanged(path):
            # Without reading it twice, should this attempt be killed in the middle.
            if state := FileState.of(path, with_digest=False):
                self._files[index] = state
            yield from pieces
            if state := FileState.of(path):
                self._files[index] = state

    def _refusal(self, index: int) -> AudioError | None:
        """Why a recording has not even a first piece; None if it has one, or is empty."""
        try:
            next(self._pieces(self.recordings[index], 0, Contents()), None)
        except AudioError as error:
            return error
        return None

    def _pieces(self, recording: Recording, start: int, contents: Contents) -> Iterator[Piece]:
        path = self.folder / recording.file
        # of one that was missing at the submission: it may have been added since
        if recording.size < 0 and not os.path.exists(path):
            raise AudioError("no such file", where=str(path))
        return read_pieces(path, self.network.rate, self.hop, self.center,
                           window_s=self.network.window_s, levels=self.levels, skip=start,
                           min_seconds=self.min_seconds, contents=contents)

    def _exchange(self, block: Block, skipped: dict[int, str]) -> Block:
        """Start to embed a block, write one that is finished, and return an empty one."""
        if (finished := self._threads.add(block)) is not None:
            self._write(*finished, skipped)
        return Block()

    def _embed(self, block: Block) -> np.ndarray:
        if not block.size:
            return np.empty((0, self.network.dim), np.float32)
        windows = JoinedFrames(block.windows)
        # The samples are the largest part of the memory, and only their embeddings are needed now.
        block.windows.clear()
        return self.network.embed(windows, batch_size=self.batch_size, on_batch=self._on_batch)

    def _on_batch(self, count: int) -> None:
        self._threads.check()  # a signal should not have to wait for whole blocks
        self._advance(count)

    def _write(self, block: Block, embedding: np.ndarray, skipped: dict[int, str]) -> None:
        self._check(embedding, block, skipped)
        self._blocks.append(block, embedding)
        self._advance(0, recordings=self.progress.details.get("recordings", 0)
                      + len(block.complete))

    def _check(self, embedding: np.ndarray, block: Block, skipped: dict[int, str]) -> None:
        """Skip the recordings whose embeddings are not finite, unless the network causes it."""
        invalid = ~np.isfinite(embedding).all(axis=1)
        if not invalid.any():
            return
        self._threads.run(lambda: check_network(self.network))
        which = np.repeat([index for index, _, _ in block.rows],
                          [count for _, _, count in block.rows])
        for index in np.unique(which[invalid]).tolist():
            count = int(invalid[which == index].sum())
            bad = count_of(count, "embedding that is", "embeddings that are")
            error = AudioError(f"gives {bad} not finite", where=self.recordings[index].file)
            self._skip(index, error, block, skipped)
        # Left out of the result, as all rows of these recordings are.
        embedding[invalid] = 0.0

    def _exceeds(self, skipped: Mapping[int, str]) -> bool:
        return len(skipped) > self.max_failed * len(self.recordings)

    def _has_too_many(self, skipped: Mapping[int, str]) -> bool:
        are_all = len(skipped) == len(self.recordings)
        return bool(skipped) and (self._exceeds(skipped) or are_all and self.max_failed < 1)

    def _refuse(self, skipped: Mapping[int, str]) -> None:
        """Raise ``L3hpcError`` where too many recordings are unusable."""
        if not self._has_too_many(skipped):
            return
        shown = dict(sorted(skipped.items())[:5])
        first = min(shown)
        shown[first] = self._messages.get(first, shown[first]).rstrip(".")
        names = [f"{self.recordings[index].file} ({reason})" for index, reason in shown.items()]
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        unread, find = "", ""
        if self._unread:
            unread = in_number(f" ([one more was|{self._unread:,} more were] not read)",
                               self._unread)
            find = f" ({command_line('data', 'check', self.folder, '--listen')} finds all)"
        raise L3hpcError(
            f"{len(skipped)} of {len(self.recordings)} recordings cannot be used{unread}: "
            f"{', '.join(names)}{more}",
            where=str(self.folder),
            allowed=f"at most {self.max_failed:.0%} may be unusable ({setting(self.settings[0])}), "
                    "and not all",
            hint=repair_and_repeat(self.settings, find))

    # result -------------------------------------------------------------------------------------

    def _assemble(self, target: Path, skipped: np.ndarray) -> int:
        """Join the blocks into one file without the skipped recordings; returns its rows."""
        import h5py

        parts = self._blocks.paths()
        rows = 0
        for path in parts:
            # Counted first, because the data sets below have their size from the start.
            rows += int((~np.isin(read_npz(path, ["recording"])["recording"], skipped)).sum())
        moments = np.array([np.nan if recording.timestamp is None else recording.timestamp
                            for recording in self.recordings])
        with h5py.File(target, "w") as file:
            shape = (rows, self.network.dim)
            data = file.create_dataset("l3_embedding", shape, "f4",
                                       chunks=(min(CHUNK_ROWS, rows), shape[1]) if rows else None)
            columns = {name: file.create_dataset(name, (rows,), kind) for name, kind in COLUMNS}
            self._describe(file, moments)
            at = 0
            for path in parts:
                part = read_npz(path)
                which = part["recording"]
                keep = ~np.isin(which, skipped)
                stop = at + int(keep.sum())
                if stop == at:
                    continue
                data[at:stop] = part["embedding"][keep]
                for name in ("recording", "frame", "start", "loudness"):
                    columns[name][at:stop] = part[name][keep]
                columns["timestamp"][at:stop] = (moments[which] + part["start"])[keep]
                at = stop
            self._calibrate(file)
        return rows

    def _describe(self, file: h5py.File, moments: np.ndarray) -> None:
        """Write what the file says about its recordings, the network and the windows."""
        import h5py

        table = file.create_group("recordings")
        for name in ("file", "sensor"):
            table.create_dataset(name, dtype=h5py.string_dtype(), data=[
                getattr(recording, name) for recording in self.recordings])
        table.create_dataset("timestamp", data=moments)
        # What training reads must be what was embedded: pair_cache compares.
        states = np.full((len(self.recordings), len(FileState._fields)), -1, np.int64)
        for index, state in self._files.items():
            if state.digest is not None:  # of others, which were skipped, there are no rows
                states[index] = np.array(state)
        for name, values in zip(FileState._fields, states.T, strict=True):
            table.create_dataset(name, data=values)
        file.attrs["teacher"] = json.dumps(dict(self.identity))
        file.attrs["rate"] = self.network.rate
        file.attrs["hop"] = self.hop
        file.attrs["center"] = self.center
        file.attrs["window"] = self.network.window_s
        file.attrs["audio"] = str(Path(self.folder).absolute())

    def _calibrate(self, file: h5py.File) -> None:
        """Shift the levels of a recording so that their mean is what its sensor measured."""
        measured = {index: recording.level for index, recording in enumerate(self.recordings)
                    if recording.level is not None}
        if not measured:
            return
        which, loudness = file["recording"][()], file["loudness"][()].astype(np.float64)
        count = len(self.recordings)
        # Averaged as energy: a sound level meter's value for a recording is one, too.
        energy = np.bincount(which, 10 ** (loudness / 10), count) / np.maximum(
            np.bincount(which, minlength=count), 1)
        shift = np.zeros(count)
        for index, level in measured.items():
            if energy[index] > 0:
                shift[index] = level - 10 * np.log10(energy[index])
        file["loudness"][...] = loudness + shift[which]


_Read = tuple[Iterable[Piece], Contents] | AudioError  # pieces, or why there are none


def write_skipped(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write ``skipped.csv``.

    Parameters
    ----------
    path
        The file.
    rows
        File and reason of each skipped recording.
    """
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([("file", "reason"), *rows])
    write_text(path, stream.getvalue())
