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

Pairs of a second of sound and a picture, in HDF5 files of the published layout.

``audio`` (n, 1, samples) int16, ``video`` (n, size, size, 3) uint8, ``label`` (n, 2) uint8: column
0 says not matching, column 1 matching. A file is there whole or not at all.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.audio.frontends import Frontend
from l3hpc.audio.resample import resample_rows
from l3hpc.avc.network import SCALED
from l3hpc.avc.videos import SECOND, Source, VideoError
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import digest, fsync_folder, read_json, task_folders, write_json, write_text
from l3hpc.io.hdf5 import damage_error, numeric_dataset, open_hdf5

BRIGHTNESS = 32 / 255
GAIN = 0.1
LAST_FRAME_S = 0.05  # a frame is not looked for in the last moments of a video
SKIPPED = "skipped.json"
KEYS = ("audio", "video", "label")
SPLITS = ("train", "validate", "test")
MAX_OPEN = 64  # files
Example = tuple[np.ndarray, np.ndarray, int]


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


def write_batch(path: Path, examples: Iterable[Example], count: int,
                attributes: Mapping[str, Any] | None = None) -> None:
    """Write ``count`` examples (audio (samples,) int16, picture (size, size, 3) uint8, label 0 or
    1 for matching) into one file, by one rename. Memory: one example.

    Raises ``InputError`` for another number of examples than ``count``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            written = 0
            for number, (audio, picture, label) in enumerate(examples):
                if number == 0:
                    _make(file, count, audio, picture)
                if number >= count:
                    raise InputError(f"more than {count} examples", where=str(path))
                file["audio"][number, 0] = audio
                file["video"][number] = picture
                file["label"][number] = np.eye(2, dtype=np.uint8)[label]
                written += 1
            if written != count:
                raise InputError(f"{written} examples", where=str(path), allowed=f"{count}")
            file.attrs.update(attributes or {})
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make(file: h5py.File, count: int, audio: np.ndarray, picture: np.ndarray) -> None:
    """Data sets of one chunk per example: rows are read in any order."""
    for name, shape, kind in (("audio", (1, *audio.shape), np.int16),
                              ("video", picture.shape, np.uint8), ("label", (2,), np.uint8)):
        chunk = (count if name == "label" else 1, *shape)
        packing = {} if name == "label" else {"compression": "lzf", "shuffle": name == "audio"}
        file.create_dataset(name, (count, *shape), kind, chunks=chunk, track_times=False, **packing)


@dataclass
class Batches:
    """The examples of some files as one long list, read by row number, in any order and thread.

    files: batch files, in order. Raises ``InputError`` for a file without the three keys, of other
    sizes than the first, or with a label that is not one of two.
    """

    files: list[Path]
    rows: int = field(init=False)
    samples: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.files = [Path(path) for path in self.files]
        if not self.files:
            raise InputError("no batch files", allowed="HDF5 files with audio, video and label")
        shapes = [_inspect(path) for path in self.files]
        for path, shape in zip(self.files, shapes, strict=True):
            if shape[1:] != shapes[0][1:]:
                raise InputError(f"has {shape[1]} samples and pictures of {shape[2]} pixels",
                                 where=str(path), allowed=f"{shapes[0][1]} and {shapes[0][2]}, as "
                                 f"in {self.files[0].name}")
        self.samples, self.size = shapes[0][1:]
        self._starts = np.concatenate([[0], np.cumsum([shape[0] for shape in shapes])])
        self.rows = int(self._starts[-1])
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def find(cls, folder: Path | str, split: str) -> Batches:
        """The batches of one split below ``folder``: ``<split>_*.h5``, or ``<split>/*.h5`` as
        published, in an artifact's task folders or straight in the folder."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("no such folder of batches", where=str(folder))
        places = task_folders(folder) or [folder]
        files = [path for place in places
                 for pattern in (f"{split}_*.h5", f"{split}/*.h5")
                 for path in sorted(place.glob(pattern))]
        if not files:
            raise InputError(f"holds no batches for {split!r}", where=str(folder),
                             allowed=f"files {split}_*.h5, or a subfolder {split}",
                             hint="Make them from videos: l3hpc submit avc")
        return cls(files)

    @property
    def rate(self) -> int:
        """Samples per second: an example lasts one."""
        return self.samples

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(audio (n, samples) int16, pictures (n, size, size, 3) uint8, labels (n, 2) uint8)."""
        rows = np.asarray(rows)
        audio = np.empty((len(rows), self.samples), np.int16)
        video = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        label = np.empty((len(rows), 2), np.uint8)
        place = np.searchsorted(self._starts, rows, side="right") - 1
        with self._lock:
            for number, (file, row) in enumerate(zip(place, rows - self._starts[place],
                                                     strict=True)):
                source = self._file(int(file))
                try:
                    audio[number] = source["audio"][row, 0]
                    video[number] = source["video"][row]
                    label[number] = source["label"][row]
                except (OSError, RuntimeError) as error:
                    raise damage_error(self.files[int(file)], error, f"example {row}") from None
        return audio, video, label

    def labels(self) -> np.ndarray:
        """All labels as 0 (not matching) or 1 (matching), (rows,)."""
        with self._lock:
            return np.concatenate([np.argmax(self._file(number)["label"][()], axis=1)
                                   for number in range(len(self.files))])

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """All row numbers in order, ``size`` at a time."""
        for first in range(0, self.rows, size):
            yield np.arange(first, min(first + size, self.rows))

    def close(self) -> None:
        """Close the files that are open (they open again when read)."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _file(self, number: int) -> h5py.File:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[number] = open_hdf5(self.files[number])
        return self._open[number]


@dataclass(frozen=True)
class AvcData:
    """What the network takes, by row number: the ``Data`` of ``l3hpc.models.training``.

    Audio of another rate than the front end's is resampled.
    """

    batches: Batches
    frontend: Frontend

    def batch(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """((spectrograms (n, bands, times, 1), pictures (n, size, size, 3) in [-1, 1]), labels
        (n, 2)), float32."""
        audio, video, label = self.batches.read(rows)
        sound = audio.astype(np.float32) / 32768
        if self.batches.rate != self.frontend.rate:
            sound = resample_rows(sound, self.batches.rate, self.frontend.rate)
        return ((self.frontend(sound)[..., np.newaxis], pictures(video)),
                label.astype(np.float32))


def pictures(video: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [-1, 1], as published."""
    return video.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def _inspect(path: Path) -> tuple[int, int, int]:
    """(examples, samples, picture size) of a batch file."""
    with open_hdf5(path) as file:
        missing = [key for key in KEYS if not isinstance(file.get(key), h5py.Dataset)]
        if missing:
            raise InputError(f"has no {', '.join(missing)}", where=str(path),
                             allowed=f"data sets {', '.join(KEYS)}")
        audio, video, label = (file[key].shape for key in KEYS)
        kinds = [str(file[key].dtype) for key in ("audio", "video")]
        good = (len(audio) == 3 and audio[1] == 1 and len(video) == 4 and video[3] == 3
                and video[1] == video[2] and label[1:] == (2,)
                and audio[0] == video[0] == label[0] > 0)
        if not good or kinds != ["int16", "uint8"]:
            raise InputError(
                f"has audio {audio} {kinds[0]}, video {video} {kinds[1]}, label {label}",
                where=str(path), allowed="audio (n, 1, samples) int16, video (n, size, size, 3) "
                "uint8, label (n, 2)")
        for key in KEYS:
            numeric_dataset(file, key)
    return audio[0], audio[2], video[1]
