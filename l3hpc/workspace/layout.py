"""Where everything in a workspace lies.

No other module puts a path of a workspace together: ``Workspace(path).run(name).step(x).markers``
says it here, and ``tests/workspace/test_layout.py`` holds the others to it. Nothing is read or
written. The folders keep plain text inside, because a list of a thousand runs asks for thousands of
these paths and joining ``Path`` objects would take longer than reading the files.

::

    <workspace>/
      artifacts/<step>/<fingerprint>/   config.json  summary.json  .work/<task>/
      artifacts/<step>/<fingerprint>/<task>/result.json
      runs/<run>/                       run.json  attempts.jsonl  artifacts/<step>
      runs/<run>/steps/<step>/          config.json  heal.json  script.sbatch  logs/  markers/
      ledger/                           journal/  sync/
      local/jobs/                       <job>.json
"""

from __future__ import annotations

import os
from pathlib import Path

from l3hpc.io.files import RESULT

_CONFIG = "config.json"
_RECORD = "run.json"


class _Folder:
    """A folder with known contents. It stands for its path wherever the standard library takes
    one (``open``, ``os.listdir``, ``Path``)."""

    __slots__ = ("_text",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._text = os.fspath(path)

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self._text)

    def __fspath__(self) -> str:
        return self._text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def _in(self, name: str) -> Path:
        return Path(f"{self._text}/{name}")


