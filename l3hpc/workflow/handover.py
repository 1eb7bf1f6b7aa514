"""Handing jobs over: all of a submission, or none of it; and no job without a record of it.

Each script goes to the cluster in the order of the chain, and its id is noted beside ``run.json``
before the next one goes. If one is refused, the person presses Ctrl-C, or another command cancels
the run, the jobs already submitted are cancelled, the last one first.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from l3hpc.errors import ClusterError, InputError, L3hpcError
from l3hpc.files import write_text
from l3hpc.progress import Progress
from l3hpc.workflow import (
    artifacts,
    claims,
    executors,
    identity,
    job_arrays,
    markers,
    records,
    render,
    sbatch,
    waiting,
)
from l3hpc.workflow.executors import Call
from l3hpc.workflow.healing import policy as healing
from l3hpc.workflow.identity import JobId
from l3hpc.workflow.localstate import LocalJobs
from l3hpc.workflow.model import Plan, PlannedStep, RunRecord, StepRecord

WAIT_WORDS = ("AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "MaxSubmitJobsPerUser",
              "AssocGrpSubmitJobsLimit", "QOSGrpSubmitJobsLimit")
WAITS_S = (5, 15, 30) + (60,) * 30
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def write_scripts(folder: Path, texts: Sequence[tuple[render.Part, str]]) -> None:
    """``script.sbatch`` in a step's folder; of a split array also ``script-1.sbatch`` …"""
    for old in folder.glob("script*.sbatch"):
        old.unlink()
    for number, (_, text) in enumerate(texts):
        write_text(_script(folder, number), text, durable=False)


def hand_over(
    plan: Plan, steps: list[PlannedStep], texts: render.Texts, record: RunRecord,
    progress: Progress, *, alive: dict[str, list[str]] | None = None, before: str = "",
) -> None:
    """Submit the steps that have a text, in this order, and keep the record up to date.

    alive: step → ids of earlier jobs that still work on it; who needs that step waits for them
    too. before: the state to which a refusal brings the record back, of a run that was submitted
    earlier. A refusal or an interruption takes back all that was submitted here.
    """
    waits: dict[str, list[str]] = {name: list(ids) for name, ids in (alive or {}).items()}
    since, submitted = time.time(), list[JobId]()
    entries = {entry.name: entry for entry in record.steps}
    arrays = {one.names[0]: one for one in job_arrays.find(plan, steps, texts, {*texts, *waits})}
    behind = {name for one in arrays.values() for name in one.names[1:]}  # go with the first one
    if record.local:
        LocalJobs(plan.workspace, plan.run).forget_stop()
    progress.start("submitting", sum(map(len, texts.values())) - len(behind), "jobs")

    def note(job: JobId, attempts: dict[str, dict[str, Any]], first: bool) -> None:
        submitted.append(job)
        records.note_attempts(plan.workspace, plan.run, attempts, first=first)
        for name, attempt in attempts.items():
            waits.setdefault(name, []).append(attempt["job"])
            if attempt["job"] in {each["job"] for each in entries[name].attempts}:
                markers.forget(plan.step_folder(name) / "markers", since)
            records.add_attempt(entries[name], attempt, first=first)

    try:
        for step in steps:
            if step.name not in texts or step.name in behind:
                continue
            after = [job for name in step.needs for job in waits.get(name, ())]
            after += _still_made(plan, step)
            if step.name in arrays:
                array = arrays[step.name]
                with _ctrl_c(signal.SIG_BLOCK):
                    job = _submit_array(plan, array, after, progress)
                    note(job, {name: _attempt(replace(job, id=f"{job.id}_{index}"))
                               for index, name in enumerate(array.names)}, True)
                progress.advance(1)
                continue
            if len(texts[step.name]) > 1:
                progress.note(f"{step.name}: {step.tasks:,} tasks in {len(texts[step.name])} "
                              f"arrays of at most {plan.profile.limits.array:,}")
            for number, (part, text) in enumerate(texts[step.name]):
                with _ctrl_c(signal.SIG_BLOCK):
                    job = _submit_part(plan, step, part, number, after, progress)
                    note(job, {step.name: _attempt(job, part, text)}, number == 0)
                progress.advance(1)
        record.state, record.note = "submitted", ""
        records.write(plan.workspace, record)
    except L3hpcError as error:
        refusal = type(error)(f"{step.name}: {error.message}", where=error.where, hint=error.hint,
                              allowed=error.allowed)
        with _ctrl_c(signal.SIG_BLOCK):
            if isinstance(error, sbatch.OutcomeUnknownError) or \
                    isinstance(error, sbatch.NotReachedError) and submitted:
                _leave(plan, record, step, refusal, since)
            else:
                left = _take_back(plan, record, submitted, refusal, before, since)
                if isinstance(error, ClusterError):
                    refusal.allowed = left or refusal.allowed or "nothing was submitted"
        raise refusal from None
    except BaseException as error:
        with _ctrl_c(signal.SIG_BLOCK):
            _take_back(plan, record, submitted, error, before, since)
        raise
    finally:
        progress.finish()


