"""Pruning plans: what percentage of each convolution's weights becomes zero. No NumPy here.

The eleven published plans are the rows of the EdgeL3 sparsity table (Kumari et al. 2019, "EdgeL3:
Compressing L3-Net for Mote-Scale Urban Noise Monitoring"), named by the reduction in percent that
the table states; ``edgel3`` is 95.45, the published network.
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
NO_PRUNING = "none"
# The spellings of the package edgel3, and shorter ones.
ALIASES = {
    "edgel3": "95.45", "53.5": "53.49", "63.5": "63.48", "72.3": "72.29", "73.5": "73.55",
    "81.0": "80.87", "87.0": "87.08", "90.5": "90.51", "97": "97.00", "97.0": "97.00",
    "98": "98.00", "98.0": "98.00", "99": "99.00", "99.0": "99.00",
}


def layer_names(count: int) -> list[str]:
    """Published names of the convolutions of a network.

    Parameters
    ----------
    count
        Number of convolutions.

    Returns
    -------
    list of str
        ``conv_1`` …, and ``audio_embedding_layer`` for the last.

    Examples
    --------
    >>> layer_names(3)
    ['conv_1', 'conv_2', 'audio_embedding_layer']
    """
    return [*(f"conv_{number}" for number in range(1, count)), "audio_embedding_layer"]


def parse_plan(text: str, layers: int = 8) -> tuple[float, ...]:
    """Percentage per convolution from the text of a plan.

    Parameters
    ----------
    text
        Name of a published plan, ``none``, or percentages separated by commas.
    layers
        Convolutions of the network: 8, or 5 to 7 after a cut in depth.

    Returns
    -------
    tuple of float
        ``layers`` percentages.

    Raises
    ------
    InputError
        Unknown name, another count of numbers, or a number outside 0 ≤ q < 100.

    Examples
    --------
    >>> parse_plan("edgel3")
    (0.0, 85.0, 85.0, 85.0, 75.0, 95.0, 98.0, 98.0)
    """
    word = text.strip()
    if word == NO_PRUNING:
        return (0.0,) * layers
    name = published_name(word)
    if name is not None:
        if layers != len(PUBLISHED[name]):
            raise InputError(f"the plan {word!r} is for 8 convolutions, the network has {layers}",
                             allowed=f"{NO_PRUNING}, or {layers} numbers separated by commas")
        return tuple(map(float, PUBLISHED[name]))
    if "," not in word:
        raise InputError(f"no pruning plan {word!r}", allowed=nearest(
            word, [NO_PRUNING, "edgel3", *PUBLISHED]),
            hint=f"or give a percentage per convolution: {','.join(['50'] * layers)}")
    return _numbers(word, layers)


def published_name(text: str) -> str | None:
    """Name of the published plan that a text stands for.

    Parameters
    ----------
    text
        A name or one of its ``ALIASES``.

    Returns
    -------
    str or None
        The name in ``PUBLISHED``; None for any other text.
    """
    name = ALIASES.get(text.strip().lower(), text.strip())
    return name if name in PUBLISHED else None


def plan_title(text: str, layers: int = 8) -> str:
    """Name of a plan in tables.

    Parameters
    ----------
    text
        As in ``parse_plan``.
    layers
        Convolutions of the network.

    Returns
    -------
    str
        Its published name, ``none``, or its percentages.
    """
    values = parse_plan(text, layers)
    if not any(values):
        return NO_PRUNING
    for name, published in PUBLISHED.items():
        # A published plan that was typed as numbers has the published name in tables, too.
        if values == tuple(map(float, published)):
            return name
    return plan_text(values)


def plan_text(values: tuple[float, ...]) -> str:
    """Format a plan as ``0,85,85,85,75,95,98,98``; ``parse_plan`` reads it.

    Parameters
    ----------
    values
        Percentage per convolution.

    Returns
    -------
    str
        Numbers separated by commas.
    """
    return ",".join(f"{value:g}" for value in values)


def split_plans(text: str) -> tuple[str, ...]:
    """Split a text into plans.

    Parameters
    ----------
    text
        Names or rows of numbers, separated by blanks or semicolons.

    Returns
    -------
    tuple of str
        One text per plan.
    """
    return tuple(text.replace(";", " ").split())


def _numbers(text: str, layers: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is not a list of numbers",
                         allowed=f"numbers separated by commas, such as "
                                 f"{plan_text((50.0,) * layers)}") from None
    if len(values) != layers:
        raise InputError(f"{len(values)} numbers for {layers} convolutions: {text}",
                         allowed=f"{layers} numbers, one per convolution",
                         hint="separate several plans by blanks: '53.49 95.45'"
                         if any(published_name(part) for part in text.split(",")) else None)
    for name, value in zip(layer_names(layers), values, strict=True):
        check_percent(value, name)
    return values


def check_percent(value: float, where: str) -> None:
    """Check that a sparsity is within 0 ≤ q < 100.

    Parameters
    ----------
    value
        Percent.
    where
        What to name in the message.

    Raises
    ------
    InputError
        It is out of range.
    """
    if not (math.isfinite(value) and 0 <= value < 100):
        raise InputError(f"a sparsity of {value:g}%", where=where,
                         allowed="0 (no pruning) to below 100")
