"""Which audio belongs to which target, which pairs are kept for validation, and their spectra.

Targets are rows of embeddings (the teacher's or φ of them). Our own artifacts record which
recording and window each row is; published folders pair rows of HDF5 files of the same name.

Decoding, resampling and the front end cost more than reading 13 kB back; so spectra and targets are
computed once into files (``Cache``), from which the training loop reads rows in any order. A
preparation that was killed continues where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from l3hpc.arrays.rows import RowFile
from l3hpc.arrays.threads import read_ahead
from l3hpc.audio.frontends import Frontend
from l3hpc.console.progress import Progress
from l3hpc.datasets.embeddings import TEACHER_KEY, Part, Source, open_source, parse_key
from l3hpc.datasets.windows import pieces
from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json

TRAIN, VALIDATE = "train", "validate"
COLUMNS = ("recording", "frame", "recordings/file", "recordings/sensor", "recordings/timestamp")
SAVE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring target rows that come from one audio file. There may be millions.

    first: number of the first row over all units. target, target_first: where the targets lie.
    windows: (count,) int32, window numbers in the audio (see ``windows.pieces``). hop, center:
    framing.
    group: rows of one group are never divided between training and validation.
    split: ``train`` or ``validate`` where the folders say so, else None.
    """

    audio: str
    first: int
    target: Part
    target_first: int
    windows: np.ndarray
    hop: float
    center: bool
    group: str
    split: str | None = None

    @property
    def count(self) -> int:
        """Rows of this unit."""
        return len(self.windows)


@dataclass(frozen=True)
class Pairs:
    """All pairs: units in order, what the targets are, and the folder of the audio."""

    units: list[Unit]
    key: str
    dim: int
    approx: str
    teacher: dict[str, Any]
    audio: Path

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return sum(unit.count for unit in self.units)


def approx_of(key: str) -> str:
    """The reduction that a published dataset key names: ``pca``, ``umap`` or ``none``."""
    head = key.split("_", 1)[0]
    return head if head in ("pca", "umap") else "none"


def artifact_pairs(
    extract: Source, targets: Source, audio: Path | None = None,
    timezone: str = "America/New_York",
) -> Pairs:
    """Pairs of our own artifacts: ``extract`` knows the windows, ``targets`` holds the rows.

    audio: folder of the recordings; None: where extract found them. Rows of a group (one sensor's
    local day, or one recording where its time is unknown) stay together.
    Raises ``InputError`` where the two artifacts do not match row by row.
    """
    from l3hpc.datasets.windows import calendar

    if len(extract.parts) != len(targets.parts):
        raise InputError(f"{len(targets.parts)} tasks of targets for {len(extract.parts)} of "
                         "extract", where=str(targets.path),
                         hint="Run reduce to completion first: l3hpc resume RUN")
    units: list[Unit] = []
    groups: dict[str, str] = {}  # one text for all units of a group
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
        known = np.isfinite(moments)
        days[known] = calendar(moments[known], timezone).day
        frames = provenance["frame"].astype(np.int32)
        hop, center = float(attributes["hop"]), bool(attributes["center"])
        edges = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), len(which)]
        for start, stop in itertools.pairwise(edges if len(which) else []):
            number = int(which[start])
            name = provenance["recordings/file"][number]
            sensor = provenance["recordings/sensor"][number]
            group = f"{sensor}/day {days[number]}" if known[number] else f"file {name}"
            units.append(Unit(str(folder / name), first, target, start, frames[start:stop], hop,
                              center, groups.setdefault(group, group)))
            first += stop - start
    teacher = targets.parts[0].attributes().get("teacher") or {}
    return _checked(units, targets, teacher, folder)


