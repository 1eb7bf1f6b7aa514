"""Pair audio with target embeddings, and hold out pairs for validation.

Targets are rows of embeddings (the teacher's, or reduced ones). Our own artifacts record which
recording and window each row is from; published folders pair rows of HDF5 files of the same name.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.formats import FileState
from l3hpc.datasets.embedding_file import TEACHER_KEY, EmbeddingFile
from l3hpc.datasets.embeddings import (
    EmbeddingSource,
    approx_of,
    audio_of,
    open_source,
    parse_key,
    refuse_missing_audio,
)
from l3hpc.errors import InputError, command_line, option, setting

TRAIN, VALIDATE = "train", "validate"
STATE_COLUMNS = tuple(f"recordings/{name}" for name in FileState._fields)
COLUMNS = ("recording", "frame", "recordings/file", "recordings/sensor", "recordings/timestamp",
           *STATE_COLUMNS)


@dataclass(frozen=True, slots=True)
class PairUnit:
    """Consecutive target rows from one audio file. There may be millions of units.

    Attributes
    ----------
    audio
        The file.
    first
        Number of the first row over all units.
    target
        The file of the targets.
    target_first
        Number of the first row in that file.
    windows
        (count,) int32, window numbers in the audio (see ``windows.read_pieces``).
    hop
        Seconds from one window to the next.
    center
        As in ``frame_audio``.
    window_s
        Length of the teacher's windows in seconds.
    states, recording
        The fields of ``FileState`` of all recordings of a task of extract when it read them, (n, 3)
        int64, and the number of this one; None where they are not known.
    group
        Rows of one group are never divided between training and validation.
    split
        ``train`` or ``validate`` where the folder layout states it, else None.
    """

    audio: str
    first: int
    target: EmbeddingFile
    target_first: int
    windows: np.ndarray
    hop: float
    center: bool
    group: str
    split: str | None = None
    window_s: float = 1.0
    # One array for all units of a task: three numbers for each would double the size of a unit.
    states: np.ndarray | None = None
    recording: int = 0

    @property
    def count(self) -> int:
        """Rows of this unit."""
        return len(self.windows)

    @property
    def state(self) -> FileState | None:
        """What the recording was when its embeddings were computed; None if that is not known."""
        if self.states is None or self.states[self.recording, 0] < 0:
            return None
        return FileState(*self.states[self.recording].tolist())


@dataclass(frozen=True)
class TrainingPairs:
    """All pairs of audio and target.

    Attributes
    ----------
    units
        In order.
    key
        Name of the targets' matrix.
    dim
        Length of a target.
    approx
        The reduction of the targets: ``pca``, ``umap`` or ``none``.
    teacher
        Identity of the teacher (see ``l3hpc.models.weights.identity``); may be empty.
    audio
        Folder of the audio.
    reduction
        Provenance of the φ that made the targets (``PhiDescription.provenance``); empty for the
        teacher's own embeddings and where the files do not record it.
    """

    units: list[PairUnit]
    key: str
    dim: int
    approx: str
    teacher: dict[str, Any]
    audio: Path
    reduction: dict[str, Any] = field(default_factory=dict)

    @property
    def window_s(self) -> float:
        """Length of the teacher's windows in seconds, the same in all units."""
        return self.units[0].window_s

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return sum(unit.count for unit in self.units)


