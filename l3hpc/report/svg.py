"""Drawing with numbers: scales, axis ticks, lines and a frame, as inline SVG. No library."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from l3hpc.report.markup import Markup, element

Point = tuple[float, float]


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
    """Round values (1, 2 or 5 times a power of ten) inside ``low`` … ``high``, about ``count``."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def widen(values: Sequence[float], zero: bool = False, margin: float = 0.06) -> tuple[float, float]:
    """A range with some air around ``values``; from 0 if ``zero``; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero and low >= 0:
        low = 0.0
    air = (high - low) * margin or abs(high) * 0.5 or 0.5
    return (low if zero and low == 0 else low - air), high + air


def number(value: float | None, digits: int = 3) -> str:
    """A number for a person: fixed decimals, or ``–`` where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def between(interval: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval for a person: ``0.512 to 0.634``, or nothing where there is none."""
    if interval is None:
        return ""
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def short(value: float) -> str:
    """A tick label: as few digits as the value needs."""
    return f"{value:.6g}"


def path(points: Sequence[Point]) -> str:
    """A path through ``points``, in pixels with one decimal."""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def drawing(
    width: int, height: int, title: str, description: str, *children: object
) -> Markup:
    """An SVG of ``width`` × ``height`` that a screen reader announces by title and description."""
    key = hashlib.blake2b(f"{title}\n{description}".encode(), digest_size=4).hexdigest()
    return element(
        "svg", element("title", title, id=f"t{key}"), element("desc", description, id=f"d{key}"),
        *children, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
        aria_labelledby=f"t{key} d{key}", xmlns="http://www.w3.org/2000/svg",
    )


def text(x: float, y: float, words: object, anchor: str = "start", class_: str | None = None,
         rotate: int | None = None) -> Markup:
    """One line of text; ``anchor``: start, middle or end."""
    turn = f"rotate({rotate} {x:.1f} {y:.1f})" if rotate else None
    return element("text", words, x=float(x), y=float(y), text_anchor=anchor, class_=class_,
                   transform=turn)


def line(points: Sequence[Point], class_: str) -> Markup:
    """A line through ``points``."""
    return element("path", d=path(points), class_=class_)


def dot(x: float, y: float, class_: str, words: str, radius: float = 4, hit: float = 9) -> Markup:
    """A marker that tells its numbers when pointed at (the hit area is larger than the marker)."""
    return element(
        "g", element("title", words),
        element("circle", cx=x, cy=y, r=radius, class_=f"dot {class_}"),
        element("circle", cx=x, cy=y, r=hit, class_="hit"),
    )


def hit(x: float, y: float, words: str, radius: float = 9) -> Markup:
    """An invisible area that tells its numbers when pointed at."""
    return element("g", element("title", words),
                   element("circle", cx=x, cy=y, r=radius, class_="hit"))


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float],
         x_label: str = "", y_label: str = "", percent: bool = False) -> list[Markup]:
    """Grid lines, tick labels and axis names of a plot."""
    parts: list[Markup] = []
    for value in y_ticks:
        at = y(value)
        words = f"{value * 100:.6g} %" if percent else short(value)
        parts.append(element("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(text(x.start - 8, at + 4, words, "end"))
    for value in x_ticks:
        at = x(value)
        parts.append(element("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(at, y.start + 18, short(value), "middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    if x_label:
        parts.append(text((x.start + x.end) / 2, y.start + 36, x_label, "middle"))
    if y_label:
        parts.append(text(x.start, y.end - 12, y_label, "start"))
    return parts
