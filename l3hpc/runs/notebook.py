"""Runs in a notebook: wait for them, and read what they produced.

``run`` and ``runs`` (and ``submit``, in ``notebook_submit``) call the same functions as the command
line; they take and return Python values, and tables are pandas DataFrames. ``Run`` is one run,
``Runs`` all runs of a workspace.
"""

from __future__ import annotations

import html
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from l3hpc.errors import InputError, L3hpcError, Lines, command_line
from l3hpc.io import tables
from l3hpc.io.values import one_line
from l3hpc.runs import logs, submission_lock
from l3hpc.runs.notebook_place import folder_of, names_workspace, naming
from l3hpc.runs.status import RunStatus, collect
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.states import RunState

if TYPE_CHECKING:
    import pandas

POLL_S = 1.0
STEP_COLUMNS = ("state", "done", "tasks", "elapsed_s", "job", "detail")
RUN_COLUMNS = ("pipeline", "cluster", "state", "submitted", "damage", "computed_by")


class Run:
    """One run of a workspace.

    Two ``Run`` objects are equal if they name the same run of the same workspace. ``l3hpc.run``
    finds a run by the beginning of its name, or as 'latest'. A ``Run`` is a path, too, that of its
    folder: ``l3hpc.load_model(run)`` loads the student that it trained.

    Parameters
    ----------
    workspace
        The workspace folder, which holds ``runs/`` and ``artifacts/``.
    name
        The exact name of the run.
    """

    def __init__(self, workspace: str | os.PathLike[str], name: str) -> None:
        self.workspace = folder_of(workspace)
        if not isinstance(name, str):
            raise InputError(f"a run is given by its name, not by {name!r}",
                             hint="l3hpc.runs() lists the runs of a workspace.")
        self.name = name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run):
            return NotImplemented
        return (self.workspace, self.name) == (other.workspace, other.name)

    def __hash__(self) -> int:
        return hash((self.workspace, self.name))

    def __fspath__(self) -> str:
        return str(Workspace(self.workspace).run(self.name).path)

    @property
    def state(self) -> str:
        """The state of the run: 'done', 'running', 'submitting', 'failed', 'cancelled', …"""
        return str(self._status().state.value)

    def status(self) -> pandas.DataFrame:
        """Return the current state of every step.

        Returns
        -------
        pandas.DataFrame
            One row per step, indexed by its name: ``state``, ``done`` and ``tasks`` (numbers of
            tasks), ``elapsed_s``, ``job`` (id) and ``detail``.
        """
        return _steps_frame(self._status())

    @names_workspace
    def wait(self, timeout: float | None = None, poll: float = POLL_S) -> Run:
        """Wait until every step is done.

        Parameters
        ----------
        timeout
            Longest time to wait, in seconds. None: no limit.
        poll
            Time between two checks, in seconds; above 0.

        Returns
        -------
        Run
            This run.

        Raises
        ------
        L3hpcError
            If the run ends in any other way: a step failed, or the run was cancelled.
        TimeoutError
            If the run is still active after ``timeout`` seconds. It continues.
        InputError
            If ``timeout`` or ``poll`` is not a number of seconds.
        """
        limit = None if timeout is None else _seconds("timeout", timeout)
        poll = _seconds("poll", poll)
        if poll == 0:
            raise InputError("poll is 0 s", allowed="a number of seconds above 0")
        end = None if limit is None else time.monotonic() + limit
        while (now := self._status()).state.is_active:
            left = poll if end is None else min(poll, end - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"{self.name} is still running after {limit:g} s")
            time.sleep(left)
        if now.state is not RunState.DONE:
            lines = [f"{step.name}: {line}" for step in now.steps for line in step.last_words]
            raise L3hpcError(f"{self.name} ended as {now.state.value}",
                             allowed=Lines(*lines),
                             hint=f"See {command_line('status', self.name)}, or .logs(step)")
        return self

    @names_workspace
    def artifact(self, step: str) -> Path:
        """Return the folder that holds the output of a step.

        Parameters
        ----------
        step
            Name of the step.

        Returns
        -------
        Path
            One folder per task: ``0000``, ``0001``, … A step that was done before this run has the
            artifact of the run that computed it.

        Raises
        ------
        InputError
            If the run has no such step.
        """
        return Path(records.step(self._record(), step).artifact)

    @names_workspace
    def results(self, tab: str | None = None) -> pandas.DataFrame:
        """Return the rows of the results tables that belong to this run.

        A row belongs to the run that computed it. For a step that was done before, the rows of its
        artifact are returned as well, from the run that computed it.

        Parameters
        ----------
        tab
            Name of a tab (``l3hpc.results`` describes its columns). None: the first tab that has a
            row of this run.

        Returns
        -------
        pandas.DataFrame
            Rows as in ``l3hpc.results``; no rows if the run has not recorded any yet.

        Raises
        ------
        InputError
            If there is no such tab.
        """
        from l3hpc.runs.rows import results_of

        return results_of(self.workspace, self.name, tab)

    @names_workspace
    def history(self, step: str | None = None) -> pandas.DataFrame:
        """Return the losses of every epoch.

        Parameters
        ----------
        step
            Name of a step that trains. None: all steps that train.

        Returns
        -------
        pandas.DataFrame
            The columns of ``history.csv``, after ``step`` and ``task``.

        Raises
        ------
        InputError
            If the run has no such step, or no step of it has trained yet.
        """
        import pandas

        names = [step] if step is not None else [entry.name for entry in self._record().steps]
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
                             hint="Steps that train write one when they are done: .wait()"
                             if self._status().state.is_active else
                             "Only steps that train write one, when they are done; see .status()")
        return pandas.concat(parts, ignore_index=True)

    @names_workspace
    def logs(self, step: str, task: int | None = None, which: str = "err") -> str:
        """Return the log of one task of a step.

        Parameters
        ----------
        step
            Name of the step.
        task
            Index of the task, from 0. None: the first failed task, else the first running one.
        which
            'err' (messages and errors) or 'out' (what the step prints).

        Returns
        -------
        str
            The whole log.

        Raises
        ------
        InputError
            If there is no such step, task or log, or the task has not started.
        """
        if which not in ("err", "out"):
            raise InputError(f"unknown log {which!r}", allowed="valid: err, out")
        record = self._record()
        path = logs.find_log(self.workspace, record, records.step(record, step), task=task,
                             which=which)
        if logs.log_size(path) is None:
            raise InputError(f"{step} of {self.name} has not started: it has no log yet")
        return "".join(logs.pieces(path))

    @names_workspace
    def cancel(self) -> list[str]:
        """Cancel all waiting and running jobs of the run.

        Returns
        -------
        list of str
            Ids of the cancelled jobs.
        """
        from l3hpc.runs.resume import cancel

        return cancel(self.workspace, self.name)

    @names_workspace
    def _status(self) -> RunStatus:
        return collect(self.workspace, [self.name])[0]

    def _record(self) -> records.RunRecord:
        return records.read(self.workspace, self.name)

    def __repr__(self) -> str:
        now = self._status()
        steps = _steps_frame(now)[["state", "done", "tasks"]]
        return f"Run {self.name}: {now.state_in_words}\n{steps.to_string()}"

    def _repr_html_(self) -> str:
        now = self._status()
        table = _steps_frame(now).to_html(na_rep="", border=0)
        return f"<p><b>{html.escape(self.name)}</b>: {html.escape(now.state_in_words)}</p>{table}"


