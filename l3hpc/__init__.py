"""l3hpc: SEA and EdgeL3 pipelines on a Slurm cluster or on one machine.

Packages, from the person down: ``cli`` (commands) → ``runs`` (submit, watch, resume) →
``schedulers`` (Slurm, this machine), ``pipelines`` (plans), ``workspace`` (what lies on disk) and
``config`` → ``steps`` (one kind of work each) → the science (``audio models datasets sampling
reduction tagging …``), usable from a notebook. ``embedding`` is the same in one call:
``get_embedding``, ``load_model``. ``ledger`` keeps the results tables.
docs/architecture.md draws them all.
"""

from typing import Any

from l3hpc._version import __version__

__all__ = ["__version__", "get_embedding", "load_model", "results"]


def __getattr__(name: str) -> Any:
    """The calls for notebooks, loaded when they are used."""
    if name == "results":
        from l3hpc.ledger.views.exports import results

        return results
    if name == "get_embedding":
        from l3hpc.embedding.embed import get_embedding

        return get_embedding
    if name == "load_model":
        from l3hpc.embedding.model import load_model

        return load_model
    raise AttributeError(f"module 'l3hpc' has no attribute {name!r}")
