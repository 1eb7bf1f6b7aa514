"""Spectra and targets of training pairs, computed once into files.

Decoding, resampling and the front end cost more than reading 13 kB from disk; the training loop
reads rows of the files in any order. A preparation that was killed continues where it stopped.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.arrays.threads import read_ahead
from l3hpc.audio.frontends import Frontend
from l3hpc.console.progress import Progress
from l3hpc.datasets.training_pairs import PairUnit, TrainingPairs
from l3hpc.datasets.windows import read_pieces
from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json

SAVE_EVERY_S = 10.0
CHANGED = ("Submit the pipeline again: it embeds the recordings that have changed. Or put the "
           "recording back as it was, and resume the run.")


@dataclass(frozen=True)
class PairCache:
    """Spectra and targets on disk, by row number.

    Attributes
    ----------
    spectra
        (rows, bands, times).
    targets
        (rows, dim).
    """

    spectra: RowFile
    targets: RowFile

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of some rows, in the given order.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        spectra
            (n, bands, times, 1) float32.
        targets
            (n, dim) float32.
        """
        return (self.spectra[rows].astype(np.float32, copy=False)[..., np.newaxis],
                self.targets[rows])


def cache_bytes(pairs: TrainingPairs, frontend: Frontend, kind: str = "float32") -> int:
    """Return how many bytes ``prepare_cache`` writes.

    Parameters
    ----------
    pairs, frontend, kind
        As for ``prepare_cache``.
    """
    spectrum = math.prod(frontend.shape) * np.dtype(kind).itemsize
    return pairs.rows * (spectrum + pairs.dim * np.dtype(np.float32).itemsize)


def prepare_cache(
    pairs: TrainingPairs, frontend: Frontend, folder: Path, *, kind: str = "float32",
    threads: int = 1, progress: Progress | None = None,
) -> PairCache:
    """Compute spectra and targets of all pairs into files, completing those of an earlier attempt.

    Parameters
    ----------
    pairs
        From ``find_pairs``.
    frontend
        The student's spectrogram.
    folder
        Takes the files.
    kind
        ``float32``, or ``float16`` (half the disk space; a spectrum's error is below 0.04 dB).
    threads
        Recordings computed at once; each takes memory for its samples.
    progress
        Shows how many windows are done.

    Returns
    -------
    PairCache
        Spectra and targets by row number.

    Raises
    ------
    InputError
        A recording is not the one whose embeddings these are, or shorter than its targets require,
        or targets are not finite.
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

    def work(unit: PairUnit) -> PairUnit:
        _fill_unit(unit, frontend, spectra, targets)
        return unit

    saved = time.monotonic()
    threads = max(threads, 1)
    # In order, though several threads work: the state counts the units from the first one on.
    finished = read_ahead(work, pairs.units[done:], depth=2 * threads, threads=threads)
    with closing(finished):
        for number, unit in enumerate(finished, done + 1):
            progress.advance(unit.count)
            if time.monotonic() - saved > SAVE_EVERY_S or number == len(pairs.units):
                # The arrays first: units that the state counts must be on the disk.
                spectra.flush()
                targets.flush()
                write_json(state, {"settings": settings, "units": number})
                saved = time.monotonic()
    progress.finish()
    return PairCache(spectra, targets)


def _fill_unit(unit: PairUnit, frontend: Frontend, spectra: RowFile, targets: RowFile) -> None:
    """Write the rows of one unit."""
    values = unit.target.read(unit.target_first, unit.target_first + unit.count)
    if not np.isfinite(values).all():
        raise InputError("holds targets that are not finite", where=str(unit.target.path))
    targets[unit.first:unit.first + unit.count] = values
    # Windows come in the order of the audio, rows may be in any other.
    order = np.argsort(unit.windows, kind="stable")
    numbers = unit.windows[order]
    filled = 0
    last = -1
    audio = Path(unit.audio)
    if unit.state is not None and not unit.state.fits(audio):
        raise InputError("has changed since extract computed its embeddings", where=unit.audio,
                         hint=CHANGED)
    for piece in read_pieces(audio, frontend.rate, unit.hop, unit.center,
                             window_s=frontend.window_s, teacher_s=unit.window_s, min_seconds=0.0):
        last = piece.first + len(piece.windows) - 1
        stop = int(np.searchsorted(numbers, last, side="right"))
        if stop > filled:
            windows = piece.windows[numbers[filled:stop] - piece.first]
            spectra[unit.first + order[filled:stop]] = frontend(windows)
            filled = stop
    if filled < unit.count and numbers[-1] == last + 1:
        # A hop that is not a whole number of samples may fit once less at this rate: the last
        # window would begin after the end.
        spectra[unit.first + order[filled:]] = frontend(
            np.zeros((1, frontend.samples), np.float32))
        filled = unit.count
    if filled < unit.count:
        raise InputError(f"has {last + 1} windows, but the embeddings refer to window "
                         f"{numbers[-1]}", where=unit.audio,
                         hint=CHANGED)
