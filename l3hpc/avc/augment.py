"""Small changes to a pair that leave its meaning: what the published samplers drew at random.

Pictures: mirrored or not, saturation times 0.5 to 1.5, brightness plus or minus 32/255, the two in
either order. Sound: a gain of 0.9 to 1.1, never so much that it clips. (The published code took the
peak of 16-bit samples as if they lay in [-1, 1] and so only ever made sound quieter.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BRIGHTNESS = 32 / 255
GAIN = 0.1


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
