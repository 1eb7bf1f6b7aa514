"""Select videos by AudioSet's classes, and divide them into splits of whole videos.

AudioSet (Gemmeke et al. 2017) lists segments in CSV files (three lines that begin with ``#``, then
``YTID, start_seconds, end_seconds, "label,label"``) and classes in ``ontology.json``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from l3hpc.avc.videos import VideoFile, scan_videos
from l3hpc.errors import InputError
from l3hpc.io.files import read_json
from l3hpc.io.tables import read_cells

SUGGESTED = 5  # class names, in an error
MIN_VIDEOS = 2  # of a split: a single one makes no non-matching pairs
_ID = re.compile(r"[A-Za-z0-9_-]{11}")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Segment:
    """One excerpt of a YouTube video.

    Attributes
    ----------
    video
        YouTube id.
    start
        Seconds.
    end
        Seconds.
    labels
        Ids of classes (``/m/…``).
    """

    video: str
    start: float
    end: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Ontology:
    """The classes by id.

    Attributes
    ----------
    names
        Id → name.
    children
        Id → ids of the classes directly below.
    path
        The file.
    """

    names: Mapping[str, str]
    children: Mapping[str, tuple[str, ...]]
    path: Path

    @classmethod
    def read(cls, path: Path | str) -> Ontology:
        """Read ``ontology.json``.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Ontology
            The classes.

        Raises
        ------
        InputError
            It is not an ontology; the message names the entry.
        """
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
                raise InputError(f"entry {number}: class {entry['id']} is listed twice",
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
        """The classes with a name or id.

        Parameters
        ----------
        name
            In any case; AudioSet uses some names twice.

        Returns
        -------
        frozenset of str
            Ids.

        Raises
        ------
        InputError
            There is no such class; the message suggests similar names.
        """
        query = name.strip().lower()
        ids = frozenset(class_id for class_id, text in self.names.items()
                        if query in (text.lower(), class_id.lower()))
        if not ids:
            by_lower = {text.lower(): text for text in self.names.values()}
            close = difflib.get_close_matches(query, by_lower, n=SUGGESTED, cutoff=0.5)
            raise InputError(
                f"there is no class {name!r} in {self.path.name}", where=str(self.path),
                allowed=("did you mean " + ", ".join(repr(by_lower[one]) for one in close) + "?"
                         if close else f"one of its {len(self.names)} names"))
        return ids

    def with_descendants(self, names: Iterable[str]) -> frozenset[str]:
        """The classes with some names, and all classes below them.

        Parameters
        ----------
        names
            Names or ids.

        Returns
        -------
        frozenset of str
            Ids.

        Raises
        ------
        InputError
            A name is unknown.
        """
        pending = [class_id for name in names for class_id in self.find(name)]
        ids: set[str] = set()
        while pending:
            class_id = pending.pop()
            if class_id not in ids:  # a class may have several parents
                ids.add(class_id)
                pending += self.children[class_id]
        return frozenset(ids)


def read_segments(path: Path | str) -> list[Segment]:
    """Read the segments of one CSV file of AudioSet.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    list of Segment
        In the order of the file.

    Raises
    ------
    InputError
        A line is not a segment; the message names file and line.
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
    # Labels are one quoted cell, or separate cells where a tool has dropped the quotes.
    labels = tuple(label for cell in row[3:] for label in cell.strip().strip('"').split(",")
                   if label)
    if not _ID.fullmatch(video) or not 0 <= start < end or not labels:
        raise InputError(f"not a segment: {', '.join(row)[:80]!r}", where=where,
                         allowed="an id of 11 characters, start before end, at least one label")
    return Segment(video, start, end, labels)


