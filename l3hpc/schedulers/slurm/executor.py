"""submitit does the submitting: its Slurm executor, given our rendered script.

What submitit keeps doing: pickles beside the logs, renaming them to the job's id, the signal
handler that checkpoints and requeues, result pick-up. What is ours: the script's text, sbatch's
command line (``--parsable``, the dependency), sparse arrays and a scrubbed environment.
"""

from __future__ import annotations

import enum
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from l3hpc.errors import ClusterError
from l3hpc.io.files import share_file
from l3hpc.schedulers.base import Call
from l3hpc.schedulers.slurm import identity, sbatch
from l3hpc.schedulers.slurm.commands import on_cluster
from l3hpc.schedulers.slurm.identity import JobId

_ARRAY = re.compile(r"^#SBATCH\s+--array[= ]", re.MULTILINE)


class ScriptExecutor(SlurmExecutor):
    """Submits one rendered script, as one job or one array.

    folder: the logs of the step whose script it is (the script names the same folder). clusters:
    what stands behind ``--clusters`` ('' for none).
    """

    def __init__(self, folder: Path, *, kill_on_invalid_dep: bool = True,
                 clusters: str = "") -> None:
        super().__init__(folder)
        self._clusters = clusters
        self._kill_on_invalid_dep = kill_on_invalid_dep
        self._script = Path()
        self._dependencies: tuple[str, ...] = ()
        self._behind: tuple[str, ...] = ()
        self._calls: tuple[Call, ...] = ()
        self._submitted = JobId("")
        self._options: dict[str, Any] = {}

    @classmethod
    def name(cls) -> str:
        """submitit's name of the environment in which the job wakes up."""
        return "slurm"

    @classmethod
    def affinity(cls) -> int:
        """sbatch is enough: the script need not use srun."""
        return -1 if shutil.which("sbatch") is None else 2

    def submit_script(
        self, script: Path, calls: Sequence[Call], *, time_min: int, after: Sequence[str] = (),
        behind: Sequence[str] = (), max_timeouts: int = 3, **options: Any,
    ) -> JobId:
        """Hand ``script`` to the scheduler, which is to run ``calls``.

        after: ids of the jobs that must succeed first. behind: of those that must have ended,
        however. time_min: the true time limit (submitit
        tells a time-out from a preemption by it). Returns the job's number (of an array: its base)
        and the cluster that has it, where one was named. options: of ``sbatch.Submission``.
        A refusal is a ``ClusterError`` with the scheduler's words.
        """
        self._script, self._dependencies = Path(script), tuple(after)
        self._options = options
        self._behind = tuple(behind)
        self.max_num_timeout = max_timeouts
        self.parameters["time"] = time_min
        self._calls = tuple(calls)
        delayed = [DelayedSubmission(one.work) for one in calls]
        self._internal_process_submissions(delayed)
        return self._submitted

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[Any]:
        """Pickle first, submit once, rename the pickles to the ids that the jobs will look for.

        An array keeps our own indices (``3,7-9``): its pickles are ``<id>_<index>_submitted.pkl``.
        """
        is_array = bool(_ARRAY.search(self._script.read_text(encoding="utf-8")))
        if not is_array and len(delayed_submissions) != 1:
            raise ClusterError(f"the script is not an array, but {len(delayed_submissions)} tasks "
                               "are to be submitted", hint="its template has lost the --array line")
        pickles = []
        for one, delayed in zip(self._calls, delayed_submissions, strict=True):
            pickle = one.folder / f".{uuid.uuid4().hex}.pkl"
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(pickle)
            pickles.append(pickle)
        try:
            first = self._submit_command(self._submitit_command_str)
        except BaseException:
            for pickle in pickles:
                pickle.unlink(missing_ok=True)
            raise
        jobs = []
        for one, pickle in zip(self._calls, pickles, strict=True):
            name = f"{first.job_id}_{one.index}" if is_array else first.job_id
            job = self.job_class(folder=one.folder, job_id=name, tasks=[0])
            job.paths.move_temporary_file(pickle, "submitted_pickle")
            jobs.append(job)
        return jobs

    def _submit_command(self, command: str) -> Any:
        """Give the script to the scheduler, and keep it beside the logs under the job's id."""
        self._submitted = self._sbatch(self._make_submission_command(self._script))
        job_id = self._submitted.id
        kept = JobPaths(self.folder, job_id=job_id).submission_file
        kept.unlink(missing_ok=True)
        share_file(self._script, kept)
        return self.job_class(folder=self.folder, job_id=job_id, tasks=[0])

    def _sbatch(self, command: list[str]) -> JobId:
        return sbatch.submit(sbatch.Submission(
            command, identity.of_script(self._script, self._clusters), **self._options))

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return sbatch_command(submission_file_path, self._dependencies,
                              self._kill_on_invalid_dep, self._clusters, self._behind)


def sbatch_command(script: Path, after: Sequence[str], kill_on_invalid_dep: bool,
                   clusters: str = "", behind: Sequence[str] = ()) -> list[str]:
    """The command that submits ``script``; dependencies stand here because the command line wins
    over the environment and over the script."""
    command = on_cluster(["sbatch", "--parsable"], clusters)
    kinds = {"afterok": after, "afterany": behind}
    if words := ",".join(":".join([kind, *ids]) for kind, ids in kinds.items() if ids):
        command.append(f"--dependency={words}")
    if after:
        command.append(f"--kill-on-invalid-dep={'yes' if kill_on_invalid_dep else 'no'}")
    return [*command, str(script)]


class Refusal(enum.Enum):
    """Why sbatch did not take a job, as far as it matters to what is done next."""

    FULL = enum.auto()  # as many jobs wait or run as this person, account or QOS may have
    DEPENDENCY = enum.auto()  # a job to wait for has left Slurm's memory
    FINAL = enum.auto()  # it will say the same again


_REFUSALS = {
    Refusal.FULL: ("AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", "MaxSubmitJobsPerUser",
                   "QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerAccountLimit",
                   "MaxSubmitJobsPerAccount", "QOSGrpSubmitJobsLimit"),
    Refusal.DEPENDENCY: ("Job dependency problem",),
}


def refusal(words: str) -> Refusal:
    """What kind of refusal these words of sbatch are."""
    return next((kind for kind, parts in _REFUSALS.items()
                 if any(part in words for part in parts)), Refusal.FINAL)


def hint_for(words: str) -> str:
    """What to do about a refusal of sbatch, where that can be told from its words."""
    hints = {
        "invalid partition": "Set partition: of the profile in cluster.yaml; `sinfo` lists them.",
        "invalid account": "Set account: of the profile in cluster.yaml to one of yours: "
                           "sacctmgr show associations user=$USER",
        "invalid qos": "Set qos: of the profile in cluster.yaml.",
        "node configuration is not available": "No node has all of that: ask for less with --set "
                                               "STEP.mem=…, STEP.cpus=… or STEP.gpus=…, or look at "
                                               "gpu_type: and constraint: (sinfo -o '%P %G %f').",
        "job dependency problem": "Look at what it waits for: l3hpc status; then l3hpc resume.",
        "time limit": "Ask for less time with --set STEP.time=…, or another partition.",
        "gres": "Set gpu_request: and gpu_type: of the profile in cluster.yaml.",
        "invalid job array": "Set limits.array in cluster.yaml to MaxArraySize "
                             "(scontrol show config).",
        "memory specification": "Set memory_request: of the profile in cluster.yaml.",
    }
    lowered = words.lower()
    for part, hint in hints.items():
        if part in lowered:
            return hint
    return "Check the profile in cluster.yaml: l3hpc config show; l3hpc doctor"
