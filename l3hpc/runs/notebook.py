"""Runs in a notebook: submit a pipeline, wait for it, and read what it made.

Everything goes through the functions that the command line calls; here they take and give Python
values, and tables are pandas DataFrames.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.io import tables
from l3hpc.ledger import schema
from l3hpc.ledger.views.exports import results as ledger_results
from l3hpc.runs import logs
from l3hpc.runs.status import RunStatus, collect
from l3hpc.workspace import records
from l3hpc.workspace.markers import RunState

if TYPE_CHECKING:
    import pandas

POLL_S = 1.0
COLUMNS = ("state", "done", "tasks", "elapsed_s", "job", "detail")


class Run:
    """One run of a workspace.

    Parameters
    ----------
    workspace
        The folder of runs and artifacts.
    name
        The run's name. ``l3hpc.run`` also finds it by the beginning of its name or as 'latest'.
    """

    def __init__(self, workspace: Path, name: str) -> None:
        self.workspace = workspace
        self.name = name

    @property
    def state(self) -> str:
        """The run's state: 'done', 'running', 'submitting', 'failed', 'cancelled', …"""
        return str(self._status().state.value)

    def status(self) -> pandas.DataFrame:
        """One row per step: state, tasks done and in total, seconds, job and details."""
        import pandas

        steps = self._status().steps
        return pandas.DataFrame(
            [[str(getattr(step.state, "value", step.state)), step.done, step.tasks, step.elapsed_s,
              step.job, step.detail] for step in steps],
            columns=list(COLUMNS), index=pandas.Index([step.name for step in steps], name="step"))

    def wait(self, timeout: float | None = None, poll: float = POLL_S) -> Run:
        """Return when every step is done.

        Parameters
        ----------
        timeout
            Seconds to wait at most (None: for as long as it takes).
        poll
            Seconds between two looks at the run.

        Raises
        ------
        L3hpcError
            When the run ends otherwise: a step failed, or it was cancelled.
        TimeoutError
            When it still runs after ``timeout`` seconds. It goes on running.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (now := self._status()).state.is_active:
            left = poll if end is None else min(poll, end - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"{self.name} is still running after {timeout:g} s")
            time.sleep(left)
        if now.state is not RunState.DONE:
            lines = [f"{step.name}: {line}" for step in now.steps for line in step.last_words]
            raise L3hpcError(f"{self.name} ended as {now.state.value}",
                             allowed="\n".join(lines) or None,
                             hint=f"See {command_line('status', self.name)}, or .logs(step)")
        return self

    def artifact(self, step: str) -> Path:
        """The folder with what a step made: a sub-folder for each task, ``0000``, ``0001``, …"""
        return Path(records.step(self._record(), step).artifact)

    def results(self, tab: str | None = None) -> pandas.DataFrame:
        """The rows of the results tables that this run wrote.

        Parameters
        ----------
        tab
            A tab of the results (``l3hpc.results`` has their columns). None: the first tab that
            has a row of this run.
        """
        found = None
        for name in [tab] if tab else schema.TABS:
            rows = ledger_results(self.workspace, name)
            found = rows[[self._has(key) for key in rows.index]]
            if len(found):
                break
        assert found is not None
        return found

    def history(self, step: str | None = None) -> pandas.DataFrame:
        """The losses of every epoch, of a step that trains (None: of all of them).

        Returns
        -------
        DataFrame
            The columns of ``history.csv``, after ``step`` and ``task``.

        Raises
        ------
        InputError
            Where no step of the run has trained yet.
        """
        import pandas

        names = [step] if step else [one.name for one in self._record().steps]
        parts = []
        for name in names:
            for file in sorted(self.artifact(name).glob("[0-9]*/history.csv")):
                rows = tables.read_records(file, "training history")
                part = pandas.DataFrame([row for _, row in rows])
                part = part.apply(pandas.to_numeric)
                part.insert(0, "step", name)
                part.insert(1, "task", int(file.parent.name))
                parts.append(part)
        if not parts:
            raise InputError(f"no training history in {', '.join(names)} of {self.name}",
                             hint="Steps that train write one when they are done: .wait()")
        return pandas.concat(parts, ignore_index=True)

    def logs(self, step: str, task: int | None = None, which: str = "err") -> str:
        """The log of one task of a step.

        Parameters
        ----------
        step
            Name of the step.
        task
            Number of the task. None: the first failed one, else the first running one.
        which
            'err' (messages and errors) or 'out' (what the step prints).
        """
        from l3hpc.io.files import open_regular

        if which not in ("err", "out"):
            raise InputError(f"unknown log {which!r}", allowed="valid: err, out")
        record = self._record()
        path = logs.find(self.workspace, record, records.step(record, step), task=task, which=which)
        if not path.exists():
            raise InputError(f"{step} of {self.name} has not started: it has no log yet")
        with open_regular(path) as stream:
            return stream.read().decode("utf-8", "replace")

    def cancel(self) -> list[str]:
        """Cancel what waits or runs; return the ids of the cancelled jobs."""
        from l3hpc.runs.resume import cancel

        return cancel(self.workspace, self.name)

    def _status(self) -> RunStatus:
        return collect(self.workspace, [self.name])[0]

    def _record(self) -> records.RunRecord:
        return records.read(self.workspace, self.name)

    def _has(self, key: object) -> bool:
        """Whether the key of a row names this run: as a folder in a path, or as a word."""
        return self.name in str(key).replace("/", " ").split()

    def __repr__(self) -> str:
        steps = self.status()
        return f"Run {self.name}: {self.state}\n{steps[['state', 'done', 'tasks']].to_string()}"

    def _repr_html_(self) -> str:
        table = self.status().to_html(na_rep="", border=0)
        return f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.state)}</p>{table}"


class Runs(Sequence[Run]):
    """The runs of a workspace, the newest first; shown as a table."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._records = records.read_all(workspace, [])

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [Run(self.workspace, record.run) for record in self._records[number]]
        return Run(self.workspace, self._records[number].run)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Run]:
        return (Run(self.workspace, record.run) for record in self._records)

    def frame(self) -> pandas.DataFrame:
        """One row per run: pipeline, cluster, state and when it was submitted (UTC)."""
        import pandas

        found = collect(self.workspace, broken=[])
        return pandas.DataFrame(
            [[one.pipeline, one.cluster, one.state.value,
              pandas.Timestamp(one.created, unit="s", tz="UTC")] for one in found],
            columns=["pipeline", "cluster", "state", "submitted"],
            index=pandas.Index([one.run for one in found], name="run"))

    def __repr__(self) -> str:
        return self.frame().to_string() if self._records else f"no runs in {self.workspace}"

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(border=0))


