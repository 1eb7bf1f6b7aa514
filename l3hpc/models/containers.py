"""Find the HDF5 inside a weight file (plain, gzipped, or a Keras archive), or say what the file is.

Everything is looked at before it is unpacked, and unpacked up to a limit.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.models.stored_arrays import MAX_BYTES

READABLE = "an HDF5 (.h5, .h5.gz, .weights.h5) or Keras (.keras) file"
MAX_JSON = 1 << 24
BLOCK = 1 << 20
# How other files begin (offset, bytes), what they are, and what to do.
STRANGERS = (
    (4, b"TFL3", "is a TFLite model, whose weights are not read",
     "Take the Keras file (.h5, .keras) it was converted from, or embed with it: l3hpc embed"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself",
     "Fetch the file: git lfs pull"),
    (0, b"<!DOCTYPE", "is a web page, not a weight file", "Download it again."),
    (0, b"<html", "is a web page, not a weight file", "Download it again."),
    (0, b"\x80", "is a pickle, whose reading would execute code",
     "Save the weights from Keras: model.save_weights('student.weights.h5')"),
)


def unpack(path: Path) -> tuple[Any, dict[str, Any]]:
    """Where the HDF5 of a file lies (a path or bytes), and the configuration beside it.

    Raises ``InputError`` for a file that is known to be something else, and what the packers raise.
    """
    with open(path, "rb") as stream:
        start = stream.read(32)
    _refuse_strangers(start, path)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            data = _limited(stream, path)
        _refuse_strangers(data[:32], path)
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


def _refuse_strangers(start: bytes, path: Path) -> None:
    if not start:
        raise InputError("is empty", where=str(path), allowed=READABLE)
    for offset, magic, what, hint in STRANGERS:
        if start[offset:offset + len(magic)].lower() == magic.lower():
            raise InputError(what, where=str(path), allowed=READABLE, hint=hint)


def _limited(stream: Any, path: Path) -> bytes:
    data = bytearray()
    while block := stream.read(BLOCK):  # asked for all at once, all would be set aside
        data += block
        if len(data) > MAX_BYTES:
            raise InputError("unpacks to more than 512 MB: not a network of this family",
                             where=str(path))
    return bytes(data)


def parse_json(text: Any, path: Path) -> dict[str, Any]:
    """The JSON object in a file's description; ``InputError`` if it is anything else."""
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
