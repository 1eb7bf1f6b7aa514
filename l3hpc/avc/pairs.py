"""Plan pairs of a frame and a second of sound, vary them, and write them into batch files.

A matching pair is a second of sound and a frame from within it; in the other half of the pairs,
image and sound come from two different videos. All pairs are planned from a seed before anything
is decoded: every video gives equally many frames and seconds to both halves, so that neither alone
reveals the label.

Augmentation changes a pair slightly and keeps its meaning. Images: mirrored or not, saturation
times 0.5 to 1.5, brightness plus or minus 32/255, the two in either order. Sound: a gain of 0.9 to
1.1, never so much that it clips. (The published code took the peak of 16-bit samples as if they
were in [-1, 1], and so only ever made sound quieter.)

``PairMaker`` opens the videos and writes the batch files that are missing; it may be killed any
time.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import Example, write_batch
from l3hpc.avc.videos import ONE_SECOND, VideoError, VideoSource
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, L3hpcError, repair_and_repeat, setting
from l3hpc.io.files import digest, read_json, write_json, write_text

SCALED = 256 / 224  # short side of a frame, in sides of the image that is cut out of it
BRIGHTNESS = 32 / 255
GAIN = 0.1
LAST_FRAME_S = 0.05  # the end of a video, where no frame is taken
SKIPPED = "skipped.json"


@dataclass(frozen=True)
class Augmentation:
    """One random change of a pair.

    Attributes
    ----------
    mirror
        Whether the image is mirrored.
    saturation
        Factor.
    brightness
        Added to values in [0, 1].
    saturation_first
        Whether the saturation is changed before the brightness.
    loudness
        Where the gain lies between the lowest and the highest allowed, 0 to 1.
    """

    mirror: bool
    saturation: float
    brightness: float
    saturation_first: bool
    loudness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        """Draw a random change.

        Parameters
        ----------
        rng
            The generator.

        Returns
        -------
        Augmentation
            The change.
        """
        return cls(bool(rng.random() < 0.5), rng.uniform(0.5, 1.5),
                   rng.uniform(-BRIGHTNESS, BRIGHTNESS), bool(rng.random() < 0.5), rng.random())

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Change an image.

        Parameters
        ----------
        pixels
            (height, width, 3) uint8.

        Returns
        -------
        numpy.ndarray
            The same shape and type.
        """
        if self.mirror:
            pixels = pixels[:, ::-1]
        values = pixels.astype(np.float32) / 255
        if self.saturation_first:
            values = brightened(saturated(values, self.saturation), self.brightness)
        else:
            values = saturated(brightened(values, self.brightness), self.saturation)
        return np.round(values * 255).astype(np.uint8)

    def sound(self, samples: np.ndarray) -> np.ndarray:
        """Make a sound louder or quieter.

        Parameters
        ----------
        samples
            (n,) int16.

        Returns
        -------
        numpy.ndarray
            (n,) int16.
        """
        peak = float(np.abs(samples.astype(np.float32)).max(initial=1.0))
        # Never so loud that the largest sample clips.
        most = min(GAIN, max(32767 / peak - 1, 0.0))
        gain = 1 - GAIN + self.loudness * (GAIN + most)
        return np.clip(np.round(samples * gain), -32768, 32767).astype(np.int16)


def saturated(values: np.ndarray, factor: float) -> np.ndarray:
    """Change the HSV saturation of colours.

    Parameters
    ----------
    values
        (…, 3) in [0, 1].
    factor
        What the saturation is multiplied by; the result is at most 1.

    Returns
    -------
    numpy.ndarray
        The same shape.
    """
    high, low = values.max(axis=-1, keepdims=True), values.min(axis=-1, keepdims=True)
    spread = high - low
    # More saturation than this would need a colour below 0.
    most = np.divide(high, spread, out=np.ones_like(high), where=spread > 0)
    return high - (high - values) * np.minimum(np.float32(factor), most)


def brightened(values: np.ndarray, delta: float) -> np.ndarray:
    """Change the brightness of values.

    Parameters
    ----------
    values
        In [0, 1].
    delta
        What is added.

    Returns
    -------
    numpy.ndarray
        Clipped to [0, 1].
    """
    return np.clip(values + np.float32(delta), 0, 1)


