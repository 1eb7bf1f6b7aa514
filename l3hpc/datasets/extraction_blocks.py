"""The blocks of an extraction: windows that are embedded together, and what is kept of them.

A killed task resumes with the blocks that its scratch folder holds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l3hpc.audio.formats import FileState
from l3hpc.datasets.windows import Piece
from l3hpc.io.files import read_json, write_bytes, write_json
from l3hpc.io.npz import read_npz


class Finished(NamedTuple):
    """What earlier attempts have done.

    Attributes
    ----------
    windows
        Windows done, by recording; None: all of it.
    skipped
        Why a recording was skipped, by recording.
    files
        What a recording was when it was read, by recording; earlier versions did not record it.
    """

    windows: dict[int, int | None]
    skipped: dict[int, str]
    files: dict[int, FileState]


class Block:
    """Windows to be embedded together, and the state of their recordings once they are written."""

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []
        self.levels: list[np.ndarray] = []
        self.rows: list[tuple[int, int, int]] = []  # recording, first window, windows
        self.complete: list[int] = []
        self.skipped: dict[int, str] = {}
        self.files: dict[int, FileState] = {}
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

    def without_windows(self) -> Block:
        """A block with the same skipped recordings and nothing to embed."""
        block = Block()
        block.skipped = self.skipped
        return block

    def as_json(self) -> dict[str, Any]:
        """The state that a resumed run reads."""
        return {"windows": [[index, first + count] for index, first, count in self.rows],
                "complete": self.complete,
                "skipped": {str(index): reason for index, reason in self.skipped.items()},
                "files": {str(index): list(state) for index, state in self.files.items()}}


class BlocksOnDisk:
    """The finished blocks of an extraction, in its scratch folder.

    Parameters
    ----------
    folder
        The scratch folder, which is made where it is missing.
    settings
        Digest of the settings. Blocks of others are removed: they would be joined with the new ones
        into one matrix.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        state, wanted = folder / "extraction.json", {"settings": settings}
        if not state.is_file() or read_json(state) != wanted:
            for old in folder.glob("part-*.npz"):
                old.unlink()
            write_json(state, wanted)

    def paths(self) -> list[Path]:
        """Return their files, in order."""
        return sorted(self._folder.glob("part-*.npz"))

    def finished(self) -> Finished:
        """What the blocks contain, by recording."""
        done: dict[int, int | None] = {}
        skipped: dict[int, str] = {}
        files: dict[int, FileState] = {}
        for path in self.paths():
            state = json.loads(str(read_npz(path, ["told"])["told"]))
            for index, stop in state["windows"]:
                done[index] = stop
            for index in state["complete"]:
                done[index] = None
            skipped.update({int(index): reason for index, reason in state["skipped"].items()})
            files.update({int(index): FileState(*values)
                          for index, values in state.get("files", {}).items()})
        return Finished(done, skipped, files)

    def append(self, block: Block, embedding: np.ndarray) -> None:
        """Write a block.

        Parameters
        ----------
        block
            The block.
        embedding
            The embeddings of its windows, (windows, dim).
        """
        paths = self.paths()
        number = int(paths[-1].stem.split("-")[1]) + 1 if paths else 0
        _write(self._folder / f"part-{number:06d}.npz",
               {"embedding": embedding, **block.columns()}, block.as_json())

    def forget(self, indices: Iterable[int]) -> None:
        """Remove recordings from the blocks, so that they are read again.

        Parameters
        ----------
        indices
            Their numbers.
        """
        forgotten = set(indices)
        # From the last block on: if this is interrupted, what is left is the beginning of each.
        for path in reversed(self.paths()):
            part = read_npz(path)
            state = json.loads(str(part["told"]))
            state["windows"] = [each for each in state["windows"] if each[0] not in forgotten]
            state["complete"] = [index for index in state["complete"] if index not in forgotten]
            for name in ("skipped", "files"):
                state[name] = {index: value for index, value in state.get(name, {}).items()
                               if int(index) not in forgotten}
            keep = ~np.isin(part["recording"], list(forgotten))
            columns = {name: values[keep] for name, values in part.items() if name != "told"}
            _write(path, columns, state)


def _write(path: Path, columns: Mapping[str, np.ndarray], state: object) -> None:
    stream = io.BytesIO()
    # One file per block: rows and the state that counts them appear together.
    arrays: dict[str, Any] = {**columns, "told": np.array(json.dumps(state))}
    np.savez(stream, **arrays)
    write_bytes(path, stream.getvalue())
