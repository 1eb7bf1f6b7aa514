"""The folder of a run: what is written into it before its jobs are submitted, and when.

First what a resumption needs (``needed_to_resume``); then, step by step, what the jobs read. A run
whose folder cannot be written leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from l3hpc.config.capabilities import LOCAL, SLURM
from l3hpc.config.profile import ClusterProfile
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import create_file, share_file, write_json, write_text
from l3hpc.io.owners import current_user
from l3hpc.io.syncing import Syncing
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import notifications, submission_lock
from l3hpc.runs.job_scripts import RunScripts
from l3hpc.schedulers import requeue_policy, scripts
from l3hpc.workspace import records, sharing, step_config
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState


@contextlib.contextmanager
def umask(profile: ClusterProfile) -> Iterator[None]:
    """Within the block, open new files to the group only if the profile says so.

    Parameters
    ----------
    profile
        The cluster profile.
    """
    previous = os.umask(int(profile.umask, 8))
    try:
        yield
    finally:
        os.umask(previous)


def create(plan: Plan) -> Lease:
    """Create the folder of a run and take its submission lock.

    Parameters
    ----------
    plan
        The plan of the run.

    Returns
    -------
    Lease
        The lock, a context manager that releases it.

    Raises
    ------
    InputError
        If the run exists.
    """
    if plan.profile.shared_group:
        sharing.prepare(plan.workspace, {step.kind for step in plan.steps})
    try:
        plan.folder.path.mkdir(parents=True)
    except FileExistsError:
        lock = submission_lock.take_over(plan.workspace, plan.run)
        if lock is None:
            raise InputError(f"the run {plan.run} already exists", where=str(plan.folder),
                             hint="Another command may have submitted the same just now: "
                                  f"{command_line('status', plan.run)}. To submit it a second "
                                  "time, repeat yours.") from None
        return lock
    try:
        return submission_lock.acquire(plan.workspace, plan.run, "submit")
    except InputError:  # another submission of this name has taken the folder over
        raise
    except BaseException:  # a full disk, Ctrl-C
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def write(plan: Plan, rendered: RunScripts) -> RunRecord:
    """Write what a resumption needs: the settings and policies of all steps, and the record in
    state ``submitting``.

    Parameters
    ----------
    plan
        The plan of the run.
    rendered
        Its scripts. The folders of the steps that have some are written just before these are
        submitted.

    Returns
    -------
    RunRecord
        The record.
    """
    try:
        step_config.write_all(plan.folder, {
            step.name: (step.config(plan.run), _policy(plan, step)) for step in rendered.steps})
        plan.folder.artifacts.mkdir()
        plan.folder.steps.mkdir()
        for step in rendered.steps:
            if step.name not in rendered.texts:
                write_new_step(plan, step, ())
        if rendered.last is not None:  # for now, and for each resumption
            write_text(plan.folder.sync_script, rendered.last, durable=False)
        notifications.prepare(plan)
        record = _new_record(plan, rendered.steps)
        # from here on the run exists, unless there is a power failure before submit returns
        records.write(plan.workspace, record, durable=False)
        return record
    except BaseException:  # a full disk, Ctrl-C: no half of a run
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def _new_record(plan: Plan, steps: Sequence[PlannedStep]) -> RunRecord:
    is_local = not plan.profile.capabilities.remote
    executor = plan.profile.executor
    return RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=current_user(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state=RunState.SUBMITTING, local=executor == LOCAL,
        folder=os.getcwd(),
        slots={"cpus": plan.profile.slot_cpus(), "mem_mb": plan.profile.slot_mem_mb()}
        if is_local else {}, clusters=plan.profile.slurm_clusters,
        scheduler="" if executor in (LOCAL, SLURM) else executor,
        steps=[StepRecord(
            name=step.name, kind=step.kind, artifact=str(step.artifact), tasks=step.tasks,
            needs=list(step.needs), any_needs=list(step.any_needs), like=step.like,
            state=StepState.PLANNED if step.missing else StepState.REUSED,
            resources=step.resources.to_json(), waits_for=list(step.waits_for),
        ) for step in steps])


@contextlib.contextmanager
def durable(progress: Progress) -> Iterator[Syncing]:
    """Have the disk confirm by the end of the block what is added within it. It writes the files
    while sbatch is at work, so that this costs next to nothing.

    Parameters
    ----------
    progress
        Receives a note if the disk does not confirm it.

    Yields
    ------
    Syncing
        For the paths.
    """
    with Syncing() as syncing:
        yield syncing
        try:
            syncing.wait()
        except OSError as error:
            progress.note("warning: the disk did not confirm that the files of this run are "
                          f"written ({error.strerror}): a power failure could lose them")


def needed_to_resume(plan: Plan) -> tuple[Path, ...]:
    """Return what has to be on disk, so that a new run can be resumed after a power failure. (All
    other files are written again then.)

    Parameters
    ----------
    plan
        The plan of the run.
    """
    run = plan.folder
    return run.path.parent, run.path, run.record, run.settings, run.sync_script


def write_new_step(plan: Plan, step: PlannedStep, texts: Sequence[tuple[scripts.Part, str]]
                   ) -> None:
    """Make the folder of a step of a new run, with all that its jobs read.

    Parameters
    ----------
    plan
        The plan of the run.
    step
        The step.
    texts
        What each of its scripts runs, and its text.
    """
    step_config.write_folder(
        plan.step_folder(step.name), step.config(plan.run), _policy(plan, step))
    write_step(plan, step, texts)


def write_step(plan: Plan, step: PlannedStep, texts: Sequence[tuple[scripts.Part, str]], *,
               again: bool = False) -> None:
    """Write what the jobs of a step read, apart from its settings and its policy.

    Every file less counts: on a shared disk, creating files takes most of the time of a submission,
    apart from sbatch.

    Parameters
    ----------
    plan
        The plan of the run.
    step
        The step, whose settings are in its folder.
    texts
        What each of its scripts runs, and its text.
    again
        Replace what an earlier submission wrote, perhaps not all of it, and the policy.
    """
    folder = plan.step_folder(step.name)
    for path in (folder.logs, folder.markers):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    if again:
        plan.folder.artifacts.mkdir(exist_ok=True)
        for old in folder.scripts:
            old.unlink()
        # whole or not at all: jobs that are live may read it
        write_json(folder.requeue_policy, _policy(plan, step), durable=False)
    # nobody reads a script before its job is submitted, so it is written in place
    for number, (_, text) in enumerate(texts):
        create_file(folder.script(number), text.encode())
    try:
        os.mkdir(step.artifact)
    except FileNotFoundError:
        os.makedirs(step.artifact, exist_ok=True)
    except FileExistsError:
        step_config.remove_damaged(step.artifact)
    if plan.profile.shared_group and step.missing:
        sharing.prepare_artifact(step.artifact)
    share_file(folder.config, ArtifactFolder(step.artifact).config)
    with contextlib.suppress(FileExistsError):
        os.symlink(step.artifact, plan.folder.artifact(step.name))


def _policy(plan: Plan, step: PlannedStep) -> dict[str, Any]:
    return requeue_policy.of(plan.profile, step).to_json()
