"""Batch files from videos: opens them, plans the pairs, writes what is missing. Can be killed."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.avc.batches import write_batch
from l3hpc.avc.ffmpeg import VideoError
from l3hpc.avc.pairs import Pair, Unusable, examples, plan
from l3hpc.avc.videos import Source
from l3hpc.console.progress import Progress
from l3hpc.errors import L3hpcError
from l3hpc.io.files import digest, read_json, write_json, write_text

SKIPPED = "skipped.json"


@dataclass
class Making:
    """One task's batches of one split.

    names, open_source: the videos, and what opens one by name (``VideoError`` where it cannot be
    used). pairs_per_video: pictures of each; so many pairs are made, half of them matching.
    per_file: most pairs of a file. max_failed: largest share of videos that may be unusable.
    scratch: survives a killed attempt. prefix: begins the files' names.
    """

    names: Sequence[str]
    open_source: Callable[[str], Source]
    prefix: str
    rate: int
    size: int
    pairs_per_video: int
    seed: Sequence[int]
    scratch: Path
    augment: bool = False
    per_file: int = 1024
    max_failed: float = 0.05
    threads: int = 1
    progress: Progress = field(default_factory=Progress)

    def run(self, output: Path) -> dict[str, Any]:
        """Write ``<prefix>_000.h5``, … and ``skipped.csv`` into ``output``.

        The same videos and settings give the same pairs, whatever was killed on the way. Raises
        ``L3hpcError`` when more than ``max_failed`` of the videos, or all but one, are unusable.
        """
        state = self.scratch / SKIPPED
        skipped: dict[str, str] = read_json(state) if state.is_file() else {}
        sources = self._open(skipped, state)
        while True:
            try:
                files, pairs = self._files(sources)
                break
            except Unusable as error:  # found broken only when it was decoded: plan without it
                name = list(sources)[error.number]
                del sources[name]
                self._skip(name, error, skipped, state)
        for path in files:
            shutil.move(path, output / path.name)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([("video", "reason"), *sorted(skipped.items())])
        write_text(output / "skipped.csv", table.getvalue())
        return {"pairs": len(pairs), "matching": sum(pair.matching for pair in pairs),
                "videos": len(sources), "skipped": len(skipped), "files": len(files)}

    def _open(self, skipped: dict[str, str], state: Path) -> dict[str, Source]:
        self.progress.start("opening videos", total=len(self.names), unit="videos")

        def work(name: str) -> Source | VideoError:
            try:
                return self.open_source(name)
            except VideoError as error:
                return error

        wanted = [name for name in self.names if name not in skipped]
        sources = {}
        with ThreadPoolExecutor(max(self.threads, 1)) as pool:
            for name, found in zip(wanted, pool.map(work, wanted), strict=True):
                self.progress.advance()
                if isinstance(found, VideoError):
                    self._skip(name, found, skipped, state)
                else:
                    sources[name] = found
        return sources

    def _skip(self, name: str, error: VideoError, skipped: dict[str, str], state: Path) -> None:
        skipped[name] = error.message
        write_json(state, skipped)
        self.progress.note(f"skipped {name}: {error.message}")
        left = len(self.names) - len(skipped)
        if len(skipped) > self.max_failed * len(self.names) or left < 2:
            raise L3hpcError(
                f"{len(skipped)} of {len(self.names)} videos cannot be used; the last: {name}: "
                f"{error.message}", allowed=f"at most {self.max_failed:.0%}, and two must be left",
                hint="Remove them, or raise avc_pairs.max_failed.")

    def _files(self, sources: dict[str, Source]) -> tuple[list[Path], list[Pair]]:
        count = len(sources) * self.pairs_per_video
        pairs = plan([source.seconds for source in sources.values()], count, self.seed,
                     self.augment)
        key = digest([self.rate, self.size, self.per_file, list(sources),
                      [repr(astuple(pair)) for pair in pairs]])
        folder = self.scratch / key
        self.progress.start("cutting pairs", total=len(pairs), unit="pairs")
        files = []
        for first in range(0, len(pairs), self.per_file):
            some = pairs[first:first + self.per_file]
            path = folder / f"{self.prefix}_{first // self.per_file:03d}.h5"
            files.append(path)
            if path.is_file():  # of an earlier attempt
                self.progress.advance(len(some))
                continue
            made = examples(some, list(sources.values()), self.rate, self.size, self.threads,
                            self.progress.advance)
            write_batch(path, made, len(some), {"rate": self.rate, "plan": key})
        return files, pairs