def artifact_pairs(
    extract: EmbeddingSource, targets: EmbeddingSource, audio: Path | None = None,
    timezone: str = "America/New_York",
) -> TrainingPairs:
    """Pairs of our own artifacts: ``extract`` has the windows, ``targets`` the rows.

    Rows of a group (one sensor's local day, or one recording whose time is unknown) stay together.

    Parameters
    ----------
    extract
        Artifact of ``extract``.
    targets
        Artifact of the targets.
    audio
        Folder of the recordings; None: where ``extract`` found them.
    timezone
        Where the sensors' days begin and end: an IANA name.

    Returns
    -------
    TrainingPairs
        One unit per recording.

    Raises
    ------
    InputError
        The two artifacts do not match row by row.
    """
    from l3hpc.datasets.local_time import calendar

    # Tasks correspond by number: task i of the targets is computed from task i of extract.
    if len(extract.parts) != len(targets.parts):
        raise InputError(f"{len(targets.parts)} tasks of targets for {len(extract.parts)} of "
                         "extract", where=str(targets.path),
                         hint=f"Run reduce to completion first: {command_line('resume', 'RUN')}")
    units: list[PairUnit] = []
    groups: dict[str, str] = {}  # one string object for all units of a group: there are millions
    first = 0
    folder = Path()
    for source, target in zip(extract.parts, targets.parts, strict=True):
        provenance, attributes = source.provenance(COLUMNS), source.attributes()
        if provenance is None or source.rows != target.rows:
            raise InputError(f"{target.rows} targets for {source.rows} embeddings",
                             where=str(target.path), allowed="one target per row of extract")
        for name, kind in (("audio", str), ("hop", (int, float)), ("center", (bool, int))):
            if not isinstance(attributes.get(name), kind) and (name != "audio" or audio is None):
                raise InputError(f"has no attribute '{name}', or an invalid one",
                                 where=str(source.path), allowed="embeddings that extract wrote")
        folder = Path(audio if audio is not None else attributes["audio"])
        which = provenance["recording"]
        moments = provenance["recordings/timestamp"]
        days = np.full(len(moments), -1, np.int64)
        dated = np.isfinite(moments)
        days[dated] = calendar(moments[dated], timezone).day
        states = None
        # Another folder may hold the same recordings at another rate, or in another format.
        is_own = audio is None or os.path.realpath(audio) == os.path.realpath(
            str(attributes.get("audio")))
        if is_own and provenance.keys() >= set(STATE_COLUMNS):
            states = np.stack([provenance[name] for name in STATE_COLUMNS], axis=1)
        frames = provenance["frame"].astype(np.int32)
        hop, center = float(attributes["hop"]), bool(attributes["center"])
        window_s = float(attributes.get("window", 1.0))  # earlier versions: always one second
        edges = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), len(which)]
        for start, stop in itertools.pairwise(edges if len(which) else []):
            number = int(which[start])
            name = provenance["recordings/file"][number]
            sensor = provenance["recordings/sensor"][number]
            group = f"{sensor}/day {days[number]}" if dated[number] else f"file {name}"
            units.append(PairUnit(str(folder / name), first, target, start, frames[start:stop], hop,
                                  center, groups.setdefault(group, group), None, window_s, states,
                                  number))
            first += stop - start
    return _checked(units, targets, folder)


def published_pairs(audio: Path, targets: EmbeddingSource) -> TrainingPairs:
    """Pairs of published folders: row i of ``audio`` is row i of the targets in the file of that
    name.

    ``train/`` and ``validate/`` are used as they are; every other file is one group.

    Parameters
    ----------
    audio
        Folder of HDF5 files with ``audio``.
    targets
        The targets.

    Returns
    -------
    TrainingPairs
        One unit per file.

    Raises
    ------
    InputError
        Targets have no audio, another number of rows, or rows that do not last one second.
    """
    from l3hpc.audio.files import probe
    from l3hpc.audio.hdf5_rows import count_rows

    base = targets.path if targets.path.is_dir() else targets.path.parent
    units: list[PairUnit] = []
    first = 0
    refuse_missing_audio(targets, audio)
    for part in targets.parts:
        name = part.path.relative_to(base)
        path = audio_of(Path(audio), name)
        assert path is not None
        rows = count_rows(path)
        if rows != part.rows:
            raise InputError(f"{part.rows} targets for {rows} rows of audio in {path}",
                             where=str(part.path), allowed="one target per row of audio")
        if not rows:
            continue
        info = probe(path)
        if info.frames != rows * info.rate:
            raise InputError(f"has rows of {info.seconds / max(rows, 1):g} s", where=str(path),
                             allowed="one second of audio for each row of targets")
        units.append(PairUnit(
            str(path), first, part, 0, np.arange(rows, dtype=np.int32), 1.0, False,
            f"file {name}", part.split if part.split in (TRAIN, VALIDATE) else None))
        first += rows
    return _checked(units, targets, Path(audio))