def published_pairs(audio: Path, targets: Source) -> Pairs:
    """Pairs of published folders: row i of ``audio`` in a file is row i of its namesake's targets.

    ``train/`` and ``validate/`` are taken as they are; every other file is one group. Raises
    ``InputError`` for targets without audio, another number of rows, or rows that do not last one
    second.
    """
    from l3hpc.audio.files import count_rows, probe

    base = targets.path if targets.path.is_dir() else targets.path.parent
    units: list[Unit] = []
    missing: list[str] = []
    first = 0
    for part in targets.parts:
        name = part.path.relative_to(base)
        path = _namesake(Path(audio), name)
        if path is None:
            missing.append(str(name))
            continue
        rows = count_rows(path)
        if rows != part.rows:
            raise InputError(f"{part.rows} targets for {rows} rows of audio in {path}",
                             where=str(part.path), allowed="one target per row of audio")
        if not rows:
            continue
        info = probe(path)
        if info.frames != rows * info.rate:
            raise InputError(f"rows of {info.seconds / max(rows, 1):g} s", where=str(path),
                             allowed="one second of audio for each row of targets")
        units.append(Unit(str(path), first, part, 0, np.arange(rows, dtype=np.int32), 1.0, False,
                          f"file {name}",
                          part.split if part.split in (TRAIN, VALIDATE) else None))
        first += rows
    if missing:
        raise InputError(
            f"no audio for {len(missing)} of {len(targets.parts)} files of targets: "
            f"{', '.join(missing[:5])}", where=str(audio),
            allowed="an HDF5 file with 'audio' of the same name and subfolder")
    return _checked(units, targets, targets.parts[0].attributes().get("teacher") or {}, Path(audio))


def find_pairs(
    extract: Path | None, targets: Path | None, audio: Path | None, *, key: str | None = None,
    timezone: str = "America/New_York",
) -> Pairs:
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
                         hint=f"Name it: --set train.embedding_key='{reduced[0]}'")
    rows = open_source(extract) if extract is not None and targets is not None else source
    if extract is not None and rows.kind == "artifact" and source.kind == "artifact":
        return artifact_pairs(rows, source, audio, timezone)
    if audio is None:
        holder = next((one for one in (source, rows) if one.parts[0].audio_shape), None)
        if holder is None:
            raise InputError("holds no audio beside the embeddings", where=str(target_folder),
                             hint="Name the folder of audio: --audio-dir FOLDER")
        audio = holder.path if holder.path.is_dir() else holder.path.parent
    return published_pairs(audio, source)


