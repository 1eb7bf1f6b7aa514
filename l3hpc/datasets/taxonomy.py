"""The two-level taxonomy of sound tags in SONYC-UST: coarse categories and their fine tags.

A fine tag may be the category's ``X``: "of this category, but uncertain which". Names and order of
columns in annotations and predictions follow from the taxonomy file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from l3hpc.errors import InputError
from l3hpc.io import yaml
from l3hpc.io.files import write_text

OTHER = "X"


class CoarseTag(NamedTuple):
    """A category: its number and name."""

    id: int
    name: str

    @property
    def column(self) -> str:
        """Name of its column in a predictions file, such as ``1_engine``."""
        return f"{self.id}_{self.name}"


class FineTag(NamedTuple):
    """A fine tag.

    Attributes
    ----------
    coarse
        Number of its category.
    fine
        Its number as text, or ``X``.
    name
        Its name.
    is_x
        Whether it is the category's ``X``.
    """

    coarse: int
    fine: str
    name: str
    is_x: bool

    @property
    def column(self) -> str:
        """Name of its column in a predictions file, such as ``1-X_engine-of-uncertain-size``."""
        return f"{self.coarse}-{self.fine}_{self.name}"


class Taxonomy:
    """Coarse and fine tags in the order of their file.

    Parameters
    ----------
    coarse
        Number → name of the categories.
    fine
        Number of a category → number (or ``X``) → name of its tags.
    where
        What to name in messages.

    Attributes
    ----------
    coarse
        ``CoarseTag`` in file order.
    fine
        ``FineTag``, grouped by category in the order of ``coarse``, in file order within.

    Raises
    ------
    InputError
        Numbers or names are invalid, or the two levels have different categories.
    """

    def __init__(self, coarse: Mapping[Any, Any], fine: Mapping[Any, Any], where: str = "taxonomy"):
        self.coarse = tuple(CoarseTag(_number(key, where), _name(value, f"coarse.{key}", where))
                            for key, value in coarse.items())
        groups = {_number(key, where): value for key, value in fine.items()}
        # "1" and 1 are two keys of a YAML mapping, and one category.
        if set(groups) != {tag.id for tag in self.coarse} or len(groups) != len(fine):
            raise InputError("'coarse' and 'fine' have different categories", where=where,
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
        """Read a taxonomy from YAML.

        The file has the mappings ``coarse`` (id → name) and ``fine`` (id → tag → name).

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Taxonomy
            The tags.

        Raises
        ------
        InputError
            It is anything else; the message names file and place.
        """
        where = str(path)
        value, _ = yaml.read_yaml(Path(path))
        if not isinstance(value, Mapping) or not all(
                isinstance(value.get(level), Mapping) for level in ("coarse", "fine")):
            raise InputError("not a taxonomy", where=where,
                             allowed="top keys 'coarse' (id: name) and 'fine' (id: {tag: name})")
        return cls(value["coarse"], value["fine"], where)

    def save(self, path: Path | str) -> None:
        """Write the taxonomy as YAML, in its own order, as the published file does.

        Parameters
        ----------
        path
            The file.
        """
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
        """Indices in ``fine`` of the tags that are not X (23 in SONYC-UST)."""
        return [index for index, tag in enumerate(self.fine) if not tag.is_x]

    def complete(self, coarse: int) -> list[int]:
        """Indices in ``fine`` of a category's tags that are not X.

        Parameters
        ----------
        coarse
            Number of the category.

        Returns
        -------
        list of int
            Ascending.
        """
        return [index for index, tag in enumerate(self.fine)
                if tag.coarse == coarse and not tag.is_x]

    def other(self, coarse: int) -> int | None:
        """Index in ``fine`` of a category's X.

        Parameters
        ----------
        coarse
            Number of the category.

        Returns
        -------
        int or None
            None where it has none.
        """
        for index, tag in enumerate(self.fine):
            if tag.coarse == coarse and tag.is_x:
                return index
        return None

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Taxonomy)
                and (self.coarse, self.fine) == (other.coarse, other.fine))

    def __hash__(self) -> int:
        return hash((self.coarse, self.fine))


def sonyc_ust_taxonomy() -> Taxonomy:
    """The taxonomy of SONYC-UST: 8 categories, 23 fine tags and 6 X.

    Returns
    -------
    Taxonomy
        As published.

    References
    ----------
    M. Cartwright et al., "SONYC Urban Sound Tagging (SONYC-UST): a multilabel dataset from an urban
    acoustic sensor network", DCASE 2019.

    Examples
    --------
    >>> taxonomy = sonyc_ust_taxonomy()
    >>> len(taxonomy.coarse), len(taxonomy.fine), taxonomy.coarse_columns[0]
    (8, 29, '1_engine')
    """
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


def _number(key: object, where: str) -> int:
    try:
        number = int(str(key))
    except ValueError:
        raise InputError(f"'{key}' is not a tag number", where=where,
                         allowed="whole numbers, and X for the uncertain fine tag") from None
    return number


def _name(value: object, position: str, where: str) -> str:
    if not isinstance(value, str) or not value or any(sign in value for sign in ",\n\r\""):
        raise InputError(f"{position}: {value!r} is not a tag name", where=where,
                         allowed="text without commas, quotes and line breaks")
    return value
