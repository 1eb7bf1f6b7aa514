"""Arrays and arguments of ``get_embedding``: types, shapes, scales, rates, hops."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from . import bases, damage
from .oracle import call
from .runner import Case, Fault, Surface, Verdict

TYPES = ("float32", "float64", "float16", "int16", "int32", "int8", "uint8", "int64", "uint16",
         ">f4", ">i2", "longdouble", "bool", "complex64", "object", "U4", "S4", "datetime64[s]")


class Arrays(Surface):
    """Audio in memory."""

    name = "arrays"
    share = 700

    def prepare(self, folder: Any) -> None:
        self.model = bases.model()

    def judge(self, case: Case) -> Verdict:
        from l3hpc import get_embedding
        from l3hpc.errors import L3hpcError

        rng = case.rng
        channels = rng.choice((1, 1, 2))
        rate = rng.choice((8000, 16000, 22050, 44100))
        whole = bases.sound(rng.choice((0.3, 1.0, 1.7, 3.0)), rate, channels, rng.randrange(9))
        audio: Any = whole[:, 0] if channels == 1 else whole
        options: dict[str, Any] = {"center": rng.random() < 0.5,
                                   "hop_size": rng.choice((0.1, 0.5, 1.0))}
        sr: Any = rate
        said = [f"{audio.shape} at {rate}"]
        for change in case.damages():
            kind = change.randrange(8)
            if kind < 5:
                audio, words = _array(audio, change, rate)
            elif kind == 5:
                sr = change.choice(damage.PLAIN)
                words = f"sr={sr!r}"
            elif kind == 6:
                name = change.choice(("hop_size", "batch_size", "center", "resampler", "model"))
                options[name] = change.choice(damage.PLAIN)
                words = f"{name}={options[name]!r}"
            else:
                audio, words = [audio, whole[:, 0]], "in a list"
            said.append(words)
        what = "; ".join(said)
        (case.folder / "input.txt").write_text(what, errors="surrogatepass")
        given = {"model": self.model, **options}
        found = call(get_embedding, audio, sr, **given)
        if isinstance(found, L3hpcError):
            return Verdict(False, found.exit_code)
        _check(found, audio, sr, what)
        again = call(get_embedding, audio, sr, **given)
        if isinstance(again, L3hpcError) or not _same(found, again):
            raise Fault(f"the same input, another answer: {what}")
        if not case.changes:
            self._relations(audio, rate, given, found, what)
        return Verdict(True)

    def _relations(self, audio: np.ndarray, rate: int, given: dict[str, Any], found: Any,
                   what: str) -> None:
        """The same sound in other forms."""
        from l3hpc import get_embedding
        from l3hpc.audio.framing import frame_count

        samples = -(-len(audio) * bases.RATE // rate)
        wanted = frame_count(samples, bases.RATE, given["hop_size"], given["center"])
        if abs(len(found[0]) - wanted) > 1:
            raise Fault(f"{len(found[0])} frames, {wanted} expected: {what}")
        forms = {"float64": audio.astype(np.float64), "a list of one": [audio],
                 "Fortran order": np.asfortranarray(audio), "read-only": audio.copy(),
                 "int16": np.round(audio * 32767).astype(np.int16)}
        if audio.ndim == 1:
            forms["(n, 1)"] = audio[:, None]
            forms["a list of numbers"] = audio.tolist()
        else:
            forms["mono"] = audio.mean(axis=1)
        forms["read-only"].setflags(write=False)
        for name, form in forms.items():
            other = call(get_embedding, form, rate, **given)
            if isinstance(other, Exception):
                raise Fault(f"{name} is refused ({other}): {what}")
            embedding = other[0][0] if isinstance(other[0], list) else other[0]
            if embedding.shape != found[0].shape or not np.allclose(
                    embedding, found[0], rtol=0.01, atol=1e-3):
                raise Fault(f"as {name} it has another embedding: {what}")


def _array(audio: Any, rng: random.Random, rate: int) -> tuple[Any, str]:
    """The array changed, and how in words."""
    kind = rng.randrange(10)
    if isinstance(audio, list) or not isinstance(audio, np.ndarray):
        return rng.choice(damage.PLAIN), "an odd value"
    if kind == 0:
        name = rng.choice(TYPES)
        scale = rng.choice((1, 127, 255, 32767, 2**31 - 1))
        try:
            return (audio * scale).astype(name), f"as {name}, times {scale}"
        except (TypeError, ValueError, OverflowError):
            return audio.astype(object), "as object"
    if kind == 1:
        shape = rng.choice(((0,), (0, 2), (2, 0), (1, -1), (-1, 1), (1, 1, -1), (-1, 2), (2, -1),
                            (1,), ()))
        try:
            return audio.reshape(shape) if -1 in shape else np.zeros(shape, audio.dtype), \
                f"shape {shape}"
        except ValueError:
            return audio[:1], "one sample"
    if kind == 2 and audio.dtype.kind == "f" and audio.size:
        bad = audio.copy()
        value = rng.choice((np.nan, np.inf, -np.inf, 1e30, 3e38))
        bad.flat[rng.randrange(bad.size)] = value
        return bad, f"one sample is {value}"
    if kind == 3 and audio.dtype.kind in "fiu":
        factor = rng.choice((0, 1e-30, 1e-5, 2, 100, 32768, 1e10, 1e29, 1e38))
        with np.errstate(all="ignore"):
            return audio * np.asarray(factor, audio.dtype if audio.dtype.kind == "f" else float), \
                f"times {factor}"
    if kind == 4:
        return audio.T, "transposed"
    if kind == 5:
        return audio[:rng.choice((0, 1, 2, 100, rate - 1, rate, rate + 1))], "cut"
    if kind == 6:
        return audio.tolist(), "as a list"
    if kind == 7:
        return audio[::-1], "reversed"
    if kind == 8:
        return np.ma.masked_array(audio), "masked"
    return rng.choice(damage.PLAIN), "an odd value"


def _check(found: Any, audio: Any, rate: Any, what: str) -> None:
    """Whatever is given back is finite, in pairs, with growing times."""
    pairs = list(zip(*found, strict=True)) if isinstance(found[0], list) else [found]
    for embedding, times in pairs:
        if not isinstance(embedding, np.ndarray) or embedding.ndim != 2:
            raise Fault(f"no matrix: {what}")
        if embedding.shape[1] != bases.Network.dim or embedding.dtype != np.float32:
            raise Fault(f"a matrix of shape {embedding.shape}, {embedding.dtype}: {what}")
        if len(embedding) != len(times) or not len(times):
            raise Fault(f"{len(embedding)} embeddings at {len(times)} times: {what}")
        if not np.isfinite(embedding).all():
            raise Fault(f"an embedding that is not finite: {what}")
        if (np.diff(times) <= 0).any() or not np.isfinite(times).all():
            raise Fault(f"times that do not grow: {what}")
    if isinstance(audio, np.ndarray) and audio.ndim == 2 and audio.shape[1] > 64:
        longest = audio.shape[1] / rate * bases.RATE
        if len(pairs) != 1 or pairs[0][1][-1] * bases.RATE < longest - 2 * bases.RATE:
            raise Fault(f"{audio.shape[1]} channels were averaged: {what}")


def _same(one: Any, other: Any) -> bool:
    """Whether two answers are equal."""
    if isinstance(one[0], list):
        return all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    return np.array_equal(one[0], other[0])
