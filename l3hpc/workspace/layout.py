"""Paths of everything in a workspace.

No other module assembles a path of a workspace: ``Workspace(path).run(name).step(x).markers`` is
the form, and ``tests/workspace/test_layout.py`` enforces it. Nothing is read or written here. The
folders hold plain strings, because a listing of a thousand runs needs thousands of these paths, and
joining ``Path`` objects would take longer than reading the files.

::

    <workspace>/
      artifacts/<step>/<fingerprint>/   config.json  summary.json  .work/<task>/
      artifacts/<step>/<fingerprint>/<task>/result.json
      runs/<run>/                       run.json  attempts.jsonl  settings.json  artifacts/<step>
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
    """A folder with known contents, accepted wherever the standard library takes a path."""

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
    """The folder that ``paths.workspace`` in cluster.yaml or ``--workspace`` names.

    Parameters
    ----------
    path
        The folder.
    """

    __slots__ = ()

    @property
    def runs(self) -> Path:
        """The folder that holds one folder per run."""
        return self._in("runs")

    def run(self, name: str) -> RunFolder:
        """Return the folder of one run.

        Parameters
        ----------
        name
            Name of the run.
        """
        return RunFolder(f"{self._text}/runs/{name}")

    @property
    def artifacts(self) -> Path:
        """The folder that holds one folder per kind of step."""
        return self._in("artifacts")

    def artifacts_of(self, kind: str) -> Path:
        """Return the folder of the artifacts of one kind of step.

        Parameters
        ----------
        kind
            Kind of step.
        """
        return self._in(f"artifacts/{kind}")

    def artifact(self, kind: str, fingerprint: str) -> ArtifactFolder:
        """Return the folder of one artifact.

        Parameters
        ----------
        kind
            Kind of step.
        fingerprint
            Its fingerprint, 16 hex digits.
        """
        return ArtifactFolder(f"{self._text}/artifacts/{kind}/{fingerprint}")

    def is_artifact(self, path: Path) -> bool:
        """Whether a path is that of an artifact of this workspace.

        Parameters
        ----------
        path
            A resolved path.
        """
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
        """The folder that keeps the last known content of each sheet."""
        return self._in("ledger/sync")

    def sync_state(self, sheet: str) -> Path:
        """Return the file with the last known content of one sheet.

        Parameters
        ----------
        sheet
            A short digest of the id of the sheet.
        """
        return self._in(f"ledger/sync/{sheet}.json")

    @property
    def local_jobs(self) -> Path:
        """The folder with one entry for each job of the cluster ``local``."""
        return self._in("local/jobs")

    def local_job(self, number: str | int) -> Path:
        """Return the entry of one local job; creating it exclusively reserves the number.

        Parameters
        ----------
        number
            Id of the job.
        """
        return self._in(f"local/jobs/{number}.json")


class RunFolder(_Folder):
    """``runs/<run>``: everything that belongs to one submission of a pipeline.

    Parameters
    ----------
    path
        The folder.
    """

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
    def settings(self) -> Path:
        """The frozen settings and requeue policies of all steps, as they were submitted: those in
        the folders of the steps are restored from it.
        """
        return self._in("settings.json")

    @property
    def packed(self) -> Path:
        """The archive with the logs and markers of its steps, if the run is packed."""
        return self._in("packed.zip")

    @property
    def steps(self) -> Path:
        """The folder that holds one folder per step."""
        return self._in("steps")

    def step(self, name: str) -> StepFolder:
        """Return the folder of one step.

        Parameters
        ----------
        name
            Name of the step.
        """
        return StepFolder(f"{self._text}/steps/{name}")

    @property
    def artifacts(self) -> Path:
        """The folder of links to the artifacts of the steps."""
        return self._in("artifacts")

    def artifact(self, step: str) -> Path:
        """Return the link to the artifact of one step.

        Parameters
        ----------
        step
            Name of the step.
        """
        return self._in(f"artifacts/{step}")

    @property
    def submission_lease(self) -> Path:
        """The submission lock: the command that submits jobs of the run holds a lease on it."""
        return self._in("handing-over")

    @property
    def stop_submission(self) -> Path:
        """The request to whoever submits jobs of the run to cancel them again."""
        return self._in("stop.asked")

    @property
    def local_state(self) -> Path:
        """The state of the jobs of a local run, kept by its runner."""
        return self._in("local.json")

    @property
    def runner_lease(self) -> Path:
        """The runner of a local run holds a lease on it."""
        return self._in("runner")

    @property
    def runner_log(self) -> Path:
        """The output of a detached runner."""
        return self._in("runner.log")

    @property
    def stop_runner(self) -> Path:
        """The request to the runner of a local run to stop."""
        return self._in("stop")

    @property
    def sync_script(self) -> Path:
        """The script of the job that synchronises the results sheet."""
        return self._in("ledger-sync.sbatch")

    @property
    def report(self) -> Path:
        """The page that shows the run (``l3hpc report``)."""
        return self._in("report.html")

    @property
    def notified(self) -> Path:
        """What has been sent about the run; there if its profile had ``notify``."""
        return self._in("notified.json")

    @property
    def notify_lease(self) -> Path:
        """What the command that sends messages about the run holds a lease on."""
        return self._in("notifying")

    @property
    def sync_log(self) -> Path:
        """The log of that job."""
        return self._in("ledger-sync.log")


class StepFolder(_Folder):
    """``runs/<run>/steps/<step>``: what the jobs of one step read and write.

    Parameters
    ----------
    path
        The folder.
    """

    __slots__ = ()

    @classmethod
    def of_config(cls, config: Path) -> StepFolder | None:
        """Return the folder of a step from its frozen settings.

        Parameters
        ----------
        config
            A ``config.json``.

        Returns
        -------
        StepFolder or None
            None for a copy of the settings outside of a run.
        """
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
        """The frozen settings: everything that the content of the artifact depends on."""
        return self._in(_CONFIG)

    @property
    def requeue_policy(self) -> Path:
        """The requeue policy: how often a task may be requeued, and with how much more."""
        return self._in("heal.json")

    def script(self, number: int = 0) -> Path:
        """Return the path of a script of the step.

        Parameters
        ----------
        number
            0; of a step with several arrays 1 and up for those after the first.
        """
        return self._in(script_name(number))

    @property
    def scripts(self) -> list[Path]:
        """The scripts that exist."""
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
        """Return the log of a job or of one task of an array.

        Parameters
        ----------
        job
            ``12``, or ``13_4`` for task 4 of an array.
        which
            ``err`` or ``out``.
        """
        return self._in(f"logs/{job}_0_log.{which}")

    def submitted_script(self, job: str) -> Path:
        """Return the copy of the script that was submitted as a job.

        Parameters
        ----------
        job
            Id of the job.
        """
        return self._in(f"logs/{job}_submission.sh")

    @property
    def helper_log(self) -> Path:
        """The log of the helper job that changes the request of a requeued task."""
        return self._in("logs/heal.log")

    @property
    def markers(self) -> Path:
        """The folder of the markers."""
        return Path(self.markers_text)

    @property
    def markers_text(self) -> str:
        """The same as a string, for listings (see ``ArtifactFolder.summary_text``)."""
        return f"{self._text}/markers"


class ArtifactFolder(_Folder):
    """``artifacts/<kind>/<fingerprint>``: the output of a step, one folder per task.

    Parameters
    ----------
    path
        The folder.
    """

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
        """The frozen settings of the step, as written by the run that computed the artifact."""
        return self._in(_CONFIG)

    @property
    def summary(self) -> Path:
        """One line and the times of the artifact, written once every task is finished."""
        return Path(self.summary_text)

    @property
    def summary_text(self) -> str:
        """The same as a string, for listings: for a finished step, making a ``Path`` takes longer
        than reading the file.
        """
        return f"{self._text}/summary.json"

    def task(self, index: int) -> Path:
        """Return the folder of the finished files of one task.

        Parameters
        ----------
        index
            Index of the task.
        """
        return self._in(f"{index:04d}")

    def result(self, index: int) -> Path:
        """Return the file that marks a task as finished; it is written last.

        Parameters
        ----------
        index
            Index of the task.
        """
        return self._in(f"{index:04d}/{RESULT}")

    def has_result(self, index: int) -> bool:
        """Whether a task is finished (fast, because listings ask it of every step).

        Parameters
        ----------
        index
            Index of the task.
        """
        return os.path.isfile(f"{self._text}/{index:04d}/{RESULT}")

    @property
    def work(self) -> Path:
        """The folder of unfinished work."""
        return self._in(".work")

    def scratch(self, index: int) -> Path:
        """Return the folder in which a task keeps what has to survive a killed attempt.

        Parameters
        ----------
        index
            Index of the task.
        """
        return self._in(f".work/{index:04d}")

    @property
    def markers(self) -> Path:
        """The markers of tasks that are run from a copy of the settings."""
        return self._in(".work/markers")


def script_name(number: int = 0) -> str:
    """Return the file name of a script of a step: ``script.sbatch``, ``script-1.sbatch`` …

    Parameters
    ----------
    number
        As in ``StepFolder.script``.
    """
    return f"script-{number}.sbatch" if number else "script.sbatch"
