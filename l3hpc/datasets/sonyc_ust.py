"""SONYC-UST on disk: where its files are, and checks of a copy."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from l3hpc.console.progress import Progress
from l3hpc.datasets.inspection import Inspection, probe_audio_files
from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.findings import Finding
from l3hpc.io.tables import read_cells as cells_of
from l3hpc.io.tables import refuse_separator

ANNOTATIONS = "annotations.csv"
TAXONOMY = "dcase-ust-taxonomy.yaml"
AUDIO = "audio"
SPLITS = ("train", "validate", "test")
KEY_COLUMNS = ("split", "sensor_id", "audio_filename", "annotator_id")
# Kinds of invalid rows, with their messages.
FAULTS = {
    "cells": "{n} [row has|rows have] another number of cells than the header",
    "split": "{n} [row has|rows have] an unknown split",
    "annotator": "{n} [row has|rows have] an annotator_id that is not a whole number",
    "name": "{n} [row has|rows have] an audio_filename that is not a plain file name",
    "duplicate": "{n} [row repeats|rows repeat] an annotator's opinion of a clip",
    "splits": "{n} [row puts|rows put] a clip into a second split",
    "presence": "{n} [row has|rows have] a presence other than 1, 0, -1",
}
PRESENCES = ("0", "1", "-1", "0.0", "1.0", "-1.0")


@dataclass(frozen=True)
class DatasetPaths:
    """The three parts of the data set.

    Attributes
    ----------
    annotations
        ``annotations.csv``.
    taxonomy
        The taxonomy in YAML.
    audio
        The folder of audio.
    """

    annotations: Path
    taxonomy: Path
    audio: Path


def locate_sonyc_ust(folder: Path | str) -> DatasetPaths:
    """Find the parts of the data set.

    The taxonomy may have any name ``*taxonomy*.yaml``; audio is in ``audio/`` or beside the
    annotations.

    Parameters
    ----------
    folder
        The data set, or the folder of its subfolder ``sonyc_ust``.

    Returns
    -------
    DatasetPaths
        Its parts.

    Raises
    ------
    InputError
        A part is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder),
                         hint="Name the folder that holds annotations.csv.")
    if not (folder / ANNOTATIONS).is_file() and (folder / "sonyc_ust" / ANNOTATIONS).is_file():
        folder = folder / "sonyc_ust"
    if not (folder / ANNOTATIONS).is_file():
        raise InputError(f"holds no {ANNOTATIONS}", where=str(folder),
                         allowed=f"{ANNOTATIONS}, {TAXONOMY} and {AUDIO}/, as SONYC-UST has them")
    taxonomies = sorted({*folder.glob("*taxonomy*.yaml"), *folder.glob("*taxonomy*.yml")})
    taxonomy = folder / TAXONOMY
    if taxonomy not in taxonomies:
        if not taxonomies:
            raise InputError(f"holds no {TAXONOMY}", where=str(folder))
        taxonomy = taxonomies[0]
    audio = folder / AUDIO if (folder / AUDIO).is_dir() else folder
    return DatasetPaths(folder / ANNOTATIONS, taxonomy, audio)


def find_problems(folder: Path | str) -> list[Finding]:
    """The problems of a copy (see ``inspect_sonyc_ust``).

    Parameters
    ----------
    folder
        The data set.

    Returns
    -------
    list of Finding
        Without remarks.

    Raises
    ------
    InputError
        A part is missing.
    """
    return inspect_sonyc_ust(folder).problems


def inspect_sonyc_ust(folder: Path | str, *, listen: bool = False,
                      progress: Progress | None = None) -> Inspection:
    """Check every row of the annotations and every audio file, and count what there is.

    Parameters
    ----------
    folder
        The data set.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many clips are done.

    Returns
    -------
    Inspection
        Problems, remarks and counts.

    Raises
    ------
    InputError
        A part is missing.
    """
    paths = locate_sonyc_ust(folder)
    findings = Inspection(str(folder), "SONYC-UST")
    taxonomy: Taxonomy | None = None
    try:
        taxonomy = Taxonomy.load(paths.taxonomy)
    except L3hpcError as error:
        findings.findings.append(Finding("taxonomy", "red", str(error).replace("\n", " ")))
    clips = _check_table(paths, taxonomy, findings)
    _check_audio(paths, clips, findings, listen, progress or Progress())
    return findings


def _check_table(paths: DatasetPaths, taxonomy: Taxonomy | None, findings: Inspection) -> list[str]:
    """Check the annotations, count what they hold, and return the names of the clips."""
    table = _readable_rows(paths.annotations, findings)
    line, header = next(table, (1, []))
    try:
        # A table with semicolons would seem to have a single column.
        refuse_separator(header, KEY_COLUMNS, f"{paths.annotations}:{line}")
    except InputError as error:
        findings.findings.append(Finding("table", "red", str(error).replace("\n", " ")))
        return []
    absent = [name for name in KEY_COLUMNS if name not in header]
    findings.add("columns", "{n} [column is|columns are] missing from annotations.csv", absent)
    if taxonomy is not None:
        _check_tags(header, taxonomy, findings)
    if absent:
        return []
    annotations = _Annotations(header, taxonomy)
    for line, cells in table:
        annotations.add(line, cells)
    annotations.report(findings)
    return sorted(name for name in annotations.split_of if name)