def _script(folder: Path, number: int) -> Path:
    return folder / (f"script-{number}.sbatch" if number else "script.sbatch")


def _still_made(plan: Plan, step: PlannedStep) -> list[str]:
    """Of the other runs' jobs that make an input: those that still have to be waited for.

    ``waits_for`` has their ids of the time of planning; meanwhile they may have been resumed. An id
    that Slurm has purged would count as fulfilled, so our own records decide.
    """
    jobs: list[str] = []
    for record, entry in _makers(plan, step):
        if len(artifacts.finished(Path(entry.artifact))) >= entry.tasks:
            continue
        from l3hpc.workflow import status

        live = {index: task.job for index, task
                in status.live_tasks(plan.workspace, record)[entry.name].items()}
        done = artifacts.finished(Path(entry.artifact))
        lacking = sorted({*range(entry.tasks)} - {*done, *live})
        if lacking:
            [found] = status.collect(plan.workspace, [record.run])
            state = next(each.state for each in found.steps if each.name == entry.name)
            raise InputError(
                f"an input is made by {entry.name} of {record.run}, "
                + (f"whose task {lacking[0]} failed" if state in status.MOVING
                   else f"which is {state}"),
                hint=f"Finish it first: l3hpc resume {record.run}")
        jobs += waiting.live_ids(entry, done, live)
    return jobs


def _makers(plan: Plan, step: PlannedStep) -> list[tuple[RunRecord, StepRecord]]:
    """The steps of other runs whose jobs, also earlier ones, a step waits for; each once."""
    found: dict[tuple[str, str], tuple[RunRecord, StepRecord]] = {}
    known = records.read_all(plan.workspace) if step.waits_for else []
    for job in step.waits_for:
        made = [(record, entry) for record in known
                if record.local == executors.is_local(plan.profile) for entry in record.steps
                if job == entry.job or job in {attempt["job"] for attempt in entry.attempts}]
        if not made:
            raise InputError(f"an input is made by job {job}, which no run here has on "
                             f"{plan.profile.name}", hint="Wait until it is done: l3hpc status")
        found[made[0][0].run, made[0][1].name] = made[0]
    return list(found.values())


def _submit_part(
    plan: Plan, step: PlannedStep, part: render.Part, number: int, after: list[str],
    progress: Progress,
) -> JobId:
    folder = plan.step_folder(step.name)
    calls = [Call(folder / "config.json", task, task - part.offset) for task in part.tasks]
    return _submit(plan, step, _script(folder, number), calls, after, progress)


def _submit_array(plan: Plan, array: job_arrays.JobArray, after: list[str], progress: Progress
                  ) -> JobId:
    """One task for each step."""
    write_text(array.script, array.text, durable=False)
    calls = [Call(plan.step_folder(name) / "config.json", 0, index)
             for index, name in enumerate(array.names)]
    return _submit(plan, array.steps[0], array.script, calls, after, progress)


