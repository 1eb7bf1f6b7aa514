"""Submitting a plan: all of its jobs, or none; and no job without a record of it.

The run's folder is written first. Then each script is handed over in the order of the chain, and
its id is in ``run.json`` before the next one goes. If one is refused, or the person presses Ctrl-C,
the jobs already submitted are cancelled, the last one first.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import ClusterError, InputError, L3hpcError
from l3hpc.files import share_file, write_json, write_text
from l3hpc.ledger.store import share
from l3hpc.progress import Progress
from l3hpc.workflow import (
    artifacts,
    executors,
    job_arrays,
    ledger_sync,
    orphans,
    records,
    render,
)
from l3hpc.workflow.executors import Call
from l3hpc.workflow.healing import policy as healing
from l3hpc.workflow.localstate import LocalJobs
from l3hpc.workflow.model import Plan, PlannedStep, RunRecord, StepRecord
from l3hpc.workflow.owner import Owner
from l3hpc.workflow.profile import ClusterProfile
from l3hpc.workflow.shell import call

WAIT_WORDS = ("AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "MaxSubmitJobsPerUser",
              "AssocGrpSubmitJobsLimit", "QOSGrpSubmitJobsLimit", "Slurm temporarily unable",
              "Socket timed out", "Resource temporarily unavailable")
WAITS_S = (5, 15, 30) + (60,) * 30
FOLLOW_S = 0.5
Texts = dict[str, list[tuple[render.Part, str]]]
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def submit(
    plan: Plan, *, test_only: bool = False, detach: bool = False,
    progress: Progress | None = None, on_submitted: Callable[[RunRecord], None] | None = None,
) -> RunRecord:
    """Write the run's folder and hand its missing tasks to the cluster; return the record.

    test_only: ask Slurm about every script (``sbatch --test-only``), submit and keep nothing.
    detach: on ``local``, leave a runner behind and return at once; otherwise the jobs run here in
    the foreground, after ``on_submitted`` (for the words about what was submitted).

    Raises ``ClusterError`` when the cluster refuses a job; then no job of the run is left.
    """
    steps = in_order(plan.steps)
    texts = scripts(plan, steps)
    if test_only:
        return _test(plan, steps, texts, progress or Progress())
    with umask(plan.profile):
        _make_folder(plan)
        claim = orphans.claim(plan.workspace, plan.run, "submit")
        try:
            record = _write_folder(plan, steps, texts, claim)
            hand_over(plan, steps, texts, record, progress or Progress())
        finally:
            claim.release(forget=True)
        ledger_sync.follow(plan.workspace, record, progress or Progress())
        if on_submitted is not None:
            on_submitted(record)
        if record.local and any(step.state == "submitted" for step in record.steps):
            run_local(plan.workspace, plan.run, detach=detach)
            record = records.read(plan.workspace, plan.run)
    return record


def scripts(plan: Plan, steps: Sequence[PlannedStep]) -> Texts:
    """Step → its scripts, of the steps that have something to do."""
    return {step.name: [(part, render.render(plan, step, part))
                        for part in render.parts(plan, step)]
            for step in steps if step.missing}


def write_scripts(folder: Path, texts: Sequence[tuple[render.Part, str]]) -> None:
    """``script.sbatch`` in a step's folder; of a split array also ``script-1.sbatch`` …"""
    for old in folder.glob("script*.sbatch"):
        old.unlink()
    for number, (_, text) in enumerate(texts):
        write_text(_script(folder, number), text, durable=False)


def _script(folder: Path, number: int) -> Path:
    return folder / (f"script-{number}.sbatch" if number else "script.sbatch")


def run_local(workspace: Path, run: str, *, detach: bool) -> None:
    """Run the submitted jobs of a local run: here with a display, or behind (``detach``)."""
    if detach:
        from l3hpc.workflow.executors.local import start_detached

        start_detached(workspace, run, Path.cwd())
        return
    from l3hpc.workflow import display
    from l3hpc.workflow.executors.runner import Runner

    shown = display.for_person(workspace)
    previous = {number: signal.signal(number, signal.default_int_handler)
                for number in (signal.SIGTERM, signal.SIGHUP)} if _in_main_thread() else {}
    try:
        while not Runner(workspace, run, look=shown).run():  # another one has it: look on
            jobs, record = LocalJobs(workspace, run), records.read(workspace, run)
            shown(record, jobs.jobs)
            if jobs.settled(record):
                break
            time.sleep(FOLLOW_S)
    finally:
        shown.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def succeeded(workspace: Path, record: RunRecord) -> bool:
    """True when every step of the run is complete."""
    return all(len(artifacts.finished(Path(step.artifact))) >= step.tasks
               for step in record.steps)