class _Annotations:
    """What the rows of the table hold, and which of them are invalid."""

    def __init__(self, header: list[str], taxonomy: Taxonomy | None) -> None:
        self.header = header
        self.column = {name: number for number, name in enumerate(header)}
        self.presence = [self.column[name] for name in header if name.endswith("_presence")]
        self.coarse = {self.column[f"{tag.column}_presence"]: tag.name for tag in taxonomy.coarse
                       if f"{tag.column}_presence" in self.column} if taxonomy else {}
        self.rows = 0
        self.split_of: dict[str, str] = {}  # by clip
        self.sensors: dict[str, set[str]] = defaultdict(set)  # by split
        self.line_of: dict[tuple[str, str], int] = {}  # by clip and annotator
        self.agreed: set[str] = set()  # clips with the annotator 0
        self.positives: Counter[str] = Counter()
        self.faults: dict[str, list[str]] = defaultdict(list)

    def add(self, line: int, cells: list[str]) -> None:
        """Count and check one row."""
        self.rows += 1
        if len(cells) != len(self.header):
            self.faults["cells"].append(f"line {line} ({len(cells)} for {len(self.header)})")
            return
        split, sensor, name, annotator = (cells[self.column[key]].strip() for key in KEY_COLUMNS)
        self._check_keys(f"line {line}", split, name, annotator)
        if (name, annotator) in self.line_of:
            first = self.line_of[name, annotator]
            self.faults["duplicate"].append(f"line {line} (as line {first})")
        self.line_of.setdefault((name, annotator), line)
        if self.split_of.setdefault(name, split) != split:
            self.faults["splits"].append(f"{name} ({self.split_of[name]}, {split})")
        invalid = next((number for number in self.presence if cells[number] not in PRESENCES), None)
        if invalid is not None:
            self.faults["presence"].append(
                f"line {line} ({self.header[invalid]}: '{cells[invalid]}')")
        self.sensors[split].add(sensor)
        if annotator == "0":
            self.agreed.add(name)
            self.positives.update(label for number, label in self.coarse.items()
                                  if cells[number] in ("1", "1.0"))

    def _check_keys(self, where: str, split: str, name: str, annotator: str) -> None:
        if split not in SPLITS:
            self.faults["split"].append(f"{where} ('{split}', {nearest(split, SPLITS)})")
        if not re.fullmatch(r"-?\d+", annotator):
            self.faults["annotator"].append(f"{where} ('{annotator}')")
        if not name or "/" in name or "\\" in name:
            self.faults["name"].append(f"{where} ('{name}')")

    def report(self, findings: Inspection) -> None:
        """Add counts and invalid rows to the findings."""
        for kind, message in FAULTS.items():
            findings.add(kind, message, self.faults[kind])
        clips = Counter(self.split_of.values())
        sensors = self.sensors
        agreed = {split: sum(self.split_of[name] == split for name in self.agreed)
                  for split in SPLITS}
        findings.counts |= {
            "version": 2 if "borough" in self.column or "latitude" in self.column else 1,
            "rows": self.rows, "clips": {split: clips[split] for split in SPLITS},
            "sensors": len(set().union(*sensors.values())) if sensors else 0,
            "annotators": len({annotator for _, annotator in self.line_of}),
            "agreed": agreed,
            "agreed_positives": {name: self.positives[name] for name in self.coarse.values()},
        }
        findings.add("empty split", "no clips in a required split",
                     [split for split in ("train", "validate") if not clips[split]])
        findings.add("agreed", "no agreed annotations (annotator_id 0) in a split that is scored",
                     [split for split in ("validate",) if clips[split] and not agreed[split]])
        findings.add("sensors", "{n} [sensor is|sensors are] in train and in validate or test",
                     sorted(sensors["train"] & (sensors["validate"] | sensors["test"])),
                     remark=True)


def _readable_rows(path: Path, findings: Inspection) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) as far as the table can be read; an error that ends it becomes a finding."""
    try:
        yield from cells_of(path, "annotations")
    except InputError as error:
        findings.findings.append(Finding("table", "red", str(error).replace("\n", " ")))


def _check_tags(header: list[str], taxonomy: Taxonomy, findings: Inspection) -> None:
    expected = [f"{column}_presence"
                for column in (*taxonomy.fine_columns, *taxonomy.coarse_columns)]
    findings.add("taxonomy",
                 "{n} [tag|tags] of the taxonomy [has|have] no column in annotations.csv",
                 [name for name in expected if name not in header])
    findings.add("taxonomy",
                 "{n} tag [column|columns] of annotations.csv [is|are] not in the taxonomy",
                 [name for name in header if name.endswith("_presence") and name not in expected])


def _check_audio(paths: DatasetPaths, clips: list[str], findings: Inspection, listen: bool,
                 progress: Progress) -> None:
    missing = [name for name in clips if not os.path.isfile(paths.audio / name)]
    findings.add("missing audio", "{n} annotated [clip has|clips have] no audio", missing,
                 hint=f"They should be in {paths.audio}.")
    present = sorted(set(clips) - set(missing))
    seconds = probe_audio_files(paths.audio, present, findings, listen, progress, shortest=0.0)
    annotated = set(clips)
    findings.add("extra audio", "{n} audio [file has|files have] no annotation", sorted(
        path.name for path in paths.audio.iterdir()
        if path.suffix.lower() == ".wav" and path.name not in annotated), remark=True)
    usual = Counter(round(value, 1) for value in seconds.values()).most_common(1)
    if usual:
        findings.counts["hours"] = round(sum(seconds.values()) / 3600, 3)
        findings.add("length", f"{{n}} [clip is|clips are] not {usual[0][0]:g} s long",
                     [f"{name} ({value:.1f} s)" for name, value in seconds.items()
                      if round(value, 1) != usual[0][0]], remark=True)