@dataclass(frozen=True)
class Pair:
    """One example to make.

    Attributes
    ----------
    image
        Number of the video that gives the frame.
    time
        Seconds, of the frame.
    place
        Where in the frame the square is cut out: shares (across, down).
    sound
        Number of the video that gives the sound.
    start
        Seconds, of the sound's first sample.
    augmentation
        How the pair is changed; None: not at all.
    """

    image: int
    time: float
    place: tuple[float, float]
    sound: int
    start: float
    augmentation: Augmentation | None

    @property
    def matching(self) -> bool:
        """Whether both are of one video (and then of one second)."""
        return self.image == self.sound


class UnusableVideo(VideoError):
    """A video failed while pairs were cut from it.

    Parameters
    ----------
    number
        Which video.
    error
        Why it failed.
    """

    def __init__(self, number: int, error: VideoError) -> None:
        super().__init__(error.message, where=error.where)
        self.number = number


def plan_pairs(seconds: Sequence[float], count: int, seed: Sequence[int], augment: bool = False
         ) -> list[Pair]:
    """Plan pairs of videos, in a random order.

    Half of them match; of an odd number, the larger half does. In each round of the plan every
    video gives one image and one second; the rounds of non-matching pairs shift them against each
    other.

    Parameters
    ----------
    seconds
        Lengths of the videos.
    count
        How many pairs.
    seed
        Decides the plan.
    augment
        Whether to draw augmentations.

    Returns
    -------
    list of Pair
        ``count`` pairs.

    Raises
    ------
    InputError
        There are fewer than two videos, or one is shorter than a second.
    """
    if len(seconds) < 2:
        raise InputError(f"{len(seconds)} video(s) make no non-matching pairs",
                         allowed="at least 2")
    if min(seconds) < ONE_SECOND:
        raise InputError(f"a video of {min(seconds):.2f} s holds no second of sound")
    rng = np.random.default_rng(list(seed))
    n = len(seconds)
    pairs = []
    for matching, total in ((True, count - count // 2), (False, count // 2)):
        for first in range(0, total, n):
            order = rng.permutation(n)
            # A shift by 1 to n - 1 gives every video another one's sound, and each sound once.
            shifted = order if matching else np.roll(order, rng.integers(1, n))
            for image, sound in list(zip(order, shifted, strict=True))[:total - first]:
                start = rng.uniform(0, seconds[sound] - ONE_SECOND)
                around = start if matching else rng.uniform(0, seconds[image] - ONE_SECOND)
                # At the very end of a video there is no frame to decode.
                time = min(around + rng.uniform(0, ONE_SECOND),
                           max(seconds[image] - LAST_FRAME_S, 0))
                pairs.append(Pair(int(image), float(time), (rng.random(), rng.random()),
                                  int(sound), float(start),
                                  Augmentation.draw(rng) if augment else None))
    # Mixed, so that every file has both halves.
    return [pairs[number] for number in rng.permutation(len(pairs))]


def make_examples(
    pairs: Sequence[Pair], sources: Sequence[VideoSource], rate: int, size: int,
    threads: int = 1, advance: Callable[[], None] = lambda: None,
) -> Generator[Example, None, None]:
    """Decode planned pairs, in order, ahead of use.

    Parameters
    ----------
    pairs
        The plan.
    sources
        The videos.
    rate
        Hz of the sound.
    size
        Pixels of the images.
    threads
        Threads that decode.
    advance
        Called after every example.

    Yields
    ------
    tuple
        Sound (rate,) int16, image (size, size, 3) uint8, and label (1: matching).

    Raises
    ------
    UnusableVideo
        A video failed.
    """
    scaled = round(SCALED * size)

    def make(pair: Pair) -> Example:
        try:
            image = sources[pair.image].image(pair.time, size, scaled, pair.place)
        except VideoError as error:
            raise UnusableVideo(pair.image, error) from None
        try:
            sound = sources[pair.sound].sound(pair.start, rate)
        except VideoError as error:
            raise UnusableVideo(pair.sound, error) from None
        if pair.augmentation:
            image = pair.augmentation.image(image)
            sound = pair.augmentation.sound(sound)
        return sound, image, int(pair.matching)

    for example in read_ahead(make, pairs, depth=2 * threads + 2, threads=threads):
        yield example
        advance()


@dataclass
class PairMaker:
    """Makes one task's batches of one split.

    Attributes
    ----------
    names
        Names of the videos.
    open_source
        Opens a video by name (``VideoError`` where it cannot be used).
    prefix
        Beginning of the files' names.
    rate
        Hz of the sound.
    size
        Pixels of the images.
    pairs_per_video
        Images of each video; so many pairs are made, half of them matching.
    seed
        Decides the plan.
    scratch
        Folder that survives a killed attempt.
    augment
        Whether pairs are augmented.
    per_file
        Most pairs of a file.
    max_failed
        Largest share of videos that may be unusable.
    threads
        Threads that open and decode.
    progress
        Shows how many pairs are done.
    """

    names: Sequence[str]
    open_source: Callable[[str], VideoSource]
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
        """Write ``<prefix>_000.h5``, … and ``skipped.csv``.

        The same videos and settings give the same pairs, whatever was killed before.

        Parameters
        ----------
        output
            Folder that takes the files.

        Returns
        -------
        dict
            Numbers of ``pairs``, ``matching`` pairs, ``videos``, ``skipped`` videos and ``files``.

        Raises
        ------
        L3hpcError
            More than ``max_failed`` of the videos, or all but one, are unusable.
        """
        # Videos that were skipped before stay skipped, so that a restart makes the same plan.
        state = self.scratch / SKIPPED
        skipped: dict[str, str] = read_json(state) if state.is_file() else {}
        if self._are_too_many(skipped):
            # The attempt before was refused for them: they may have been repaired since.
            skipped = {}
            write_json(state, skipped)
        sources = self._open(skipped, state)
        while True:
            try:
                files, pairs = self._files(sources)
                break
            except UnusableVideo as error:
                # Found only while decoding. Pairs shift image and sound between all videos, so
                # that the whole plan is made again without this one.
                name = list(sources)[error.number]
                del sources[name]
                self._skip(name, error, skipped, state)
        # Made in the scratch folder, which survives a killed attempt, and moved when all are there.
        for path in files:
            shutil.move(path, output / path.name)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([("video", "reason"), *sorted(skipped.items())])
        write_text(output / "skipped.csv", table.getvalue())
        return {"pairs": len(pairs), "matching": sum(pair.matching for pair in pairs),
                "videos": len(sources), "skipped": len(skipped), "files": len(files)}

    def _open(self, skipped: dict[str, str], state: Path) -> dict[str, VideoSource]:
        self.progress.start("opening videos", total=len(self.names), unit="videos")

        def work(name: str) -> VideoSource | VideoError:
            try:
                return self.open_source(name)
            except VideoError as error:
                return error

        names = [name for name in self.names if name not in skipped]
        sources = {}
        threads = max(self.threads, 1)
        with closing(read_ahead(work, names, depth=2 * threads, threads=threads)) as opened:
            for name, source in zip(names, opened, strict=True):
                self.progress.advance()
                if isinstance(source, VideoError):
                    self._skip(name, source, skipped, state)
                else:
                    sources[name] = source
        return sources

    def _skip(self, name: str, error: VideoError, skipped: dict[str, str], state: Path) -> None:
        skipped[name] = error.message
        write_json(state, skipped)
        self.progress.note(f"skipped {name}: {error.message}")
        if self._are_too_many(skipped):
            raise L3hpcError(
                f"{len(skipped)} of {len(self.names)} videos cannot be used; the last: {name}: "
                f"{error.message}",
                allowed=f"at most {self.max_failed:.0%} ({setting('avc_pairs.max_failed')}), "
                        "and at least two usable videos",
                hint=repair_and_repeat(["avc_pairs.max_failed"]))

    def _are_too_many(self, skipped: Mapping[str, str]) -> bool:
        return len(skipped) > self.max_failed * len(self.names) or (
            len(self.names) - len(skipped) < 2)

    def _files(self, sources: dict[str, VideoSource]) -> tuple[list[Path], list[Pair]]:
        count = len(sources) * self.pairs_per_video
        pairs = plan_pairs([source.seconds for source in sources.values()], count, self.seed,
                           self.augment)
        # A plan with other videos has another folder: files of an earlier plan are not mixed in.
        key = digest([self.rate, self.size, self.per_file, list(sources),
                      [repr(astuple(pair)) for pair in pairs]])
        folder = self.scratch / key
        self.progress.start("cutting pairs", total=len(pairs), unit="pairs")
        files = []
        for first in range(0, len(pairs), self.per_file):
            part = pairs[first:first + self.per_file]
            path = folder / f"{self.prefix}_{first // self.per_file:03d}.h5"
            files.append(path)
            if path.is_file():  # from an earlier attempt
                self.progress.advance(len(part))
                continue
            with closing(make_examples(part, list(sources.values()), self.rate, self.size,
                                       self.threads, self.progress.advance)) as examples:
                write_batch(path, examples, len(part), {"rate": self.rate, "plan": key})
        return files, pairs
