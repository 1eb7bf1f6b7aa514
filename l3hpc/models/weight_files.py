"""List the weighted layers of a weight file in any known format, without TensorFlow.

Formats are Keras 2 HDF5 (``save_weights`` and full models, plain or gzipped), Keras 3 ``.keras``
and ``.weights.h5``, and l3hpc's own. Only arrays and JSON are read (see ``unpacking``): nothing in
a file is executed, and a network with layers that are code is refused.
"""

from __future__ import annotations

import contextlib
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
from l3hpc.io.hdf5 import check_readable, open_hdf5
from l3hpc.models.unpacking import READABLE, GuardedFile, as_text, parse_json, unpack

OWN_FORMAT = "l3hpc network"
OWN_VERSION = 1
# What h5py, zipfile and gzip raise for damaged files, whichever part is hit.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile,
          zlib.error, MemoryError)
CODE_LAYERS = ("lambda", "tfsmlayer", "torchmodulewrapper", "jaxlayer", "flaxlayer")
NORM_ARRAYS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class StoredLayer:
    """One weighted layer of a file.

    Attributes
    ----------
    path
        The file.
    name
        Name in the file.
    arrays
        HDF5 data sets, which are read on demand.
    """

    path: Path
    name: str
    arrays: tuple[Any, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays, in order."""
        return tuple(tuple(array.shape) for array in self.arrays)

    @property
    def is_frontend(self) -> bool:
        """Whether this is a spectrogram layer, whose weights are kapre's DFT and mel matrices."""
        kernels = self.shapes[:2]
        # By shape too, because layers may have been renamed: kapre's DFT is a convolution over
        # time.
        return "spectrogram" in self.name.lower() or (
            len(kernels) == 2 and kernels[0] == kernels[1] and len(kernels[0]) == 4
            and kernels[0][1:3] == (1, 1))

    def read(self) -> tuple[np.ndarray, ...]:
        """Read the arrays.

        Returns
        -------
        tuple of numpy.ndarray
            float32.

        Raises
        ------
        InputError
            An array was not written to its end.
        """
        for array in self.arrays:
            check_readable(array, self.path)
        return tuple(np.asarray(array[()], dtype=np.float32) for array in self.arrays)


@dataclass
class StoredNetwork:
    """What a weight file holds.

    Attributes
    ----------
    path
        The file.
    format
        ``'keras2'``, ``'keras3'`` or ``'l3hpc'``.
    layers
        Weighted layers without the front end.
    frontend
        The spectrogram layer, where the file has one.
    config
        The configuration of the Keras model, where the file has one.
    spec
        The network, in l3hpc's own format.
    provenance
        Where the network comes from, in l3hpc's own format.
    unused_bytes
        Bytes of the file that no array uses.
    """

    path: Path
    format: str
    layers: list[StoredLayer]
    frontend: StoredLayer | None = None
    config: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    unused_bytes: int = 0


@contextlib.contextmanager
def open_network(path: Path) -> Iterator[StoredNetwork]:
    """Open a weight file for reading inside the ``with`` block.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    StoredNetwork
        What the file holds.

    Raises
    ------
    InputError
        There is no such file, or it has none of the known formats.
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
        except (OSError, RuntimeError, MemoryError) as error:  # in arrays that the caller reads
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"not a readable weight file: {error}", where=str(path), allowed=READABLE,
                      hint="Is it complete? Compare its size with that of the original.")


def network_bytes(spec: dict[str, Any], layers: list[tuple[str, dict[str, np.ndarray]]],
                  provenance: dict[str, Any]) -> bytes:
    """A file in l3hpc's own format: ``layers/<number>_<kind>/<array>`` and JSON attributes.

    Parameters
    ----------
    spec
        The network, as ``NetworkSpec.to_dict`` describes it.
    layers
        Kind and arrays by name of each weighted layer.
    provenance
        Where the network comes from.

    Returns
    -------
    bytes
        The same for the same network.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["format"] = OWN_FORMAT
        file.attrs["version"] = OWN_VERSION
        file.attrs["spec"] = json.dumps(spec, sort_keys=True)
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        for index, (kind, arrays) in enumerate(layers):
            group = file.create_group(f"layers/{index:02d}_{kind}")
            for name, array in arrays.items():
                # Without times, so that the same network gives the same bytes.
                group.create_dataset(name, data=np.asarray(array, dtype=np.float32),
                                     track_times=False)
    return memory.getvalue()


def _inspect(path: Path, file: h5py.File, config: dict[str, Any]) -> StoredNetwork:
    contents = GuardedFile(path)
    if file.attrs.get("format") == OWN_FORMAT:
        return _own_format(contents, file)
    if "model_config" in file.attrs:
        config = parse_json(file.attrs["model_config"], path)
    refuse_code(config, path)
    root = file
    # A full model keeps its weights in a group, a file of weights at the top.
    inner = None if contents.names(file, "layer_names") else contents.child(file, "model_weights")
    if isinstance(inner, h5py.Group):
        root = inner
    names = contents.names(root, "layer_names")
    if names:
        layers = [_legacy_layer(contents, root, name) for name in names]
        # Keras 3 writes this layout too, for files named .h5.
        version = str(as_text(root.attrs.get("keras_version", file.attrs.get("keras_version", ""))))
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
                         unused_bytes=file.id.get_filesize() - used)


