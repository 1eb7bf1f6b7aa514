"""l3hpc: SEA and EdgeL3 pipelines on a Slurm cluster or on one machine.

Rooms, from the person down: ``cli`` (commands) → ``workflow`` (plans, scripts, jobs, records)
→ ``steps`` (one kind of work each) → the science (``audio models sampling reduction tagging
datasets``), usable from a notebook. ``ledger`` keeps the results tables. Beneath all of them lie
``errors``, ``files`` and ``progress``. docs/architecture.md draws the house.
"""

from typing import Any

from l3hpc._version import __version__

__all__ = ["__version__", "results"]


def __getattr__(name: str) -> Any:
    """The calls for notebooks, loaded when they are used."""
    if name == "results":
        from l3hpc.ledger.frames import results

        return results
    raise AttributeError(f"module 'l3hpc' has no attribute {name!r}")
