"""Groups and arrays of a weight file that a stranger wrote: only numbers, and not too many.

Nothing is read here; ``l3hpc.io.hdf5`` has looked at links and storage before. What is refused
(``InputError``), before anything is allocated: soft links (Keras writes none), values that are no
floating-point numbers, and more of anything than a network of this family can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from l3hpc.errors import InputError

MAX_BYTES = 1 << 29  # a network of this family is far smaller, even with its front end
MAX_ENTRIES = 2_000  # groups and arrays looked at


class Contents:
    """What one file holds. ``path`` is named in messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = 0
        self._entries = 0

    def child(self, group: h5py.Group, name: str) -> Any:
        """The group or array at ``name`` (with slashes for inner ones), or None."""
        found: Any = group
        for part in filter(None, name.split("/")):
            if not isinstance(found, h5py.Group):
                return None
            self._count()
            link = found.get(part, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise self.refusal(f"holds a link to another place at {name!r}")
            found = found.get(part)
        return found

    def children(self, group: h5py.Group) -> Iterator[tuple[str, Any]]:
        """All groups and arrays in ``group`` by name."""
        for name in group:
            yield name, self.child(group, name)

    def array(self, group: h5py.Group, name: str) -> h5py.Dataset | None:
        """The array at ``name``, or None if there is none."""
        found = self.child(group, name)
        if not isinstance(found, h5py.Dataset):
            return None
        if found.dtype.kind != "f" or found.shape is None:
            raise self.refusal(f"holds {found.dtype} values in {found.name!r}",
                               "floating-point numbers")
        self._bytes += 4 * found.size
        if self._bytes > MAX_BYTES:
            raise self.refusal(f"declares more than {MAX_BYTES >> 20} MB of weights: "
                               "not a network of this family")
        return found

    def names(self, owner: Any, key: str) -> list[str]:
        """A list attribute of Keras; long ones are split over ``key0``, ``key1``, …"""
        parts = [owner.attrs[key]] if key in owner.attrs else []
        while f"{key}{len(parts)}" in owner.attrs and key not in owner.attrs:
            parts.append(owner.attrs[f"{key}{len(parts)}"])
        found = [text(name) for part in parts for name in part]
        self._count(len(found))
        return found

    def refusal(self, message: str, allowed: str | None = None) -> InputError:
        """An error that names this file."""
        return InputError(message, where=str(self.path), allowed=allowed)

    def _count(self, more: int = 1) -> None:
        self._entries += more
        if self._entries > MAX_ENTRIES:
            raise self.refusal("holds too many groups and arrays: not a network of this family")


def text(value: Any) -> str:
    """A string attribute, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
