"""What a local job may use, and what happens when it wants more: the runner's counterpart of
slurmd's accounting and of ``healing.job``.

Runs the jobs of one local run with bash, in dependency order, several at once where they fit.

It stands in for slurmctld and slurmd: it gives each job Slurm's variables, its log files, and the
cores and memory that it asked for, and it keeps ``local.json`` up to date. One runner per run; a
second one does nothing. A runner that finds jobs of a killed predecessor still at work waits for
them instead of starting them again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from l3hpc.errors import L3hpcError
from l3hpc.io.files import read_own_file
from l3hpc.schedulers import requeue_policy
from l3hpc.schedulers.requeue_policy import MEMORY, TIME, WARNED
from l3hpc.schedulers.slurm.commands import scrubbed
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.lease import Lease, process_start
from l3hpc.workspace.local_jobs import LIVE, LocalJob, LocalJobs, alive, entry
from l3hpc.workspace.markers import RunState
from l3hpc.workspace.records import RunRecord, StepRecord

REQUEUE = 85  # the exit code by which a job says that it goes on later
WARNING_S = 90.0
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SESSION, _RESIDENT = 3, 21  # fields of /proc/PID/stat, counted after the command's name
POLL_S = 0.1
GRACE_S = 15.0
ORPHAN_S = 30.0
WEIGH_S = 1.0
KILLED = (137, -9)
Look = Callable[[RunRecord, dict[str, LocalJob]], None]


def resident_mb(sessions: Iterable[int]) -> dict[int, float]:
    """MiB in memory of all processes of each session (a local job is one), by session id."""
    found = dict.fromkeys(sessions, 0.0)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended just now
            continue
        fields = text.rpartition(")")[2].split()
        session = int(fields[_SESSION])
        if session in found:
            found[session] += int(fields[_RESIDENT]) * PAGE_MB
    return found


def kernel_kills() -> int:
    """How many processes the kernel has killed since boot because memory ran out (0 where it does
    not say)."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def warning_s(limit_s: float) -> float:
    """How long before its time limit a job is warned: 90 s as on Slurm, of short ones a quarter."""
    return min(WARNING_S, limit_s / 4)


def heal(folder: Path | StepFolder, job: LocalJob, cause: str) -> bool:
    """Put a job back to the queue with what the policy grants; False where it is given up.

    folder: of the step in the run. The job gets ``mem_mb`` and ``time_min``.
    """
    found = decision(folder, job.task, cause)
    if not found.again:
        markers.give_up(StepFolder(folder).markers, job.task, found.words, time.time())
        return False
    note(folder, job.task, cause, found)
    put_back(folder, job)
    return True


def decision(folder: Path | StepFolder, task: int, cause: str) -> requeue_policy.Decision:
    """What the step's policy says of a task that met ``cause``."""
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    return requeue_policy.decide(requeue_policy.read(folder), cause, marks.requeues)


def note(folder: Path | StepFolder, task: int, cause: str, found: requeue_policy.Decision) -> None:
    """Write a requeue into the task's markers."""
    markers.add_requeue(StepFolder(folder).markers, task, cause, time.time(), words=found.words,
                        mem_mb=found.mem_mb, time_min=found.time_min)


def put_back(folder: Path | StepFolder, job: LocalJob) -> None:
    """The job waits again, under its id, with what its requeues have granted it."""
    marks = markers.read(StepFolder(folder).markers).get(job.task, markers.TaskMarks())
    mem, minutes = requeue_policy.granted(requeue_policy.read(folder), marks.requeues)
    job.wait_again()
    job.mem_mb, job.time_min = mem, minutes


