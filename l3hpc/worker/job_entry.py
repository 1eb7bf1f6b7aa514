"""The program that the script of a job starts: ``python -m l3hpc.worker.job_entry LOGS``.

It is submitit's own entry point with three differences. Unpickling can execute anything, so only a
pickle that the user of the job wrote is loaded: in a shared workspace the owner of the folder above
could replace the folder of a run. What submitit pickles at the end is removed. And a job that
starts before its pickle has been renamed looks for it without the cache of NFS.

``--scratch PATH`` after LOGS names a folder on the disk of the node (``worker.node_scratch``), and
``--task N`` which task of a packed job this process runs (``worker.packed``).
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from l3hpc.errors import ClusterError, L3hpcError, command_line
from l3hpc.io.owners import read_own_file
from l3hpc.io.syncing import exists_now
from l3hpc.schedulers import packing
from l3hpc.workspace.layout import StepFolder

WAIT_S = 60.0
POLL_S = 0.2


def load(path: str | Path, task: int | None = None) -> Any:
    """Load a pickled call.

    Parameters
    ----------
    path
        The pickle.
    task
        Which task of a packed job; None if the job was submitted for one task.

    Raises
    ------
    InputError
        If somebody else wrote it, or it does not have that task.
    """
    delayed = pickle.loads(read_own_file(Path(path)))
    if task is not None:
        delayed.function = delayed.function.of(task)
    return delayed


def wait_for(path: Path) -> None:
    """Wait until the pickle of this job has its name, which is known only after sbatch.

    Parameters
    ----------
    path
        The pickle.

    Raises
    ------
    ClusterError
        If it does not appear.
    """
    end = time.monotonic() + WAIT_S
    while not exists_now(path):
        if time.monotonic() > end:
            run = StepFolder(path.parent.parent).run.path.name
            raise ClusterError(
                f"what this job has to run did not appear within {WAIT_S:g} s: {path}",
                hint="The submitting command ended before it had written this. Next: "
                     f"{command_line('resume', run)}")
        time.sleep(POLL_S)


def main() -> int:
    """Run the task that the environment of the job names.

    Returns
    -------
    int
        Exit code.
    """
    # Python would look through all objects twice before it ends: a tenth of a second.
    atexit.register(gc.freeze)
    from submitit.core import job_environment, submission, utils

    from l3hpc.worker import node_scratch

    logs, rest = sys.argv[1], sys.argv[2:]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    task = int(options["--task"]) if "--task" in options else None
    loading = staticmethod(functools.partial(load, task=task))
    utils.DelayedSubmission.load = loading  # type: ignore[method-assign]
    packing.keep()
    if "--scratch" in options:
        node_scratch.use(options["--scratch"])
    os.environ["SUBMITIT_FOLDER"] = logs
    try:
        wait_for(job_environment.JobEnvironment().paths.submitted_pickle)
        submission.process_job(logs)
    except L3hpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        # submitit's copy of what is in result.json or the log: one file less for every task
        result = job_environment.JobEnvironment().paths.result_pickle
        result.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
