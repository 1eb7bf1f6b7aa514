"""Pruning plans: how many percent of each convolution's weights go.

The eleven published plans are the rows of the EdgeL3 sparsity table (Kumari et al. 2019, "EdgeL3:
Compressing L3-Net for Mote-Scale Urban Noise Monitoring"), named by the reduction in percent that
the table states. ``edgel3`` is 95.45, the published network.
"""

from __future__ import annotations

import math

from l3hpc.errors import InputError, nearest

PUBLISHED: dict[str, tuple[float, ...]] = {
    "53.49": (0, 30, 40, 50, 30, 50, 50, 60),
    "63.48": (0, 40, 50, 60, 40, 60, 60, 70),
    "72.29": (0, 40, 50, 60, 40, 70, 70, 80),
    "73.55": (0, 60, 60, 70, 50, 70, 70, 80),
    "80.87": (0, 70, 70, 75, 60, 80, 80, 85),
    "87.08": (0, 80, 80, 85, 40, 85, 85, 95),
    "90.51": (30, 85, 85, 90, 60, 90, 90, 95),
    "95.45": (0, 85, 85, 85, 75, 95, 98, 98),
    "97.00": (0, 93, 94, 96, 97, 95.97, 98, 97),
    "98.00": (0, 95, 96, 97, 97, 98, 98.65, 98),
    "99.00": (0, 94, 96, 99, 99, 99, 99, 99.2),
}
NONE = "none"
ALIASES = {  # as the package edgel3 spells them, and shorter
    "edgel3": "95.45", "53.5": "53.49", "63.5": "63.48", "72.3": "72.29", "73.5": "73.55",
    "81.0": "80.87", "87.0": "87.08", "90.5": "90.51", "97": "97.00", "97.0": "97.00",
    "98": "98.00", "98.0": "98.00", "99": "99.00", "99.0": "99.00",
}


def layer_names(count: int) -> list[str]:
    """Names of the convolutions of a network with ``count`` of them, as published:
    ``conv_1`` … and ``audio_embedding_layer`` for the last."""
    return [*(f"conv_{number}" for number in range(1, count)), "audio_embedding_layer"]


def parse(text: str, layers: int = 8) -> tuple[float, ...]:
    """Percent per convolution from a plan's name, ``none``, or numbers with commas.

    layers: convolutions of the network (8, or 5 to 7 after a cut in depth). Raises ``InputError``
    for an unknown name, another count of numbers, and numbers outside 0 ≤ q < 100.
    """
    word = text.strip()
    if word == NONE:
        return (0.0,) * layers
    name = canonical(word)
    if name is not None:
        if layers != len(PUBLISHED[name]):
            raise InputError(f"the plan {word!r} is for 8 convolutions, the network has {layers}",
                             allowed=f"{NONE}, or {layers} numbers with commas")
        return tuple(map(float, PUBLISHED[name]))
    if "," not in word:
        raise InputError(f"no pruning plan {word!r}", allowed=nearest(
            word, [NONE, "edgel3", *PUBLISHED]),
            hint=f"or percent for each convolution: {','.join(['50'] * layers)}")
    return _numbers(word, layers)


def canonical(text: str) -> str | None:
    """The name in ``PUBLISHED`` that a text stands for; None for anything else."""
    name = ALIASES.get(text.strip().lower(), text.strip())
    return name if name in PUBLISHED else None


def title(text: str, layers: int = 8) -> str:
    """How a plan is called in tables: its published name, ``none``, or its numbers."""
    values = parse(text, layers)
    if not any(values):
        return NONE
    for name, published in PUBLISHED.items():
        if values == tuple(map(float, published)):
            return name
    return show(values)


def show(values: tuple[float, ...]) -> str:
    """``0,85,85,85,75,95,98,98``."""
    return ",".join(f"{value:g}" for value in values)


def split(text: str) -> tuple[str, ...]:
    """The plans in a text: names or rows of numbers, with blanks or semicolons between them."""
    return tuple(text.replace(";", " ").split())


def _numbers(text: str, layers: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is not a row of numbers",
                         allowed=f"for example {show((50.0,) * layers)}") from None
    if len(values) != layers:
        raise InputError(f"{len(values)} numbers for {layers} convolutions: {text}",
                         allowed=f"{layers} numbers, one per convolution",
                         hint="several plans are divided by blanks: '53.49 95.45'"
                         if any(canonical(part) for part in text.split(",")) else None)
    for name, value in zip(layer_names(layers), values, strict=True):
        check_percent(value, name)
    return values


def check_percent(value: float, where: str) -> None:
    """Refuse (``InputError``) a sparsity outside 0 ≤ q < 100."""
    if not (math.isfinite(value) and 0 <= value < 100):
        raise InputError(f"a sparsity of {value:g} %", where=where,
                         allowed="0 (nothing goes) to below 100")