class Runner:
    """Runs what the record of ``run`` says was submitted.

    look: called now and then with the record and the jobs, to show them. grace_s: how long a job
    that is asked to stop may take before it is killed. orphan_s: how long another run may be
    without its runner before what waits for its jobs here is blocked.
    """

    def __init__(
        self, workspace: Path, run: str, *, look: Look | None = None, grace_s: float = GRACE_S,
        orphan_s: float = ORPHAN_S,
    ) -> None:
        self._workspace, self._run = Path(workspace), run
        self._look, self._grace, self._orphan = look, grace_s, orphan_s
        self._alone: dict[str, float] = {}  # other run → since when it is without its runner
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._state = LocalJobs(self._workspace, run)
        self._record = records.read(self._workspace, run)
        self._cpus = self._record.slots.get("cpus", 1)
        self._mem = self._record.slots.get("mem_mb", 2048)
        self._stamp = 0
        self._weighed, self._memory = 0.0, dict[int, float]()

    def run(self) -> bool:
        """Work until every job has ended. False when another runner has this run already."""
        owner = Lease(Workspace(self._workspace).run(self._run).runner_lease, "runner")
        if not owner.acquire():
            return False
        with owner:
            self._take_up()
            try:
                while self._step():
                    time.sleep(POLL_S)
            except BaseException:
                self._stop_all("interrupted")
                raise
            self._show()
        return True

    def _step(self) -> bool:
        if self._state.asked_to_stop():
            self._stop_all("cancelled")
            self._state.forget_stop()
            return False
        self._take_up()
        self._weigh()
        self._reap()
        self._block()
        self._start_ready()
        self._show()
        return any(job.state in LIVE for job in self._state.jobs.values())

    def _weigh(self) -> None:
        """Now and then: how much memory the running jobs use."""
        if time.monotonic() - self._weighed > WEIGH_S:
            self._weighed = time.monotonic()
            self._memory = resident_mb(
                job.pid for _, job in self._of("RUNNING") if job.pid)

    def _take_up(self) -> None:
        """Read the record when it has changed, and add the jobs that are new in it."""
        stamp = os.stat(Workspace(self._workspace).run(self._run).record).st_mtime_ns
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._record = records.read(self._workspace, self._run)
        self._state.take_up(self._record)
        self._state.save()

    def _reap(self) -> None:
        changed = False
        for name, job in self._of("RUNNING"):
            code = self._exit_code(name, job)
            if code is None:
                changed |= self._watch(name, job)
                continue
            self._processes.pop(name, None)
            self._ended(job, code)
            changed = True
        if changed:
            self._state.save()

    def _ended(self, job: LocalJob, code: int) -> None:
        """A job whose script is over: it goes back to the queue, or that was its last word."""
        folder = self._folder(job)
        if code == REQUEUE:
            put_back(folder, job)
        elif code == WARNED and heal(folder, job, TIME):  # it did not listen yet
            return
        elif not self._lacked_memory(job, code) or not heal(folder, job, MEMORY):
            failed = "OUT_OF_MEMORY" if job.over else "FAILED"
            job.end("COMPLETED" if code == 0 else failed, code)

    def _lacked_memory(self, job: LocalJob, code: int) -> bool:
        """Whether a killed job was killed for its memory: by us, or by this machine's kernel."""
        return code in KILLED and bool(
            job.over or job.kernel_kills is not None and kernel_kills() > job.kernel_kills)

    def _watch(self, name: str, job: LocalJob) -> bool:
        """Warn a job before its time limit, end it there or above its memory; True on a change."""
        # a running job has both
        if job.pid is None or job.started is None:
            return False
        limit, ran = 60.0 * self._minutes(job), time.time() - job.started
        if self._memory.get(job.pid, 0.0) > self._capped(job)[1] and not job.over:
            job.over = True
            _signal(job.pid, signal.SIGKILL)
            return True
        if limit and ran > limit:
            self._end({name: job})
            if not heal(self._folder(job), job, TIME):
                job.end("TIMEOUT")
            return True
        if limit and ran > limit - warning_s(limit) and not job.warned:
            job.warned = True
            if not decision(self._folder(job), job.task, TIME).again:
                return True
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGUSR2)  # the script forwards it
            return True
        return False

    def _exit_code(self, name: str, job: LocalJob) -> int | None:
        """The exit code of a running job; None while it runs."""
        if name in self._processes:
            return self._processes[name].poll()
        if alive(job):  # started by a predecessor
            return None
        marks = markers.read(self._folder(job).markers).get(job.task)
        return 1 if marks is None or marks.exit_code is None else marks.exit_code

    def _block(self) -> None:
        """Jobs behind a failed one never run, through any number of generations."""
        changed = True
        while changed:
            changed = False
            for _, job in self._of("PENDING"):
                culprits = [parent for parent in job.after if self._parent(parent) == "failed"]
                if culprits:
                    job.state, job.by = "BLOCKED", culprits
                    changed = True
            if changed:
                self._state.save()

    def _parent(self, job: str) -> str:
        """``done``, ``failed`` or ``live``: how all tasks of a job that others wait for stand."""
        states = _states(self._state, job)
        if not states:  # of another run in this workspace
            other = entry(self._workspace, job.partition("_")[0])
            if other is None:
                return "failed"  # nothing here ever made such a job
            there = LocalJobs(self._workspace, other["run"])
            states = _states(there, job)
            if not states or any(state in LIVE for state in states):
                return "failed" if self._orphaned(other["run"], there) else "live"
        if all(state == "COMPLETED" for state in states):
            return "done"
        return "live" if any(state in LIVE for state in states) else "failed"

    def _orphaned(self, run: str, there: LocalJobs) -> bool:
        """Whether nobody works on another run any more: its runner was killed, and its jobs are
        over. (One that was just submitted gets its runner in a moment.)"""
        if there.runner() is not None or any(alive(job) for job in there.jobs.values()):
            self._alone.pop(run, None)
            return False
        return time.monotonic() - self._alone.setdefault(run, time.monotonic()) > self._orphan

    def _start_ready(self) -> None:
        used = [self._capped(job) for _, job in self._of("RUNNING")]
        cpus = self._cpus - sum(wanted[0] for wanted in used)
        mem = self._mem - sum(wanted[1] for wanted in used)
        started = False
        for name, job in self._of("PENDING"):
            if any(self._parent(parent) != "done" for parent in job.after):
                continue
            wanted = self._capped(job)
            if wanted[0] <= cpus and wanted[1] <= mem:
                self._start(name, job, wanted[0])
                cpus, mem, started = cpus - wanted[0], mem - wanted[1], True
        if started:
            self._state.save()

    def _capped(self, job: LocalJob) -> tuple[int, int]:
        """(cores, MiB) that a job gets."""
        wanted = self._step_record(job).resources
        return (min(int(wanted.get("cpus", 1)), self._cpus),
                min(int(job.mem_mb or wanted.get("mem_mb") or self._mem), self._mem))

    def _minutes(self, job: LocalJob) -> float:
        return float(job.time_min or self._step_record(job).resources.get("time_min") or 0)

    def _folder(self, job: LocalJob) -> StepFolder:
        return Workspace(self._workspace).run(self._run).step(job.step)

    def _start(self, name: str, job: LocalJob, cpus: int) -> None:
        step = self._folder(job)
        restarts = job.restarts
        variables = {
            "L3HPC_LOCAL": "1", "SLURM_JOB_ID": job.job, "SLURM_JOBID": job.job,
            "SLURM_JOB_NAME": f"l3-{self._run}-{job.step}", "SLURM_CPUS_PER_TASK": str(cpus),
            "SLURM_RESTART_COUNT": str(restarts), "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
            "SLURM_SUBMIT_DIR": self._record.folder, "SLURM_JOB_NODELIST": socket.gethostname(),
        }
        if job.array:
            variables |= {"SLURM_ARRAY_JOB_ID": job.job,
                          "SLURM_ARRAY_TASK_ID": name.rpartition("_")[2]}  # without an offset
        folder = self._record.folder
        script = step.submitted_script(job.job)
        try:
            read_own_file(script)
        except (OSError, L3hpcError) as error:
            step.log(name).write_text(f"error: {error}\n", encoding="utf-8")
            job.end("FAILED", 2)
            return
        with open(step.log(name, "out"), "ab") as out, \
                open(step.log(name), "ab") as err:
            process = subprocess.Popen(
                ["bash", str(script)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, env=scrubbed() | variables, start_new_session=True,
                cwd=folder if folder and os.path.isdir(folder) else None)
        self._processes[name] = process
        job.kernel_kills = kernel_kills()
        job.state, job.started = "RUNNING", time.time()
        job.pid, job.start, job.host = (process.pid, process_start(process.pid),
                                        socket.gethostname())

    def _end(self, jobs: dict[str, LocalJob]) -> None:
        """TERM to the process groups, a while to finish, then KILL."""
        groups = {name: job.pid for name, job in jobs.items() if job.pid}
        for group in groups.values():
            _signal(group, signal.SIGTERM)
        end = time.monotonic() + self._grace
        try:
            while time.monotonic() < end and any(self._exit_code(name, jobs[name]) is None
                                                 for name in groups):
                time.sleep(POLL_S)
        finally:  # also when Ctrl-C is pressed a second time
            for group in groups.values():
                _signal(group, signal.SIGKILL)
            for name in groups:
                if name in self._processes:
                    self._processes.pop(name).wait()

    def _stop_all(self, why: str) -> None:
        running = dict(self._of("RUNNING"))
        self._reap()
        running = {name: job for name, job in running.items() if job.state == "RUNNING"}
        try:
            self._end(running)
        finally:
            for job in self._state.jobs.values():
                if job.state in LIVE:
                    job.end("CANCELLED")
            self._state.save()
            self._record = records.read(self._workspace, self._run)
            self._record.state, self._record.note = RunState.CANCELLED, why
            records.write(self._workspace, self._record)
            self._show()

    def _of(self, state: str) -> list[tuple[str, LocalJob]]:
        return [(name, job) for name, job in self._state.jobs.items() if job.state == state]

    def _step_record(self, job: LocalJob) -> StepRecord:
        return records.step(self._record, job.step)

    def _show(self) -> None:
        if self._look is not None:
            self._look(self._record, self._state.jobs)


def _states(local: LocalJobs, job: str) -> list[str]:
    """The states of all tasks of ``12``, or of the one task ``12_3``."""
    return [each.state for name, each in local.jobs.items() if job in (each.job, name)]


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main(arguments: list[str]) -> int:
    """``python -m l3hpc.schedulers.local.runner WORKSPACE RUN``: the detached runner."""
    workspace, run = Path(arguments[0]), arguments[1]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not Runner(workspace, run).run():
            print(f"another runner has {run} already", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
