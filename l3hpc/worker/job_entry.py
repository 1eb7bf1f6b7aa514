"""``python -m l3hpc.worker.job_entry LOGS``: what a job's script starts.

It is submitit's own entry, with one difference: a pickle can execute anything, so only one that the
job's user wrote is loaded. In a shared workspace the owner of the folder above could put another
folder in the place of a run's.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

from l3hpc.errors import L3hpcError
from l3hpc.io.files import read_own_file


def load(path: str | Path) -> Any:
    """The pickled call in ``path``; an ``InputError`` for one that somebody else wrote."""
    return pickle.loads(read_own_file(Path(path)))


def main() -> int:
    """Run the task that the environment of the job names."""
    from submitit.core import submission, utils

    utils.DelayedSubmission.load = staticmethod(load)  # type: ignore[method-assign,assignment]
    try:
        submission.process_job(sys.argv[1])
    except L3hpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