def in_order(steps: tuple[PlannedStep, ...]) -> list[PlannedStep]:
    """The steps with every step behind those that it needs."""
    waiting, names = list(steps), set[str]()
    ordered: list[PlannedStep] = []
    while waiting:
        ready = [step for step in waiting if set(step.needs) <= names]
        if not ready:
            raise InputError("these steps wait for each other: "
                             + ", ".join(step.name for step in waiting))
        ordered += ready
        names |= {step.name for step in ready}
        waiting = [step for step in waiting if step.name not in names]
    return ordered


def cancel_jobs(jobs: list[str]) -> None:
    """One scancel for all ids, in the order given. Ids that Slurm forgot are no error."""
    if not jobs:
        return
    try:
        call(["scancel", *jobs], timeout_s=60)
    except ClusterError as error:
        if "Invalid job id" not in error.message:
            raise


def _make_folder(plan: Plan) -> None:
    try:
        plan.folder.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"the run {plan.run} exists already", where=str(plan.folder),
                         hint="Give it another name with --name.") from None


def _write_folder(plan: Plan, steps: list[PlannedStep], texts: Texts, claim: Owner) -> RunRecord:
    """Everything that the jobs will read, and the record in state ``submitting``, under a claim: a
    resumption in another shell waits for its turn."""
    try:
        claim.acquire()
        return _fill_folder(plan, steps, texts)
    except BaseException:  # a full disk, Ctrl-C: no half of a run
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def _fill_folder(plan: Plan, steps: list[PlannedStep], texts: Texts) -> RunRecord:
    (plan.folder / "artifacts").mkdir()
    for step in steps:
        _fill_step(plan, step, texts.get(step.name, ()))
    ledger_sync.prepare(plan)
    if plan.profile.shared_group:
        share(plan.workspace)
    local = executors.is_local(plan.profile)
    record = RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=getpass.getuser(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state="submitting", local=local, folder=os.getcwd(),
        slots={"cpus": plan.profile.slot_cpus(), "mem_mb": plan.profile.slot_mem_mb()}
        if local else {},
        steps=[StepRecord(
            name=step.name, kind=step.kind, artifact=str(step.artifact), tasks=step.tasks,
            needs=list(step.needs), state="planned" if step.missing else "reused",
            resources=vars(step.resources).copy(), waits_for=list(step.waits_for),
        ) for step in steps])
    records.write(plan.workspace, record)
    return record


def _fill_step(plan: Plan, step: PlannedStep, texts: Sequence[tuple[render.Part, str]]) -> None:
    """The step's folder, and its artifact's. Every file less counts: on a shared disk the making of
    files is most of what a submission takes beside sbatch."""
    folder = plan.step_folder(step.name)
    for name in ("logs", "markers"):
        (folder / name).mkdir(parents=True)
    write_json(folder / "config.json", step.config(plan.run), durable=False)
    if texts:
        write_scripts(folder, texts)
        write_json(folder / healing.FILE, healing.of(plan.profile, step).to_json(), durable=False)
    step.artifact.mkdir(parents=True, exist_ok=True)
    share_file(folder / "config.json", step.artifact / "config.json")
    (plan.folder / "artifacts" / step.name).symlink_to(step.artifact)


