"""SVG for pages: number formats, scales and ticks, lines, text and axes.

The figures of the report are made of these. A figure that has to stay readable on a phone is drawn
twice, wide and narrow (``both_widths``), because text in a drawing shrinks with it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from l3hpc.web.html import element

Point = tuple[float, float]
WIDE, NARROW = 500, 340  # widths of a figure, pixels


def both_widths(draw: Callable[[int], Markup], wide: int = WIDE) -> Markup:
    """Return a figure twice: the style sheet shows the one that fits the page.

    Parameters
    ----------
    draw
        Draws the figure in a given width, pixels.
    wide
        The width on a wide page, pixels.
    """
    return Markup("").join((element("div", draw(wide), class_="on-wide"),
                            element("div", draw(NARROW), class_="on-narrow")))


# --- number formats -------------------------------------------------------------------------------

def clock(seconds: float | None) -> str:
    """Return a time as text, or ``–`` where it is unknown.

    Examples
    --------
    >>> clock(4.21), clock(65), clock(7380), clock(None)
    ('4.2 s', '1:05 min', '2:03 h', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, or ``–`` where it is unknown.

    Examples
    --------
    >>> number(1234.5), number(0.5, 1), number(None)
    ('1,234.500', '0.5', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def significant(value: float, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits, or all those before the decimal point.

    Examples
    --------
    >>> significant(309124), significant(17.2286), significant(2.5), significant(1.23456e-05)
    ('309,124', '17.23', '2.5', '1.235e-05')
    """
    if 10 ** (digits - 1) <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def between(interval: tuple[float, float] | None, digits: int = 3) -> str:
    """Return an interval as text, or an empty text where there is none.

    Examples
    --------
    >>> between((0.512, 0.6338))
    '0.512 to 0.634'
    """
    if interval is None:
        return ""
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def cut(name: str, most: int) -> str:
    """Return a name, or its beginning where it is longer than ``most`` characters.

    Examples
    --------
    >>> cut("extract", 7), cut("extract-16", 7)
    ('extract', 'extrac…')
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def tick_label(value: float) -> str:
    """Return a tick label with as few digits as the value needs."""
    return f"{value:.6g}"


# --- scales and axes ------------------------------------------------------------------------------

@dataclass(frozen=True)
class Scale:
    """Maps the values ``low`` … ``high`` to the pixels ``start`` … ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values inside ``low`` … ``high``, and at least two.

    Their distance is 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    low, high
        The range, finite.
    count
        Desired number of values, at least 1.

    Examples
    --------
    >>> ticks(0, 10, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # the tolerances keep a rounding error from dropping the first or last tick
    chosen = next(factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    # a single value shows no scale: then a smaller distance, even if the values are more than asked
    for factor in (one for one in (10, 5, 2, 1, 0.5) if one <= chosen):
        step = power * factor
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        if last > first:
            break
    return [number * step for number in range(first, last + 1)]


def time_ticks(seconds: float, count: int = 6) -> list[tuple[float, str]]:
    """Return round times from 0 to at most ``seconds``, each with its label.

    Parameters
    ----------
    seconds
        The longest time, at least 0.
    count
        Largest number of times after 0.

    Examples
    --------
    >>> time_ticks(250, 5)
    [(0, '0'), (60, '1 min'), (120, '2 min'), (180, '3 min'), (240, '4 min')]
    """
    for unit, name, steps in ((1, "s", (1, 2, 5, 10, 20)), (60, "min", (1, 2, 5, 10, 20)),
                              (3600, "h", (1, 2, 3, 6, 12)), (86400, "d", (1, 2, 5, 10, 20, 50))):
        for step in steps:
            if seconds <= step * unit * count:
                return [(number * step * unit, f"{number * step} {name}" if number else "0")
                        for number in range(int(seconds // (step * unit)) + 1)]
    return [(0, "0"), (seconds, f"{seconds / 86400:,.0f} d")]


def widen(values: Sequence[float], zero: bool = False, margin: float = 0.06) -> tuple[float, float]:
    """Return a range around ``values``, never empty.

    Parameters
    ----------
    values
        Those that are not finite do not count; if none is finite, 0 and 1 do.
    zero
        Whether the range starts at 0 if no value is negative.
    margin
        Share of the range that is added on each side.

    Returns
    -------
    low, high : float
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero and low >= 0:
        low = 0.0
    extra = (high - low) * margin or abs(high) * 0.5 or 0.5
    return (low if zero and low == 0 else low - extra), high + extra


# --- SVG elements ---------------------------------------------------------------------------------

def path(points: Sequence[Point]) -> str:
    """Return the path data of a line through ``points``, in pixels with one decimal."""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def drawing(
    width: int, height: int, title: str, description: str, *children: object,
    class_: str | None = None,
) -> Markup:
    """Return an SVG element with a title and a description for screen readers.

    Parameters
    ----------
    width, height
        In pixels.
    title, description
        Name of the figure, and what it shows.
    *children
        The content.
    class_
        Name in the style sheet.
    """
    # ids have to be unique on the page, and the same whenever the page is written again
    key = hashlib.blake2b(f"{title}\n{description}\n{width}".encode(), digest_size=4).hexdigest()
    return element(
        "svg", element("title", title, id=f"t{key}"), element("desc", description, id=f"d{key}"),
        *children, viewBox=f"0 0 {width} {height}", width=width, height=height, class_=class_,
        role="img", aria_labelledby=f"t{key} d{key}", xmlns="http://www.w3.org/2000/svg",
    )


def text(x: float, y: float, content: object, anchor: str = "start",
         class_: str | None = None) -> Markup:
    """Return one line of text.

    Parameters
    ----------
    x, y
        Position of its base line, in pixels.
    content
        The text.
    anchor
        Which part of it is at ``x``: ``start``, ``middle`` or ``end``.
    class_
        Name in the style sheet.
    """
    return element("text", content, x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def line(points: Sequence[Point], class_: str) -> Markup:
    """Return a line through ``points``."""
    return element("path", d=path(points), class_=class_)


def dot(x: float, y: float, class_: str, tooltip: str, radius: float = 4) -> Markup:
    """Return a marker that shows a text on hover, over an area larger than itself.

    Parameters
    ----------
    x, y, radius
        Centre and radius, in pixels.
    class_
        Name in the style sheet.
    tooltip
        The text.
    """
    return element(
        "g", element("title", tooltip),
        element("circle", cx=x, cy=y, r=radius, class_=f"dot {class_}"),
        element("circle", cx=x, cy=y, r=9, class_="hit"),
    )


def hover_area(x: float, y: float, tooltip: str, radius: float = 9) -> Markup:
    """Return an invisible area that shows a text on hover.

    Parameters
    ----------
    x, y, radius
        Centre and radius, in pixels.
    tooltip
        The text.
    """
    return element("g", element("title", tooltip),
                   element("circle", cx=x, cy=y, r=radius, class_="hit"))


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float],
         x_label: str = "", y_label: str = "", percent: bool = False) -> list[Markup]:
    """Return the grid lines, tick labels and axis labels of a plot.

    Parameters
    ----------
    x, y
        Scales of the two axes.
    x_ticks, y_ticks
        Values that have a label.
    x_label, y_label
        Labels of the axes; empty for none.
    percent
        Whether the values on the y axis are shares, to be shown in per cent.
    """
    parts: list[Markup] = []
    for value in y_ticks:
        pixel = y(value)
        label = f"{value * 100:.6g}%" if percent else tick_label(value)
        parts.append(element("line", x1=x.start, x2=x.end, y1=pixel, y2=pixel, class_="grid"))
        parts.append(text(x.start - 8, pixel + 4, label, "end"))
    for value in x_ticks:
        pixel = x(value)
        parts.append(element("line", x1=pixel, x2=pixel, y1=y.start, y2=y.start + 4,
                             class_="axis"))
        parts.append(text(pixel, y.start + 18, tick_label(value), "middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    if x_label:
        parts.append(text((x.start + x.end) / 2, y.start + 36, x_label, "middle"))
    if y_label:
        parts.append(text(x.start, y.end - 12, y_label, "start"))
    return parts
