"""The model to export: from whatever file holds its weights. The one place that knows how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l3hpc.models.parameters import Parameters
from l3hpc.models.weights import WeightsInfo, describe, load_parameters


def read_model(name: str | Path, geometry: Mapping[str, Any] | None = None
               ) -> tuple[Parameters, WeightsInfo]:
    """The parameters in a weights file (or ``untrained[:SEED]``), and who they are.

    Raises ``InputError`` as ``l3hpc.models.weights.load_parameters`` does.
    """
    return load_parameters(name, geometry=geometry)


def describe_model(name: str | Path, geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Who the model is, from headers alone."""
    return describe(name, geometry=geometry)
