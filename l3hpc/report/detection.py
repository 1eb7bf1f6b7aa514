"""What the report shows of a detector: thresholds, calibration and sensors.

First how they are read from ``evaluation.json``, then tables and figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup
from typing_extensions import TypedDict

from l3hpc.errors import InputError
from l3hpc.io.values import check_mapping
from l3hpc.report import charts
from l3hpc.report.results import (
    Bin,
    Calibration,
    Detected,
    Detection,
    Scores,
    SensorScore,
)
from l3hpc.web.html import Table
from l3hpc.web.svg import both_widths, number

_NUMBER = re.compile(r"\d+(-(\d+|X))?_")
FEW_POSITIVES = 10  # a threshold that was chosen on fewer is uncertain


class _Bin(TypedDict):
    low: float
    high: float
    pairs: int
    predicted: float | None
    observed: float | None


class _TagCalibration(TypedDict):
    brier: float | None
    reference: float | None
    error: float | None


class _Calibration(_TagCalibration):
    reliability: list[_Bin]
    tags: dict[str, _TagCalibration]


class _Tag(TypedDict):
    threshold: float
    chosen: bool
    positives: int
    precision: float | None
    recall: float | None
    f1: float | None
    f1_at_half: float | None


class _Detection(TypedDict):
    micro_f1: float | None
    macro_f1: float | None
    micro_f1_at_half: float | None
    macro_f1_at_half: float | None
    tags: dict[str, _Tag]


class _Sensor(TypedDict):
    clips: int
    positives: int
    micro_auprc: float | None


class _Level(TypedDict, total=False):
    """The part of a level in ``evaluation.json`` that is read here."""

    calibration: _Calibration
    detection: _Detection
    sensors: dict[str, _Sensor]


def plain_tags(columns: Sequence[str]) -> dict[str, str]:
    """Return tags by their columns, without the numbers: ``1_engine`` is ``engine``.

    Curves and average precision have the plain names, thresholds and calibration the columns.

    Parameters
    ----------
    columns
        Columns of a predictions file.

    Returns
    -------
    dict of str to str
        The columns themselves, if two of them have the same name.
    """
    plain = {column: _NUMBER.sub("", column) for column in columns}
    return plain if len(set(plain.values())) == len(plain) else {one: one for one in columns}


def read_detection(values: Mapping[str, Any], where: str) -> Detection | None:
    """Read what ``evaluation.json`` has of a level on a split.

    Parameters
    ----------
    values
        The object of the level.
    where
        The file, for messages.

    Returns
    -------
    Detection or None
        None in evaluations of earlier versions.

    Raises
    ------
    InputError
        If it is damaged.
    """
    there = {name: values[name] for name in _Level.__annotations__ if name in values}
    if not there:
        return None
    try:
        level = cast(_Level, check_mapping(_Level, there, "evaluation"))
    except InputError as error:
        raise InputError(error.message, where=where) from None
    told, found = level.get("calibration"), level.get("detection")
    calibration = None if told is None else Calibration(
        told["brier"], told["reference"], told["error"],
        tuple(Bin(**one) for one in told["reliability"]),
        {name: Calibration(**one) for name, one in told["tags"].items()})
    sensors = tuple(SensorScore(name, **one) for name, one in level.get("sensors", {}).items())
    if found is None:
        return Detection(calibration, sensors=sensors)
    tags: Sequence[Detected] = [Detected(name, **one) for name, one in found["tags"].items()]
    return Detection(calibration, tuple(tags), found["micro_f1"], found["macro_f1"],
                     found["micro_f1_at_half"], found["macro_f1_at_half"], sensors)


# --- on the page ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Detector:
    """What the template shows of thresholds, calibration and sensors; None for what is missing."""

    note: str
    calibration: str
    figure: Markup | None
    bins: Sequence[Table]
    tags: Table | None
    sensors: Table | None


def detector(shown: Scores, validated: Scores | None = None) -> Detector:
    """Return thresholds, calibration and sensors of a level as the page shows them.

    Parameters
    ----------
    shown
        Scores with a ``detection``.
    validated
        Those of the same level on validate, where thresholds are chosen.
    """
    # thresholds are chosen on validate: its positives tell how certain they are on any split
    on = validated.detection if validated else None
    few = {one.tag for one in (on.tags if on else ())
           if one.chosen and one.positives < FEW_POSITIVES}
    found = shown.detection or Detection()
    calibration = found.calibration
    names = plain_tags(list(dict.fromkeys([
        *(one.tag for one in found.tags), *(calibration.tags if calibration else ())])))
    note = f"The {shown.level} tags on the {shown.split} split."
    if shown.seeds > 1:
        note += f" Means over {shown.seeds} seeds."
        if found.tags:
            note += f" A threshold is the mean of {shown.seeds} classifiers' thresholds."
    if few:
        note += (f" Thresholds marked (few) were chosen on fewer than {FEW_POSITIVES} positive "
                 "clips of validate and are uncertain.")
    if found.tags:
        note += (" Thresholds have the highest F1 on validate"
                 + (", so that F1 is too high here." if shown.split == "validate" else ".")
                 + f" Micro-F1 {number(found.micro_f1)} ({number(found.micro_f1_at_half)} at 0.5), "
                 f"macro-F1 {number(found.macro_f1)} ({number(found.macro_f1_at_half)} at 0.5).")
    return Detector(
        note, "" if calibration is None else
        f"Brier score {number(calibration.brier)} ({number(calibration.reference)} for always "
        f"predicting the base rate of each tag), expected calibration error "
        f"{number(calibration.error)}. On the dashed line, probability and frequency are equal; "
        "bars: pairs of clip and tag in each bin, on a logarithmic scale.",
        both_widths(lambda width: charts.reliability_chart(calibration, width))
        if calibration else None,
        [Table(("probability", "pairs", "predicted", "observed"), [
            (f"{one.low:g} to {one.high:g}", f"{one.pairs:,}", number(one.predicted),
             number(one.observed)) for one in calibration.bins], numeric=(1, 2, 3)),
         Table(("tag", "Brier score", "Brier score of the base rate", "calibration error"), [
             (names[name], *map(number, (one.brier, one.reference, one.error)))
             for name, one in calibration.tags.items()], numeric=(1, 2, 3))]
        if calibration else [],
        Table(("tag", "threshold", "positive", "precision", "recall", "F1", "F1@0.5"), [
            (names[one.tag], number(one.threshold) + (
                " (not chosen)" if not one.chosen else " (few)" if one.tag in few else ""),
             one.positives, *map(number, (one.precision, one.recall, one.f1, one.f1_at_half)))
            for one in found.tags], numeric=range(1, 7)) if found.tags else None,
        Table(("sensor", "recordings", "positive", "micro-AUPRC"), [
            (one.sensor, one.clips, one.positives,
             "too few positives" if one.micro_auprc is None else number(one.micro_auprc))
            for one in found.sensors], numeric=(1, 2, 3)) if found.sensors else None)
