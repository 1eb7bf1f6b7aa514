"""l3hpc: SEA and EdgeL3 pipelines on a Slurm cluster or on one machine.

Rooms, from the person down: ``cli`` (commands) → ``workflow`` (plans, scripts, jobs, records)
→ ``steps`` (one kind of work each) → the science (``audio models sampling reduction tagging
datasets``), usable from a notebook. ``ledger`` keeps the results tables. Beneath all of them lie
``errors``, ``files`` and ``progress``. docs/architecture.md draws the house.
"""

from l3hpc._version import __version__

__all__ = ["__version__"]