class Runs(Sequence[Run]):
    """The runs of a workspace, the newest first; displayed as a table.

    Runs whose record cannot be read are not items of the sequence. They are in ``damaged``, and in
    the table with the state 'damaged'. The same is true of ``unsubmitted`` ones, whose submission
    was killed before it had submitted a job; their state is 'not submitted', or 'empty folder'.

    Parameters
    ----------
    workspace
        The workspace folder.

    Attributes
    ----------
    workspace : Path
        The workspace folder.
    damaged : dict of str to str
        Name of a run whose record cannot be read → the file, and what is wrong.
    unsubmitted : dict of str to float
        Name of a run that was not submitted → when that began, unix seconds.
    """

    def __init__(self, workspace: str | os.PathLike[str]) -> None:
        self.workspace = folder_of(workspace)
        broken: list[InputError] = []
        self._names = [record.run for record in records.read_all(self.workspace, broken)]
        unsubmitted = submission_lock.unsubmitted(self.workspace, broken)
        self.unsubmitted = {each.run: each.started for each in unsubmitted}
        self._empty = {each.run for each in unsubmitted if each.empty}
        self.damaged = {Path(error.where or "").parent.name: f"{error.where}: {error.message}"
                        for error in broken}

    @overload
    def __getitem__(self, number: int) -> Run: ...

    @overload
    def __getitem__(self, number: slice) -> list[Run]: ...

    def __getitem__(self, number: int | slice) -> Run | list[Run]:
        if isinstance(number, slice):
            return [Run(self.workspace, name) for name in self._names[number]]
        return Run(self.workspace, self._names[number])

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Run]:
        return (Run(self.workspace, name) for name in self._names)

    @names_workspace
    def frame(self) -> pandas.DataFrame:
        """Return the table of the runs.

        Returns
        -------
        pandas.DataFrame
            One row per run, indexed by its name: ``pipeline``, ``cluster``, ``state``,
            ``submitted`` (UTC), ``damage`` (which files of the run cannot be used, '' if none) and
            ``computed_by`` (of a run that failed: the runs that have since computed all that it
            did not, '' if none). Last come runs that were not submitted, and those whose record
            cannot be read.
        """
        import pandas

        found = collect(self.workspace, broken=[])
        rows: list[tuple[object, ...]] = [
            (status.pipeline, status.cluster, status.state.value,
             pandas.Timestamp(status.created, unit="s", tz="UTC"), "; ".join(status.damaged),
             ", ".join(status.computed_by))
            for status in found]
        rows += [(None, None, "empty folder" if name in self._empty else "not submitted",
                  pandas.Timestamp(started, unit="s", tz="UTC"), "", "")
                 for name, started in self.unsubmitted.items()]
        rows += [(None, None, "damaged", pandas.NaT, message, "")
                 for message in self.damaged.values()]
        names = [*(status.run for status in found), *self.unsubmitted, *self.damaged]
        return pandas.DataFrame(rows, columns=list(RUN_COLUMNS),
                                index=pandas.Index(names, name="run"))

    def __repr__(self) -> str:
        if not self._names and not self.damaged and not self.unsubmitted:
            return f"no runs in {self.workspace}"
        return self._display_frame().to_string()

    def _repr_html_(self) -> str:
        return str(self._display_frame().to_html(border=0))

    def _display_frame(self) -> pandas.DataFrame:
        """The table for people: without columns that are rarely filled and are empty here, and with
        times to the second.
        """
        table = self.frame().rename(index=one_line)  # a folder may have any name
        table["submitted"] = table["submitted"].dt.strftime("%Y-%m-%d %H:%M:%S")
        table = table.fillna("")
        for name in ("damage", "computed_by"):
            if table[name].any():
                table[name] = table[name].map(one_line)
            else:
                del table[name]
        return table