def find_pairs(
    extract: Path | None, targets: Path | None, audio: Path | None, *, key: str | None = None,
    timezone: str = "America/New_York",
) -> TrainingPairs:
    """The pairs of audio and target that a training task learns from.

    Parameters
    ----------
    extract, targets
        Artifacts, or folders of published files; either may be None (without ``targets`` the
        student learns the teacher itself).
    audio
        Folder of audio, needed with published files unless those of ``targets`` or ``extract`` hold
        ``audio`` too.
    key
        The matrix of targets to learn; None: the only one.
    timezone
        Where the sensors' days begin and end: an IANA name.

    Returns
    -------
    Pairs
        One unit per recording, with the rows of its windows and targets.

    Raises
    ------
    InputError
        No embeddings, several matrices to choose from, no audio, or audio and targets that do not
        match row by row.
    """
    target_folder = targets if targets is not None else extract
    if target_folder is None:
        raise InputError("no embeddings to learn", where="--embedding-dir",
                         hint="Train after reduce, or name a folder: --embedding-dir FOLDER")
    source = open_source(target_folder, key=key)
    source.refuse_empty()
    reduced = [name for name in source.parts[0].matrices if parse_key(name)]
    if key is None and reduced and source.key == TEACHER_KEY:
        raise InputError(f"holds '{TEACHER_KEY}' and {', '.join(reduced)}",
                         where=str(source.parts[0].path), allowed="one matrix to learn",
                         hint="Choose one: "
                              + setting("train.embedding_key", f"'{reduced[0]}'"))
    rows = open_source(extract) if extract is not None and targets is not None else source
    # artifacts name recording and time of each row; published files have rows in the same order
    if extract is not None and rows.kind == "artifact" and source.kind == "artifact":
        return artifact_pairs(rows, source, audio, timezone)
    if audio is None:
        holder = next((one for one in (source, rows) if one.parts[0].audio_shape), None)
        if holder is None:
            raise InputError("holds no audio beside the embeddings", where=str(target_folder),
                             hint=f"Name the folder of audio: {option('audio-dir', 'FOLDER')}")
        audio = holder.path if holder.path.is_dir() else holder.path.parent
    return published_pairs(audio, source)


def split_pairs(pairs: TrainingPairs, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide pairs into training and validation; groups are never divided.

    Folders ``train/`` and ``validate/`` take precedence. Otherwise groups (one sensor's day) go to
    validation in an order drawn from ``seed`` until it holds ``share`` of the rows, at least one
    group and never all. Where all rows are of one day, recordings are the groups.

    Parameters
    ----------
    pairs
        From ``find_pairs``.
    share
        Part of the rows for validation, in (0, 1).
    seed
        Decides which groups are taken.

    Returns
    -------
    training
        Row numbers, ascending.
    validation
        Row numbers, ascending.

    Raises
    ------
    InputError
        There is a single recording, or the folders hold only one of the two parts.
    """
    units = pairs.units
    if any(unit.split for unit in units):
        held_out = [unit.split == VALIDATE for unit in units]
        if all(held_out) or not any(held_out):
            raise InputError(f"the folders hold no {TRAIN if all(held_out) else VALIDATE} files",
                             where=str(units[0].target.path.parent.parent),
                             allowed="both train/ and validate/, or neither")
        return _rows(units, held_out, False), _rows(units, held_out, True)
    groups = [unit.group for unit in units]
    if len(set(groups)) < 2:
        groups = [unit.audio for unit in units]
    if len(set(groups)) < 2:
        raise InputError("one recording cannot be divided into training and validation",
                         where=units[0].audio,
                         allowed="two recordings or more, better two days or more")
    sizes: dict[str, int] = {}
    for unit, group in zip(units, groups, strict=True):
        sizes[group] = sizes.get(group, 0) + unit.count
    # By a hash of each name, so that new groups do not change the place of the others.
    order = sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode()).digest())
    chosen: set[str] = set()
    goal, total = share * pairs.rows, 0
    # Without the last one, so that at least one group is left to train on.
    for group in order[:-1]:
        if chosen and abs(total + sizes[group] - goal) >= abs(total - goal):
            continue
        chosen.add(group)
        total += sizes[group]
    held_out = [group in chosen for group in groups]
    return _rows(units, held_out, False), _rows(units, held_out, True)


def _rows(units: Sequence[PairUnit], held_out: Sequence[bool], validation: bool) -> np.ndarray:
    return np.concatenate([
        np.arange(unit.first, unit.first + unit.count, dtype=np.int64)
        for unit, is_held_out in zip(units, held_out, strict=True) if is_held_out == validation])


def _checked(units: list[PairUnit], targets: EmbeddingSource, audio: Path) -> TrainingPairs:
    if not units:
        raise InputError("no pairs of audio and target", where=str(targets.path))
    attributes = targets.parts[0].attributes()
    return TrainingPairs(units, targets.key, targets.dim, approx_of(targets.key),
                         attributes.get("teacher") or {}, audio,
                         attributes.get("reduction") or {})
