"""Synthetic city sounds: one function per SONYC-UST class, with fine variants.

Every function takes a generator, a number of samples n and a rate in Hz, and returns float32 of
shape (n,) with a root mean square of 1 over its active parts; the caller sets levels and mixes. The
sounds are recognisable caricatures: harmonic stacks for engines, saws and horns, impulse trains
through resonant filters for impacts, pulses through formants for voices. Periodic sounds read one
period from a table, so that a clip takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float32]
Rng = np.random.Generator

_TABLE = 4096  # samples of one period; a power of two, so that the phase wraps by a mask


def background(rng: Rng, n: int, rate: int) -> Signal:
    """The distant city: noise that falls by about 5 dB per octave and swells slowly.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    frequency = np.fft.rfftfreq(n, 1 / rate)
    shape = 1 / (1 + (frequency / 60.0) ** rng.uniform(0.8, 1.0)) * (frequency > 20)
    noise = _noise(rng, n, shape)
    return _unit(noise * (1 + 0.25 * _drift(rng, n, rate, 0.4)))


def engine(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """A combustion engine.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``small``, ``medium`` or ``large``: they differ in firing rate and brightness.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    low, high, bright = {"small": (85, 140, 0.55), "medium": (45, 70, 0.9),
                         "large": (22, 34, 1.2)}[kind]
    pitch = rng.uniform(low, high) * (1 + 0.05 * _drift(rng, n, rate, 0.7))
    order = np.arange(1, 40)
    strength = order ** -bright * rng.uniform(0.4, 1.0, order.size)
    tone = _periodic(rng, pitch, rate, strength)
    rush = _noise(rng, n, _band(n, rate, 2 * low, 25 * low)) * (1.2 + tone / 2)
    return _unit((tone + 0.25 * rush) * _passing(rng, n, rate))


def machinery_impact(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """Regular blows of a machine.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``rock-drill`` (30 blows per second, bright), ``jackhammer``, ``hoe-ram`` or ``pile-driver``
        (1 blow per second, deep).

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    per_second, modes, decay = {
        "rock-drill": ((26, 34), (2600, 4100, 5200), 0.010),
        "jackhammer": ((12, 18), (900, 1700, 2900), 0.018),
        "hoe-ram": ((4, 7), (180, 420, 900), 0.050),
        "pile-driver": ((0.8, 1.4), (70, 160, 310), 0.220),
    }[kind]
    speed = rng.uniform(*per_second)
    times = np.arange(rng.uniform(0, 1 / speed), n / rate, 1 / speed)
    times = times + rng.normal(0, 0.03 / speed, times.size)
    return _unit(_strikes(rng, n, rate, times, modes, decay))


def impact(rng: Rng, n: int, rate: int) -> Signal:
    """A few irregular knocks, drops and clatters.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    times = np.sort(rng.uniform(0, n / rate, rng.integers(3, 9)))
    modes = np.sort(rng.uniform(250, 3200, 4))
    return _unit(_strikes(rng, n, rate, times, modes, rng.uniform(0.03, 0.09)))


def powered_saw(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """A chainsaw's two-stroke rasp, or the whine of a blade under changing load.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``chainsaw``, or ``small`` or ``large`` for a rotating saw.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    # The saw is under load about half of the time.
    load = _smooth(rng, n, rate, 1.5) > 0.0
    bite = _lowpass(load.astype(np.float32), rate, 3.0)
    if kind == "chainsaw":
        pitch = rng.uniform(95, 150) * (1.25 - 0.35 * bite)
        tone = _periodic(rng, pitch, rate, np.arange(1, 60) ** -0.35)
        return _unit(tone * (0.6 + 0.4 * bite) + 0.15 * _noise(rng, n, _band(n, rate, 1500, 7000)))
    low, high = {"small": (2300, 3600), "large": (800, 1400)}[kind]
    pitch = rng.uniform(low, high) * (1.05 - 0.2 * bite)
    whine = _periodic(rng, pitch, rate, np.array([1, 0.5, 0.3, 0.15]))
    teeth = _noise(rng, n, _band(n, rate, low, 3 * high))
    return _unit(whine * (0.5 + 0.5 * bite) + 0.7 * teeth * bite)


def alert(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """A horn (a chord in bursts), car alarm (fast sweeps), siren (slow sweeps) or reverse beeper.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``car-horn``, ``car-alarm``, ``siren`` or ``reverse-beeper``.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    seconds = _seconds(n, rate)
    if kind == "car-horn":
        gate = _bursts(rng, n, rate, (0.25, 1.2), (0.4, 1.8))
        root = rng.uniform(370, 440)
        strength = np.array([1, 0.8, 0.7, 0.4, 0.4, 0.2, 0.2, 0.1])
        return _unit(gate * (_periodic(rng, np.full(n, root), rate, strength)
                             + _periodic(rng, np.full(n, 1.25 * root), rate, strength)))
    if kind == "car-alarm":
        sweep = (seconds * rng.uniform(2.5, 5)) % 1
        return _unit(_periodic(rng, 650 + 900 * sweep, rate, np.array([1, 0.4, 0.25])))
    if kind == "siren":
        cycle = 0.5 - 0.5 * np.cos(2 * np.pi * seconds / rng.uniform(2.5, 5) + rng.uniform(0, 6))
        tone = _periodic(rng, 550 + 950 * cycle, rate, np.array([1, 0.5, 0.35, 0.2]))
        return _unit(tone * _passing(rng, n, rate))
    gate = _lowpass(((seconds + rng.uniform(0, 1)) % 1.0 < 0.5).astype(np.float32), rate, 60)
    pitch = np.full(n, rng.uniform(1000, 1350))
    return _unit(gate * _periodic(rng, pitch, rate, np.array([1, 0.2])))


def music(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """Chords with a beat, stationary or passing by, or an ice cream truck's bells.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``stationary``, ``mobile`` or ``ice-cream``.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    if kind == "ice-cream":
        beat = rng.uniform(0.22, 0.32)
        notes = rng.choice([0, 2, 4, 7, 9, 12], size=int(n / rate / beat) + 1)
        return _unit(_notes(rng, n, rate, 1046.5 * 2 ** (notes / 12), beat, np.array([1, 0, 0.3]),
                            0.18))
    beat = rng.uniform(0.4, 0.6)
    root = rng.uniform(110, 165)
    chords = np.array([0, 5, 7, 3])[rng.permutation(4)]
    sound = np.zeros(n, np.float32)
    strength = 1 / np.arange(1, 9)
    for interval in (0, 4, 7):
        steps = np.repeat(chords, 4)[np.arange(int(n / rate / beat) + 1) % 16] + interval
        sound += _notes(rng, n, rate, root * 2 ** (steps / 12), beat, strength, 0.5)
    beats = np.arange(0, n / rate, beat)
    drum = _unit(_strikes(rng, n, rate, beats, (60, 90), 0.09))
    hiss = _unit(_strikes(rng, n, rate, beats + beat / 2, (5000, 7600), 0.015))
    mixed = _unit(sound) + 0.9 * drum + 0.25 * hiss
    if kind == "mobile":
        mixed = _lowpass(mixed, rate, 900) * _passing(rng, n, rate)
    return _unit(mixed)


def voice(rng: Rng, n: int, rate: int, kind: str) -> Signal:
    """Talking, shouting, a crowd of talkers, or a talker through a loudspeaker.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.
    kind
        ``talking``, ``shouting``, ``crowd`` or ``amplified``.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    if kind == "crowd":
        crowd = sum((_talk(rng, n, rate, rng.uniform(95, 260), 4.5) for _ in range(5)),
                    np.zeros(n, np.float32))
        return _unit(crowd + 0.4 * _noise(rng, n, _band(n, rate, 300, 2000)))
    if kind == "shouting":
        return _unit(_talk(rng, n, rate, rng.uniform(280, 420), 1.8))
    speech = _talk(rng, n, rate, rng.uniform(95, 230), 4.5)
    if kind == "amplified":
        echo = np.zeros_like(speech)
        for delay, gain in ((0.09, 0.5), (0.17, 0.35), (0.31, 0.2)):
            shift = int(delay * rate)
            echo[shift:] += gain * speech[:-shift]
        return _unit(_shaped(speech + echo, _band(n, rate, 450, 2800)))
    return _unit(speech)


def dog(rng: Rng, n: int, rate: int) -> Signal:
    """Groups of barks: short, falling, rough.

    Parameters
    ----------
    rng
        The generator.
    n
        Number of samples.
    rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    pitch = np.full(n, 1.0, np.float32)
    gate = np.zeros(n, np.float32)
    base = rng.uniform(420, 800)
    time = rng.uniform(0, 0.8)
    while time < n / rate:
        for _ in range(rng.integers(2, 5)):
            start, length = int(time * rate), int(rng.uniform(0.10, 0.18) * rate)
            stop = min(start + length, n)
            if stop > start:
                along = np.linspace(0, 1, length, dtype=np.float32)[:stop - start]
                pitch[start:stop] = 1.25 - 0.6 * along ** 2
                gate[start:stop] = np.sin(np.pi * along ** 0.5) ** 2
            time += rng.uniform(0.25, 0.4)
        time += rng.uniform(0.5, 1.6)
    tone = _periodic(rng, base * pitch, rate, np.arange(1, 12) ** -0.6)
    rough = _noise(rng, n, _band(n, rate, base, 5 * base))
    return _unit(gate * (tone + 0.5 * rough))


# (coarse, fine) of the SONYC-UST taxonomy → the function that makes the sound.
MAKERS: dict[tuple[int, int], Callable[[Rng, int, int], Signal]] = {
    (1, 1): lambda rng, n, rate: engine(rng, n, rate, "small"),
    (1, 2): lambda rng, n, rate: engine(rng, n, rate, "medium"),
    (1, 3): lambda rng, n, rate: engine(rng, n, rate, "large"),
    (2, 1): lambda rng, n, rate: machinery_impact(rng, n, rate, "rock-drill"),
    (2, 2): lambda rng, n, rate: machinery_impact(rng, n, rate, "jackhammer"),
    (2, 3): lambda rng, n, rate: machinery_impact(rng, n, rate, "hoe-ram"),
    (2, 4): lambda rng, n, rate: machinery_impact(rng, n, rate, "pile-driver"),
    (3, 1): impact,
    (4, 1): lambda rng, n, rate: powered_saw(rng, n, rate, "chainsaw"),
    (4, 2): lambda rng, n, rate: powered_saw(rng, n, rate, "small"),
    (4, 3): lambda rng, n, rate: powered_saw(rng, n, rate, "large"),
    (5, 1): lambda rng, n, rate: alert(rng, n, rate, "car-horn"),
    (5, 2): lambda rng, n, rate: alert(rng, n, rate, "car-alarm"),
    (5, 3): lambda rng, n, rate: alert(rng, n, rate, "siren"),
    (5, 4): lambda rng, n, rate: alert(rng, n, rate, "reverse-beeper"),
    (6, 1): lambda rng, n, rate: music(rng, n, rate, "stationary"),
    (6, 2): lambda rng, n, rate: music(rng, n, rate, "mobile"),
    (6, 3): lambda rng, n, rate: music(rng, n, rate, "ice-cream"),
    (7, 1): lambda rng, n, rate: voice(rng, n, rate, "talking"),
    (7, 2): lambda rng, n, rate: voice(rng, n, rate, "shouting"),
    (7, 3): lambda rng, n, rate: voice(rng, n, rate, "crowd"),
    (7, 4): lambda rng, n, rate: voice(rng, n, rate, "amplified"),
    (8, 1): dog,
}


def far(signal: Signal, rate: int) -> Signal:
    """The same sound from far away, without the high frequencies that the air absorbs.

    Parameters
    ----------
    signal
        (n,).
    rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    return _unit(_lowpass(signal, rate, 1800))


def _seconds(n: int, rate: int) -> Signal:
    return np.arange(n, dtype=np.float32) / np.float32(rate)


def _unit(signal: np.ndarray) -> Signal:
    """Scale so that the loudest tenth of 50 pieces has a root mean square of about 1."""
    signal = np.asarray(signal, np.float32)
    pieces = signal[:len(signal) // 50 * 50].reshape(50, -1) if len(signal) >= 50 else signal[None]
    power = np.sort(np.mean(np.square(pieces), axis=1))[-max(1, len(pieces) // 10):].mean()
    # A sound may be silent by chance; a tiny number added keeps it so.
    return np.asarray(signal / np.float32(np.sqrt(power) + 1e-9), np.float32)


def _noise(rng: Rng, n: int, shape: np.ndarray) -> Signal:
    """White noise through a gain per rFFT bin, with a root mean square of 1."""
    signal = _shaped(rng.standard_normal(n, dtype=np.float32), shape)
    return np.asarray(signal / np.float32(np.sqrt(np.mean(np.square(signal))) + 1e-9))


def _shaped(signal: Signal, shape: np.ndarray) -> Signal:
    from scipy import fft

    spectrum = fft.rfft(signal) * shape.astype(np.float32)
    return np.asarray(fft.irfft(spectrum, len(signal)), np.float32)


def _band(n: int, rate: int, low: float, high: float) -> np.ndarray:
    frequency = np.fft.rfftfreq(n, 1 / rate) + 1e-3
    return 1 / (1 + (low / frequency) ** 4) / (1 + (frequency / high) ** 4)


def _lowpass(signal: Signal, rate: int, cut: float) -> Signal:
    frequency = np.fft.rfftfreq(len(signal), 1 / rate)
    return _shaped(signal, 1 / (1 + (frequency / cut) ** 4))


def _smooth(rng: Rng, n: int, rate: int, per_second: float) -> Signal:
    """A random curve through normal knots, ``per_second`` of them a second."""
    knots = max(4, int(n / rate * per_second) + 3)
    places = np.linspace(0, knots - 1, n, dtype=np.float32)
    return np.interp(places, np.arange(knots), rng.standard_normal(knots)).astype(np.float32)


def _drift(rng: Rng, n: int, rate: int, per_second: float) -> Signal:
    return np.tanh(_smooth(rng, n, rate, per_second))


def _passing(rng: Rng, n: int, rate: int) -> Signal:
    """The swell of something that approaches, passes and recedes."""
    place = (_seconds(n, rate) / (n / rate) - rng.uniform(0.2, 0.8)) / rng.uniform(0.25, 0.7)
    return np.asarray(0.25 + 0.75 / (1 + place ** 2), np.float32)


def _bursts(rng: Rng, n: int, rate: int, on: tuple[float, float],
            off: tuple[float, float]) -> Signal:
    gate = np.zeros(n, np.float32)
    time = rng.uniform(0, off[0])
    while time < n / rate:
        length = rng.uniform(*on)
        gate[int(time * rate):int((time + length) * rate)] = 1
        time += length + rng.uniform(*off)
    return _lowpass(gate, rate, 40)


def _periodic(rng: Rng, pitch: np.ndarray, rate: int, strength: np.ndarray) -> Signal:
    """A stack of harmonics that follows ``pitch`` (Hz per sample); none above half the rate."""
    # Harmonics above half the rate would alias.
    count = min(len(strength), max(1, int(0.5 * rate / float(np.max(pitch)))))
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
    spectrum[1:count + 1] = strength[:count] * np.exp(2j * np.pi * rng.random(count))
    table = np.fft.irfft(spectrum)
    table = (table / np.sqrt(np.mean(table ** 2))).astype(np.float32)
    # float64: over ten seconds the phase grows to millions of steps, of which float32 loses the
    # fraction.
    phase = np.cumsum(np.asarray(pitch, np.float64) * (_TABLE / rate))
    return table[phase.astype(np.int64) & (_TABLE - 1)]


def _strikes(rng: Rng, n: int, rate: int, times: np.ndarray, modes: np.ndarray | tuple[float, ...],
             decay: float) -> Signal:
    """Blows at ``times`` (s), each exciting damped ``modes`` (Hz) with a burst of noise."""
    length = min(n, int(8 * decay * rate) + 1)
    seconds = _seconds(length, rate)
    ring = np.zeros(length, np.float32)
    for mode in modes:
        if mode < 0.45 * rate:
            ring += np.sin(2 * np.pi * mode * seconds + rng.uniform(0, 6))
    ring += 0.8 * rng.standard_normal(length, dtype=np.float32) * np.exp(-seconds / (decay / 4))
    ring *= np.exp(-seconds / decay)
    sound = np.zeros(n + length, np.float32)
    for time, force in zip(times, rng.uniform(0.6, 1.0, len(times)), strict=True):
        start = int(time * rate)
        if 0 <= start < n:
            sound[start:start + length] += np.float32(force) * ring
    return sound[:n]


def _notes(rng: Rng, n: int, rate: int, pitches: np.ndarray, beat: float, strength: np.ndarray,
           decay: float) -> Signal:
    """One note of each pitch (Hz) per ``beat`` (s), struck and decaying."""
    seconds = _seconds(n, rate)
    number = np.minimum((seconds / beat).astype(np.int64), len(pitches) - 1)
    tone = _periodic(rng, np.asarray(pitches)[number], rate, strength)
    since = seconds - number * np.float32(beat)
    struck = np.exp(-since / np.float32(decay)) * np.minimum(1, since * 400)
    return np.asarray(tone * struck, np.float32)


def _talk(rng: Rng, n: int, rate: int, pitch: float, syllables: float) -> Signal:
    """Glottal pulses in syllables, each with the formants of one of five vowels."""
    from scipy import fft

    curve = pitch * (1 + 0.12 * _drift(rng, n, rate, 2.0))
    source = _periodic(rng, curve, rate, np.arange(1, 50) ** -0.7)
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480),
              (570, 840, 2410)]
    frequency = np.fft.rfftfreq(n, 1 / rate).astype(np.float32)
    which = np.argmax([_smooth(rng, n, rate, syllables) for _ in vowels], axis=0)
    spectrum = fft.rfft(source)
    sound = np.zeros(n, np.float32)
    for number, formants in enumerate(vowels):
        shape = np.zeros(len(frequency), np.float32)
        for peak, gain in zip(formants, (1, 0.6, 0.3), strict=True):
            shape += np.float32(gain) / (1 + np.square((frequency - peak) / 90))
        sound += fft.irfft(spectrum * shape, n) * (which == number)
    opening = np.clip(_smooth(rng, n, rate, 2 * syllables) + 0.4, 0, 1.2)
    phrase = _lowpass((_smooth(rng, n, rate, 0.8) > -0.5).astype(np.float32), rate, 8)
    return sound * opening * phrase
