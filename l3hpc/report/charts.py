"""The figures of the report as inline SVG: loss, variance, precision and recall, sizes, the chain.

The first part holds one function per figure, the second what they share: number formats, scales,
ticks, lines and axes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from l3hpc.report.data import Curve, Epoch, Interval, Network, StepFacts, Variance
from l3hpc.web.html import element
from l3hpc.workspace.states import StepState

Point = tuple[float, float]
WIDTH, HEIGHT = 500, 300  # of a full-size figure, in pixels
MOST_DOTS = 40  # a longer line has no visible points, only areas that show a value on hover
STATE_LABELS = {"done": "✓ done", "reused": "✓ done before", "failed": "✗ failed",
                "running": "… running", "waiting": "waiting"}


# --- figures --------------------------------------------------------------------------------------

def loss_chart(epochs: Sequence[Epoch]) -> Markup:
    """Draw training and validation loss per epoch, with the best epoch in the heading.

    Parameters
    ----------
    epochs
        At least one, in order. Values that are unknown or not finite are left out.

    Returns
    -------
    Markup
        An SVG element of ``WIDTH`` × ``HEIGHT`` pixels.
    """
    values = [value for epoch in epochs for value in (epoch.loss, epoch.valid_loss)
              if value is not None and math.isfinite(value)]
    first, last = epochs[0].epoch, epochs[-1].epoch
    x = Scale(first, max(last, first + 1), 58, WIDTH - 16)
    y = Scale(*widen(values, zero=min(values, default=0) < 0.5 * max(values, default=1)),
              HEIGHT - 46, 44)
    # epochs are counted, so the axis has whole numbers only, and always the first epoch
    whole = sorted({round(value) for value in ticks(x.low, x.high, 7)} | {first})
    parts = axes(x, y, whole, ticks(y.low, y.high, 5), "epoch", "")
    best = best_epoch(epochs)
    for field, label, style, legend_x in (("loss", "training", "one", 58),
                                          ("valid_loss", "validation", "two", 150)):
        rows = [(epoch.epoch, value) for epoch in epochs
                if (value := getattr(epoch, field)) is not None and math.isfinite(value)]
        points = [(x(epoch), y(value)) for epoch, value in rows]
        if len(points) > 1:
            parts.append(line(points, f"line {style}" + (" dash" if style == "two" else "")))
        for (epoch, value), (left, top) in zip(rows, points, strict=True):
            tooltip = f"epoch {epoch}: {label} loss {value:.4g}"
            parts.append(_dot(left, top, style, tooltip, radius=3.5)
                         if len(points) <= MOST_DOTS else _hover_area(left, top, tooltip))
        parts.append(line([(legend_x, 18), (legend_x + 22, 18)],
                          f"line {style}" + (" dash" if style == "two" else "")))
        parts.append(_text(legend_x + 28, 22, label, class_="value"))
    if best is not None and best.valid_loss is not None:
        parts.append(_text(WIDTH - 16, 22, f"best {best.valid_loss:.4g} in epoch {best.epoch}",
                          "end", "value"))
    description = f"{len(epochs)} epochs" + (
        f"; best validation loss {best.valid_loss:.4g} in epoch {best.epoch}"
        if best is not None and best.valid_loss is not None else "")
    return drawing(WIDTH, HEIGHT, "Loss per epoch", description, parts)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch with the smallest validation loss; None if no epoch has a finite one."""
    known = [epoch for epoch in epochs
             if epoch.valid_loss is not None and math.isfinite(epoch.valid_loss)]
    return min(known, key=lambda epoch: epoch.valid_loss or 0.0) if known else None