def refuse_code(config: dict[str, Any], path: Path) -> None:
    """Refuse a model with a layer that is code, wherever it lies in the configuration.

    Parameters
    ----------
    config
        Of the model, as JSON values.
    path
        What the message names.

    Raises
    ------
    InputError
        With the class of the layer.
    """
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            kind = str(one.get("class_name", ""))
            if kind.lower().strip("_").endswith(CODE_LAYERS):
                raise InputError(f"holds a layer that is code ({kind}), which is never executed",
                                 where=str(path), allowed="ordinary layers of Keras")
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _own_format(contents: GuardedFile, file: h5py.File) -> StoredNetwork:
    path = contents.path
    version = int(file.attrs.get("version", 0))
    if version != OWN_VERSION:
        raise InputError(f"was written in version {version} of the l3hpc network format",
                         where=str(path), allowed=f"version {OWN_VERSION}",
                         hint="A newer l3hpc wrote it. Update (git pull), then "
                              + install_command())
    groups = contents.child(file, "layers")
    if "spec" not in file.attrs or not isinstance(groups, h5py.Group):
        raise InputError("is a damaged l3hpc network file: it has no spec or no layers",
                         where=str(path))
    layers = []
    for name, group in sorted(contents.children(groups)):
        names = ("kernel", "bias") if "kernel" in group else NORM_ARRAYS
        arrays = [contents.array(group, array) for array in names]
        layers.append(StoredLayer(path, name, tuple(one for one in arrays if one is not None)))
    return StoredNetwork(path, "l3hpc", layers, spec=parse_json(file.attrs["spec"], path),
                         provenance=parse_json(file.attrs.get("provenance", "{}"), path))


def _legacy_layer(contents: GuardedFile, root: h5py.Group, name: str) -> StoredLayer:
    group = contents.child(root, name)
    if not isinstance(group, h5py.Group):
        raise contents.error(f"lists layer {name!r} but holds no group of that name")
    names = contents.names(group, "weight_names")
    arrays = [contents.array(group, weight) for weight in names]
    if any(array is None for array in arrays):
        raise contents.error(f"is missing arrays that layer {name!r} lists")
    parts = [weight.split("/")[-1].split(":")[0] for weight in names]
    if sorted(parts) == sorted(NORM_ARRAYS) and tuple(parts) != NORM_ARRAYS:
        raise contents.error(f"stores the arrays of layer {name!r} in the order "
                             f"{', '.join(parts)}", ", ".join(NORM_ARRAYS))
    return StoredLayer(contents.path, name, tuple(arrays))


def _keras3_layers(contents: GuardedFile, file: h5py.File) -> list[StoredLayer]:
    """Layers of a Keras 3 weight file: groups with a ``vars`` group of numbered arrays."""
    layers: list[StoredLayer] = []

    def visit(group: h5py.Group, path: str) -> None:
        for name, child in contents.children(group):
            # The optimizer's moments have the shapes of weights.
            if not isinstance(child, h5py.Group) or (not path and name.startswith("optimizer")):
                continue
            if name == "vars":
                arrays = tuple(contents.array(child, key) for key in sorted(child, key=_natural))
                if arrays:
                    layers.append(StoredLayer(contents.path, path, arrays))
            else:
                visit(child, f"{path}/{name}" if path else name)

    visit(file, "")
    # The embedding layer's name sorts first, but it is the last of the network.
    return sorted(layers, key=lambda layer: ("audio_embedding_layer" in layer.name,
                                             _natural(layer.name)))


def _in_order(layers: list[StoredLayer]) -> list[StoredLayer]:
    """Interleave normalisations and convolutions, which Keras 3 keeps by class."""
    norms = [layer for layer in layers if len(layer.arrays) == 4]
    convolutions = [layer for layer in layers if len(layer.arrays) == 2 and not layer.is_frontend]
    others = [layer for layer in layers if layer not in norms and layer not in convolutions]
    ordered = norms[:1]
    for index, layer in enumerate(convolutions):
        ordered += [layer, *norms[index + 1:index + 2]]
    return others + ordered + norms[len(convolutions) + 1:]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by value: ``conv2d_2`` before ``conv2d_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part)
            for part in re.split(r"(\d+)", name) if part]
