"""The pictures of the report: loss, explained variance, precision and recall, sizes, the chain.

Below them is what they are drawn with: scales, axis ticks, lines and a frame, as inline SVG.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from l3hpc.report.findings import Curve, Epoch, Interval, Network, StepFacts, Variance
from l3hpc.web.html import element
from l3hpc.workspace.markers import StepState

Point = tuple[float, float]
WIDTH, HEIGHT = 500, 300
MARKS = {"done": "✓ done", "reused": "✓ done before", "failed": "✗ failed", "running": "… running",
         "waiting": "waiting"}


def loss_chart(epochs: Sequence[Epoch]) -> Markup:
    """Training and validation loss per epoch; the best epoch is marked."""
    values = [value for epoch in epochs for value in (epoch.loss, epoch.valid_loss)
              if value is not None and math.isfinite(value)]
    first, last = epochs[0].epoch, epochs[-1].epoch
    x = Scale(first, max(last, first + 1), 58, WIDTH - 16)
    y = Scale(*widen(values, zero=min(values, default=0) < 0.5 * max(values, default=1)),
              HEIGHT - 46, 44)
    whole = sorted({round(value) for value in ticks(x.low, x.high, 7)} | {first})
    parts = axes(x, y, whole, ticks(y.low, y.high, 5), "epoch", "")
    best = best_epoch(epochs)
    for field, label, style, place in (("loss", "training", "one", 58),
                                       ("valid_loss", "validation", "two", 150)):
        rows = [(epoch.epoch, value) for epoch in epochs
                if (value := getattr(epoch, field)) is not None and math.isfinite(value)]
        points = [(x(epoch), y(value)) for epoch, value in rows]
        if len(points) > 1:
            parts.append(line(points, f"line {style}" + (" dash" if style == "two" else "")))
        draw = dot if len(points) <= 40 else hit
        for (epoch, value), (left, top) in zip(rows, points, strict=True):
            words = f"epoch {epoch}: {label} loss {value:.4g}"
            if draw is dot:
                parts.append(dot(left, top, style, words, radius=3.5))
            else:
                parts.append(hit(left, top, words))
        parts.append(line([(place, 18), (place + 22, 18)],
                          f"line {style}" + (" dash" if style == "two" else "")))
        parts.append(text(place + 28, 22, label, class_="value"))
    if best is not None and best.valid_loss is not None:
        parts.append(text(WIDTH - 16, 22, f"best {best.valid_loss:.4g} in epoch {best.epoch}",
                          "end", "value"))
    description = f"{len(epochs)} epochs" + (
        f"; best validation loss {best.valid_loss:.4g} in epoch {best.epoch}"
        if best is not None and best.valid_loss is not None else "")
    return drawing(WIDTH, HEIGHT, "Loss per epoch", description, parts)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the smallest validation loss."""
    known = [epoch for epoch in epochs
             if epoch.valid_loss is not None and math.isfinite(epoch.valid_loss)]
    return min(known, key=lambda epoch: epoch.valid_loss or 0.0) if known else None


