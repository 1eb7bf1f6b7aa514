"""The model to export: a weights file, or a name that stands for one. The one place that knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l3hpc.embedding.names import find
from l3hpc.embedding.recognise import geometry_of
from l3hpc.models.parameters import Parameters
from l3hpc.models.weights import WeightsInfo, describe, load_parameters


def read_model(name: str | Path, geometry: Mapping[str, Any] | None = None
               ) -> tuple[Parameters, WeightsInfo]:
    """The parameters of a model, and who they are.

    name: a weights file, a name as ``l3hpc.embedding.load_model`` takes it, or ``untrained[:SEED]``
    (a ``Path`` is always a file). geometry: front-end values that overrule the file.

    Raises ``InputError`` as ``find`` and ``l3hpc.models.weights.load_parameters`` do.
    """
    file, options = _found(name, geometry)
    return load_parameters(file, **options)


def describe_model(name: str | Path, geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Who the model is, from headers alone."""
    file, options = _found(name, geometry)
    return describe(file, **options)


def _found(name: str | Path, geometry: Mapping[str, Any] | None
           ) -> tuple[str | Path, dict[str, Any]]:
    file, named = find(name)
    representation = named.options.get("input_repr")
    return file, {"embedding_size": named.options.get("embedding_size"),
                  "geometry": geometry_of(representation, None, geometry)}
