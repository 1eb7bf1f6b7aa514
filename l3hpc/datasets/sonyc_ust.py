"""The two-level vocabulary of sound tags (SONYC-UST): coarse categories and their fine tags.

A fine tag may be the category's ``X``: "of this category, but no one can say which". Column names
and orders of annotations and predictions follow from the taxonomy file, in its own order.

The SONYC-UST data set on disk: where its files are, and what is wrong with a copy of it.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from l3hpc.console.progress import Progress
from l3hpc.datasets.inspection import Inspection, look
from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.findings import Finding
from l3hpc.io import yaml
from l3hpc.io.files import write_text
from l3hpc.io.tables import read_cells as cells_of
from l3hpc.io.tables import refuse_separator

OTHER = "X"
ANNOTATIONS = "annotations.csv"
TAXONOMY = "dcase-ust-taxonomy.yaml"
AUDIO = "audio"
SPLITS = ("train", "validate", "test")
KEY_COLUMNS = ("split", "sensor_id", "audio_filename", "annotator_id")
FAULTS = {
    "cells": "{n} rows have another number of cells than the header",
    "split": "{n} rows have an unknown split",
    "annotator": "{n} rows have an annotator_id that is not a whole number",
    "name": "{n} rows have an audio_filename that is not a plain file name",
    "duplicate": "{n} rows repeat an annotator's opinion of a clip",
    "splits": "{n} rows put a clip into a second split",
    "presence": "{n} rows have a presence other than 1, 0, -1",
}
PRESENCES = ("0", "1", "-1", "0.0", "1.0", "-1.0")


class CoarseTag(NamedTuple):
    """A category: its number and name."""

    id: int
    name: str

    @property
    def column(self) -> str:
        """Name of its column in a predictions file, such as ``1_engine``."""
        return f"{self.id}_{self.name}"


class FineTag(NamedTuple):
    """A tag of category ``coarse``; ``fine`` is its number as text, or ``X``."""

    coarse: int
    fine: str
    name: str
    is_x: bool

    @property
    def column(self) -> str:
        """Name of its column in a predictions file, such as ``1-X_engine-of-uncertain-size``."""
        return f"{self.coarse}-{self.fine}_{self.name}"


class Taxonomy:
    """Coarse and fine tags in file order.

    coarse: tuple of ``CoarseTag``; fine: tuple of ``FineTag``, grouped by category in the order of
    ``coarse`` and in file order within.
    """

    def __init__(self, coarse: Mapping[Any, Any], fine: Mapping[Any, Any], where: str = "taxonomy"):
        self.coarse = tuple(CoarseTag(_number(key, where), _name(value, f"coarse.{key}", where))
                            for key, value in coarse.items())
        groups = {_number(key, where): value for key, value in fine.items()}
        if set(groups) != {tag.id for tag in self.coarse} or len(groups) != len(fine):
            raise InputError("'coarse' and 'fine' do not name the same categories", where=where,
                             allowed=f"coarse: {sorted(tag.id for tag in self.coarse)}, "
                                     f"fine: {sorted(groups)}")
        tags = []
        for category in self.coarse:
            group = groups[category.id]
            if not isinstance(group, Mapping) or not group:
                raise InputError(f"fine.{category.id} is not a mapping of tags", where=where)
            for key, value in group.items():
                label = OTHER if str(key).upper() == OTHER else str(_number(key, where))
                name = _name(value, f"fine.{category.id}.{key}", where)
                tags.append(FineTag(category.id, label, name, label == OTHER))
        self.fine = tuple(tags)
        for names in (self.fine_columns, [tag.name for tag in self.coarse]):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"'{name}' occurs twice", where=where)
        for category in self.coarse:
            if not self.complete(category.id):
                raise InputError(f"category {category.id} has no fine tag beside X", where=where)

    @classmethod
    def load(cls, path: Path | str) -> Taxonomy:
        """Read a taxonomy YAML: mappings ``coarse`` (id → name) and ``fine`` (id → tag → name).

        Raises ``InputError`` for anything else, with the file and the place.
        """
        where = str(path)
        value, _ = yaml.read_yaml(Path(path))
        if not isinstance(value, Mapping) or not all(
                isinstance(value.get(level), Mapping) for level in ("coarse", "fine")):
            raise InputError("not a taxonomy", where=where,
                             allowed="top keys 'coarse' (id: name) and 'fine' (id: {tag: name})")
        return cls(value["coarse"], value["fine"], where)

    def save(self, path: Path | str) -> None:
        """Write the taxonomy as YAML, in its own order, as the published file does."""
        lines = ["fine:"]
        for category in self.coarse:
            lines.append(f"  {category.id}:")
            lines += [f"    {tag.fine}: {tag.name}" for tag in self.fine
                      if tag.coarse == category.id]
        lines += ["coarse:", *(f"  {tag.id}: {tag.name}" for tag in self.coarse)]
        write_text(Path(path), "\n".join(lines) + "\n")

    @cached_property
    def fine_columns(self) -> list[str]:
        """``<c>-<f>_<name>`` of every fine tag (29 in SONYC-UST)."""
        return [tag.column for tag in self.fine]

    @cached_property
    def coarse_columns(self) -> list[str]:
        """``<c>_<name>`` of every category (8 in SONYC-UST)."""
        return [tag.column for tag in self.coarse]

    @cached_property
    def complete_fine(self) -> list[int]:
        """Places in ``fine`` of the tags that are not X (23 in SONYC-UST)."""
        return [place for place, tag in enumerate(self.fine) if not tag.is_x]

    def complete(self, coarse: int) -> list[int]:
        """Places in ``fine`` of a category's tags that are not X."""
        return [place for place, tag in enumerate(self.fine)
                if tag.coarse == coarse and not tag.is_x]

    def other(self, coarse: int) -> int | None:
        """Place in ``fine`` of a category's X, None where it has none."""
        for place, tag in enumerate(self.fine):
            if tag.coarse == coarse and tag.is_x:
                return place
        return None

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Taxonomy)
                and (self.coarse, self.fine) == (other.coarse, other.fine))

    def __hash__(self) -> int:
        return hash((self.coarse, self.fine))


