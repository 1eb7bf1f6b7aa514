"""What an L3 vision network is, in numbers, and its weight files. No TensorFlow here.

The picture half of Look, Listen and Learn as openl3 has it: normalisation of the input, eight 3x3
convolutions in four blocks, the largest value of each map.
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
from l3hpc.models.spec import L3_FILTERS
from l3hpc.models.weight_files import StoredNetwork, open_network, own_bytes

PUBLISHED_SIZE = 224
SCALED = 256 / 224  # the short side of a frame, in sides of the picture that is cut out of it
DENSE_NAMES = {**ARRAY_NAMES, "dense": ("kernel", "bias")}

Layers = tuple[tuple[np.ndarray, ...], ...]
Shapes = list[tuple[str, tuple[tuple[int, ...], ...]]]


@dataclass(frozen=True)
class VisionSpec:
    """A vision network: pictures of ``size`` x ``size`` pixels to ``filters[-1]`` values >= 0.

    The published one takes 224 pixels and has L3's filters. Raises ``InputError`` for a size that
    three 2x2 poolings leave nothing of, or other than eight filters.
    """

    size: int = PUBLISHED_SIZE
    filters: tuple[int, ...] = L3_FILTERS

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(int(count) for count in self.filters))
        if len(self.filters) != 8 or min(self.filters) < 1:
            raise InputError(f"filters {list(self.filters)} do not make a vision network",
                             allowed="eight positive numbers, one per convolution")
        if not 8 <= self.size <= 1024:
            raise InputError(f"pictures of {self.size} x {self.size} pixels do not fit a vision "
                             "network", allowed="8 to 1024; 224 is the published size")

    @property
    def dim(self) -> int:
        """Length of what it gives."""
        return self.filters[-1]

    @property
    def pool(self) -> int:
        """Side of the last map, which is pooled whole (odd sizes are rounded up, as published)."""
        side = self.size
        for _ in range(3):
            side = -(-side // 2)
        return side

    def layers(self) -> Shapes:
        """Weighted layers in order: (kind, shapes of its arrays), as in ``NetworkSpec.layers``."""
        found: Shapes = [("batch_norm", ((3,),) * 4)]
        before = 3
        for count in self.filters:
            found += [("conv", ((3, 3, before, count), (count,))), ("batch_norm", ((count,),) * 4)]
            before = count
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``from_dict`` is the inverse."""
        return {**asdict(self), "filters": list(self.filters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionSpec:
        """The spec that ``to_dict`` described; anything else is an ``InputError``."""
        size, filters = values.get("size"), values.get("filters")
        whole = isinstance(size, int) and isinstance(filters, (list, tuple)) and all(
            isinstance(count, int) for count in filters)
        if set(values) != {"size", "filters"} or not whole:
            raise InputError(f"not a vision network: {dict(values)!r:.80}",
                             allowed="size and filters, whole numbers")
        return cls(size, tuple(filters))  # type: ignore[arg-type]


def head_layers(joint: int, hidden: int = 128) -> Shapes:
    """The fusion head on ``joint`` values: Dense ``hidden``, Dense 2."""
    return [("dense", ((joint, hidden), (hidden,))), ("dense", ((hidden, 2), (2,)))]


def save_arrays(path: Path, spec: Mapping[str, Any], shapes: Shapes, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write arrays in our own format (HDF5 and JSON, nothing executes on load), by one rename."""
    named = [(kind, dict(zip(DENSE_NAMES[kind], arrays, strict=True)))
             for (kind, _), arrays in zip(shapes, layers, strict=True)]
    write_bytes(Path(path), own_bytes(dict(spec), named, dict(provenance or {})))


def save_vision(path: Path, spec: VisionSpec, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write a vision network; ``load_vision`` reads it."""
    save_arrays(path, {"vision": spec.to_dict()}, spec.layers(), layers, provenance)


def load_vision(path: str | Path) -> tuple[VisionSpec, Layers]:
    """A vision network from a file: of ``save_vision``, a whole AVC network, or openl3's images.

    openl3's files (``openl3_image_…``) end before the last normalisation: a neutral one stands in.
    Raises ``InputError`` for any other file, with what its layers are.
    """
    with open_network(Path(path)) as stored:
        spec = _vision_spec(stored)
        shapes = spec.layers()
        arrays = [layer.read() for layer in stored.layers]
    if len(arrays) > len(shapes):  # a whole AVC network: the vision part follows the audio's
        start = _audio_layers(stored)
        arrays = arrays[start:start + len(shapes)]
    if stored.spec is None and len(arrays) == len(shapes) - 1:
        neutral = tuple(np.full(spec.dim, value, np.float32) for value in (1, 0, 0, 1))
        arrays.append(neutral)
    found = [tuple(array.shape for array in one) for one in arrays]
    if found != [wanted for _, wanted in shapes]:
        raise InputError(f"its {len(found)} weighted layers are not those of a vision network",
                         where=str(path), allowed="an input normalisation of 3 channels, then "
                         "eight 3x3 convolutions, each with its normalisation")
    if not all(np.isfinite(array).all() for one in arrays for array in one):
        raise InputError("holds values that are not finite numbers", where=str(path))
    return spec, tuple(arrays)


def _vision_spec(stored: StoredNetwork) -> VisionSpec:
    if stored.spec is not None:
        told = stored.spec.get("vision")
        if not isinstance(told, dict):
            raise InputError("holds no vision network", where=str(stored.path),
                             allowed="vision.h5 or avc.h5 of avc_train, or openl3's image weights")
        return VisionSpec.from_dict(told)
    outputs = [shapes[0][3] for shapes in (layer.shapes for layer in stored.layers)
               if len(shapes) == 2 and len(shapes[0]) == 4]
    if len(outputs) != 8:
        raise InputError(f"holds {len(outputs)} convolutions", where=str(stored.path),
                         allowed="a vision network of eight (openl3's image weights)")
    return VisionSpec(filters=tuple(outputs))


def _audio_layers(stored: StoredNetwork) -> int:
    """How many weighted layers the audio branch of a stored AVC network has."""
    from l3hpc.models.spec import NetworkSpec

    told = (stored.spec or {}).get("audio")
    if not isinstance(told, dict):
        raise InputError("holds more layers than a vision network", where=str(stored.path))
    return len(NetworkSpec.from_dict(told).layers())
