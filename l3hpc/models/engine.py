"""The engines by name: each computes the same embeddings, to 1e-4 relative."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l3hpc.errors import InputError
from l3hpc.models import ncnn_engine
from l3hpc.models.parameters import FoldedNetwork

if TYPE_CHECKING:
    from l3hpc.models.embedder import Engine

NAMES = ("tensorflow", "ncnn")


def make(name: str, network: FoldedNetwork, threads: int | None = None) -> Engine:
    """The engine ``name``. Raises ``InputError`` for a name that does not exist here."""
    if name == "ncnn":
        return ncnn_engine.NcnnEngine(network, threads)
    if name == "tensorflow":
        from l3hpc.models.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(network, threads)
    raise InputError(f"no engine {name!r}", allowed=f"auto, {', '.join(NAMES)}")
