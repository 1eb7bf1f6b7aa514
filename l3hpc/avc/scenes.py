"""Generated audio-visual scenes: a coloured shape moves about and makes its own kind of sound.

A scene is a video without a file: any frame and any second of it follow from the seed and its
number alone. Six kinds of shapes have six kinds of sound, so that a network that only learns "this
shape, this sound" tells matching pairs from others in eleven cases of twelve: a non-matching pair
is of the same kind one time in six.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from l3hpc.datasets import sounds
from l3hpc.errors import InputError

DEFAULT_SEED = 20180216
SECONDS = 10.0
ASPECT = 4 / 3  # width by height of the whole frame
# Accuracy of a classifier that identifies the kind of image and sound, and nothing else.
CEILING = 11 / 12
_NAME = re.compile(r"generated(?::(\d{1,9}))?")

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SceneKind:
    """A shape, its colour and its sound.

    Attributes
    ----------
    name
        What it sounds like.
    colour
        (red, green, blue) in [0, 1].
    inside
        Whether points (x, y), in radii from the centre, are inside the shape.
    sound
        Makes (n,) samples from a generator, n and the rate in Hz.
    """

    name: str
    colour: tuple[float, float, float]
    inside: Shape
    sound: Callable[[np.random.Generator, int, int], np.ndarray]


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95))


KINDS = (
    SceneKind("engine", (0.85, 0.15, 0.15), lambda x, y: x * x + y * y < 1,
              lambda rng, n, rate: sounds.engine(rng, n, rate, "medium")),
    SceneKind("jackhammer", (0.95, 0.75, 0.10), lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
              lambda rng, n, rate: sounds.machinery_impact(rng, n, rate, "jackhammer")),
    SceneKind("car alarm", (0.15, 0.25, 0.90), lambda x, y: (y < 0.8) & (abs(x) < 0.55 * (y + 1)),
              lambda rng, n, rate: sounds.alert(rng, n, rate, "car-alarm")),
    SceneKind("saw", (0.15, 0.75, 0.25), _cross,
              lambda rng, n, rate: sounds.powered_saw(rng, n, rate, "small")),
    SceneKind("ice cream truck", (0.90, 0.30, 0.80), lambda x, y: abs(x * x + y * y - 0.7) < 0.3,
              lambda rng, n, rate: sounds.music(rng, n, rate, "ice-cream")),
    SceneKind("beeper", (0.10, 0.80, 0.85), lambda x, y: abs(x) + abs(y) < 1.1,
              lambda rng, n, rate: sounds.alert(rng, n, rate, "reverse-beeper")),
)


class Scene:
    """A generated scene of ten seconds: a ``VideoSource``.

    Kinds alternate with the numbers. Size, path, speed, shade, background and the parameters of the
    sound are drawn for each scene.

    Parameters
    ----------
    number
        Number of the scene.
    seed
        Of all scenes.
    """

    seconds = SECONDS

    def __init__(self, number: int, seed: int = DEFAULT_SEED) -> None:
        self.number, self.seed = number, seed
        self.kind = KINDS[number % len(KINDS)]
        self.name = f"scene-{number:05d}"
        # A generator each for the scene, the grain of a frame and the sound (1, 2, 3): what is
        # drawn first does not change the others.
        rng = np.random.default_rng([seed, 1, number])
        self._radius = rng.uniform(0.18, 0.3)  # in heights of the frame
        self._rates = rng.uniform(0.05, 0.25, 2)  # turns per second, across and down
        self._phases = rng.uniform(0, 2 * math.pi, 2)
        self._colour = np.clip(np.array(self.kind.colour) + rng.normal(0, 0.05, 3), 0, 1)
        self._ground = rng.uniform(0.25, 0.6) + rng.normal(0, 0.03, 3)
        self._tilt = rng.uniform(-0.2, 0.2, 2)
        self._sounds: dict[int, np.ndarray] = {}
        self._lock = Lock()

    def image(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """Draw one frame: a square cut out of a frame of 4:3 with a height of ``scaled`` pixels.

        Parameters
        ----------
        time
            Seconds.
        size
            Pixels, width and height of the square.
        scaled
            Pixels.
        place
            Where the square is cut out: shares (across, down) of the remaining width and height.

        Returns
        -------
        numpy.ndarray
            (size, size, 3) uint8.
        """
        width = math.ceil(scaled * ASPECT)
        left, top = (math.floor(share * margin) for share, margin in
                     zip(place, (width - size, scaled - size), strict=True))
        y, x = np.mgrid[top:top + size, left:left + size] / scaled  # in heights of the frame
        across, down = 0.5 + 0.5 * np.sin(2 * np.pi * self._rates * time + self._phases)
        margin = 0.8 * self._radius
        centre = (margin + across * (ASPECT - 2 * margin), margin + down * (1 - 2 * margin))
        shape = self.kind.inside((x - centre[0]) / self._radius, (y - centre[1]) / self._radius)
        light = self._tilt[0] * (x / ASPECT - 0.5) + self._tilt[1] * (y - 0.5)
        pixels = np.where(shape[..., None], self._colour, self._ground + light[..., None])
        # The same frame has the same noise, whenever it is drawn.
        grain = np.random.default_rng([self.seed, 2, self.number, round(time * 1000)])
        pixels = pixels + grain.normal(0, 0.02, pixels.shape)
        return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)

    def sound(self, start: float, rate: int) -> np.ndarray:
        """One second of sound.

        Parameters
        ----------
        start
            Seconds.
        rate
            Hz.

        Returns
        -------
        numpy.ndarray
            (rate,) int16.
        """
        whole = self.track(rate)
        first = min(round(start * rate), len(whole) - rate)
        return whole[first:first + rate]

    def track(self, rate: int) -> np.ndarray:
        """The sound of the whole scene, over a quiet background.

        Parameters
        ----------
        rate
            Hz.

        Returns
        -------
        numpy.ndarray
            (10 * rate,) int16.
        """
        # Several threads cut pairs: the track is computed once.
        with self._lock:
            if rate not in self._sounds:
                rng = np.random.default_rng([self.seed, 3, self.number])
                n = round(self.seconds * rate)
                clip = 10 ** (rng.uniform(-24, -16) / 20) * self.kind.sound(rng, n, rate)
                clip = clip + 10 ** (rng.uniform(-52, -44) / 20) * sounds.background(rng, n, rate)
                # tanh, so that loud peaks are bent instead of clipped.
                self._sounds[rate] = np.round(32767 * np.tanh(clip)).astype(np.int16)
            return self._sounds[rate]


def scenes_seed(name: str) -> int | None:
    """The seed in ``generated[:SEED]``.

    Parameters
    ----------
    name
        A name, or a folder of videos.

    Returns
    -------
    int or None
        None for a folder.

    Raises
    ------
    InputError
        The seed is not a number.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        if name.startswith("generated:"):
            raise InputError(f"{name!r} has no valid seed",
                             allowed="generated or generated:SEED, with a whole number")
        return None
    return int(match[1]) if match[1] else DEFAULT_SEED
