"""Which videos are used: subsets of AudioSet by class name, and their split by whole videos.

AudioSet (Gemmeke et al. 2017) lists segments in CSV files (three lines that begin with ``#``, then
``YTID, start_seconds, end_seconds, "label,label"``) and classes in ``ontology.json``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from l3hpc.avc.videos import VideoFile, scan
from l3hpc.errors import InputError
from l3hpc.io.files import read_json
from l3hpc.io.tables import read_cells

_ID = re.compile(r"[A-Za-z0-9_-]{11}")
SUGGESTED = 5
Item = TypeVar("Item")
LEAST = 2  # videos of a split: one alone makes no non-matching pairs


@dataclass(frozen=True)
class Segment:
    """One excerpt of a YouTube video. start, end: seconds. labels: ids of classes (``/m/…``)."""

    video: str
    start: float
    end: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Ontology:
    """Classes by id. names: id → name. children: id → ids of the classes right below."""

    names: Mapping[str, str]
    children: Mapping[str, tuple[str, ...]]
    path: Path

    @classmethod
    def read(cls, path: Path | str) -> Ontology:
        """``ontology.json``. Raises ``InputError`` for anything else, naming the entry."""
        path = Path(path)
        if not path.is_file():
            raise InputError("no such ontology", where=str(path),
                             allowed="AudioSet's ontology.json")
        entries = read_json(path)
        if not isinstance(entries, list) or not entries:
            raise InputError("not an ontology", where=str(path), allowed="a JSON list of classes")
        names: dict[str, str] = {}
        children: dict[str, tuple[str, ...]] = {}
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict) or not {"id", "name"} <= set(entry):
                raise InputError(f"entry {number} has no id or no name", where=str(path))
            if entry["id"] in names:
                raise InputError(f"entry {number}: class {entry['id']} is there twice",
                                 where=str(path))
            names[entry["id"]] = str(entry["name"])
            children[entry["id"]] = tuple(entry.get("child_ids", ()))
        for name, below in children.items():
            for child in below:
                if child not in names:
                    raise InputError(f"{names[name]!r} has a child {child} that is not a class",
                                     where=str(path))
        return cls(names, children, path)

    def find(self, name: str) -> frozenset[str]:
        """The classes of this name (any case; AudioSet uses some names twice) or id.

        Raises ``InputError`` with the nearest names for one that is not in the ontology.
        """
        wanted = name.strip().lower()
        found = frozenset(one for one, text in self.names.items()
                          if wanted in (text.lower(), one.lower()))
        if not found:
            by_lower = {text.lower(): text for text in self.names.values()}
            close = difflib.get_close_matches(wanted, by_lower, n=SUGGESTED, cutoff=0.5)
            raise InputError(
                f"there is no class {name!r} in {self.path.name}", where=str(self.path),
                allowed=("did you mean " + ", ".join(repr(by_lower[one]) for one in close) + "?"
                         if close else f"one of its {len(self.names)} names"))
        return found

    def with_descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Ids of the classes ``names`` and of all classes below them."""
        waiting = [one for name in names for one in self.find(name)]
        found: set[str] = set()
        while waiting:
            one = waiting.pop()
            if one not in found:  # a class may lie below several others
                found.add(one)
                waiting += self.children[one]
        return frozenset(found)