def variance_chart(variance: Variance) -> Markup:
    """Draw the cumulative explained variance over the number of components.

    Parameters
    ----------
    variance
        With at least one ratio. The point at ``out_dim`` components is marked.

    Returns
    -------
    Markup
        An SVG element of ``WIDTH`` × ``HEIGHT`` pixels.
    """
    cumulative = [0.0, *itertools.accumulate(variance.ratios)]
    cumulative = cumulative[:shown_components(cumulative, variance.out_dim) + 1]
    x = Scale(0, len(cumulative) - 1, 58, WIDTH - 16)
    y = Scale(0, 1, HEIGHT - 46, 24)
    points = [(x(index), y(value)) for index, value in enumerate(cumulative)]
    chosen = min(variance.out_dim, len(cumulative) - 1)
    left, top = x(chosen), y(cumulative[chosen])
    label = f"{cumulative[chosen] * 100:.1f}% in {chosen} dimensions"
    parts = axes(x, y, ticks(0, x.high, 6), [0, 0.25, 0.5, 0.75, 1], "components", "", True)
    area = [(points[0][0], y(0)), *points[: chosen + 1], (left, y(0))]
    parts.append(element("path", d=path(area) + "Z", class_="area"))
    parts.append(line(points, "line one"))
    parts.append(element("line", x1=left, x2=left, y1=top, y2=y(0), class_="guess"))
    step = max(1, len(points) // 64)
    parts += [_hover_area(px, py, f"{index} components: {cumulative[index] * 100:.1f}%", 6)
              for index, (px, py) in enumerate(points) if index % step == 0 and index]
    parts.append(_dot(left, top, "one", label, radius=5))
    # the label goes to the side on which it stays inside the figure
    end = left > 0.62 * WIDTH
    below = top < 60
    parts.append(_text(left + (-10 if end else 10), top + (22 if below else -10), label,
                      "end" if end else "start", "name"))
    return drawing(WIDTH, HEIGHT, "Explained variance", label, parts)


def shown_components(cumulative: Sequence[float], chosen: int) -> int:
    """Return how many components to draw.

    Parameters
    ----------
    cumulative
        Cumulative share of the variance after 0, 1, 2 … components.
    chosen
        Number of components that the reduction keeps.

    Returns
    -------
    int
        Twice ``chosen``, or more if 99.5% of the variance needs more.
    """
    last = len(cumulative) - 1
    enough = next((index for index, value in enumerate(cumulative) if value >= 0.995), last)
    return min(last, max(2 * chosen, enough))


def curve_panel(curve: Curve) -> Markup:
    """Draw precision against recall of one tag; a dashed line shows the chance level.

    Parameters
    ----------
    curve
        Its points may be in any order.

    Returns
    -------
    Markup
        An SVG element of 240 × 200 pixels.
    """
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
        parts += [_hover_area(px, py, f"recall {recall:.2f}, precision {precision:.2f}", 6)
                  for index, ((px, py), (recall, precision))
                  in enumerate(zip(points, pairs, strict=True)) if index % step == 0]
    description = f"AUPRC {number(curve.auprc)}"
    if curve.prevalence is not None:
        description += f"; chance level {curve.prevalence:.2f}"
    return drawing(width, height, f"Precision against recall: {curve.tag}", description, parts)


def size_chart(networks: Sequence[Network]) -> Markup:
    """Draw the size of each network's float32 parameters as bars on a common scale.

    Parameters
    ----------
    networks
        At least one.

    Returns
    -------
    Markup
        An SVG element, 1030 pixels wide and 34 pixels high per network.
    """
    row, left, width = 34, 210, 1030
    largest = max(network.float32_mb for network in networks)
    scale = Scale(0, largest, left, width - 110)
    parts: list[Markup] = []
    for index, network in enumerate(networks):
        top = index * row + 6
        # a network of a few kilobytes still has a visible bar
        end = max(scale(network.float32_mb), left + 2)
        size = f"{network.float32_mb:,.2f} MB"
        parts.append(_text(0, top + 15, network.name, class_="name"))
        parts.append(element("rect", element("title", f"{network.name}: {size}"), x=left, y=top,
                             width=end - left, height=20, rx=3, class_="bar"))
        parts.append(_text(end + 8, top + 15, size, class_="value"))
    description = "; ".join(f"{network.name} {network.float32_mb:,.2f} MB" for network in networks)
    return drawing(width, row * len(networks) + 4, "Parameters in float32", description, parts)


def chain_picture(steps: Sequence[StepFacts]) -> Markup:
    """Draw the steps in order, with state, time and share of the time, and arrows between them.

    Parameters
    ----------
    steps
        At least one. ``needs`` that are not among them have no arrow.

    Returns
    -------
    Markup
        An SVG element.
    """
    box, gap, top, height = 116, 20, 46, 92
    width = len(steps) * (box + gap) - gap + 4
    box_x = {step.name: index * (box + gap) + 2 for index, step in enumerate(steps)}
    order = [step.name for step in steps]
    total = sum(step.seconds or 0 for step in steps)
    parts: list[Markup] = []
    # arrows first, so that boxes cover their ends
    for step in steps:
        for need in step.needs:
            if need in box_x:
                parts += arrow(box_x[need], box_x[step.name], order.index(step.name)
                               - order.index(need), box, top, height)
    for step in steps:
        left = box_x[step.name]
        share = (step.seconds or 0) / total if total else 0
        style = "failed" if step.state == StepState.FAILED else (
            "done" if step.state in (StepState.DONE, StepState.REUSED) else None)
        parts.append(element(
            "g", element("title", f"{step.name}: {step.detail or step.state}"),
            element("rect", x=left, y=top, width=box, height=height, rx=8, class_="box"),
            _text(left + 12, top + 22, step.name, class_="name"),
            _text(left + box - 12, top + 22, f"×{step.tasks}", "end") if step.tasks > 1 else None,
            _text(left + 12, top + 40, STATE_LABELS.get(step.state, step.state), class_=style),
            _text(left + 12, top + 59, clock(step.seconds), class_="value"),
            element("rect", x=left + 12, y=top + 70, width=box - 24, height=6, rx=3,
                    class_="track"),
            element("rect", x=left + 12, y=top + 70, width=share * (box - 24), height=6, rx=3,
                    class_="bar") if share else None,
        ))
    description = ", then ".join(f"{step.name} ({clock(step.seconds)})" for step in steps)
    return drawing(width, top + height + 6, "The chain of steps", description, parts)


def arrow(start: float, end: float, distance: int, box: int, top: int, height: int) -> list[Markup]:
    """Draw an arrow between neighbouring boxes, or an arc above the boxes in between.

    Parameters
    ----------
    start, end
        Left edges of the two boxes, in pixels.
    distance
        How many boxes ``end`` is after ``start``.
    box, top, height
        Width, top edge and height of a box, in pixels.

    Returns
    -------
    list of Markup
        The line and its head.
    """
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


def between(interval: Interval | None, digits: int = 3) -> str:
    """Return an interval as text, or an empty text where there is none.

    Examples
    --------
    >>> between((0.512, 0.6338))
    '0.512 to 0.634'
    """
    if interval is None:
        return ""
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


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
    """Return about ``count`` round values inside ``low`` … ``high``.

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
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


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
    width: int, height: int, title: str, description: str, *children: object
) -> Markup:
    """Return an SVG element with a title and a description for screen readers.

    Parameters
    ----------
    width, height
        In pixels.
    title, description
        Name of the figure, and what it shows.
    children
        The content.
    """
    # ids have to be unique on the page, and the same whenever the page is written again
    key = hashlib.blake2b(f"{title}\n{description}".encode(), digest_size=4).hexdigest()
    return element(
        "svg", element("title", title, id=f"t{key}"), element("desc", description, id=f"d{key}"),
        *children, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
        aria_labelledby=f"t{key} d{key}", xmlns="http://www.w3.org/2000/svg",
    )


def _text(x: float, y: float, content: object, anchor: str = "start",
         class_: str | None = None) -> Markup:
    """Return one line of text, of which the part ``anchor`` (start, middle, end) is at ``x``."""
    return element("text", content, x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def line(points: Sequence[Point], class_: str) -> Markup:
    """Return a line through ``points``."""
    return element("path", d=path(points), class_=class_)


def _dot(x: float, y: float, class_: str, tooltip: str, radius: float = 4) -> Markup:
    """Return a marker that shows ``tooltip`` on hover, over an area larger than itself."""
    return element(
        "g", element("title", tooltip),
        element("circle", cx=x, cy=y, r=radius, class_=f"dot {class_}"),
        element("circle", cx=x, cy=y, r=9, class_="hit"),
    )


def _hover_area(x: float, y: float, tooltip: str, radius: float = 9) -> Markup:
    """Return an invisible area that shows ``tooltip`` on hover."""
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
        parts.append(_text(x.start - 8, pixel + 4, label, "end"))
    for value in x_ticks:
        pixel = x(value)
        parts.append(element("line", x1=pixel, x2=pixel, y1=y.start, y2=y.start + 4,
                             class_="axis"))
        parts.append(_text(pixel, y.start + 18, tick_label(value), "middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    if x_label:
        parts.append(_text((x.start + x.end) / 2, y.start + 36, x_label, "middle"))
    if y_label:
        parts.append(_text(x.start, y.end - 12, y_label, "start"))
    return parts
