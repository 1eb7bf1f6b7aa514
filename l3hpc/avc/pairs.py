"""Which frame meets which second of sound, and how each is varied.

A matching pair is a second of sound and a frame from within it; in the other half, picture and
sound come from two different videos. All pairs are planned before anything is decoded, from a seed:
every video gives equally many frames and seconds to both halves, so that neither alone gives the
label away.

Augmentation changes a pair slightly and keeps its meaning. Pictures: mirrored or not, saturation
times 0.5 to 1.5, brightness plus or minus 32/255, the two in either order. Sound: a gain of 0.9 to
1.1, never so much that it clips. (The published code took the peak of 16-bit samples as if they lay
in [-1, 1] and so only ever made sound quieter.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import Example
from l3hpc.avc.ffmpeg import VideoError
from l3hpc.avc.videos import SECOND, Source
from l3hpc.avc.vision import SCALED
from l3hpc.errors import InputError

BRIGHTNESS = 32 / 255
GAIN = 0.1
LAST_FRAME_S = 0.05  # a frame is not looked for in the last moments of a video


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