def sonyc_ust() -> Taxonomy:
    """The taxonomy of SONYC-UST (Cartwright et al. 2019): 8 categories, 23 fine tags and 6 X."""
    coarse = {1: "engine", 2: "machinery-impact", 3: "non-machinery-impact", 4: "powered-saw",
              5: "alert-signal", 6: "music", 7: "human-voice", 8: "dog"}
    complete = {
        1: ["small-sounding-engine", "medium-sounding-engine", "large-sounding-engine"],
        2: ["rock-drill", "jackhammer", "hoe-ram", "pile-driver"],
        3: ["non-machinery-impact"],
        4: ["chainsaw", "small-medium-rotating-saw", "large-rotating-saw"],
        5: ["car-horn", "car-alarm", "siren", "reverse-beeper"],
        6: ["stationary-music", "mobile-music", "ice-cream-truck"],
        7: ["person-or-small-group-talking", "person-or-small-group-shouting", "large-crowd",
            "amplified-speech"],
        8: ["dog-barking-whining"],
    }
    other = {1: "engine-of-uncertain-size", 2: "other-unknown-impact-machinery",
             4: "other-unknown-powered-saw", 5: "other-unknown-alert-signal",
             6: "music-from-uncertain-source", 7: "other-unknown-human-voice"}
    fine: dict[int, dict[Any, str]] = {}
    for category, names in complete.items():
        fine[category] = dict(enumerate(names, start=1))
        if category in other:
            fine[category][OTHER] = other[category]
    return Taxonomy(coarse, fine)


def _number(key: Any, where: str) -> int:
    try:
        number = int(str(key))
    except ValueError:
        raise InputError(f"'{key}' is not a tag number", where=where,
                         allowed="whole numbers, and X for the uncertain fine tag") from None
    return number


def _name(value: Any, place: str, where: str) -> str:
    if not isinstance(value, str) or not value or any(sign in value for sign in ",\n\r\""):
        raise InputError(f"{place}: {value!r} is not a tag name", where=where,
                         allowed="text without commas, quotes and line ends")
    return value


@dataclass(frozen=True)
class Paths:
    """The three parts: annotations.csv, the taxonomy YAML, the folder of audio."""

    annotations: Path
    taxonomy: Path
    audio: Path


