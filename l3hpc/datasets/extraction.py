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
from l3hpc.audio.files import AudioError, Contents, is_hdf5
from l3hpc.audio.framing import JoinedFrames, window_samples
from l3hpc.console.progress import Progress, doing
from l3hpc.datasets.corpus import Recording
from l3hpc.datasets.windows import Piece, read_pieces, window_count
from l3hpc.errors import L3hpcError
from l3hpc.io.files import digest, read_json, write_bytes, write_json, write_text
from l3hpc.io.npz import read_npz
from l3hpc.io.values import count_of
from l3hpc.models.embedder import check_network
from l3hpc.models.engines import BatchesEngine

if TYPE_CHECKING:
    import h5py

BLOCK_BYTES = 25 << 20  # of windows; two blocks are computed while a third fills
FIRST_BLOCK = 64  # windows
GPU_BLOCK_BYTES = 800 << 20  # of windows, which overlap: half as many samples, at a hop of 0.5 s
AHEAD_BYTES = 16 << 20  # of samples; a longer recording is read piece by piece, when it is used
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
    _threads: InOrder[_Block, np.ndarray] = field(init=False, repr=False)
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
            ``rows``, ``recordings``, ``skipped``, ``reasons``, ``dim`` and ``windows_per_s``.

        Raises
        ------
        L3hpcError
            If more than ``max_failed`` are unusable; what is finished stays in scratch.
        """
        self._prepare_scratch()
        done, skipped = self._finished()
        if self._has_too_many(skipped):
            # The attempt before was refused for them: they may have been repaired since.
            self._forget(skipped)
            done, skipped = self._finished()
        start = time.monotonic()
        embedded = self._embed_rest(done, skipped)
        seconds = time.monotonic() - start
        write_skipped(skipped_file, [(self.recordings[index].file, reason)
                                     for index, reason in sorted(skipped.items())])
        self._refuse(skipped)
        rows = self._assemble(target, np.array(sorted(skipped), np.int64))
        reasons: dict[str, int] = {}
        for reason in skipped.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return {"rows": rows, "recordings": len(self.recordings) - len(skipped),
                "skipped": len(skipped), "reasons": reasons, "dim": self.network.dim,
                "windows_per_s": round(embedded / seconds, 2) if embedded else None}

    # scratch ------------------------------------------------------------------------------------

    def _prepare_scratch(self) -> None:
        settings = {"settings": digest([
            dict(self.identity), [recording.as_json() for recording in self.recordings],
            str(self.folder),
            self.hop, self.center, self.min_seconds, self.levels])}
        self.scratch.mkdir(parents=True, exist_ok=True)
        state = self.scratch / "extraction.json"
        if not state.is_file() or read_json(state) != settings:
            # Blocks of other settings would be joined with the new ones into one matrix.
            for old in self.scratch.glob("part-*.npz"):
                old.unlink()
            write_json(state, settings)

    def _parts(self) -> list[Path]:
        return sorted(self.scratch.glob("part-*.npz"))

    def _finished(self) -> tuple[dict[int, int | None], dict[int, str]]:
        """Windows done per recording (None: all of it), and reasons of those that were skipped."""
        done: dict[int, int | None] = {}
        skipped: dict[int, str] = {}
        for path in self._parts():
            state = json.loads(str(read_npz(path, ["told"])["told"]))
            for index, stop in state["windows"]:
                done[index] = stop
            for index in state["complete"]:
                done[index] = None
            skipped.update({int(index): reason for index, reason in state["skipped"].items()})
        return done, skipped

    def _forget(self, indices: Iterable[int]) -> None:
        """Remove recordings from the finished blocks, so that they are read again."""
        forgotten = set(indices)
        # From the last block on: if this is interrupted, what is left is the beginning of each.
        for path in reversed(self._parts()):
            part = read_npz(path)
            state = json.loads(str(part["told"]))
            state["windows"] = [each for each in state["windows"] if each[0] not in forgotten]
            state["complete"] = [index for index in state["complete"] if index not in forgotten]
            state["skipped"] = {index: reason for index, reason in state["skipped"].items()
                                if int(index) not in forgotten}
            keep = ~np.isin(part["recording"], list(forgotten))
            columns = {name: values[keep] for name, values in part.items() if name != "told"}
            self._write_part(path, columns, state)

    def _write_part(self, path: Path, columns: Mapping[str, np.ndarray], state: object) -> None:
        stream = io.BytesIO()
        # One file per block: rows and the state that counts them appear together.
        arrays: dict[str, Any] = {**columns, "told": np.array(json.dumps(state))}
        np.savez(stream, **arrays)
        write_bytes(path, stream.getvalue())

    # work ---------------------------------------------------------------------------------------

    def _embed_rest(self, done: dict[int, int | None], skipped: dict[int, str]) -> int:
        """Embed what is not done; returns the number of windows."""
        block = self.block or self._default_block()
        with doing(f"reading the headers of {count_of(len(self.recordings), 'recording')}"):
            counts = [window_count(self.folder / recording.file, self.hop, self.center,
                                   self.network.window_s)
                      for recording in self.recordings]
        self.progress.start("embedding", total=sum(counts), unit="windows")
        processed = {**done, **dict.fromkeys(skipped)}
        self.progress.advance(
            sum(counts[index] if stop is None else stop for index, stop in processed.items()),
            recordings=sum(stop is None for stop in processed.values()))
        rest = [index for index in range(len(self.recordings))
                if done.get(index, 0) is not None and index not in skipped]
        readers = min(max(self.threads, 1), READERS)
        contents = read_ahead(lambda index: self._read(index, done.get(index) or 0, counts[index]),
                              rest, depth=2 * readers, threads=readers)
        # Two blocks at once where the engine computes their batches side by side: with one, cores
        # would wait for its last frames and for the first spectrograms of the next.
        is_shared = isinstance(getattr(self.network, "engine", None), BatchesEngine)
        self._threads = InOrder(self._embed, 2 if is_shared else 1)
        with closing(contents), self._threads:
            return self._embed_recordings(zip(rest, contents, strict=True), done, skipped, counts,
                                          block)

    def _default_block(self) -> int:
        window = window_samples(self.network.window_s, self.network.rate)
        return max(64, BLOCK_BYTES // (4 * window))

    def _embed_recordings(self, recordings: Iterable[tuple[int, _Read]],
                          done: Mapping[int, int | None], skipped: dict[int, str],
                          counts: Sequence[int], size: int) -> int:
        """Collect windows into blocks of ``size`` and embed them; returns their number."""
        block, embedded = _Block(), 0
        # The first blocks are smaller, so that the network starts soon.
        enough = min(size, FIRST_BLOCK)
        for index, result in recordings:
            taken = done.get(index) or 0
            try:
                if isinstance(result, AudioError):
                    raise result
                source, contents = result
                for piece in source:
                    block.add(index, piece)
                    taken += len(piece.windows)
                    embedded += len(piece.windows)
                    if block.size >= enough:
                        block = self._exchange(block, skipped)
                        enough = min(2 * enough, size)
                        # Its rows so far are not finite: all of it is left out of the result.
                        if index in skipped:
                            break
            except AudioError as error:
                self._messages[index] = error.message
                skipped[index] = block.skip(index, error.reason)
                self._report_skipped(index, error)
                self._advance(max(counts[index] - taken, 0))
                continue
            if index not in skipped:
                block.complete.append(index)
                if length := contents.length_warning():
                    self._note(f"{self.recordings[index].file} {length}")
        if block.has_content:
            self._exchange(block, skipped)
        for finished in self._threads.rest():
            self._write(*finished, skipped)
        return embedded

    def _advance(self, count: int, **details: Any) -> None:
        """Update the progress, which the embedding thread updates too."""
        with self._progress_lock:
            self.progress.advance(count, **details)

    def _note(self, text: str) -> None:
        with self._progress_lock:
            self.progress.note(text)

    def _report_skipped(self, index: int, error: AudioError) -> None:
        text = "; ".join(part for part in (error.message, error.hint) if part)
        self._note(f"skipped {self.recordings[index].file}: {text} ({error.reason})")

    def _read(self, index: int, start: int, count: int) -> _Read:
        """The pieces of a recording, read or (if it is long) to be read; or the error."""
        file = self.recordings[index].file
        seconds = count * (1.0 if is_hdf5(Path(file)) else min(self.hop, 1.0))
        contents = Contents()
        try:
            pieces = self._pieces(self.recordings[index], start, contents)
            is_short = 4 * seconds * self.network.rate <= AHEAD_BYTES
            # Short ones are decoded by the reading threads; of a long one that would be too much to
            # hold.
            return (list(pieces) if is_short else pieces), contents
        except AudioError as error:
            return error

    def _pieces(self, recording: Recording, start: int, contents: Contents) -> Iterator[Piece]:
        path = self.folder / recording.file
        # of one that was missing at the submission: it may have been added since
        if recording.size < 0 and not os.path.exists(path):
            raise AudioError("no such file", where=str(path))
        return read_pieces(path, self.network.rate, self.hop, self.center,
                           window_s=self.network.window_s, levels=self.levels, skip=start,
                           min_seconds=self.min_seconds, contents=contents)

    def _exchange(self, block: _Block, skipped: dict[int, str]) -> _Block:
        """Start to embed a block, write one that is finished, and return an empty one."""
        if (finished := self._threads.add(block)) is not None:
            self._write(*finished, skipped)
        return _Block()

    def _embed(self, block: _Block) -> np.ndarray:
        if not block.size:
            return np.empty((0, self.network.dim), np.float32)
        windows = JoinedFrames(block.windows)
        # The samples are the largest part of the memory, and only their embeddings are needed now.
        block.windows.clear()
        return self.network.embed(windows, batch_size=self.batch_size, on_batch=self._on_batch)

    def _on_batch(self, count: int) -> None:
        self._threads.check()  # a signal should not have to wait for whole blocks
        self._advance(count)

    def _write(self, block: _Block, embedding: np.ndarray, skipped: dict[int, str]) -> None:
        self._check(embedding, block, skipped)
        parts = self._parts()
        number = int(parts[-1].stem.split("-")[1]) + 1 if parts else 0
        self._write_part(self.scratch / f"part-{number:06d}.npz",
                         {"embedding": embedding, **block.columns()}, block.as_json())
        self._advance(0, recordings=self.progress.details.get("recordings", 0)
                      + len(block.complete))

    def _check(self, embedding: np.ndarray, block: _Block, skipped: dict[int, str]) -> None:
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
            self._messages[index] = error.message
            skipped[index] = block.skip(index, error.reason)
            self._report_skipped(index, error)
        # Left out of the result, as all rows of these recordings are.
        embedding[invalid] = 0.0

    def _has_too_many(self, skipped: Mapping[int, str]) -> bool:
        total = len(self.recordings)
        return bool(skipped) and (len(skipped) > self.max_failed * total or len(skipped) == total)

    def _refuse(self, skipped: Mapping[int, str]) -> None:
        """Raise ``L3hpcError`` where too many recordings are unusable."""
        if not self._has_too_many(skipped):
            return
        shown = dict(sorted(skipped.items())[:5])
        first = min(shown)
        shown[first] = self._messages.get(first, shown[first]).rstrip(".")
        names = [f"{self.recordings[index].file} ({reason})" for index, reason in shown.items()]
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        allow = " ".join(f"--set {name}=0.5" for name in self.settings)
        raise L3hpcError(
            f"{len(skipped)} of {len(self.recordings)} recordings cannot be used: "
            f"{', '.join(names)}{more}",
            where=str(self.folder),
            allowed=f"at most {self.max_failed:.0%} may be unusable ({self.settings[0]}), and not "
                    "all",
            hint="Repair them and resume the run; or remove them and submit it again; or accept "
                 f"them: submit with {allow}")

    # result -------------------------------------------------------------------------------------

    def _assemble(self, target: Path, skipped: np.ndarray) -> int:
        """Join the blocks into one file without the skipped recordings; returns its rows."""
        import h5py

        parts = self._parts()
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
            text = h5py.string_dtype()
            table = file.create_group("recordings")
            for name in ("file", "sensor"):
                table.create_dataset(name, dtype=text, data=[getattr(recording, name)
                                                             for recording in self.recordings])
            table.create_dataset("timestamp", data=moments)
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
            file.attrs["teacher"] = json.dumps(dict(self.identity))
            file.attrs["rate"] = self.network.rate
            file.attrs["hop"] = self.hop
            file.attrs["center"] = self.center
            file.attrs["window"] = self.network.window_s
            file.attrs["audio"] = str(Path(self.folder).absolute())
        return rows

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


class _Block:
    """Windows to be embedded together, and the state of their recordings once they are written."""

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []
        self.levels: list[np.ndarray] = []
        self.rows: list[tuple[int, int, int]] = []  # recording, first window, windows
        self.complete: list[int] = []
        self.skipped: dict[int, str] = {}
        self.size = 0

    @property
    def has_content(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.rows or self.complete or self.skipped)

    def add(self, index: int, piece: Piece) -> None:
        """Append a piece of recording ``index``."""
        unknown = np.full(len(piece.windows), np.nan, np.float32)
        self.windows.append(piece.windows)
        self.starts.append(piece.starts)
        self.levels.append(unknown if piece.levels is None else piece.levels)
        self.rows.append((index, piece.first, len(piece.windows)))
        self.size += len(piece.windows)

    def columns(self) -> dict[str, np.ndarray]:
        """Recording, frame, start and loudness of every window."""
        none = np.empty(0)
        return {
            "recording": np.repeat([index for index, _, _ in self.rows],
                                   [count for _, _, count in self.rows]).astype(np.int64),
            "frame": np.concatenate(
                [none, *(np.arange(first, first + n) for _, first, n in self.rows)]),
            "start": np.concatenate([none, *self.starts]),
            "loudness": np.concatenate([none, *self.levels]),
        }

    def skip(self, index: int, reason: str) -> str:
        """Record that recording ``index`` cannot be used; returns the reason."""
        self.skipped[index] = reason
        if index in self.complete:
            self.complete.remove(index)
        return reason

    def as_json(self) -> dict[str, Any]:
        """The state that a resumed run reads."""
        return {"windows": [[index, first + count] for index, first, count in self.rows],
                "complete": self.complete,
                "skipped": {str(index): reason for index, reason in self.skipped.items()}}


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
