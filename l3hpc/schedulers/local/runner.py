"""The runner of ``local``: runs the jobs of one run with bash, several at once where they fit.

It stands in for slurmctld and slurmd: it gives each job Slurm's environment variables, its log
files, and the cores and memory that it requested, in the order of the dependencies, and keeps
``local.json`` up to date. There is one runner per run; a second one does nothing. A runner that
finds jobs of a killed predecessor still running waits for them instead of starting them again.
``requeue`` applies the policies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from l3hpc.errors import L3hpcError
from l3hpc.io.owners import read_own_file
from l3hpc.io.processes import (
    kernel_kills,
    process_age_s,
    process_start,
    processes,
    resident_mb,
)
from l3hpc.schedulers.base import Show
from l3hpc.schedulers.local.requeue import (
    REQUEUE,
    current_task,
    failed_tasks,
    noted_exit_code,
    policy_decision,
    requeue_or_give_up,
    reset_for_requeue,
)
from l3hpc.schedulers.requeue_policy import MEMORY, TIME, WARNED
from l3hpc.schedulers.slurm.commands import clean_environment
from l3hpc.workspace import artifacts, markers, records
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.local_jobs import LocalJob, LocalJobs, is_alive, spool_entry
from l3hpc.workspace.run_record import StepRecord
from l3hpc.workspace.states import JobState, RunState

WARNING_S = 90.0
POLL_S = 0.1
GRACE_S = 15.0
ORPHAN_S = 30.0
MEASURE_EVERY_S = 1.0
STOPPED_S = 30.0
KILLED = (137, -9)


def warning_s(limit_s: float) -> float:
    """Return how long before its time limit a job is warned: 90 s as on Slurm, a quarter of short
    limits.

    Parameters
    ----------
    limit_s
        Time limit, seconds.
    """
    return min(WARNING_S, limit_s / 4)


class Runner:
    """Runs the jobs that the record of a run lists as submitted.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    show
        Called now and then with the record and the jobs.
    grace_s
        How long a job may take to stop before it is killed, seconds.
    orphan_s
        How long another run may be without a runner before jobs that depend on it are blocked,
        seconds.
    """

    def __init__(
        self, workspace: Path, run: str, *, show: Show | None = None, grace_s: float = GRACE_S,
        orphan_s: float = ORPHAN_S,
    ) -> None:
        self._workspace, self._run = Path(workspace), run
        self._show_jobs, self._grace, self._orphan = show, grace_s, orphan_s
        # other run → since when it has had no runner
        self._runnerless_since: dict[str, float] = {}
        # process of a job, and when that began → the same by our monotonic clock
        self._began: dict[tuple[int | None, int | None], float] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # job whose script has ended → deadline of the processes that it left behind
        self._ending: dict[str, float] = {}
        self._local = LocalJobs(self._workspace, run)
        self._record = records.read(self._workspace, run)
        self._cpus = self._record.slots.get("cpus", 1)
        self._mem = self._record.slots.get("mem_mb", 2048)
        self._record_mtime = 0
        self._measured, self._memory = 0.0, dict[int, float]()

    def run(self) -> bool:
        """Work until every job has ended.

        Returns
        -------
        bool
            False if another runner has this run already.
        """
        owner = Lease(Workspace(self._workspace).run(self._run).runner_lease, "runner")
        if not owner.acquire():
            return False
        with owner:
            self._take_up()
            try:
                if self._is_replaced(owner):
                    owner.release(forget=True)
                    return False
            except BaseException:
                self._stop_all("interrupted")
                raise
            self._show()
            with contextlib.suppress(L3hpcError, OSError):
                # nobody asks who ran what has ended
                owner.release(
                    forget=self._local.settled(records.read(self._workspace, self._run)))
        return True

    def _is_replaced(self, owner: Lease) -> bool:
        """Work until every job has ended (False), or another runner has the run: this one may have
        been stopped for so long (Ctrl-Z) that it seemed dead.
        """
        looked = time.monotonic()
        while time.monotonic() - looked < STOPPED_S or owner.still_ours():
            looked = time.monotonic()
            if not self._step():
                return False
            time.sleep(POLL_S)
        return True

    def _step(self) -> bool:
        if self._local.asked_to_stop():
            self._stop_all("cancelled")
            self._local.forget_stop()
            return False
        self._take_up()
        self._measure_memory()
        ended = self._reap()
        if any(job.state is JobState.PENDING for job in ended):  # requeued: its markers are reset
            self._local.save()
        self._block()
        # together with those that ended: in between, an array would seem to wait for nothing
        if self._start_ready() or ended:
            self._local.save()
        self._show()
        return any(job.state.is_active for job in self._local.jobs.values())

    def _measure_memory(self) -> None:
        """Now and then: measure the memory of the running jobs."""
        if time.monotonic() - self._measured > MEASURE_EVERY_S:
            self._measured = time.monotonic()
            self._memory = resident_mb(
                job.pid for _, job in self._of(JobState.RUNNING) if job.pid)

    def _take_up(self) -> None:
        """Read the record if it has changed, and add its new jobs."""
        stamp = os.stat(Workspace(self._workspace).run(self._run).record).st_mtime_ns
        if stamp == self._record_mtime:
            return
        self._record_mtime = stamp
        self._record = records.read(self._workspace, self._run)
        self._local.take_up(self._record)
        self._local.save()

    def _reap(self, *, at_once: bool = False) -> list[LocalJob]:
        """Handle the jobs that have ended or reached a limit; returns those that have changed.
        at_once: kill what an ended script has left behind.
        """
        changed = []
        for name, job in self._of(JobState.RUNNING):
            code = self._exit_code(name, job)
            if code is None:
                if self._watch(name, job):
                    changed.append(job)
                continue
            if name in self._processes and not self._end_rest(name, job, at_once=at_once):
                continue  # it still has its cores and memory
            self._processes.pop(name, None)
            self._handle_exit(name, job, code)
            changed.append(job)
        return changed

    def _end_rest(self, name: str, job: LocalJob, *, at_once: bool) -> bool:
        """End what a script has left behind, as Slurm does when a batch script ends: a signal such
        as HUP ends the shells of a job, but not its Python. False while there is something left.
        """
        now = time.monotonic()
        if at_once or now > self._ending.get(name, now):
            _signal(job, signal.SIGKILL)
        elif name not in self._ending and _signal(job, signal.SIGTERM):
            self._ending[name] = now + self._grace
            return False
        elif _groups(job):
            return False
        self._ending.pop(name, None)
        return True

    def _handle_exit(self, name: str, job: LocalJob, code: int) -> None:
        """Requeue a job whose script has ended, or note how it ended."""
        folder = self._folder(job)
        if code == REQUEUE:
            reset_for_requeue(folder, job)
        elif code == WARNED and requeue_or_give_up(folder, job, TIME):
            return  # the warning ended it, because Python had not installed its handler yet
        elif not self._requeue_for_memory(name, job, code):
            failed = JobState.OUT_OF_MEMORY if job.over else JobState.FAILED
            job.end(JobState.COMPLETED if code == 0 else failed, code, ran_s=self._ran(job))

    def _requeue_for_memory(self, name: str, job: LocalJob, code: int) -> bool:
        """Requeue a job that was killed for its memory: by us, or by the kernel of this machine.
        The kernel kills one task of a packed job, whose script goes on with the others.
        """
        folder = self._folder(job)
        by_kernel = job.kernel_kills is not None and kernel_kills() > job.kernel_kills
        if not job.tasks or job.over or code == -signal.SIGKILL:
            return code in KILLED and (job.over or by_kernel) \
                and requeue_or_give_up(folder, job, MEMORY)
        failed = failed_tasks(folder, job, artifacts.finished(self._step_record(job).artifact))
        killed = [task for task, own in failed.items() if own in KILLED]
        if not by_kernel or not killed or not requeue_or_give_up(folder, job, MEMORY, killed[0]):
            return False
        for task in failed.keys() - {*killed}:
            markers.keep_failure(folder.markers, task, name, failed[task])
        return True

    def _watch(self, name: str, job: LocalJob) -> bool:
        """Warn a job before its time limit; end it at the limit or above its memory. True on a
        change.
        """
        if job.pid is None or job.started is None:
            return False  # never of a running job
        limit, ran = 60.0 * self._minutes(job), self._ran(job)
        if self._memory.get(job.pid, 0.0) > self._allocation(job)[1] and not job.over:
            job.over = True
            _signal(job, signal.SIGKILL)
            return True
        if limit and ran > limit:
            self._end({name: job})
            if not requeue_or_give_up(self._folder(job), job, TIME):
                job.end(JobState.TIMEOUT, ran_s=ran)
            return True
        if limit and ran > limit - warning_s(limit) and not job.warned:
            job.warned = True
            task = current_task(self._folder(job), job)
            if not policy_decision(self._folder(job), task, TIME, job.tasks).again:
                return True
            with contextlib.suppress(ProcessLookupError):
                # to the script alone, as Slurm's signal B:USR2: it forwards the warning
                os.kill(job.pid, signal.SIGUSR2)
            return True
        return False

    def _ran(self, job: LocalJob) -> float:
        """How long a job has run, seconds. Not by the time of day, which somebody may set, nor
        while this machine slept: the job would be ended at a limit that it has not reached.
        """
        now = time.monotonic()
        if (job.pid, job.start) not in self._began:
            self._began[job.pid, job.start] = now - (
                0.0 if job.start is None else process_age_s(job.start))
        return now - self._began[job.pid, job.start]

    def _exit_code(self, name: str, job: LocalJob) -> int | None:
        """The exit code of a running job; None while it runs."""
        if name in self._processes:
            return self._processes[name].poll()
        if is_alive(job):  # started by an earlier runner
            return None
        return noted_exit_code(self._folder(job), job,
                               artifacts.finished(self._step_record(job).artifact))

    def _block(self) -> None:
        """Block the jobs that depend on a failed one, through any number of generations."""
        changed = True
        while changed:
            changed = False
            for _, job in self._of(JobState.PENDING):
                failed = [parent for parent in job.after
                          if self._parent_state(parent) is JobState.FAILED]
                if failed:
                    job.state, job.by = JobState.BLOCKED, failed
                    changed = True
            if changed:
                self._local.save()

    def _parent_state(self, job: str) -> JobState:
        """COMPLETED, FAILED or RUNNING (not ended yet): all tasks of a job that others depend on.
        """
        states = _states(self._local, job)
        if not states:  # a job of another run in this workspace
            other = spool_entry(self._workspace, job.partition("_")[0])
            if other is None:
                return JobState.FAILED  # no such job was ever submitted here
            local = LocalJobs(self._workspace, other["run"])
            states = _states(local, job)
            if not states or any(state.is_active for state in states):
                return JobState.FAILED if self._is_orphaned(other["run"], local) \
                    else JobState.RUNNING
        if all(state == JobState.COMPLETED for state in states):
            return JobState.COMPLETED
        return JobState.RUNNING if any(state.is_active for state in states) else JobState.FAILED

    def _is_orphaned(self, run: str, local: LocalJobs) -> bool:
        """Whether another run has neither a runner nor running jobs any more. (A run that has just
        been submitted gets its runner in a moment.)
        """
        if local.runner() is not None or any(is_alive(job) for job in local.jobs.values()):
            self._runnerless_since.pop(run, None)
            return False
        since = self._runnerless_since.setdefault(run, time.monotonic())
        return time.monotonic() - since > self._orphan

    def _start_ready(self) -> bool:
        """Start the jobs that can; returns whether there was one."""
        used = [self._allocation(job) for _, job in self._of(JobState.RUNNING)]
        cpus = self._cpus - sum(job_cpus for job_cpus, _ in used)
        mem = self._mem - sum(job_mem for _, job_mem in used)
        started = False
        for name, job in self._of(JobState.PENDING):
            if any(self._parent_state(parent) is not JobState.COMPLETED for parent in job.after) \
                    or any(self._parent_state(parent).is_active for parent in job.after_any):
                continue
            job_cpus, job_mem = self._allocation(job)
            if job_cpus <= cpus and job_mem <= mem:
                self._start(name, job, job_cpus)
                cpus, mem, started = cpus - job_cpus, mem - job_mem, True
        return started

    def _allocation(self, job: LocalJob) -> tuple[int, int]:
        """The cores and MiB that a job gets."""
        requested = self._step_record(job).resources
        return (min(int(requested.get("cpus", 1)), self._cpus),
                min(int(job.mem_mb or requested.get("mem_mb") or self._mem), self._mem))

    def _minutes(self, job: LocalJob) -> float:
        return float(job.time_min or self._step_record(job).resources.get("time_min") or 0)

    def _folder(self, job: LocalJob) -> StepFolder:
        return Workspace(self._workspace).run(self._run).step(job.step)

    def _start(self, name: str, job: LocalJob, cpus: int) -> None:
        step = self._folder(job)
        # the same variables as Slurm sets, because the script is the same
        variables = {
            "L3HPC_LOCAL": "1", "SLURM_JOB_ID": job.job, "SLURM_JOBID": job.job,
            "SLURM_JOB_NAME": f"l3-{self._run}-{job.step}", "SLURM_CPUS_PER_TASK": str(cpus),
            "SLURM_RESTART_COUNT": str(job.restarts), "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
            "SLURM_SUBMIT_DIR": self._record.folder, "SLURM_JOB_NODELIST": socket.gethostname(),
        }
        if job.array:
            variables |= {"SLURM_ARRAY_JOB_ID": job.job,
                          "SLURM_ARRAY_TASK_ID": name.rpartition("_")[2]}
        folder = self._record.folder
        script = step.submitted_script(job.job)
        try:
            read_own_file(script)
        except (OSError, L3hpcError) as error:
            step.log(name).write_text(f"error: {error}\n", encoding="utf-8")
            job.end(JobState.FAILED, 2)
            return
        with open(step.log(name, "out"), "ab") as out, \
                open(step.log(name), "ab") as err:
            process = subprocess.Popen(
                ["bash", str(script)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, env=clean_environment() | variables, start_new_session=True,
                cwd=folder if folder and os.path.isdir(folder) else None)
        self._processes[name] = process
        job.kernel_kills = kernel_kills()
        job.state, job.started = JobState.RUNNING, time.time()
        job.pid, job.start, job.host = (process.pid, process_start(process.pid),
                                        socket.gethostname())

    def _end(self, jobs: dict[str, LocalJob]) -> None:
        """Send TERM to all processes of the jobs, and KILL after the grace period."""
        for job in jobs.values():
            _signal(job, signal.SIGTERM)
        end = time.monotonic() + self._grace
        try:
            while time.monotonic() < end and any(self._exit_code(name, job) is None
                                                 for name, job in jobs.items()):
                time.sleep(POLL_S)
        finally:  # also when Ctrl-C is pressed a second time
            for job in jobs.values():
                _signal(job, signal.SIGKILL)
            for name in jobs:
                if name in self._processes:
                    self._processes.pop(name).wait()

    def _stop_all(self, why: str) -> None:
        running = dict(self._of(JobState.RUNNING))
        self._reap(at_once=True)
        running = {name: job for name, job in running.items() if job.state == JobState.RUNNING}
        try:
            self._end(running)
        finally:
            for job in self._local.jobs.values():
                if job.state.is_active:
                    job.end(JobState.CANCELLED, ran_s=self._ran(job))
            try:
                # before the jobs are seen to have ended: from then on, resume writes the record
                self._record = records.read(self._workspace, self._run)
                self._record.state, self._record.note = RunState.CANCELLED, why
                records.write(self._workspace, self._record)
            finally:
                self._local.save()
            self._show()

    def _of(self, state: JobState) -> list[tuple[str, LocalJob]]:
        return [(name, job) for name, job in self._local.jobs.items() if job.state == state]

    def _step_record(self, job: LocalJob) -> StepRecord:
        return records.step(self._record, job.step)

    def _show(self) -> None:
        if self._show_jobs is not None:
            self._show_jobs(self._record, self._local.jobs)


def _states(local: LocalJobs, job: str) -> list[JobState]:
    """The states of all tasks of ``12``, or of the one task ``12_3``."""
    return [each.state for name, each in local.jobs.items() if job in (each.job, name)]


def _groups(job: LocalJob) -> set[int]:
    """The process groups of a job, which is a session of its own. ``timeout`` and shells with job
    control make groups.
    """
    # its process id may have been given to another process since
    if not job.pid or job.host != socket.gethostname() \
            or process_start(job.pid) not in (None, job.start):
        return set()
    return {process.group for process in processes()
            if process.session == job.pid and not process.ended}


def _signal(job: LocalJob, number: int) -> bool:
    """Signal all processes of a job; False if there is none (of ours)."""
    signalled = False
    for group in _groups(job):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            signalled = True
    return signalled


def main(arguments: list[str]) -> int:
    """Run ``python -m l3hpc.schedulers.local.runner WORKSPACE RUN``: the detached runner.

    Parameters
    ----------
    arguments
        The workspace folder and the name of the run.
    """
    workspace, run = Path(arguments[0]), arguments[1]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not Runner(workspace, run).run():
            print(f"{run} already has a runner", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