def variance_chart(variance: Variance) -> Markup:
    """Cumulative explained variance over the number of components; the chosen one is marked."""
    cumulative = [0.0, *itertools.accumulate(variance.ratios)]
    cumulative = cumulative[:shown_components(cumulative, variance.out_dim) + 1]
    x = Scale(0, len(cumulative) - 1, 58, WIDTH - 16)
    y = Scale(0, 1, HEIGHT - 46, 24)
    points = [(x(index), y(value)) for index, value in enumerate(cumulative)]
    chosen = min(variance.out_dim, len(cumulative) - 1)
    left, top = x(chosen), y(cumulative[chosen])
    words = f"{cumulative[chosen] * 100:.1f} % in {chosen} dimensions"
    parts = axes(x, y, ticks(0, x.high, 6), [0, 0.25, 0.5, 0.75, 1], "components", "", True)
    area = [(points[0][0], y(0)), *points[: chosen + 1], (left, y(0))]
    parts.append(element("path", d=path(area) + "Z", class_="area"))
    parts.append(line(points, "line one"))
    parts.append(element("line", x1=left, x2=left, y1=top, y2=y(0), class_="guess"))
    step = max(1, len(points) // 64)
    parts += [hit(px, py, f"{index} components: {cumulative[index] * 100:.1f} %", 6)
              for index, (px, py) in enumerate(points) if index % step == 0 and index]
    parts.append(dot(left, top, "one", words, radius=5))
    end = left > 0.62 * WIDTH
    below = top < 60
    parts.append(text(left + (-10 if end else 10), top + (22 if below else -10), words,
                      "end" if end else "start", "name"))
    return drawing(WIDTH, HEIGHT, "Explained variance", words, parts)


def shown_components(cumulative: Sequence[float], chosen: int) -> int:
    """How many components to draw: twice the chosen ones, and at least 99.5 % of the variance."""
    last = len(cumulative) - 1
    enough = next((index for index, value in enumerate(cumulative) if value >= 0.995), last)
    return min(last, max(2 * chosen, enough))


def curve_panel(curve: Curve) -> Markup:
    """One tag's precision over recall, with the level that guessing would reach."""
    width, height = 240, 200
    x, y = Scale(0, 1, 34, width - 10), Scale(0, 1, height - 40, 10)
    parts = axes(x, y, [0, 0.5, 1], [0, 0.5, 1], "recall")
    if curve.prevalence is not None:
        level = y(curve.prevalence)
        parts.append(line([(x(0), level), (x(1), level)], "guess"))
    pairs = sorted(zip(curve.recall, curve.precision, strict=True), key=lambda pair: pair[0])
    points = [(x(recall), y(precision)) for recall, precision in pairs]
    if points:
        area = [(points[0][0], y(0)), *points, (points[-1][0], y(0))]
        parts.append(element("path", d=path(area) + "Z", class_="area"))
        parts.append(line(points, "line one"))
        step = max(1, len(points) // 40)
        parts += [hit(px, py, f"recall {recall:.2f}, precision {precision:.2f}", 6)
                  for index, ((px, py), (recall, precision))
                  in enumerate(zip(points, pairs, strict=True)) if index % step == 0]
    words = f"AUPRC {number(curve.auprc)}"
    if curve.prevalence is not None:
        words += f"; guessing would reach a precision of {curve.prevalence:.2f}"
    return drawing(width, height, f"Precision over recall: {curve.tag}", words, parts)


def size_chart(networks: Sequence[Network]) -> Markup:
    """Parameters in float32 per network as bars on a common scale."""
    row, left, width = 34, 210, 1030
    largest = max(network.float32_mb for network in networks)
    scale = Scale(0, largest, left, width - 110)
    parts: list[Markup] = []
    for index, network in enumerate(networks):
        top = index * row + 6
        end = max(scale(network.float32_mb), left + 2)
        words = f"{network.float32_mb:,.2f} MB"
        parts.append(text(0, top + 15, network.name, class_="name"))
        parts.append(element("rect", element("title", f"{network.name}: {words}"), x=left, y=top,
                             width=end - left, height=20, rx=3, class_="bar"))
        parts.append(text(end + 8, top + 15, words, class_="value"))
    description = "; ".join(f"{network.name} {network.float32_mb:,.2f} MB" for network in networks)
    return drawing(width, row * len(networks) + 4, "Parameters in float32", description, parts)


def chain_picture(steps: Sequence[StepFacts]) -> Markup:
    """The steps in order with state, time and share of the time; arrows show what feeds what."""
    box, gap, top, height = 116, 20, 46, 92
    width = len(steps) * (box + gap) - gap + 4
    place = {step.name: index * (box + gap) + 2 for index, step in enumerate(steps)}
    order = [step.name for step in steps]
    total = sum(step.seconds or 0 for step in steps)
    parts: list[Markup] = []
    for step in steps:
        for need in step.needs:
            if need in place:
                parts += arrow(place[need], place[step.name], order.index(step.name)
                               - order.index(need), box, top, height)
    for step in steps:
        left = place[step.name]
        share = (step.seconds or 0) / total if total else 0
        style = "failed" if step.state == StepState.FAILED else (
            "done" if step.state in (StepState.DONE, StepState.REUSED) else None)
        parts.append(element(
            "g", element("title", f"{step.name}: {step.detail or step.state}"),
            element("rect", x=left, y=top, width=box, height=height, rx=8, class_="box"),
            text(left + 12, top + 22, step.name, class_="name"),
            text(left + box - 12, top + 22, f"×{step.tasks}", "end") if step.tasks > 1 else None,
            text(left + 12, top + 40, MARKS.get(step.state, step.state), class_=style),
            text(left + 12, top + 59, clock(step.seconds), class_="value"),
            element("rect", x=left + 12, y=top + 70, width=box - 24, height=6, rx=3,
                    class_="track"),
            element("rect", x=left + 12, y=top + 70, width=share * (box - 24), height=6, rx=3,
                    class_="bar") if share else None,
        ))
    words = ", then ".join(f"{step.name} ({clock(step.seconds)})" for step in steps)
    return drawing(width, top + height + 6, "The chain of steps", words, parts)


def arrow(start: float, end: float, distance: int, box: int, top: int, height: int) -> list[Markup]:
    """An arrow between neighbours, or an arc above the boxes in between."""
    if distance == 1:
        left, right, middle = start + box, end, top + height / 2
        return [line([(left + 1, middle), (right - 6, middle)], "arrow"),
                element("path", d=f"M{right - 7:.1f},{middle - 4:.1f}l6,4l-6,4Z", class_="head")]
    left, right = start + box * 0.7, end + box * 0.3
    peak = top - 14 - 8 * min(distance, 4)
    return [
        element("path", d=f"M{left:.1f},{top}C{left:.1f},{peak},{right:.1f},{peak},{right:.1f},"
                          f"{top - 6}", class_="arrow"),
        element("path", d=f"M{right - 4:.1f},{top - 7}h8l-4,6Z", class_="head"),
    ]


def clock(seconds: float | None) -> str:
    """``4.2 s``, ``1:05 min`` or ``2:03 h``; ``–`` where the time is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


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


def between(interval: Interval | None, digits: int = 3) -> str:
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