def _submit(plan: Plan, step: PlannedStep, script: Path, calls: Sequence[Call], after: list[str],
            progress: Progress) -> JobId:
    executor = executors.executor(plan.profile, plan.workspace, script.parent / "logs")

    def pause(seconds: float) -> None:
        with _ctrl_c(signal.SIG_UNBLOCK):
            claims.pause(plan.workspace, plan.run, seconds)

    for wait in (*WAITS_S, None):
        claims.check(plan.workspace, plan.run)
        try:
            return executor.submit_script(
                script, calls, after=after, time_min=step.resources.time_min,
                max_timeouts=healing.of(plan.profile, step).time, pause=pause,
                known=lambda: identity.known(records.read(plan.workspace, plan.run)),
                say=lambda words: progress.note(f"{step.name}: {words}"))
        except (sbatch.NotReachedError, sbatch.OutcomeUnknownError):
            raise
        except ClusterError as error:
            if wait is None or not any(word in error.message for word in WAIT_WORDS):
                from l3hpc.workflow.executors.slurm import hint_for

                error.hint = error.hint or hint_for(error.message)
                raise
            progress.note(f"{step.name}: {error.message}: trying again in {wait} s")
            pause(wait)
    raise AssertionError("the last attempt returns or raises")


def _attempt(job: JobId, part: render.Part | None = None, text: str = "") -> dict[str, Any]:
    """What the record keeps of a submission. part, text: of a script of its own."""
    attempt = {"job": job.id, "array": "\n#SBATCH --array" in text,
               "tasks": list(part.tasks) if part else [0], "time": time.time(),
               "script": job.script}
    return attempt | ({"offset": part.offset} if part and part.offset else {}) \
        | ({"cluster": job.cluster} if job.cluster else {})


def _leave(plan: Plan, record: RunRecord, step: PlannedStep, error: L3hpcError, since: float
           ) -> None:
    """Slurm is out of reach, so that nothing can be taken back: what was submitted stays, and the
    record keeps how far it came."""
    there = [f"{entry.name} {entry.attempts[-1]['job']}" for entry in record.steps
             if entry.attempts and entry.attempts[-1]["time"] >= since]
    unknown = isinstance(error, sbatch.OutcomeUnknownError)
    error.allowed = (f"submitted: {', '.join(there)}; " if there else "") + (
        f"whether {step.name} was submitted is not known" if unknown
        else f"{step.name} was not submitted")
    error.hint = (f"When Slurm answers again: l3hpc resume {plan.run} looks for it and goes on, "
                  f"l3hpc cancel {plan.run} ends the run")
    record.note = error.message
    records.write(plan.workspace, record)


def _take_back(
    plan: Plan, record: RunRecord, jobs: list[JobId], error: BaseException, before: str,
    since: float,
) -> str:
    """Cancel what was submitted since then, the last job first, and say so in the record. Return
    what may be left ('' for nothing)."""
    refused = isinstance(error, Exception) and not isinstance(error, claims.Stopped)
    try:
        if not record.local:
            sbatch.cancel(jobs[::-1], plan.run)
    except ClusterError as second:
        record.note = f"{getattr(error, 'message', str(error))}; {second.message}"
        records.write(plan.workspace, record)
        return f"{second.message}; {second.hint}" if second.hint else second.message
    begun = {(job.id, job.cluster) for job in jobs}
    for entry in record.steps:
        entry.attempts = [
            each for each in entry.attempts if each["time"] < since or
            (each["job"].partition("_")[0], each.get("cluster", "")) not in begun]
        if entry.state == "submitted" and not entry.attempts:
            entry.state, entry.job, entry.submitted_tasks = "planned", None, []
        elif entry.attempts:
            entry.job = entry.attempts[-1]["job"]
            entry.submitted_tasks = list(entry.attempts[-1]["tasks"])
    if before:
        record.state = before
    else:
        record.state = "refused" if refused else "cancelled"
        record.note = getattr(error, "message", str(error)) if refused else \
            "interrupted while submitting"
    records.write(plan.workspace, record)
    return ""


@contextlib.contextmanager
def _ctrl_c(how: int) -> Iterator[None]:
    """In the block Ctrl-C waits (SIG_BLOCK: until the job is in the record; sbatch inherits this,
    and ends its work too) or comes through after all (SIG_UNBLOCK)."""
    previous = signal.pthread_sigmask(how, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