def select_segments(segments: Iterable[Segment], ontology: Ontology, include: Iterable[str] = (),
                    exclude: Iterable[str] = ()) -> list[Segment]:
    """Select segments by class.

    Classes below a named one count too; ``exclude`` takes precedence.

    Parameters
    ----------
    segments
        To select from.
    ontology
        The classes.
    include
        Names of classes, of which a segment must have one; empty: all segments.
    exclude
        Names of classes, of which a segment may not have any.

    Returns
    -------
    list of Segment
        In their order.

    Raises
    ------
    InputError
        A name is unknown, or all classes of an included name are excluded.
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


def video_id(file: str | Path, ids: Collection[str]) -> str | None:
    """The YouTube id of a video, by its file name.

    Parameters
    ----------
    file
        Named ``<id>``, ``<id>_<start>…`` or either after a ``Y``, as usual tools name them.
    ids
        The ids to choose from.

    Returns
    -------
    str or None
        None for any other name.
    """
    stem = Path(file).stem
    # Some downloaders put a Y before the id.
    for text in (stem, stem[1:] if stem.startswith("Y") else ""):
        # Ids may contain "_" and "-", so the end of an id cannot be told from the name alone: it
        # must be one of the list.
        match = _ID.match(text)
        if match and text[11:12] in ("", "_", ".") and match[0] in ids:
            return match[0]
    return None


def select_videos(folder: Path, metadata: Sequence[Path] = (), ontology: Path | None = None,
                  include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[VideoFile]:
    """Select the videos of a folder that belong to a subset of AudioSet.

    Parameters
    ----------
    folder
        The videos.
    metadata
        AudioSet's CSV files; empty: all videos are selected.
    ontology
        AudioSet's classes; None: no selection by class.
    include
        As in ``select_segments``.
    exclude
        As in ``select_segments``.

    Returns
    -------
    list of VideoFile
        Sorted by name.

    Raises
    ------
    InputError
        No video belongs to the subset, or as ``select_segments``.
    """
    videos = scan_videos(folder)
    if not metadata:
        return videos
    segments = [segment for path in metadata for segment in read_segments(path)]
    if ontology is not None:
        segments = select_segments(segments, Ontology.read(ontology), include, exclude)
    ids = {segment.video for segment in segments}
    selected = [video for video in videos if video_id(video.file, ids)]
    if not selected:
        raise InputError(
            f"none of {len(videos)} videos is among the {len(ids)} of this subset",
            where=str(folder), allowed="files named by their YouTube id: <id>.mp4, <id>_30.mp4")
    return selected


def split_items(items: Sequence[Item], validation_share: float, test_share: float, seed: int
          ) -> dict[str, list[Item]]:
    """Divide items at random into train, validate and test.

    Parameters
    ----------
    items
        Videos, or anything else.
    validation_share
        Share of ``validate``, in [0, 1); at least two items.
    test_share
        Share of ``test``, in [0, 1); at least two items.
    seed
        Decides the order.

    Returns
    -------
    dict
        Split → items.

    Raises
    ------
    InputError
        There are fewer than six items, or the shares leave fewer than two to train.
    """
    if len(items) < 3 * MIN_VIDEOS:
        raise InputError(f"{len(items)} videos are too few", allowed=f"at least {3 * MIN_VIDEOS}: "
                         "two to train, two to validate, two to test")
    validate = max(MIN_VIDEOS, round(validation_share * len(items)))
    test = max(MIN_VIDEOS, round(test_share * len(items)))
    if validate + test > len(items) - MIN_VIDEOS:
        raise InputError(f"of {len(items)} videos, {validate} to validate and {test} to test leave "
                         "fewer than two to train", allowed="smaller validation_share, test_share")
    # Whole videos: pairs of one video in two splits would measure memory, not correspondence.
    order = [items[number] for number in np.random.default_rng([seed, 0]).permutation(len(items))]
    return {"train": order[validate + test:], "validate": order[:validate],
            "test": order[validate:validate + test]}


def group_items(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Divide a list into consecutive groups of about equal size.

    Parameters
    ----------
    items
        Any items.
    size
        Items per group, about.

    Returns
    -------
    list of list
        No group has a single item, unless there is only one.
    """
    # No group of one video: it would have no non-matching pairs.
    count = max(1, min(-(-len(items) // size), len(items) // MIN_VIDEOS))
    edges = np.linspace(0, len(items), count + 1).round().astype(int)
    return [list(items[low:high]) for low, high in zip(edges[:-1], edges[1:], strict=True)]