def hand_over(
    plan: Plan, steps: list[PlannedStep], texts: Texts, record: RunRecord,
    progress: Progress, *, alive: dict[str, list[str]] | None = None,
) -> None:
    """Submit the steps that have a text, in this order, and keep the record up to date.

    alive: step → ids of earlier jobs that still work on it; who needs that step waits for them
    too. A refusal or an interruption takes back all that was submitted here.
    """
    waits: dict[str, list[str]] = {name: list(ids) for name, ids in (alive or {}).items()}
    submitted: list[str] = []
    entries = {entry.name: entry for entry in record.steps}
    together = {name: one for one in job_arrays.find(plan, steps, texts, {*texts, *waits})
                for name in one.names}
    if record.local:
        LocalJobs(plan.workspace, plan.run).forget_stop()
    progress.start("submitting", _count(texts, together), "jobs")

    def note(job: str, attempts: dict[str, dict[str, Any]], first: bool) -> None:
        submitted.append(job)
        records.note_attempts(plan.workspace, plan.run, attempts, first=first)
        for name, attempt in attempts.items():
            waits.setdefault(name, []).append(attempt["job"])
            records.add_attempt(entries[name], attempt, first=first)

    try:
        for step in steps:
            if step.name not in texts:
                continue
            after = [job for name in step.needs for job in waits.get(name, ())]
            after += _still_made(plan, step)
            array = together.get(step.name)
            if array is not None:
                if step.name == array.names[0]:
                    write_text(array.script, array.text, durable=False)
                    with _no_interruption():
                        job = _submit_array(plan, array, after, progress)
                        note(job, {name: _attempt(f"{job}_{index}")
                                   for index, name in enumerate(array.names)}, True)
                    progress.advance(1)
                continue
            if len(texts[step.name]) > 1:
                progress.note(f"{step.name}: {step.tasks:,} tasks in {len(texts[step.name])} "
                              f"arrays of at most {plan.profile.limits.array:,}")
            for number, (part, text) in enumerate(texts[step.name]):
                with _no_interruption():
                    job = _submit_part(plan, step, part, number, after, progress)
                    note(job, {step.name: _attempt(job, part, text)}, number == 0)
                progress.advance(1)
        record.state, record.note = "submitted", ""
        records.write(plan.workspace, record)
    except L3hpcError as error:
        kept = "nothing was submitted" if isinstance(error, ClusterError) else None
        refusal = type(error)(f"{step.name}: {error.message}", where=error.where, hint=error.hint,
                              allowed=error.allowed or kept)
        with _no_interruption():
            _take_back(plan, record, submitted, refusal)
        raise refusal from None
    except BaseException as error:
        with _no_interruption():
            _take_back(plan, record, submitted, error)
        raise
    finally:
        progress.finish()


def _still_made(plan: Plan, step: PlannedStep) -> list[str]:
    """Of the other runs' jobs that make an input: those that still have to be waited for.

    An id that Slurm has purged would count as fulfilled, so our own records decide.
    """
    jobs = []
    for job in step.waits_for:
        for record in records.read_all(plan.workspace):
            made = [entry for entry in record.steps if entry.job == job]
            if made and record.local == executors.is_local(plan.profile):
                break
        else:
            raise InputError(f"an input is made by job {job}, which no run here has on "
                             f"{plan.profile.name}", hint="Wait until it is done: l3hpc status")
        if len(artifacts.finished(Path(made[0].artifact))) >= made[0].tasks:
            continue
        from l3hpc.workflow import status

        [found] = status.collect(plan.workspace, [record.run])
        state = next(each.state for each in found.steps if each.name == made[0].name)
        if state not in status.MOVING:
            raise InputError(
                f"an input is made by {made[0].name} of {record.run}, which is {state}",
                hint=f"Finish it first: l3hpc resume {record.run}")
        jobs.append(job)
    return jobs


def _count(texts: Texts, together: Mapping[str, job_arrays.JobArray]) -> int:
    """How many jobs and arrays there are to submit."""
    arrays = {one.script for one in together.values()}
    return sum(len(parts) for name, parts in texts.items() if name not in together) + len(arrays)


def _submit_part(
    plan: Plan, step: PlannedStep, part: render.Part, number: int, after: list[str],
    progress: Progress,
) -> str:
    folder = plan.step_folder(step.name)
    calls = [Call(folder / "config.json", task, task - part.offset) for task in part.tasks]
    return _submit(plan, step, _script(folder, number), calls, after, progress)


