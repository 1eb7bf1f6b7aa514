"""Open a weight file of any known format and list its weighted layers, without TensorFlow.

Formats: Keras 2 HDF5 (``save_weights`` and full models, plain or gzipped), Keras 3 ``.keras`` and
``.weights.h5``, and this package's own. Only arrays and JSON are read: nothing in a file is ever
executed, and a network whose layers are code is refused. ``unpack`` finds the HDF5 inside a file
(or says what else the file is), ``Contents`` reads groups and arrays of it, and ``open_network``
lists the layers. Everything is looked at before it is unpacked or allocated, and refused
(``InputError``) where it is larger than a network of this family can be.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.io.hdf5 import open_hdf5, refuse_unreadable

MAX_BYTES = 1 << 29  # a network of this family is far smaller, even with its front end
MAX_ENTRIES = 2_000  # groups and arrays looked at
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
OWN_FORMAT = "l3hpc network"
OWN_VERSION = 1
# What h5py, zipfile and gzip raise for damaged files, whichever part is hit.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile,
          zlib.error, MemoryError)
CODE_LAYERS = ("lambda", "tfsmlayer", "torchmodulewrapper", "jaxlayer", "flaxlayer")
NORM_ARRAYS = ("gamma", "beta", "moving_mean", "moving_variance")


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


@dataclass(frozen=True)
class StoredLayer:
    """One weighted layer: its name in the file and its arrays (HDF5 data sets, read on demand)."""

    path: Path
    name: str
    arrays: tuple[Any, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays, in order."""
        return tuple(tuple(array.shape) for array in self.arrays)

    @property
    def is_frontend(self) -> bool:
        """Whether this is a spectrogram layer (kapre held its DFT and mel matrices as weights)."""
        kernels = self.shapes[:2]
        return "spectrogram" in self.name.lower() or (
            len(kernels) == 2 and kernels[0] == kernels[1] and len(kernels[0]) == 4
            and kernels[0][1:3] == (1, 1))

    def read(self) -> tuple[np.ndarray, ...]:
        """The arrays as float32. Raises ``InputError`` where one was not written to its end."""
        for array in self.arrays:
            refuse_unreadable(array, self.path)
        return tuple(np.asarray(array[()], dtype=np.float32) for array in self.arrays)


@dataclass
class StoredNetwork:
    """What a weight file holds.

    ``format`` is ``'keras2'``, ``'keras3'`` or ``'l3hpc'``; ``config`` is the Keras model's
    configuration where the file has one; ``spec`` and ``provenance`` are our own format's.
    ``room``: bytes of the file that none of the arrays uses.
    """

    path: Path
    format: str
    layers: list[StoredLayer]
    frontend: StoredLayer | None = None
    config: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    room: int = 0


@contextlib.contextmanager
def open_network(path: Path) -> Iterator[StoredNetwork]:
    """The contents of a weight file, open for reading inside the ``with`` block.

    Raises ``InputError`` if there is no such file or it is in none of the known formats.
    """
    path = Path(path)
    if not path.is_file():
        saved = (path / "saved_model.pb").is_file()
        raise InputError("no such weight file" if not path.is_dir() else
                         f"is a folder{' (a SavedModel)' * saved}, not a weight file",
                         where=str(path), allowed=READABLE,
                         hint="Save the weights from Keras: "
                              "model.save_weights('student.weights.h5')" if saved else None)
    with contextlib.ExitStack() as stack:
        try:
            source, config = unpack(path)
            file = stack.enter_context(
                open_hdf5(path, memory=None if isinstance(source, Path) else source))
            stored = _inspect(path, file, config)
        except InputError as error:
            error.allowed = error.allowed or READABLE
            raise
        except DAMAGE as error:
            raise _damaged(path, error) from None
        try:
            yield stored
        except (OSError, RuntimeError, MemoryError) as error:  # of arrays read meanwhile
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"not a readable weight file: {error}", where=str(path), allowed=READABLE,
                      hint="Is it complete? Compare its size with that of the original.")


