"""Wait until a run on a real cluster reaches the state that a test needs."""

import json
import time

from realslurm import LIMIT_S

from l3hpc.runs import status
from l3hpc.workspace.layout import Workspace


def profile(chains, cluster, **changes):
    return chains.profile(name="test", **{**cluster.profile, "slots": {}, **changes})


def until(workspace, run, wanted, seconds=LIMIT_S):
    """The status of a run once ``wanted(status)`` holds."""
    end, pause = time.monotonic() + seconds, 0.2
    while True:
        [found] = status.collect(workspace, [run])
        if wanted(found):
            return found
        if time.monotonic() > end:
            text = json.dumps(found.to_json(), indent=1)
            raise AssertionError(f"not within {seconds} s:\n{text}\n{logs(workspace, run)}")
        # Each look starts squeue, and perhaps sacct: less often where it takes long.
        time.sleep(pause)
        pause = min(1.3 * pause, 1.0)


def logs(workspace, run):
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(
        Workspace(workspace).run(run).path.glob("steps/*/logs/*.err")))


def states(found):
    return {step.name: step.state for step in found.steps}


def settled(found):
    return found.state not in ("running", "submitting")


def stranger(cluster, name="theirs", *options):
    """A job of the same person, of which l3hpc knows nothing."""
    script = cluster.folder / "script.sbatch"
    script.write_text("#!/bin/bash\nsleep 600\n")
    return cluster.command("sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null",
                           *options, str(script)).strip()


def names(cluster):
    """Number and name of every job in the queue."""
    return cluster.command("squeue", "-h", "--sort=i", "-o", "%A %j").splitlines()