def submit(
    pipeline: str, *, sets: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None, inputs: Mapping[str, Any] | None = None,
    yes: bool = False, **options: Any,
) -> Run:
    """Submit a pipeline, as ``l3hpc submit`` does, and return at once.

    Parameters
    ----------
    pipeline
        Name of a pipeline ('upstream', 'downstream', 'all', …), or a file of ``jobs/``.
    sets
        ``{"train.epochs": 300}``: any parameter or resource of a step (``--set``).
    grid
        ``{"emb_dim": [64, 128]}``: all combinations in one run (``--grid``).
    inputs
        ``{"fit": "upstream-20261120-1a2b"}``: run or folder in place of a step (``--input``).
    yes
        Submit even where this may cost a lot.
    **options
        Options of ``l3hpc submit`` with ``_`` in place of ``-``: ``approx="pca"``, ``mels=64``,
        ``workspace=…``, ``cluster=…``; ``start=`` for ``--from``.

    Returns
    -------
    Run
        On the cluster 'local' its jobs run in the background, and go on without this process.

    Raises
    ------
    InputError
        For an option or value that is not allowed; nothing is submitted then.
    ClusterError
        Where the cluster refuses the jobs.
    """
    from l3hpc.pipelines import preview
    from l3hpc.pipelines.from_options import plan_from_options
    from l3hpc.runs import submit as submission

    values = {**options,
              "sets": [f"{name}={_text(value)}" for name, value in (sets or {}).items()],
              "inputs": [f"{kind}={place}" for kind, place in (inputs or {}).items()],
              "grid": [f"{name if '.' in name else name.replace('_', '-')}="
                       + ",".join(_text(value) for value in listed)
                       for name, listed in (grid or {}).items()]}
    plan, _ = plan_from_options(pipeline, values)
    if not yes and preview.needs_confirmation(plan):
        cost = preview.maximum_cost(plan).as_text()
        raise InputError(f"this may cost {cost}; nothing was submitted",
                         hint="To submit it all the same: yes=True")
    record = submission.submit(plan, detach=True)
    return Run(plan.workspace, record.run)


def run(name: str = "latest", workspace: Path | str | None = None) -> Run:
    """A run by its name, the beginning of one, or 'latest'.

    Parameters
    ----------
    name
        Which run.
    workspace
        Its workspace (None: that of ``cluster.yaml``).

    Raises
    ------
    InputError
        Where no run or several have this name; the message lists those that exist.
    """
    folder = _folder(workspace)
    return Run(folder, records.find(folder, name))


def runs(workspace: Path | str | None = None) -> Runs:
    """All runs of a workspace (None: that of ``cluster.yaml``), the newest first."""
    return Runs(_folder(workspace))


def _folder(workspace: Path | str | None) -> Path:
    if workspace is not None:
        return Path(workspace).absolute()
    from l3hpc.config import settings

    return settings.load().workspace


def _text(value: Any) -> str:
    """A value as ``--set`` and ``--grid`` take it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
