"""The L3 vision network in numbers, and its weight files. No TensorFlow here.

The image half of Look, Listen and Learn as openl3 has it: normalisation of the input, eight 3x3
convolutions in four blocks, and the largest value of each map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import write_bytes
from l3hpc.models.parameters import ARRAY_NAMES
from l3hpc.models.spec import L3_FILTERS, NetworkSpec
from l3hpc.models.weight_files import StoredNetwork, network_bytes, open_network

PUBLISHED_SIZE = 224  # pixels
DENSE_NAMES = {**ARRAY_NAMES, "dense": ("kernel", "bias")}
MAX_FILTERS = 65_536  # of one convolution; 512 are published
HIDDEN = 128  # values of the fusion head's first layer

Layers = tuple[tuple[np.ndarray, ...], ...]
Shapes = list[tuple[str, tuple[tuple[int, ...], ...]]]


@dataclass(frozen=True)
class VisionSpec:
    """A vision network.

    Parameters
    ----------
    size
        Pixels, width and height of an image; 224 as published.
    filters
        Output channels of the eight convolutions; L3's as published.

    Raises
    ------
    InputError
        The size is out of range, or there are not eight filters.
    """

    size: int = PUBLISHED_SIZE
    filters: tuple[int, ...] = L3_FILTERS

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(int(count) for count in self.filters))
        # the upper limit before anything is allocated: a damaged file may state any number
        if len(self.filters) != 8 or not all(1 <= count <= MAX_FILTERS for count in self.filters):
            raise InputError(f"invalid filters of a vision network: {list(self.filters)}",
                             allowed=f"eight numbers from 1 to {MAX_FILTERS:,}, one for each "
                                     "convolution")
        if not 8 <= self.size <= 1024:
            raise InputError(f"a vision network cannot take images of {self.size} x {self.size} "
                             "pixels", allowed="8 to 1024; 224 is the published size")

    @property
    def dim(self) -> int:
        """Length of the embedding, whose values are >= 0."""
        return self.filters[-1]

    @property
    def pool(self) -> int:
        """Side of the last map, which is pooled as a whole.

        Odd sizes are rounded up, as published.
        """
        side = self.size
        for _ in range(3):
            side = -(-side // 2)
        return side

    def layers(self) -> Shapes:
        """The weighted layers in order, as in ``NetworkSpec.layers``.

        Returns
        -------
        list of tuple
            Kind, and the shapes of its arrays.
        """
        found: Shapes = [("batch_norm", ((3,),) * 4)]
        before = 3
        for count in self.filters:
            found += [("conv", ((3, 3, before, count), (count,))), ("batch_norm", ((count,),) * 4)]
            before = count
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` reads."""
        return {**asdict(self), "filters": list(self.filters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionSpec:
        """The spec that ``to_dict`` described.

        Parameters
        ----------
        values
            JSON values.

        Returns
        -------
        VisionSpec
            The network.

        Raises
        ------
        InputError
            They are anything else.
        """
        size, filters = values.get("size"), values.get("filters")
        valid = isinstance(size, int) and isinstance(filters, (list, tuple)) and all(
            isinstance(count, int) for count in filters)
        if set(values) != {"size", "filters"} or not valid:
            raise InputError(f"not a vision network: {dict(values)!r:.80}",
                             allowed="size and filters, whole numbers")
        return cls(size, tuple(filters))  # type: ignore[arg-type]


def head_layers(joint: int, hidden: int = HIDDEN) -> Shapes:
    """The fusion head: Dense ``hidden``, Dense 2.

    Parameters
    ----------
    joint
        Values that it takes: vision and audio embedding together.
    hidden
        Values of its first layer.

    Returns
    -------
    list of tuple
        As ``VisionSpec.layers``.
    """
    return [("dense", ((joint, hidden), (hidden,))), ("dense", ((hidden, 2), (2,)))]


def save_arrays(path: Path, spec: Mapping[str, Any], shapes: Shapes, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write arrays in l3hpc's own format (HDF5 and JSON, nothing executes on load), by one rename.

    Parameters
    ----------
    path
        The file.
    spec
        JSON-ready description of the network.
    shapes
        Kind and array shapes of the layers.
    layers
        Their arrays.
    provenance
        JSON-ready values that describe where the network comes from.
    """
    named = [(kind, dict(zip(DENSE_NAMES[kind], arrays, strict=True)))
             for (kind, _), arrays in zip(shapes, layers, strict=True)]
    write_bytes(Path(path), network_bytes(dict(spec), named, dict(provenance or {})))


def save_vision(path: Path, spec: VisionSpec, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write a vision network, which ``load_vision`` reads.

    Parameters
    ----------
    path
        The file.
    spec
        The network.
    layers
        Its arrays.
    provenance
        JSON-ready values that describe where the network comes from.
    """
    save_arrays(path, {"vision": spec.to_dict()}, spec.layers(), layers, provenance)


def load_vision(path: str | Path) -> tuple[VisionSpec, Layers]:
    """Read a vision network: of ``save_vision``, of a whole AVC network, or openl3's for images.

    openl3's files (``openl3_image_…``) end before the last normalisation: a neutral one is added.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    spec
        The network.
    layers
        Its arrays.

    Raises
    ------
    InputError
        The file holds no vision network; the message describes its layers.
    """
    with open_network(Path(path)) as stored:
        spec = _vision_spec(stored)
        shapes = spec.layers()
        arrays = [layer.read() for layer in stored.layers]
    if len(arrays) > len(shapes):  # a whole AVC network: vision follows audio
        start = _audio_layers(stored)
        arrays = arrays[start:start + len(shapes)]
    # openl3's image weights have no normalisation after the last convolution.
    if stored.spec is None and len(arrays) == len(shapes) - 1:
        neutral = tuple(np.full(spec.dim, value, np.float32) for value in (1, 0, 0, 1))
        arrays.append(neutral)
    if [tuple(array.shape for array in layer) for layer in arrays] != [one for _, one in shapes]:
        raise InputError(f"its {len(arrays)} weighted layers are not those of a vision network",
                         where=str(path), allowed="an input normalisation of 3 channels, then "
                         "eight 3x3 convolutions, each with its normalisation")
    if not all(np.isfinite(array).all() for layer in arrays for array in layer):
        raise InputError("holds values that are not finite numbers", where=str(path))
    return spec, tuple(arrays)


def _vision_spec(stored: StoredNetwork) -> VisionSpec:
    if stored.spec is not None:
        spec = stored.spec.get("vision")
        if not isinstance(spec, dict):
            raise InputError("holds no vision network", where=str(stored.path),
                             allowed="vision.h5 or avc_best_valid_loss.h5 of avc_train, or "
                                     "openl3's image weights")
        return VisionSpec.from_dict(spec)
    outputs = [shapes[0][3] for shapes in (layer.shapes for layer in stored.layers)
               if len(shapes) == 2 and len(shapes[0]) == 4]
    if len(outputs) != 8:
        raise InputError(f"holds {len(outputs)} convolutions", where=str(stored.path),
                         allowed="a vision network of eight (openl3's image weights)")
    return VisionSpec(filters=tuple(outputs))


def _audio_layers(stored: StoredNetwork) -> int:
    """Number of weighted layers in the audio branch of a stored AVC network."""
    spec = (stored.spec or {}).get("audio")
    if not isinstance(spec, dict):
        raise InputError("holds more layers than a vision network", where=str(stored.path))
    return len(NetworkSpec.from_dict(spec).layers())