def read_segments(path: Path | str) -> list[Segment]:
    """The segments of one CSV file of AudioSet, in its order.

    Raises ``InputError`` naming file and line for a line that is no segment.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such list of segments", where=str(path),
                         allowed="a CSV file of AudioSet, such as unbalanced_train_segments.csv")
    segments = []
    for line, row in read_cells(path, "list of segments", skip_spaces=True, comment="#"):
        segments.append(_segment(row, f"{path}:{line}"))
    if not segments:
        raise InputError("lists no segments", where=str(path))
    return segments


def _segment(row: list[str], where: str) -> Segment:
    try:
        video, start, end = row[0].strip(), float(row[1]), float(row[2])
    except (ValueError, IndexError):
        raise InputError(f"not a segment: {', '.join(row)[:80]!r}", where=where,
                         allowed='YTID, start_seconds, end_seconds, "label,label"') from None
    # labels are one quoted cell, or cells of their own where someone dropped the quotes
    labels = tuple(label for cell in row[3:] for label in cell.strip().strip('"').split(",")
                   if label)
    if not _ID.fullmatch(video) or not 0 <= start < end or not labels:
        raise InputError(f"not a segment: {', '.join(row)[:80]!r}", where=where,
                         allowed="an id of 11 characters, start before end, at least one label")
    return Segment(video, start, end, labels)


def subset(segments: Iterable[Segment], ontology: Ontology, include: Iterable[str] = (),
           exclude: Iterable[str] = ()) -> list[Segment]:
    """The segments with a label among ``include`` (all, where it is empty) and none of ``exclude``.

    Both are class names; classes below them count too; ``exclude`` wins. Raises ``InputError`` for
    an unknown name, and for a name whose classes are all excluded again.
    """
    include, exclude = list(include), list(exclude)
    bad = ontology.with_descendants(exclude)
    good = ontology.with_descendants(include)
    for name in include:
        if ontology.with_descendants([name]) <= bad:
            raise InputError(f"{name!r} is both included and excluded",
                             allowed="an excluded class leaves out all classes below it")
    return [segment for segment in segments
            if (not include or good.intersection(segment.labels))
            and not bad.intersection(segment.labels)]


def video_id(file: str | Path, known: Iterable[str] | Mapping[str, object]) -> str | None:
    """The video that a file is of, by its name, if it is one of ``known``.

    Names are ``<id>``, ``<id>_<start>…`` or either after a ``Y``, as usual tools write them.
    """
    stem = Path(file).stem
    for text in (stem, stem[1:] if stem.startswith("Y") else ""):
        found = _ID.match(text)
        if found and text[11:12] in ("", "_", ".") and found[0] in known:
            return found[0]
    return None


def chosen(folder: Path, metadata: Sequence[Path] = (), ontology: Path | None = None,
           include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[VideoFile]:
    """The videos of a folder that AudioSet's lists put into a subset; all, without lists.

    Raises ``InputError`` where no video belongs to it, and what ``subset`` raises.
    """
    videos = scan(folder)
    if not metadata:
        return videos
    segments = [segment for path in metadata for segment in read_segments(path)]
    if ontology is not None:
        segments = subset(segments, Ontology.read(ontology), include, exclude)
    known = {segment.video for segment in segments}
    found = [video for video in videos if video_id(video.file, known)]
    if not found:
        raise InputError(
            f"none of {len(videos)} videos is among the {len(known)} of this subset",
            where=str(folder), allowed="files named by their YouTube id: <id>.mp4, <id>_30.mp4")
    return found


def split(items: Sequence[Item], validation_share: float, test_share: float, seed: int
          ) -> dict[str, list[Item]]:
    """``items`` in a random order, parted into train, validate and test.

    Every part gets at least two. Raises ``InputError`` for fewer than six.
    """
    if len(items) < 3 * LEAST:
        raise InputError(f"{len(items)} videos are too few", allowed=f"at least {3 * LEAST}: two "
                         "to train, two to validate, two to test")
    validate = max(LEAST, round(validation_share * len(items)))
    test = max(LEAST, round(test_share * len(items)))
    if validate + test > len(items) - LEAST:
        raise InputError(f"of {len(items)} videos, {validate} to validate and {test} to test leave "
                         "less than two to train", allowed="smaller validation_share, test_share")
    order = [items[number] for number in np.random.default_rng([seed, 0]).permutation(len(items))]
    return {"train": order[validate + test:], "validate": order[:validate],
            "test": order[validate:validate + test]}


def groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Runs of about ``size`` items, none of a single one (unless there is but one)."""
    count = max(1, min(-(-len(items) // size), len(items) // LEAST))
    edges = np.linspace(0, len(items), count + 1).round().astype(int)
    return [list(items[low:high]) for low, high in zip(edges[:-1], edges[1:], strict=True)]
