"""Find and read the HDF5 data inside a weight file, safely. No TensorFlow here.

``unpack`` finds the HDF5 data of a file, plain, gzipped or in a Keras archive, or names the other
format that the file has. ``GuardedFile`` reads groups and arrays of it. Sizes are checked before
anything is unpacked or allocated, and refused (``InputError``) where no network of this family can
be so large. Nothing in a file is executed.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py

from l3hpc.errors import InputError, command_line

MAX_BYTES = 1 << 29  # a network of this family is far smaller, even with its front end
MAX_ENTRIES = 2_000  # groups and arrays that are read
READABLE = "an HDF5 (.h5, .h5.gz, .weights.h5) or Keras (.keras) file"
MAX_JSON = 1 << 24
BLOCK = 1 << 20
# How files of other formats begin (offset, bytes), what they are, and what to do.
FOREIGN_FORMATS = (
    (4, b"TFL3", "is a TFLite model, whose weights are not read",
     "Use the Keras file (.h5, .keras) it was converted from, or embed with it: {embed}"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself",
     "Fetch the file: git lfs pull"),
    (0, b"<!DOCTYPE", "is a web page, not a weight file", "Download it again."),
    (0, b"<html", "is a web page, not a weight file", "Download it again."),
    (0, b"\x80", "is a pickle, and reading it would execute code",
     "Save the weights from Keras: model.save_weights('student.weights.h5')"),
)


class GuardedFile:
    """One HDF5 file, read with limits on how much it may declare.

    Parameters
    ----------
    path
        What messages name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = 0
        self._entries = 0

    def child(self, group: h5py.Group, name: str) -> Any:
        """The group or array at a name.

        Parameters
        ----------
        group
            Where to look.
        name
            With slashes for inner ones.

        Returns
        -------
        object or None
            None where there is none.

        Raises
        ------
        InputError
            The name is a link, or the file has too many entries.
        """
        node: h5py.Group | h5py.Dataset | None = group
        for part in filter(None, name.split("/")):
            if not isinstance(node, h5py.Group):
                return None
            self._count()
            # Soft and external links may lead to other files of the machine.
            link = node.get(part, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise self.error(f"contains a link at {name!r}")
            node = node.get(part)
        return node

    def children(self, group: h5py.Group) -> Iterator[tuple[str, Any]]:
        """All groups and arrays in a group.

        Parameters
        ----------
        group
            Where to look.

        Yields
        ------
        tuple
            Name, and group or array.
        """
        for name in group:
            yield name, self.child(group, name)

    def array(self, group: h5py.Group, name: str) -> h5py.Dataset | None:
        """The array at a name.

        Parameters
        ----------
        group
            Where to look.
        name
            With slashes for inner ones.

        Returns
        -------
        h5py.Dataset or None
            None where there is none.

        Raises
        ------
        InputError
            It does not hold floating-point numbers, or all arrays together are too large.
        """
        dataset = self.child(group, name)
        if not isinstance(dataset, h5py.Dataset):
            return None
        if dataset.dtype.kind != "f" or dataset.shape is None:
            raise self.error(f"holds {dataset.dtype} values in {dataset.name!r}",
                             "floating-point numbers")
        self._bytes += 4 * dataset.size
        if self._bytes > MAX_BYTES:
            raise self.error(f"declares more than {MAX_BYTES >> 20} MB of weights: "
                             "not a network of this family")
        return dataset

    def names(self, owner: h5py.Group | h5py.Dataset, key: str) -> list[str]:
        """A list attribute of Keras; long ones are split over ``key0``, ``key1``, …

        Parameters
        ----------
        owner
            The group.
        key
            Name of the attribute.

        Returns
        -------
        list of str
            Empty where there is none.

        Raises
        ------
        InputError
            The file has too many entries.
        """
        # HDF5 has 64 kB for the attributes of an object: Keras cuts longer lists.
        parts = [owner.attrs[key]] if key in owner.attrs else []
        while f"{key}{len(parts)}" in owner.attrs and key not in owner.attrs:
            parts.append(owner.attrs[f"{key}{len(parts)}"])
        names = [as_text(name) for part in parts for name in part]
        self._count(len(names))
        return names

    def error(self, message: str, allowed: str | None = None) -> InputError:
        """An error that names this file.

        Parameters
        ----------
        message
            What is wrong.
        allowed
            What is allowed.

        Returns
        -------
        InputError
            Not raised yet.
        """
        return InputError(message, where=str(self.path), allowed=allowed)

    def _count(self, more: int = 1) -> None:
        self._entries += more
        if self._entries > MAX_ENTRIES:
            raise self.error("holds too many groups and arrays: not a network of this family")


def as_text(value: object) -> str:
    """A string attribute, which may be bytes.

    Parameters
    ----------
    value
        The attribute.

    Returns
    -------
    str
        Text.
    """
    return value.decode() if isinstance(value, bytes) else str(value)


def unpack(path: Path) -> tuple[Path | io.BytesIO, dict[str, Any]]:
    """Find the HDF5 data of a file, and the configuration beside it.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    source
        A path or a binary stream.
    config
        The Keras configuration; {} without one.

    Raises
    ------
    InputError
        The file has another known format, or unpacks to too much.
    """
    with open(path, "rb") as stream:
        start = stream.read(32)
    _refuse_foreign_format(start, path)
    # By content, not by name: downloads are often renamed.
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            data = _limited(stream, path)
        _refuse_foreign_format(data[:32], path)
        return io.BytesIO(data), {}
    if start[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "model.weights.h5" not in names:
                kind = ("a PyTorch file" if any(name.endswith("data.pkl") for name in names) else
                        "NumPy arrays" if any(name.endswith(".npy") for name in names) else
                        "a ZIP file")
                raise InputError(f"is {kind} without model.weights.h5, not a Keras model",
                                 where=str(path), allowed=READABLE)
            with archive.open("model.weights.h5") as stream:
                weights = io.BytesIO(_limited(stream, path))
            config = {}
            if "config.json" in names:
                with archive.open("config.json") as stream:
                    config = parse_json(_limited(stream, path), path)
        return weights, config
    return path, {}


def _refuse_foreign_format(start: bytes, path: Path) -> None:
    """Refuse a file of another known format, by its first bytes."""
    if not start:
        raise InputError("is empty", where=str(path), allowed=READABLE)
    for offset, magic, what, hint in FOREIGN_FORMATS:
        if start[offset:offset + len(magic)].lower() == magic.lower():
            raise InputError(what, where=str(path), allowed=READABLE,
                             hint=hint.format(embed=command_line("embed")))


def _limited(stream: IO[bytes] | gzip.GzipFile, path: Path) -> bytes:
    """All bytes of a stream, which may not be more than ``MAX_BYTES``."""
    data = bytearray()
    # In blocks: a read of MAX_BYTES would allocate as much for every small file.
    while block := stream.read(BLOCK):
        data += block
        if len(data) > MAX_BYTES:
            raise InputError("unpacks to more than 512 MB: not a network of this family",
                             where=str(path))
    return bytes(data)


def parse_json(text: object, path: Path) -> dict[str, Any]:
    """Parse the JSON object in a file's description.

    Parameters
    ----------
    text
        What the file holds.
    path
        What messages name.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    InputError
        It is not a JSON object, or too large.
    """
    if not isinstance(text, (str, bytes)):
        raise InputError("holds a description that is not JSON", where=str(path))
    if len(text) > MAX_JSON:
        raise InputError("holds a JSON description of more than 16 MB", where=str(path))
    try:
        value = json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"holds a damaged JSON description: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("holds a JSON description that is not an object", where=str(path))
    return value