def locate(folder: Path | str) -> Paths:
    """The parts of the data set in ``folder`` (or in its subfolder ``sonyc_ust``).

    The taxonomy may have any name ``*taxonomy*.yaml``; audio lies in ``audio/`` or beside the
    annotations. Raises ``InputError`` naming what is missing.
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
    return Paths(folder / ANNOTATIONS, taxonomy, audio)


def check(folder: Path | str) -> list[Finding]:
    """The problems alone (see ``inspect``)."""
    return inspect(folder).problems


def inspect(folder: Path | str, *, listen: bool = False,
            progress: Progress | None = None) -> Inspection:
    """Everything that is wrong with the data set, and its counts.

    Looks at every row of the annotations and at every audio file's header; with ``listen`` at all
    samples too. Raises ``InputError`` only where one of the three parts is missing.
    """
    paths = locate(folder)
    findings = Inspection(str(folder), "SONYC-UST")
    taxonomy: Taxonomy | None = None
    try:
        taxonomy = Taxonomy.load(paths.taxonomy)
    except L3hpcError as error:
        findings.findings.append(Finding("taxonomy", "red", str(error).replace("\n", " ")))
    clips = _check_table(paths, taxonomy, findings)
    _check_audio(paths, clips, findings, listen, progress or Progress())
    return findings


def _check_table(paths: Paths, taxonomy: Taxonomy | None, findings: Inspection) -> list[str]:
    """Check the annotations, count what is in them, return the clips' names."""
    table = _readable_rows(paths.annotations, findings)
    line, header = next(table, (1, []))
    try:
        refuse_separator(header, KEY_COLUMNS, f"{paths.annotations}:{line}")
    except InputError as error:
        findings.findings.append(Finding("table", "red", str(error).replace("\n", " ")))
        return []
    absent = [name for name in KEY_COLUMNS if name not in header]
    findings.add("columns", "{n} columns are missing from annotations.csv", absent)
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
    """What the rows of the table hold together, and what is wrong with single ones."""

    def __init__(self, header: list[str], taxonomy: Taxonomy | None) -> None:
        self.header = header
        self.place = {name: number for number, name in enumerate(header)}
        self.presence = [self.place[name] for name in header if name.endswith("_presence")]
        self.coarse = {self.place[f"{tag.column}_presence"]: tag.name for tag in taxonomy.coarse
                       if f"{tag.column}_presence" in self.place} if taxonomy else {}
        self.rows = 0
        self.split_of: dict[str, str] = {}  # by clip
        self.sensors: dict[str, set[str]] = defaultdict(set)  # by split
        self.line_of: dict[tuple[str, str], int] = {}  # by clip and annotator
        self.agreed: set[str] = set()  # clips with the annotator 0
        self.positives: Counter[str] = Counter()
        self.faults: dict[str, list[str]] = defaultdict(list)

    def add(self, line: int, cells: list[str]) -> None:
        """Take in one row."""
        self.rows += 1
        if len(cells) != len(self.header):
            self.faults["cells"].append(f"line {line} ({len(cells)} for {len(self.header)})")
            return
        split, sensor, name, annotator = (cells[self.place[key]].strip() for key in KEY_COLUMNS)
        self._check_keys(f"line {line}", split, name, annotator)
        if (name, annotator) in self.line_of:
            first = self.line_of[name, annotator]
            self.faults["duplicate"].append(f"line {line} (as line {first})")
        self.line_of.setdefault((name, annotator), line)
        if self.split_of.setdefault(name, split) != split:
            self.faults["splits"].append(f"{name} ({self.split_of[name]}, {split})")
        odd = next((number for number in self.presence if cells[number] not in PRESENCES), None)
        if odd is not None:
            self.faults["presence"].append(f"line {line} ({self.header[odd]}: '{cells[odd]}')")
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
        """Add the counts and what is wrong."""
        for kind, message in FAULTS.items():
            findings.add(kind, message, self.faults[kind])
        clips = Counter(self.split_of.values())
        sensors = self.sensors
        agreed = {split: sum(self.split_of[name] == split for name in self.agreed)
                  for split in SPLITS}
        findings.counts |= {
            "version": 2 if "borough" in self.place or "latitude" in self.place else 1,
            "rows": self.rows, "clips": {split: clips[split] for split in SPLITS},
            "sensors": len(set().union(*sensors.values())) if sensors else 0,
            "annotators": len({annotator for _, annotator in self.line_of}),
            "agreed": agreed,
            "agreed_positives": {name: self.positives[name] for name in self.coarse.values()},
        }
        findings.add("empty split", "no clips in a split that is needed",
                     [split for split in ("train", "validate") if not clips[split]])
        findings.add("agreed", "no agreed annotations (annotator_id 0) in a split to be scored",
                     [split for split in ("validate",) if clips[split] and not agreed[split]])
        findings.add("sensors", "{n} sensors are in train and in validate or test",
                     sorted(sensors["train"] & (sensors["validate"] | sensors["test"])),
                     remark=True)


def _readable_rows(path: Path, findings: Inspection) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) as far as the table can be read; what ends it is a problem."""
    try:
        yield from cells_of(path, "annotations")
    except InputError as error:
        findings.findings.append(Finding("table", "red", str(error).replace("\n", " ")))


def _check_tags(header: list[str], taxonomy: Taxonomy, findings: Inspection) -> None:
    expected = [f"{column}_presence"
                for column in (*taxonomy.fine_columns, *taxonomy.coarse_columns)]
    findings.add("taxonomy", "{n} tags of the taxonomy have no column in annotations.csv",
                 [name for name in expected if name not in header])
    findings.add("taxonomy", "{n} tag columns of annotations.csv are not in the taxonomy",
                 [name for name in header if name.endswith("_presence") and name not in expected])


def _check_audio(paths: Paths, clips: list[str], findings: Inspection, listen: bool,
                 progress: Progress) -> None:
    missing = [name for name in clips if not os.path.isfile(paths.audio / name)]
    findings.add("missing audio", "{n} annotated clips have no audio", missing,
                 hint=f"They should lie in {paths.audio}.")
    present = sorted(set(clips) - set(missing))
    seconds = look(paths.audio, present, findings, listen, progress, shortest=0.0)
    known = set(clips)
    findings.add("extra audio", "{n} audio files have no annotation", sorted(
        path.name for path in paths.audio.iterdir()
        if path.suffix.lower() == ".wav" and path.name not in known), remark=True)
    usual = Counter(round(value, 1) for value in seconds.values()).most_common(1)
    if usual:
        findings.counts["hours"] = round(sum(seconds.values()) / 3600, 3)
        findings.add("length", f"{{n}} clips are not {usual[0][0]:g} s long",
                     [f"{name} ({value:.1f} s)" for name, value in seconds.items()
                      if round(value, 1) != usual[0][0]], remark=True)