def own_bytes(spec: dict[str, Any], layers: list[tuple[str, dict[str, np.ndarray]]],
              provenance: dict[str, Any]) -> bytes:
    """A file of our own format: ``layers/<number>_<kind>/<array>`` and JSON attributes."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["format"] = OWN_FORMAT
        file.attrs["version"] = OWN_VERSION
        file.attrs["spec"] = json.dumps(spec, sort_keys=True)
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        for index, (kind, arrays) in enumerate(layers):
            group = file.create_group(f"layers/{index:02d}_{kind}")
            for name, array in arrays.items():
                group.create_dataset(name, data=np.asarray(array, dtype=np.float32),
                                     track_times=False)  # the same network, the same bytes
    return memory.getvalue()


def _inspect(path: Path, file: h5py.File, config: dict[str, Any]) -> StoredNetwork:
    contents = Contents(path)
    if file.attrs.get("format") == OWN_FORMAT:
        return _own(contents, file)
    if "model_config" in file.attrs:
        config = parse_json(file.attrs["model_config"], path)
    _refuse_code(config, path)
    root = file
    inner = None if contents.names(file, "layer_names") else contents.child(file, "model_weights")
    if isinstance(inner, h5py.Group):
        root = inner
    names = contents.names(root, "layer_names")
    if names:
        layers = [_legacy_layer(contents, root, name) for name in names]
        version = str(text(root.attrs.get("keras_version", file.attrs.get("keras_version", ""))))
        style = "keras3" if version.startswith("3") else "keras2"
    else:
        layers, style = _in_order(_keras3_layers(contents, file)), "keras3"
    weighted = [layer for layer in layers if layer.arrays]
    if not weighted:
        raise InputError("holds no layers with weights", where=str(path),
                         allowed="a Keras weight or model file, or one that l3hpc wrote")
    frontends = [layer for layer in weighted if layer.is_frontend]
    used = sum(array.id.get_storage_size() for layer in weighted for array in layer.arrays)
    return StoredNetwork(path, style, [layer for layer in weighted if not layer.is_frontend],
                         frontends[0] if frontends else None, config,
                         room=file.id.get_filesize() - used)


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    """Refuse a model with a layer that is code, wherever it lies in the configuration."""
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            kind = str(one.get("class_name", ""))
            if kind.lower().strip("_").endswith(CODE_LAYERS):
                raise InputError(f"holds a layer that is code ({kind}), which is never executed",
                                 where=str(path), allowed="layers of an L3 audio network")
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _own(contents: Contents, file: h5py.File) -> StoredNetwork:
    path = contents.path
    version = int(file.attrs.get("version", 0))
    if version != OWN_VERSION:
        raise InputError(f"was written in version {version} of the l3hpc network format",
                         where=str(path), allowed=f"version {OWN_VERSION}",
                         hint="It was written by a newer l3hpc: update yours (git pull), then "
                              + install_command())
    groups = contents.child(file, "layers")
    if "spec" not in file.attrs or not isinstance(groups, h5py.Group):
        raise InputError("is a damaged l3hpc network file: no spec or no layers", where=str(path))
    layers = []
    for name, group in sorted(contents.children(groups)):
        names = ("kernel", "bias") if "kernel" in group else NORM_ARRAYS
        arrays = [contents.array(group, array) for array in names]
        layers.append(StoredLayer(path, name, tuple(one for one in arrays if one is not None)))
    return StoredNetwork(path, "l3hpc", layers, spec=parse_json(file.attrs["spec"], path),
                         provenance=parse_json(file.attrs.get("provenance", "{}"), path))


def _legacy_layer(contents: Contents, root: h5py.Group, name: str) -> StoredLayer:
    group = contents.child(root, name)
    if not isinstance(group, h5py.Group):
        raise contents.refusal(f"lists layer {name!r} but holds no group of that name")
    names = contents.names(group, "weight_names")
    arrays = [contents.array(group, weight) for weight in names]
    if any(array is None for array in arrays):
        raise contents.refusal(f"lacks arrays that layer {name!r} lists")
    parts = [weight.split("/")[-1].split(":")[0] for weight in names]
    if sorted(parts) == sorted(NORM_ARRAYS) and tuple(parts) != NORM_ARRAYS:
        raise contents.refusal(f"stores layer {name!r} in the order {', '.join(parts)}",
                               ", ".join(NORM_ARRAYS))
    return StoredLayer(contents.path, name, tuple(arrays))


def _keras3_layers(contents: Contents, file: h5py.File) -> list[StoredLayer]:
    """Layers of a Keras 3 weight file: groups with a ``vars`` group of numbered arrays."""
    found: list[StoredLayer] = []

    def visit(group: h5py.Group, path: str) -> None:
        for name, child in contents.children(group):
            if not isinstance(child, h5py.Group) or (not path and name.startswith("optimizer")):
                continue
            if name == "vars":
                arrays = tuple(contents.array(child, key) for key in sorted(child, key=_natural))
                if arrays:
                    found.append(StoredLayer(contents.path, path, arrays))
            else:
                visit(child, f"{path}/{name}" if path else name)

    visit(file, "")
    return sorted(found, key=lambda layer: ("audio_embedding_layer" in layer.name,
                                            _natural(layer.name)))


def _in_order(layers: list[StoredLayer]) -> list[StoredLayer]:
    """Keras 3 keeps layers by class: weave norms and convolutions as the network has them."""
    norms = [layer for layer in layers if len(layer.arrays) == 4]
    convolutions = [layer for layer in layers if len(layer.arrays) == 2 and not layer.is_frontend]
    others = [layer for layer in layers if layer not in norms and layer not in convolutions]
    woven = norms[:1]
    for index, layer in enumerate(convolutions):
        woven += [layer, *norms[index + 1:index + 2]]
    return others + woven + norms[len(convolutions) + 1:]


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part)
            for part in re.split(r"(\d+)", name) if part]