class Workspace(_Folder):
    """The folder that ``paths.workspace`` in cluster.yaml or ``--workspace`` names."""

    __slots__ = ()

    @property
    def runs(self) -> Path:
        """The folder that holds one folder per run."""
        return self._in("runs")

    def run(self, name: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(f"{self._text}/runs/{name}")

    @property
    def artifacts(self) -> Path:
        """The folder that holds a folder for each kind of step."""
        return self._in("artifacts")

    def artifacts_of(self, kind: str) -> Path:
        """The folder that holds the artifacts of one kind of step."""
        return self._in(f"artifacts/{kind}")

    def artifact(self, kind: str, fingerprint: str) -> ArtifactFolder:
        """The output of a step of this kind with this fingerprint."""
        return ArtifactFolder(f"{self._text}/artifacts/{kind}/{fingerprint}")

    def is_artifact(self, path: Path) -> bool:
        """Whether a resolved path has the place of an artifact of this workspace."""
        return path.parent.parent == self.artifacts.resolve()

    @property
    def ledger(self) -> Path:
        """The folder of the results tables."""
        return self._in("ledger")

    @property
    def journal(self) -> Path:
        """The folder of the ledger's journal files."""
        return self._in("ledger/journal")

    @property
    def sync_states(self) -> Path:
        """The folder that keeps what each sheet was last seen to show."""
        return self._in("ledger/sync")

    def sync_state(self, sheet: str) -> Path:
        """What one sheet was last seen to show, by a short digest of its id."""
        return self._in(f"ledger/sync/{sheet}.json")

    @property
    def local_jobs(self) -> Path:
        """The folder with one entry for each job of the cluster ``local``."""
        return self._in("local/jobs")

    def local_job(self, number: str | int) -> Path:
        """The entry of one local job; creating it takes the number."""
        return self._in(f"local/jobs/{number}.json")


class RunFolder(_Folder):
    """``runs/<run>``: everything that belongs to one submission of a pipeline."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the run."""
        return os.path.basename(self._text)

    @property
    def record(self) -> Path:
        """The record of the run: who submitted what, where and when."""
        return self._in(_RECORD)

    @property
    def attempts(self) -> Path:
        """Attempts that were submitted after the record was last written."""
        return self._in("attempts.jsonl")

    @property
    def steps(self) -> Path:
        """The folder that holds one folder per step."""
        return self._in("steps")

    def step(self, name: str) -> StepFolder:
        """The folder of one step."""
        return StepFolder(f"{self._text}/steps/{name}")

    @property
    def artifacts(self) -> Path:
        """The folder of links to the artifacts of the steps."""
        return self._in("artifacts")

    def artifact(self, step: str) -> Path:
        """The link to the artifact of one step."""
        return self._in(f"artifacts/{step}")

    @property
    def submission_lease(self) -> Path:
        """What the command that submits jobs of the run holds a lease on."""
        return self._in("handing-over")

    @property
    def stop_submission(self) -> Path:
        """The request that whoever submits jobs of the run takes them back."""
        return self._in("stop.asked")

    @property
    def local_state(self) -> Path:
        """The state of the jobs of a local run, kept by its runner."""
        return self._in("local.json")

    @property
    def runner_lease(self) -> Path:
        """What the runner of a local run holds a lease on."""
        return self._in("runner")

    @property
    def runner_log(self) -> Path:
        """What a detached runner prints."""
        return self._in("runner.log")

    @property
    def stop_runner(self) -> Path:
        """The request that the runner of a local run stops."""
        return self._in("stop")

    @property
    def sync_script(self) -> Path:
        """The script of the job that synchronises the results sheet."""
        return self._in("ledger-sync.sbatch")

    @property
    def sync_log(self) -> Path:
        """What that job prints."""
        return self._in("ledger-sync.log")


class StepFolder(_Folder):
    """``runs/<run>/steps/<step>``: what the jobs of one step read and write."""

    __slots__ = ()

    @classmethod
    def of_config(cls, config: Path) -> StepFolder | None:
        """The folder of a step whose frozen settings are ``config``; None for a copy elsewhere."""
        folder = os.path.dirname(os.path.abspath(config))
        return cls(folder) if os.path.basename(os.path.dirname(folder)) == "steps" else None

    @property
    def name(self) -> str:
        """The name of the step."""
        return os.path.basename(self._text)

    @property
    def run(self) -> RunFolder:
        """The folder of the run that the step belongs to."""
        return RunFolder(os.path.dirname(os.path.dirname(self._text)))

    @property
    def config(self) -> Path:
        """The frozen settings: all that the content of the artifact depends on."""
        return self._in(_CONFIG)

    @property
    def requeue_policy(self) -> Path:
        """How often, and with how much more, a task may go back to the queue."""
        return self._in("heal.json")

    def script(self, number: int = 0) -> Path:
        """The script of the step; the arrays after the first of a long step are numbered."""
        return self._in(script_name(number))

    @property
    def scripts(self) -> list[Path]:
        """The scripts that are there."""
        return sorted(self.path.glob("script*.sbatch"))

    @property
    def array_script(self) -> Path:
        """The script of a job array that starts with this step and runs others as well."""
        return self._in("array.sbatch")

    @property
    def logs(self) -> Path:
        """The folder of the logs (submitit keeps its own files there too)."""
        return self._in("logs")

    def log(self, job: str, which: str = "err") -> Path:
        """The log of a job or of one task of an array.

        Parameters
        ----------
        job : str
            ``12``, or ``13_4`` for task 4 of an array.
        which : str
            ``err`` or ``out``.
        """
        return self._in(f"logs/{job}_0_log.{which}")

    def submitted_script(self, job: str) -> Path:
        """The copy of the script that was submitted as a job, which submitit keeps."""
        return self._in(f"logs/{job}_submission.sh")

    @property
    def helper_log(self) -> Path:
        """The log of the tiny job that changes the request of a task that was requeued."""
        return self._in("logs/heal.log")

    @property
    def markers(self) -> Path:
        """The folder of the markers."""
        return self._in("markers")


class ArtifactFolder(_Folder):
    """``artifacts/<kind>/<fingerprint>``: the output of a step, a folder per task."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        """The name of the folder."""
        return os.path.basename(self._text)

    @property
    def workspace(self) -> Workspace | None:
        """The workspace that the artifact belongs to; None for a folder elsewhere."""
        kinds = os.path.dirname(os.path.dirname(self._text))
        return Workspace(os.path.dirname(kinds)) if os.path.basename(kinds) == "artifacts" else None

    @property
    def config(self) -> Path:
        """The frozen settings of the step, as the run that made the artifact had them."""
        return self._in(_CONFIG)

    @property
    def summary(self) -> Path:
        """One line and the times, once every task is finished."""
        return Path(self.summary_text)

    @property
    def summary_text(self) -> str:
        """The same as text, for listings: of every finished step a ``Path`` takes longer to make
        than the file to read."""
        return f"{self._text}/summary.json"

    def task(self, index: int) -> Path:
        """The folder of the finished files of one task."""
        return self._in(f"{index:04d}")

    def result(self, index: int) -> Path:
        """What says that a task is finished; written last."""
        return self._in(f"{index:04d}/{RESULT}")

    def has_result(self, index: int) -> bool:
        """Whether a task is finished; asked of every step of a listing, so without a ``Path``."""
        return os.path.isfile(f"{self._text}/{index:04d}/{RESULT}")

    @property
    def work(self) -> Path:
        """The folder of unfinished work."""
        return self._in(".work")

    def scratch(self, index: int) -> Path:
        """Where a task keeps what must survive a killed attempt."""
        return self._in(f".work/{index:04d}")

    @property
    def markers(self) -> Path:
        """The markers of tasks that run from a copy of the settings, by hand."""
        return self._in(".work/markers")


def script_name(number: int = 0) -> str:
    """The file name of a step's script: ``script.sbatch``, ``script-1.sbatch`` …"""
    return f"script-{number}.sbatch" if number else "script.sbatch"
