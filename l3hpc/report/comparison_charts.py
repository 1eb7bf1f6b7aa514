"""Figures that compare variants: parallel coordinates, a metric by an option, and their losses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from l3hpc.io.values import count_of
from l3hpc.report.results import Comparison, Metric, Variant
from l3hpc.web.html import element
from l3hpc.web.svg import (
    WIDE,
    Point,
    Scale,
    axes,
    cut,
    drawing,
    line,
    significant,
    text,
    ticks,
    widen,
)

COLOURS = 8  # lines that have a colour of their own; further ones are grey
MOST_AXES, MOST_LINES = 10, 60
NAME_WIDTH = 7.0  # of a letter in the name of an axis, pixels


def parallel(comparison: Comparison, width: int) -> Markup:
    """Draw a line for each variant through its values and metrics.

    Parameters
    ----------
    comparison
        With at least one option or metric.
    width
        In pixels. In a narrow figure the axes lie below each other, in a wide one side by side.

    Returns
    -------
    Markup
        An SVG element. The better end of a metric is at the top, or at the right.
    """
    metrics = comparison.metrics[:max(MOST_AXES - len(comparison.options), MOST_AXES // 2)]
    drawn = [_axis(name, comparison, None)
             for name in comparison.options[:MOST_AXES - len(metrics)]]
    drawn += [_axis(metric.name, comparison, metric) for metric in metrics]
    layout = (_SideBySide if width >= WIDE else _Stacked)(len(drawn), width)
    parts: list[Markup] = []
    labels: list[Markup] = []  # on top of the lines
    for index, axis in enumerate(drawn):
        parts.append(line([layout.place(index, 0), layout.place(index, 1)], "axis"))
        labels.append(layout.name(index, axis.name))
        for share, label in axis.labels:
            x, y = layout.place(index, share)
            labels.append(element("circle", cx=x, cy=y, r=2, class_="tick"))
            labels.append(layout.tick(x, y, share, label))
    best = comparison.best
    quiet = "pc" if len(comparison.variants) <= MOST_LINES else "pc many"
    order = [index for index in range(len(comparison.variants)) if index != best]
    for index in (*order, *([] if best is None else [best])):  # the best one on top
        variant = comparison.variants[index]
        shares = [axis.share(variant) for axis in drawn]
        points = [layout.place(number, share) for number, share in enumerate(shares)
                  if share is not None]
        if len(points) > 1:
            parts.append(element(
                "g", element("title", in_words(variant, comparison)), line(points, "line"),
                line(points, "wide-hit"), class_="pc best" if index == best else quiet))
    return drawing(width, int(layout.height), "Parallel coordinates", _description(comparison),
                   parts, element("g", *labels, class_="halo"))


class _SideBySide:
    """The axes of a wide figure: upright, with names above them."""

    _TOP, _LENGTH = 56, 230

    def __init__(self, count: int, width: int) -> None:
        self._count, self._width = count, width
        self._gap = (width - 130) / max(count - 1, 1)
        self.height: float = self._TOP + self._LENGTH + 24

    def place(self, index: int, share: float) -> Point:
        return 65 + index * self._gap, self._TOP + (1 - share) * self._LENGTH

    def name(self, index: int, name: str) -> Markup:
        # names alternate between two lines; the outer ones begin and end at the page's edges
        at, anchor, room = self.place(index, 1)[0], "middle", 2 * self._gap
        if index in (0, self._count - 1):
            at, anchor = (4.0, "start") if index == 0 else (self._width - 4.0, "end")
            room = 61 + self._gap
        return text(at, 20 if index % 2 == 0 else 36, cut(name, int(room / NAME_WIDTH)),
                    anchor, "name")

    def tick(self, x: float, y: float, share: float, label: str) -> Markup:
        return text(x + 6, y - 5, label)


class _Stacked:
    """The axes of a narrow figure: they lie below each other."""

    _TOP, _GAP = 34, 62

    def __init__(self, count: int, width: int) -> None:
        self._length = width - 40
        self.height: float = self._TOP + count * self._GAP

    def place(self, index: int, share: float) -> Point:
        return 20 + share * self._length, self._TOP + index * self._GAP

    def name(self, index: int, name: str) -> Markup:
        return text(20, self.place(index, 1)[1] - 14, cut(name, 44), class_="name")

    def tick(self, x: float, y: float, share: float, label: str) -> Markup:
        anchor = "start" if share < 0.1 else "end" if share > 0.9 else "middle"
        return text(x, y + 16, label, anchor)


class _Axis:
    """An axis of the parallel coordinates. ``share``: where a variant is, 0 to 1."""

    def __init__(self, name: str, positions: Mapping[str, float] | None,
                 scale: Scale | None, labels: list[tuple[float, str]]) -> None:
        self.name, self.labels = name, labels
        self._positions, self._scale = positions, scale

    def share(self, variant: Variant) -> float | None:
        if self._positions is not None:
            return self._positions.get(variant.values.get(self.name, ""))
        value = variant.metrics.get(self.name)
        return None if value is None or self._scale is None else self._scale(value)


def _axis(name: str, comparison: Comparison, metric: Metric | None) -> _Axis:
    if metric is None:
        values = in_order({variant.values.get(name, "") for variant in comparison.variants})
        positions = _evenly(values)
        shown = values if len(values) <= 8 else [values[0], values[-1]]
        return _Axis(name, positions, None, [(positions[value], cut(value, 14))
                                             for value in shown])
    numbers = [variant.metrics[name] for variant in comparison.variants if name in variant.metrics]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    scale = Scale(high, low, 0, 1) if metric.better == "lower" else Scale(low, high, 0, 1)
    if low == high:
        return _Axis(name, None, scale, [(0.5, significant(low))])
    return _Axis(name, None, scale, [(scale(value), significant(value)) for value in (low, high)])


def in_order(values: set[str]) -> list[str]:
    """Return values in their natural order: as numbers if all are, else as text.

    Examples
    --------
    >>> in_order({"128", "64"}), in_order({"pca", "none"})
    (['64', '128'], ['none', 'pca'])
    """
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def _evenly(values: Sequence[str]) -> dict[str, float]:
    """Each value at its place: swept values are often powers of two or ten."""
    if len(values) == 1:
        return {values[0]: 0.5}
    return {value: index / (len(values) - 1) for index, value in enumerate(values)}


def scatter(comparison: Comparison, option: str, metric: Metric) -> Markup:
    """Draw a metric against an option, a dot for each variant and a line through their means.

    Parameters
    ----------
    comparison
        The variants.
    option, metric
        The two axes.

    Returns
    -------
    Markup
        An SVG element of 240 × 200 pixels.
    """
    width, height = 240, 200
    values = in_order({variant.values.get(option, "") for variant in comparison.variants})
    positions = _evenly(values)
    known = [(index, variant, variant.metrics[metric.name])
             for index, variant in enumerate(comparison.variants) if metric.name in variant.metrics]
    x = Scale(-0.12, 1.12, 52, width - 8)
    y = Scale(*widen([value for _, _, value in known], margin=0.1), height - 26, 10)
    parts = axes(x, y, [], ticks(y.low, y.high, 4))
    shown = values if len(values) <= 5 else [values[0], values[len(values) // 2], values[-1]]
    most = max(5, 30 // len(shown))
    parts += [text(x(positions[value]), height - 8, cut(value, most), "middle")
              for value in shown]
    means = []
    for value in values:
        own = [number for _, variant, number in known if variant.values.get(option) == value]
        if own:
            means.append((x(positions[value]), y(sum(own) / len(own))))
    if len(means) > 1:
        parts.append(line(means, "line mean"))
    best = comparison.best
    # the best last, so that no other dot covers it
    for index, variant, number in sorted(known, key=lambda one: one[0] == best):
        left, top = x(positions[variant.values.get(option, "")]), y(number)
        parts.append(element(
            "g", element("title", in_words(variant, comparison)),
            element("circle", cx=left, cy=top, r=5 if index == best else 3.5,
                    class_="dot two" if index == best else "dot one"),
            element("circle", cx=left, cy=top, r=8, class_="hit")))
    description = "; ".join(f"{variant.label}: {significant(number)}"
                            for _, variant, number in known)
    return drawing(width, height, f"{metric.name} by {option}", description, parts)


def losses(comparison: Comparison, width: int) -> Markup | None:
    """Draw the validation losses of the variants (the training loss where there is no other).

    Parameters
    ----------
    comparison
        The variants; those without a history are left out.
    width
        In pixels.

    Returns
    -------
    Markup or None
        None if fewer than two variants have a history.
    """
    curves = curves_of(comparison)
    if len(curves) < 2:
        return None
    epochs = [epoch for _, points in curves.values() for epoch, _ in points]
    x = Scale(min(epochs), max(*epochs, min(epochs) + 1), 58, width - 16)
    losses_ = [loss for _, points in curves.values() for _, loss in points]
    y = Scale(*widen(losses_), 300 - 46, 16)
    whole = sorted({round(value) for value in ticks(x.low, x.high, width // 70)})
    parts = axes(x, y, whole, ticks(y.low, y.high, 5), "epoch")
    best = comparison.best
    # the best last, so that no other line covers it
    for index, (variant, points) in sorted(curves.items(), key=lambda item: item[0] == best):
        parts.append(element(
            "g", element("title", in_words(variant, comparison)),
            _curve([(x(epoch), y(loss)) for epoch, loss in points],
                   f"line {colour_of(index, comparison)}"),
            line([(x(epoch), y(loss)) for epoch, loss in points], "wide-hit"), class_="pc-curve"))
    description = "; ".join(f"{variant.label}: {significant(min(loss for _, loss in points))}"
                            for variant, points in curves.values())
    return drawing(width, 300, "Loss of each", description, parts)


def _curve(points: Sequence[Point], class_: str) -> Markup:
    """Return a line through ``points``; for a single one, of which no line is seen, a circle."""
    if len(points) > 1:
        return line(points, class_)
    (left, top), = points
    return element("circle", cx=left, cy=top, r=3.5, class_=class_)


def curves_of(comparison: Comparison) -> dict[int, tuple[Variant, list[tuple[int, float]]]]:
    """Return the loss curves: index of a variant → the variant, and its (epoch, loss) pairs.

    Losses of different steps (a student, a classifier) cannot be compared: the others are left out.
    """
    found: dict[int, tuple[Variant, list[tuple[int, float]]]] = {}
    for index, variant in enumerate(comparison.variants[:MOST_LINES]):
        for values in ([(epoch.epoch, epoch.valid_loss) for epoch in variant.epochs],
                       [(epoch.epoch, epoch.loss) for epoch in variant.epochs]):
            points = [(epoch, value) for epoch, value in values
                      if value is not None and math.isfinite(value)]
            if points:
                found[index] = (variant, points)
                break
    if not found:
        return found
    (kind, _), = Counter(variant.epochs_of for variant, _ in found.values()).most_common(1)
    return {index: curve for index, curve in found.items() if curve[0].epochs_of == kind}


def colour_of(index: int, comparison: Comparison) -> str:
    """Return the class of the line of a variant: ``best``, or one of ``COLOURS``, or grey."""
    if index == comparison.best:
        return "best"
    return f"c{index}" if len(comparison.variants) <= COLOURS else "grey"


def best_in_words(comparison: Comparison) -> str:
    """Return the best variant with the metric that decides, and how many are as good; '' if none.
    """
    best = comparison.best
    if best is None:
        return ""
    metric, found = comparison.metrics[0].name, comparison.variants[best]
    value = found.metrics[metric]
    equal = sum(variant.metrics.get(metric) == value for variant in comparison.variants) - 1
    also = f"; {equal} more {'is' if equal == 1 else 'are'} as good" if equal else ""
    return f"{found.label} ({metric} {significant(value)}{also})"


def in_words(variant: Variant, comparison: Comparison) -> str:
    """Return label and metrics of a variant in one line."""
    known = [f"{metric.name} {significant(variant.metrics[metric.name])}"
             for metric in comparison.metrics if metric.name in variant.metrics]
    return f"{variant.label}: {', '.join(known) or variant.state}"


def _description(comparison: Comparison) -> str:
    best = comparison.best
    text_ = count_of(len(comparison.variants), "variant")
    return text_ if best is None else \
        f"{text_}; the best: {in_words(comparison.variants[best], comparison)}"
