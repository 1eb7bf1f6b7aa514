"""Open a weight file of any known format and list its weighted layers, without TensorFlow.

Formats: Keras 2 HDF5 (``save_weights`` and full models, plain or gzipped), Keras 3 ``.keras`` and
``.weights.h5``, and this package's own. Only arrays and JSON are read: nothing in a file is ever
executed.
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

OWN_FORMAT = "l3hpc network"
OWN_VERSION = 1
# What h5py, zipfile and gzip raise for damaged files, whichever part is hit.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile,
          zlib.error)
MAX_BYTES = 1 << 29  # a network of this family is far smaller, even with its front end


@dataclass(frozen=True)
class StoredLayer:
    """One weighted layer: its name in the file and its arrays (HDF5 data sets, read on demand)."""

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
        """The arrays as float32."""
        return tuple(np.asarray(array[()], dtype=np.float32) for array in self.arrays)


@dataclass
class StoredNetwork:
    """What a weight file holds.

    ``format`` is ``'keras2'``, ``'keras3'`` or ``'l3hpc'``; ``config`` is the Keras model's
    configuration where the file has one; ``spec`` and ``provenance`` are our own format's.
    """

    path: Path
    format: str
    layers: list[StoredLayer]
    frontend: StoredLayer | None = None
    config: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def open_network(path: Path) -> Iterator[StoredNetwork]:
    """The contents of a weight file, open for reading inside the ``with`` block.

    Raises ``InputError`` if there is no such file or it is in none of the known formats.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such weight file" if not path.is_dir() else
                         "is a folder, not a weight file", where=str(path),
                         allowed="an HDF5 (.h5, .h5.gz, .weights.h5) or Keras (.keras) file")
    with contextlib.ExitStack() as stack:
        try:
            source, config = _source(path)
            file = stack.enter_context(h5py.File(source, "r"))
            stored = _inspect(path, file, config)
        except DAMAGE as error:
            raise _damaged(path, error) from None
        try:
            yield stored
        except (OSError, RuntimeError) as error:  # arrays are read while the file is open
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"not a readable weight file: {error}", where=str(path),
                      allowed="an HDF5 (.h5, .h5.gz, .weights.h5) or Keras (.keras) file")


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


def _source(path: Path) -> tuple[Any, dict[str, Any]]:
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            return io.BytesIO(_limited(stream, path)), {}
    if magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" not in archive.namelist():
                raise InputError("a ZIP file without model.weights.h5 is not a Keras model",
                                 where=str(path))
            with archive.open("model.weights.h5") as stream:
                weights = io.BytesIO(_limited(stream, path))
            config = {}
            if "config.json" in archive.namelist():
                with archive.open("config.json") as stream:
                    config = _json(_limited(stream, path), path)
        return weights, config
    return path, {}


def _limited(stream: Any, path: Path) -> bytes:
    data: bytes = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError("unpacks to more than 512 MB: not a network of this family",
                         where=str(path))
    return data


def _inspect(path: Path, file: h5py.File, config: dict[str, Any]) -> StoredNetwork:
    if file.attrs.get("format") == OWN_FORMAT:
        return _own(path, file)
    if "model_config" in file.attrs:
        config = _json(file.attrs["model_config"], path)
    root = file
    if not _names(root, "layer_names") and isinstance(file.get("model_weights"), h5py.Group):
        root = file["model_weights"]
    names = _names(root, "layer_names")
    if names:
        layers = [_legacy_layer(root, name, path) for name in names]
        version = str(_text(root.attrs.get("keras_version", file.attrs.get("keras_version", ""))))
        style = "keras3" if version.startswith("3") else "keras2"
    else:
        layers, style = _in_order(_keras3_layers(file)), "keras3"
    weighted = [layer for layer in layers if layer.arrays]
    if not weighted:
        raise InputError("holds no layers with weights", where=str(path),
                         allowed="a Keras weight or model file, or one that l3hpc wrote")
    frontends = [layer for layer in weighted if layer.is_frontend]
    return StoredNetwork(path, style, [layer for layer in weighted if not layer.is_frontend],
                         frontends[0] if frontends else None, config)


def _own(path: Path, file: h5py.File) -> StoredNetwork:
    version = int(file.attrs.get("version", 0))
    if version != OWN_VERSION:
        raise InputError(f"was written in version {version} of the l3hpc network format",
                         where=str(path), allowed=f"version {OWN_VERSION}",
                         hint="upgrade l3hpc: pip install --upgrade l3hpc")
    if "spec" not in file.attrs or not isinstance(file.get("layers"), h5py.Group):
        raise InputError("is a damaged l3hpc network file: no spec or no layers", where=str(path))
    groups = file["layers"]
    layers = [StoredLayer(name, tuple(
        groups[name][array] for array in
        (("kernel", "bias") if "kernel" in groups[name] else
         ("gamma", "beta", "moving_mean", "moving_variance")) if array in groups[name]))
        for name in sorted(groups)]
    return StoredNetwork(path, "l3hpc", layers, spec=_json(file.attrs["spec"], path),
                         provenance=_json(file.attrs.get("provenance", "{}"), path))


def _legacy_layer(root: h5py.Group, name: str, path: Path) -> StoredLayer:
    group = root.get(name)
    if not isinstance(group, h5py.Group):
        raise InputError(f"lists layer {name!r} but holds no group of that name", where=str(path))
    arrays = [group.get(weight) for weight in _names(group, "weight_names")]
    if not all(isinstance(array, h5py.Dataset) for array in arrays):
        raise InputError(f"lacks arrays that layer {name!r} lists", where=str(path))
    return StoredLayer(name, tuple(arrays))


def _keras3_layers(file: h5py.File) -> list[StoredLayer]:
    """Layers of a Keras 3 weight file: groups with a ``vars`` group of numbered arrays."""
    found: list[StoredLayer] = []

    def visit(group: h5py.Group, path: str) -> None:
        for name in group:
            child = group[name]
            if not isinstance(child, h5py.Group) or (not path and name.startswith("optimizer")):
                continue
            if name == "vars":
                arrays = tuple(child[key] for key in sorted(child, key=_natural))
                if arrays:
                    found.append(StoredLayer(path, arrays))
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


def _names(owner: Any, key: str) -> list[str]:
    """A list attribute of Keras; long ones are split over ``key0``, ``key1``, …"""
    parts = [owner.attrs[key]] if key in owner.attrs else []
    while f"{key}{len(parts)}" in owner.attrs and key not in owner.attrs:
        parts.append(owner.attrs[f"{key}{len(parts)}"])
    return [_text(name) for part in parts for name in part]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part)
            for part in re.split(r"(\d+)", name) if part]


def _json(text: Any, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"holds a damaged JSON description: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("holds a JSON description that is not an object", where=str(path))
    return value