def split(pairs: Pairs, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for validation; groups are never divided.
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
    training, validation
        Row numbers, ascending.

    Raises
    ------
    InputError
        There is a single recording, or the folders hold only one of the two parts.
    """
    units = pairs.units
    if any(unit.split for unit in units):
        held = [unit.split == VALIDATE for unit in units]
        if all(held) or not any(held):
            raise InputError(f"the folders hold no {TRAIN if all(held) else VALIDATE} files",
                             where=str(units[0].target.path.parent.parent),
                             allowed="both train/ and validate/, or neither")
        return _rows(units, held, False), _rows(units, held, True)
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
    order = sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode()).digest())
    chosen: set[str] = set()
    wanted, total = share * pairs.rows, 0
    for group in order[:-1]:
        if chosen and abs(total + sizes[group] - wanted) >= abs(total - wanted):
            continue
        chosen.add(group)
        total += sizes[group]
    held = [group in chosen for group in groups]
    return _rows(units, held, False), _rows(units, held, True)


def _rows(units: Sequence[Unit], held: Sequence[bool], wanted: bool) -> np.ndarray:
    found = [np.arange(unit.first, unit.first + unit.count, dtype=np.int64)
             for unit, one in zip(units, held, strict=True) if one == wanted]
    return np.concatenate(found)


def _namesake(folder: Path, name: Path) -> Path | None:
    inside = Path(*name.parts[1:]) if len(name.parts) > 1 else name  # without the task's folder
    for candidate in (folder / name, folder / inside, folder / name.name):
        for suffix in (name.suffix, ".h5", ".hdf5"):
            if candidate.with_suffix(suffix).is_file():
                return candidate.with_suffix(suffix)
    return None


def _checked(units: list[Unit], targets: Source, teacher: dict[str, Any],
             audio: Path) -> Pairs:
    if not units:
        raise InputError("no pairs of audio and target", where=str(targets.path))
    return Pairs(units, targets.key, targets.dim, approx_of(targets.key), teacher, audio)


@dataclass(frozen=True)
class Cache:
    """``spectra`` (rows, bands, times) and ``targets`` (rows, dim), on disk."""

    spectra: RowFile
    targets: RowFile

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the given order: spectra (n, bands, times, 1) and targets, float32."""
        return (self.spectra[rows].astype(np.float32, copy=False)[..., np.newaxis],
                self.targets[rows])


def prepare(
    pairs: Pairs, frontend: Frontend, folder: Path, *, kind: str = "float32", threads: int = 1,
    progress: Progress | None = None,
) -> Cache:
    """Compute spectra and targets of all pairs into files, completing what an earlier attempt left.

    Parameters
    ----------
    pairs
        From ``find_pairs``.
    frontend
        The student's spectrogram.
    folder
        Where the files lie.
    kind
        ``float32``, or ``float16`` (half the disk; a spectrum's error is below 0.04 dB).
    threads
        Recordings computed at once; each takes memory for its samples.
    progress
        Shows how many windows are done.

    Returns
    -------
    Cache
        Spectra and targets by row number.

    Raises
    ------
    InputError
        A recording is shorter than its targets require, or targets are not finite.
    """
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    rows = pairs.rows
    settings = digest([asdict(frontend), kind, pairs.key, pairs.dim, rows, [
        [unit.audio, unit.first, str(unit.target.path), unit.target_first]
        for unit in pairs.units]])
    state = folder / "prepared.json"
    prepared = read_json(state) if state.is_file() else {}
    done = prepared.get("units", 0) if prepared.get("settings") == settings else 0
    mode: Literal["r+", "w+"] = "r+" if done else "w+"
    spectra = RowFile(folder / "spectra.bin", kind, (rows, *frontend.shape), mode)
    targets = RowFile(folder / "targets.bin", "float32", (rows, pairs.dim), mode)
    progress.start("preparing spectra", total=rows, unit="windows")
    progress.advance(pairs.units[done].first if done < len(pairs.units) else rows)

    def work(unit: Unit) -> Unit:
        _fill(unit, frontend, spectra, targets)
        return unit

    saved = time.monotonic()
    threads = max(threads, 1)
    finished = read_ahead(work, pairs.units[done:], depth=2 * threads, threads=threads)
    for number, unit in enumerate(finished, done + 1):
        progress.advance(unit.count)
        if time.monotonic() - saved > SAVE_EVERY_S or number == len(pairs.units):
            spectra.flush()
            targets.flush()
            write_json(state, {"settings": settings, "units": number})
            saved = time.monotonic()
    return Cache(spectra, targets)


def _fill(unit: Unit, frontend: Frontend, spectra: RowFile, targets: RowFile) -> None:
    """Write the rows of one unit."""
    goals = unit.target.read(unit.target_first, unit.target_first + unit.count)
    if not np.isfinite(goals).all():
        raise InputError("targets that are not finite", where=str(unit.target.path))
    targets[unit.first:unit.first + unit.count] = goals
    order = np.argsort(unit.windows, kind="stable")
    wanted = unit.windows[order]
    filled = 0
    last = -1
    audio = Path(unit.audio)
    for piece in pieces(audio, frontend.rate, unit.hop, unit.center, min_seconds=0.0):
        last = piece.first + len(piece.windows) - 1
        stop = int(np.searchsorted(wanted, last, side="right"))
        if stop > filled:
            here = piece.windows[wanted[filled:stop] - piece.first]
            spectra[unit.first + order[filled:stop]] = frontend(here)
            filled = stop
    if filled < unit.count and wanted[-1] == last + 1:
        # a hop that is not a whole number of samples may fit once less at this rate: the last
        # window would begin after the end
        spectra[unit.first + order[filled:]] = frontend(np.zeros((1, frontend.rate), np.float32))
        filled = unit.count
    if filled < unit.count:
        raise InputError(f"gives {last + 1} windows, but the embeddings refer to window "
                         f"{wanted[-1]}",
                         where=unit.audio, hint="Was it changed since extract? Extract again.")
