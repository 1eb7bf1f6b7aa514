"""A scheduler that is neither Slurm nor this machine: all of it, in one file.

Its jobs never run. A test sets their states; what it was asked is kept.
"""

from l3hpc import schedulers
from l3hpc.config import capabilities
from l3hpc.config.capabilities import Capabilities
from l3hpc.schedulers import pickled_calls
from l3hpc.schedulers.jobs import EndedJob, JobId, LiveJob, StepJobs
from l3hpc.workspace.states import JobState

NAME = "third"


class ThirdScheduler:
    """jobs: id → its state. requests: what was submitted. cancelled: ids, in their order."""

    capabilities = Capabilities(remote=True)

    def __init__(self):
        self.jobs_of_all, self.requests, self.cancelled = {}, [], []

    def prepare(self):
        pass

    def validate(self, plan):
        return ""

    def check_command(self, script):
        return ["true", str(script)]

    def check(self, script):
        pass

    def submit(self, request):
        return pickled_calls.submit(request, lambda: self._enter(request))

    def _enter(self, request):
        job = JobId(f"{len(self.jobs_of_all) + 1}")
        self.jobs_of_all[job.id] = JobState.PENDING
        self.requests.append(request)
        return job

    def query(self):
        return _Query(self)

    def jobs(self, record, tasks=None):
        return _Answer(self)

    def history(self, record):
        return None

    def cancel(self, jobs, run=""):
        for job in jobs:
            self.cancelled.append(job.id)
            self.jobs_of_all[job.id] = JobState.CANCELLED

    def cancel_run(self, record):
        live = [JobId(step.job) for step in record.steps[::-1]
                if step.job and self.jobs_of_all[step.job].is_active]
        self.cancel(live)
        return live

    def changes(self, decision):
        return []

    def release(self, job, changes):
        pass


class _Query:
    def __init__(self, scheduler):
        self._scheduler = scheduler

    def add(self, record, tasks):
        pass

    def answer(self):
        return _Answer(self._scheduler)


class _Answer:
    def __init__(self, scheduler):
        self._scheduler = scheduler

    def of(self, record, step, tasks):
        states = {job: self._scheduler.jobs_of_all[job] for job in tasks}
        return StepJobs(
            {job: LiveJob(state, "waits its turn", waits_for_jobs=bool(step.needs))
             for job, state in states.items() if state.is_active},
            {job: EndedJob(state, None, None) for job, state in states.items()
             if state.is_terminal}, queried=True)

    def notes(self, record):
        return []

    def queued(self, jobs):
        return any(self._scheduler.jobs_of_all[job].is_active for job in jobs)

    def untracked(self, record):
        return []

    def following(self, record, *, pending=False):
        return []


def register(monkeypatch):
    """Make it known until the end of the test; return the one that all runs share."""
    scheduler = ThirdScheduler()
    monkeypatch.setattr(schedulers, "_FACTORIES", dict(schedulers._FACTORIES))
    monkeypatch.setattr(capabilities, "KNOWN", dict(capabilities.KNOWN))
    schedulers.register(NAME, scheduler.capabilities, lambda workspace, profile: scheduler)
    return scheduler