def run(name: str = "latest", workspace: str | os.PathLike[str] | None = None) -> Run:
    """Find a run by its name, the beginning of its name, or 'latest'.

    Parameters
    ----------
    name
        The name, a unique beginning of it, or 'latest'.
    workspace
        The workspace folder. None: that of ``cluster.yaml``.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    InputError
        If no run or several runs match; the message lists those that exist.
    """
    folder = folder_of(workspace)
    if not isinstance(name, str):
        raise InputError(f"a run is given by its name, not by {name!r}",
                         hint="l3hpc.runs() lists the runs; l3hpc.runs()[0] is the newest.")
    with naming(folder):
        return Run(folder, records.find(folder, name))


def runs(workspace: str | os.PathLike[str] | None = None) -> Runs:
    """List all runs of a workspace, the newest first.

    Parameters
    ----------
    workspace
        The workspace folder. None: that of ``cluster.yaml``.

    Returns
    -------
    Runs
        A sequence of ``Run``, displayed as a table.

    Raises
    ------
    InputError
        If ``workspace`` is a file.

    Warns
    -----
    UserWarning
        Names the runs whose record cannot be read.
    """
    folder = folder_of(workspace)
    with naming(folder):
        found = Runs(folder)
    if found.damaged:
        listed = "; ".join(f"{name} ({message})" for name, message in found.damaged.items())
        warnings.warn(f"records of runs in {found.workspace} that cannot be read: {listed}",
                      stacklevel=2)
    return found


def _steps_frame(run: RunStatus) -> pandas.DataFrame:
    """One row per step."""
    import pandas

    return pandas.DataFrame(
        [[str(step.state.value), step.done, step.tasks, step.elapsed_s, step.job, step.detail]
         for step in run.steps],
        columns=list(STEP_COLUMNS),
        index=pandas.Index([step.name for step in run.steps], name="step"))


def _seconds(name: str, value: object) -> float:
    """Check a time in seconds; an ``InputError`` if it is not a finite number from 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) \
            and value >= 0 and math.isfinite(value):
        return float(value)
    raise InputError(f"{name} is {value!r}", allowed="a number of seconds, from 0")