def _submit_array(plan: Plan, array: job_arrays.JobArray, after: list[str], progress: Progress
                  ) -> str:
    """One task for each step."""
    calls = [Call(plan.step_folder(name) / "config.json", 0, index)
             for index, name in enumerate(array.names)]
    return _submit(plan, array.steps[0], array.script, calls, after, progress)


def _submit(plan: Plan, step: PlannedStep, script: Path, calls: Sequence[Call], after: list[str],
            progress: Progress) -> str:
    executor = executors.executor(plan.profile, plan.workspace, script.parent / "logs")
    for wait in (*WAITS_S, None):
        try:
            return executor.submit_script(script, calls, after=after,
                                          time_min=step.resources.time_min,
                                          max_timeouts=healing.of(plan.profile, step).time)
        except ClusterError as error:
            if wait is None or not any(word in error.message for word in WAIT_WORDS):
                from l3hpc.workflow.executors.slurm import hint_for

                error.hint = error.hint or hint_for(error.message)
                raise
            progress.note(f"{step.name}: {error.message}: trying again in {wait} s")
            with _interruption():
                time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _attempt(job: str, part: render.Part | None = None, text: str = "") -> dict[str, Any]:
    """What the record keeps of a submission. part, text: of a script of its own."""
    attempt = {"job": job, "array": "\n#SBATCH --array" in text,
               "tasks": list(part.tasks) if part else [0], "time": time.time()}
    return attempt | ({"offset": part.offset} if part and part.offset else {})


def _take_back(plan: Plan, record: RunRecord, jobs: list[str], error: BaseException) -> None:
    """Cancel what was submitted just now, the last job first, and say so in the record."""
    refused = isinstance(error, Exception)
    before = record.state
    try:
        if not record.local:
            cancel_jobs(jobs[::-1])
    except ClusterError as second:
        record.note = f"{second.message}; these jobs may still be there: {' '.join(jobs)}"
        raise
    else:
        for entry in record.steps:
            entry.attempts = [each for each in entry.attempts
                              if each["job"].partition("_")[0] not in jobs]
            if entry.state == "submitted" and not entry.attempts:
                entry.state, entry.job, entry.submitted_tasks = "planned", None, []
            elif entry.attempts:
                entry.job = entry.attempts[-1]["job"]
                entry.submitted_tasks = list(entry.attempts[-1]["tasks"])
        if before == "submitting":
            record.state = "refused" if refused else "cancelled"
            record.note = getattr(error, "message", str(error)) if refused else \
                "interrupted while submitting"
    finally:
        records.write(plan.workspace, record)


def _test(
    plan: Plan, steps: list[PlannedStep], texts: Texts, progress: Progress
) -> RunRecord:
    """Ask Slurm about every script; on ``local`` let bash check its grammar."""
    import tempfile

    together = {name: one for one in job_arrays.find(plan, steps, texts, texts)
                for name in one.names}
    every = [(step, text) for step in steps if step.name not in together
             for _, text in texts.get(step.name, ())]
    every += [(one.steps[0], one.text)
              for one in {one.script: one for one in together.values()}.values()]
    progress.start("asking", len(every), "scripts")
    for step, text in every:
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as script:
            script.write(text)
            script.flush()
            command = ["bash", "-n"] if executors.is_local(plan.profile) else \
                ["sbatch", "--test-only"]
            try:
                call([*command, script.name], timeout_s=60)
            except ClusterError as error:
                from l3hpc.workflow.executors.slurm import hint_for

                raise ClusterError(f"{step.name}: {error.message}",
                                   hint=error.hint or hint_for(error.message)) from None
        progress.advance(1)
    progress.finish()
    return RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=getpass.getuser(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state="tested", steps=[])


@contextlib.contextmanager
def umask(profile: ClusterProfile) -> Iterator[None]:
    """While the block runs, new files are open to the group only where the profile says so."""
    previous = os.umask(int(profile.umask, 8))
    try:
        yield
    finally:
        os.umask(previous)


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C waits until the job is in the record (sbatch inherits this: it ends its work too)."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextlib.contextmanager
def _interruption() -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def describe_chain(record: RunRecord) -> str:
    """``sample 8812 → fit 8813``: the submitted jobs in order ('' for none)."""
    return " → ".join(f"{step.name} {step.job}" for step in record.steps if step.job)

