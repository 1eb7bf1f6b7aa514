"""The figures of the report as inline SVG: loss, variance, precision and recall, sizes, the chain.

One function per figure; number formats, scales and axes are in ``web/svg``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from l3hpc.io.values import count_of
from l3hpc.report.data import StepFacts
from l3hpc.report.results import Curve, Epoch, Network, Variance
from l3hpc.web.html import element
from l3hpc.web.svg import (
    WIDE,
    Scale,
    axes,
    clock,
    dot,
    drawing,
    hover_area,
    line,
    number,
    path,
    text,
    ticks,
    widen,
)
from l3hpc.workspace.states import StepState

if TYPE_CHECKING:
    from l3hpc.report.results import Calibration

HEIGHT = 300  # of a full-size figure, in pixels
PAGE = 1030  # width of a figure that is as wide as the page, in pixels
MOST_DOTS = 40  # a longer line has no visible points, only areas that show a value on hover
STATE_LABELS = {"done": "✓ done", "reused": "✓ done before", "failed": "✗ failed",
                "lost": "✗ lost", "running": "… running"}  # of others the word itself


def loss_chart(epochs: Sequence[Epoch], width: int = WIDE) -> Markup:
    """Draw training and validation loss per epoch, with the best epoch in the heading.

    Parameters
    ----------
    epochs
        At least one, in order. Values that are unknown or not finite are left out.
    width
        In pixels.

    Returns
    -------
    Markup
        An SVG element of ``HEIGHT``.
    """
    values = [value for epoch in epochs for value in (epoch.loss, epoch.valid_loss)
              if value is not None and math.isfinite(value)]
    first, last = epochs[0].epoch, epochs[-1].epoch
    x = Scale(first, max(last, first + 1), 58, width - 16)
    # in a narrow figure, the best epoch has a line of its own
    best_y = 22 if width >= WIDE else 42
    y = Scale(*widen(values, zero=min(values, default=0) < 0.5 * max(values, default=1)),
              HEIGHT - 46, best_y + 22)
    # epochs are counted, so the axis has whole numbers only, and always the first epoch
    whole = sorted({round(value) for value in ticks(x.low, x.high, width // 70)} | {first})
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
            parts.append(dot(left, top, style, tooltip, radius=3.5)
                         if len(points) <= MOST_DOTS else hover_area(left, top, tooltip))
        parts.append(line([(legend_x, 18), (legend_x + 22, 18)],
                          f"line {style}" + (" dash" if style == "two" else "")))
        parts.append(text(legend_x + 28, 22, label, class_="value"))
    if best is not None and best.valid_loss is not None:
        parts.append(text(width - 16, best_y, f"best {best.valid_loss:.4g} in epoch {best.epoch}",
                          "end", "value"))
    description = count_of(len(epochs), "epoch") + (
        f"; best validation loss {best.valid_loss:.4g} in epoch {best.epoch}"
        if best is not None and best.valid_loss is not None else "")
    return drawing(width, HEIGHT, "Loss per epoch", description, parts)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch with the smallest validation loss; None if no epoch has a finite one."""
    known = [epoch for epoch in epochs
             if epoch.valid_loss is not None and math.isfinite(epoch.valid_loss)]
    return min(known, key=lambda epoch: epoch.valid_loss or 0.0) if known else None


