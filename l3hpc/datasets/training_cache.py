"""Log-mel spectra and targets of a training set, computed once into files.

Decoding, resampling and the front end cost more than reading 13 kB back; so they are paid once, and
the training loop reads rows in any order. A killed preparation goes on where it stopped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.audio.frontends import Frontend
from l3hpc.console.progress import Progress
from l3hpc.datasets.training_pairs import Pairs, Unit
from l3hpc.datasets.windows import pieces
from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json

SAVE_EVERY_S = 10.0


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
    """The cache of ``pairs`` in ``folder``, completed where an earlier attempt left off.

    kind: ``float32`` or ``float16`` (half the disk; a spectrum's error is below 0.04 dB). Memory:
    a few recordings per thread. Raises ``InputError`` when a recording is shorter than its targets
    say, or targets are not finite.
    """
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    rows = pairs.rows
    settings = digest([asdict(frontend), kind, pairs.key, pairs.dim, rows, [
        [unit.audio, unit.first, str(unit.target.path), unit.target_first]
        for unit in pairs.units]])
    state = folder / "prepared.json"
    told = read_json(state) if state.is_file() else {}
    done = told.get("units", 0) if told.get("settings") == settings else 0
    mode: Literal["r+", "w+"] = "r+" if done else "w+"
    spectra = RowFile(folder / "spectra.bin", kind, (rows, *frontend.shape), mode)
    targets = RowFile(folder / "targets.bin", "float32", (rows, pairs.dim), mode)
    progress.start("preparing spectra", total=rows, unit="windows")
    progress.advance(pairs.units[done].first if done < len(pairs.units) else rows)

    def work(unit: Unit) -> None:
        _fill(unit, frontend, spectra, targets)

    saved = time.monotonic()
    for number, unit in enumerate(in_order(work, pairs.units[done:], threads), done + 1):
        progress.advance(unit.count)
        if time.monotonic() - saved > SAVE_EVERY_S or number == len(pairs.units):
            spectra.flush()
            targets.flush()
            write_json(state, {"settings": settings, "units": number})
            saved = time.monotonic()
    return Cache(spectra, targets)


def in_order(
    work: Callable[[Unit], None], units: Iterable[Unit], threads: int,
) -> Iterator[Unit]:
    """Do ``work`` on every unit in ``threads`` threads; yield each, in order, when it is done."""
    waiting: deque[tuple[Unit, Future[None]]] = deque()
    with ThreadPoolExecutor(max_workers=max(threads, 1)) as pool:
        try:
            for unit in units:
                waiting.append((unit, pool.submit(work, unit)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    future.result()
                    yield first
            while waiting:
                first, future = waiting.popleft()
                future.result()
                yield first
        finally:
            for _, future in waiting:
                future.cancel()


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
        # a hop that is no whole number of samples may fit once less at this rate: the last window
        # would begin behind the end
        spectra[unit.first + order[filled:]] = frontend(np.zeros((1, frontend.rate), np.float32))
        filled = unit.count
    if filled < unit.count:
        raise InputError(f"gives {last + 1} windows, but embeddings speak of window {wanted[-1]}",
                         where=unit.audio, hint="Was it changed since extract? Extract again.")
