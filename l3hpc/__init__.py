"""l3hpc: SEA and EdgeL3 pipelines on a Slurm cluster or on one machine.

Packages, from the top layer down: ``cli`` (commands) → ``runs`` (submit, watch, resume) →
``schedulers`` (Slurm, this machine), ``pipelines`` (plans), ``workspace`` (files of a run) and
``config`` → ``steps`` (one class for each kind of work) → the science (``audio models datasets
sampling reduction tagging …``), which can be used from a notebook. ``embedding`` goes from audio to
embeddings in one call (``get_embedding``, ``load_model``), and ``ledger`` keeps the tables of
results. docs/architecture.md has a drawing of all packages.
"""

from l3hpc import _search_path  # noqa: F401, before the standard library is imported

# isort: split
from typing import TYPE_CHECKING

from l3hpc import _lazy
from l3hpc._version import __version__

if TYPE_CHECKING:
    from l3hpc.embedding.embed import get_embedding as get_embedding
    from l3hpc.embedding.model import load_model as load_model
    from l3hpc.runs.notebook import Run as Run
    from l3hpc.runs.notebook import run as run
    from l3hpc.runs.notebook import runs as runs
    from l3hpc.runs.notebook_submit import submit as submit
    from l3hpc.runs.rows import results as results

__all__ = ["Run", "__version__", "get_embedding", "load_model", "results", "run", "runs", "submit"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "Run": "l3hpc.runs.notebook", "run": "l3hpc.runs.notebook", "runs": "l3hpc.runs.notebook",
    "submit": "l3hpc.runs.notebook_submit", "results": "l3hpc.runs.rows",
    "get_embedding": "l3hpc.embedding.embed", "load_model": "l3hpc.embedding.model",
})