def variance_chart(variance: Variance, width: int = WIDE) -> Markup:
    """Draw the cumulative explained variance over the number of components.

    Parameters
    ----------
    variance
        With at least one ratio. The point at ``out_dim`` components is marked.
    width
        In pixels.

    Returns
    -------
    Markup
        An SVG element of ``HEIGHT``.
    """
    cumulative = [0.0, *itertools.accumulate(variance.ratios)]
    cumulative = cumulative[:shown_components(cumulative, variance.out_dim) + 1]
    x = Scale(0, len(cumulative) - 1, 58, width - 16)
    y = Scale(0, 1, HEIGHT - 46, 24)
    points = [(x(index), y(value)) for index, value in enumerate(cumulative)]
    chosen = min(variance.out_dim, len(cumulative) - 1)
    left, top = x(chosen), y(cumulative[chosen])
    label = f"{cumulative[chosen] * 100:.1f}% in {chosen} dimensions"
    parts = axes(x, y, ticks(0, x.high, width // 80), [0, 0.25, 0.5, 0.75, 1], "components",
                 percent=True)
    area = [(points[0][0], y(0)), *points[: chosen + 1], (left, y(0))]
    parts.append(element("path", d=path(area) + "Z", class_="area"))
    parts.append(line(points, "line one"))
    parts.append(element("line", x1=left, x2=left, y1=top, y2=y(0), class_="guess"))
    step = max(1, len(points) // 64)
    parts += [hover_area(px, py, f"{index} components: {cumulative[index] * 100:.1f}%", 6)
              for index, (px, py) in enumerate(points) if index % step == 0 and index]
    parts.append(dot(left, top, "one", label, radius=5))
    # the label goes to the side on which it stays inside the figure; a narrow one pushes it back
    end = left > 0.62 * width
    below = top < 60
    start = min(left + 10, width - 7.5 * len(label))
    parts.append(text(left - 10 if end else start, top + (22 if below else -10), label,
                      "end" if end else "start", "name"))
    return drawing(width, HEIGHT, "Explained variance", label, parts)


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
        parts += [hover_area(px, py, f"recall {recall:.2f}, precision {precision:.2f}", 6)
                  for index, ((px, py), (recall, precision))
                  in enumerate(zip(points, pairs, strict=True)) if index % step == 0]
    description = f"AUPRC {number(curve.auprc)}"
    if curve.prevalence is not None:
        description += f"; chance level {curve.prevalence:.2f}"
    return drawing(width, height, f"Precision against recall: {curve.tag}", description, parts)


def reliability_chart(calibration: Calibration, width: int = WIDE) -> Markup:
    """Draw frequency against probability, and the number of pairs of each bin below.

    Parameters
    ----------
    calibration
        With at least one pair.
    width
        In pixels.

    Returns
    -------
    Markup
        An SVG element, ``HEIGHT`` and 74 pixels for the bars.
    """
    bins = calibration.bins
    x, y = Scale(0, 1, 58, width - 16), Scale(0, 1, HEIGHT - 46, 24)
    fifths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    parts = axes(x, y, fifths, fifths, "predicted probability", "")
    parts.append(text(58, 14, "observed frequency", class_="value"))
    parts.append(line([(x(0), y(0)), (x(1), y(1))], "guess"))
    known = [(one, x(one.predicted), y(one.observed)) for one in bins
             if one.predicted is not None and one.observed is not None]
    if len(known) > 1:
        parts.append(line([(left, top) for _, left, top in known], "line one"))
    parts += [dot(left, top, "one", f"{one.low:g} to {one.high:g}: {count_of(one.pairs, 'pair')}, "
                                    f"predicted {one.predicted:.3f}, observed {one.observed:.3f}")
              for one, left, top in known]
    # most pairs have a low probability: on a linear scale the other bars would not be seen
    bars = Scale(0, max(math.log10(1 + one.pairs) for one in bins) or 1, HEIGHT + 70, HEIGHT + 24)
    for one in bins:
        top = bars(math.log10(1 + one.pairs))
        parts.append(element(
            "rect", element("title", f"{one.low:g} to {one.high:g}: {count_of(one.pairs, 'pair')}"),
            x=x(one.low) + 1, y=top, width=x(one.high) - x(one.low) - 2,
            height=max(bars.start - top, 0), class_="bar"))
        parts.append(text((x(one.low) + x(one.high)) / 2, top - 4, shortened(one.pairs), "middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=bars.start, y2=bars.start, class_="axis"))
    description = (f"Brier score {number(calibration.brier)}; expected calibration error "
                   f"{number(calibration.error)}; the bars have the number of pairs of each bin "
                   "on a logarithmic scale")
    return drawing(width, HEIGHT + 74, "Calibration", description, parts)


def shortened(count: int) -> str:
    """Return a count rounded to thousands or millions, as bars have room for it.

    Examples
    --------
    >>> shortened(845), shortened(1250), shortened(18510), shortened(2500000)
    ('845', '1k', '19k', '2M')
    """
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:.0f}{unit}"
    return str(count)


def size_chart(networks: Sequence[Network], width: int = PAGE) -> Markup:
    """Draw the size of each network's float32 parameters as bars on a common scale.

    Parameters
    ----------
    networks
        At least one.
    width
        In pixels. In a narrow figure, the name of a network is above its bar.

    Returns
    -------
    Markup
        An SVG element, 34 pixels high per network, or 52 where it is narrow.
    """
    row, left, below = (34, 210, 0) if width >= WIDE else (52, 2, 18)
    largest = max(network.float32_mb for network in networks)
    scale = Scale(0, largest, left, width - 110)
    parts: list[Markup] = []
    for index, network in enumerate(networks):
        top = index * row + 6
        # a network of a few kilobytes still has a visible bar
        end = max(scale(network.float32_mb), left + 2)
        size = f"{network.float32_mb:,.2f} MB"
        parts.append(text(0, top + (11 if below else 15), network.name, class_="name"))
        top += below
        parts.append(element("rect", element("title", f"{network.name}: {size}"), x=left, y=top,
                             width=end - left, height=20, rx=3, class_="bar"))
        parts.append(text(end + 8, top + 15, size, class_="value"))
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
        style = "failed" if step.state in (StepState.FAILED, StepState.LOST) else (
            "done" if step.state in (StepState.DONE, StepState.REUSED) else None)
        parts.append(element(
            "g", element("title", f"{step.name}: {step.detail or step.state}"),
            element("rect", x=left, y=top, width=box, height=height, rx=8, class_="box"),
            text(left + 12, top + 22, step.name, class_="name"),
            text(left + box - 12, top + 22, f"×{step.tasks}", "end") if step.tasks > 1 else None,
            text(left + 12, top + 40, STATE_LABELS.get(step.state, step.state), class_=style),
            text(left + 12, top + 59, clock(step.seconds), class_="value"),
            element("rect", x=left + 12, y=top + 70, width=box - 24, height=6, rx=3,
                    class_="track"),
            element("rect", x=left + 12, y=top + 70, width=share * (box - 24), height=6, rx=3,
                    class_="bar") if share else None,
        ))
    description = ", then ".join(f"{step.name} ({clock(step.seconds)})" for step in steps)
    # a longer chain is scrolled, because its labels would become too small
    return drawing(width, top + height + 6, "The chain of steps", description, parts,
                   class_="long" if width > 1.2 * PAGE else None)


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
