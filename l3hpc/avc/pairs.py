"""Which frame meets which second of sound, how each is varied, and the batch files of both.

A matching pair is a second of sound and a frame from within it; in the other half, picture and
sound come from two different videos. All pairs are planned before anything is decoded, from a seed:
every video gives equally many frames and seconds to both halves, so that neither alone gives the
label away.

Augmentation changes a pair slightly and keeps its meaning. Pictures: mirrored or not, saturation
times 0.5 to 1.5, brightness plus or minus 32/255, the two in either order. Sound: a gain of 0.9 to
1.1, never so much that it clips. (The published code took the peak of 16-bit samples as if they lay
in [-1, 1] and so only ever made sound quieter.)

``Making`` opens the videos and writes the batch files that are missing; it may be killed any time.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import Example, write_batch
from l3hpc.avc.ffmpeg import VideoError
from l3hpc.avc.videos import SECOND, Source
from l3hpc.avc.vision import SCALED
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import digest, read_json, write_json, write_text

BRIGHTNESS = 32 / 255
GAIN = 0.1
LAST_FRAME_S = 0.05  # a frame is not looked for in the last moments of a video
SKIPPED = "skipped.json"


@dataclass(frozen=True)
class Augmentation:
    """One draw. loudness: where the gain lies between the lowest and the highest allowed, 0 to 1.
    """

    mirror: bool
    saturation: float
    brightness: float
    saturation_first: bool
    loudness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        """A random one."""
        return cls(bool(rng.random() < 0.5), rng.uniform(0.5, 1.5),
                   rng.uniform(-BRIGHTNESS, BRIGHTNESS), bool(rng.random() < 0.5), rng.random())

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8, changed."""
        if self.mirror:
            pixels = pixels[:, ::-1]
        values = pixels.astype(np.float32) / 255
        if self.saturation_first:
            values = brightened(saturated(values, self.saturation), self.brightness)
        else:
            values = saturated(brightened(values, self.brightness), self.saturation)
        return np.round(values * 255).astype(np.uint8)

    def sound(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int16, louder or quieter."""
        peak = float(np.abs(samples.astype(np.float32)).max(initial=1.0))
        most = min(GAIN, max(32767 / peak - 1, 0.0))
        gain = 1 - GAIN + self.loudness * (GAIN + most)
        return np.clip(np.round(samples * gain), -32768, 32767).astype(np.int16)


def saturated(values: np.ndarray, factor: float) -> np.ndarray:
    """Colours (…, 3) in [0, 1] with their HSV saturation times ``factor`` (at most 1)."""
    high, low = values.max(axis=-1, keepdims=True), values.min(axis=-1, keepdims=True)
    spread = high - low
    most = np.divide(high, spread, out=np.ones_like(high), where=spread > 0)
    return high - (high - values) * np.minimum(np.float32(factor), most)


def brightened(values: np.ndarray, delta: float) -> np.ndarray:
    """Values in [0, 1] plus ``delta``, kept there."""
    return np.clip(values + np.float32(delta), 0, 1)


@dataclass(frozen=True)
class Pair:
    """One example to make.

    picture, sound: numbers of the videos. time, start: seconds, of the frame and of the sound's
    first sample. place: where in the frame the square is cut out, shares (across, down).
    """

    picture: int
    time: float
    place: tuple[float, float]
    sound: int
    start: float
    augmentation: Augmentation | None

    @property
    def matching(self) -> bool:
        """Whether both are of one video (and then of one second)."""
        return self.picture == self.sound


class Unusable(VideoError):
    """A video that failed while pairs were cut from it; ``number`` says which."""

    def __init__(self, number: int, error: VideoError) -> None:
        super().__init__(error.message, where=error.where)
        self.number = number


def plan(seconds: Sequence[float], count: int, seed: Sequence[int], augment: bool = False
         ) -> list[Pair]:
    """``count`` pairs from videos of these lengths, in a random order that ``seed`` decides.

    Half of them match (of an odd number the larger half does). In each round of the plan every
    video gives one picture and one second; the rounds of non-matching pairs shift them against each
    other. Raises ``InputError`` for fewer than two videos or one shorter than a second.
    """
    if len(seconds) < 2:
        raise InputError(f"{len(seconds)} video(s) make no non-matching pairs",
                         allowed="at least 2")
    if min(seconds) < SECOND:
        raise InputError(f"a video of {min(seconds):.2f} s holds no second of sound")
    rng = np.random.default_rng(list(seed))
    n = len(seconds)
    pairs = []
    for matching, wanted in ((True, count - count // 2), (False, count // 2)):
        for first in range(0, wanted, n):
            order = rng.permutation(n)
            shifted = order if matching else np.roll(order, rng.integers(1, n))
            for picture, sound in list(zip(order, shifted, strict=True))[:wanted - first]:
                start = rng.uniform(0, seconds[sound] - SECOND)
                around = start if matching else rng.uniform(0, seconds[picture] - SECOND)
                time = min(around + rng.uniform(0, SECOND),
                           max(seconds[picture] - LAST_FRAME_S, 0))
                pairs.append(Pair(int(picture), float(time), (rng.random(), rng.random()),
                                  int(sound), float(start),
                                  Augmentation.draw(rng) if augment else None))
    return [pairs[number] for number in rng.permutation(len(pairs))]


def examples(pairs: Sequence[Pair], sources: Sequence[Source], rate: int, size: int,
             threads: int = 1, advance: Callable[[], None] = lambda: None) -> Iterator[Example]:
    """(sound (rate,) int16, picture (size, size, 3) uint8, label) of every pair, in order.

    Decoded by ``threads`` threads, ahead of use. Raises ``Unusable`` for a video that fails.
    """
    scaled = round(SCALED * size)

    def make(pair: Pair) -> Example:
        try:
            picture = sources[pair.picture].picture(pair.time, size, scaled, pair.place)
        except VideoError as error:
            raise Unusable(pair.picture, error) from None
        try:
            sound = sources[pair.sound].sound(pair.start, rate)
        except VideoError as error:
            raise Unusable(pair.sound, error) from None
        if pair.augmentation:
            picture = pair.augmentation.picture(picture)
            sound = pair.augmentation.sound(sound)
        return sound, picture, int(pair.matching)

    for example in read_ahead(make, pairs, depth=2 * threads + 2, threads=threads):
        yield example
        advance()


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
