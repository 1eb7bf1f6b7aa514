"""Slurm as a ``Scheduler``: sbatch, squeue, sacct, scancel and scontrol behind one class.

The parts are functions of the modules beside this one; here they meet the records of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from l3hpc.config import capabilities
from l3hpc.config.capabilities import Capabilities
from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import ClusterError, InputError, command_line
from l3hpc.pipelines.planned import Plan
from l3hpc.schedulers import scripts
from l3hpc.schedulers.base import (
    EndedJob,
    JobAnswer,
    JobId,
    JobQuery,
    JobRequest,
    NotReachedError,
    OutcomeUnknownError,
    QueueFullError,
    StepJobs,
    Tasks,
)
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm import identity, partitions, queue, requeue, sbatch
from l3hpc.schedulers.slurm.commands import call, default_cluster, on_cluster, several
from l3hpc.schedulers.slurm.identity import Identity
from l3hpc.workspace.markers import RunState
from l3hpc.workspace.records import RunRecord, StepRecord

TEST_S = 60.0


class SlurmScheduler:
    """The Slurm of a site. profile: needed to submit and to validate, not to look and to cancel."""

    def __init__(self, workspace: Path, profile: ClusterProfile | None = None) -> None:
        self._workspace, self._profile = workspace, profile
        self._limits: partitions.Check | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return capabilities.of(capabilities.SLURM)

    def prepare(self) -> None:
        """Ask sinfo meanwhile."""
        if self._limits is None and self._profile is not None:
            self._limits = partitions.Check(self._profile)

    def validate(self, plan: Plan) -> str:
        """Raise ``InputError`` for a step that no partition of its own can run."""
        self.prepare()
        return self._limits.refuse(plan) if self._limits is not None else ""

    def check_command(self, script: Path) -> list[str]:
        """sbatch, which submits nothing."""
        clusters = self._profile.slurm_clusters if self._profile is not None else ""
        return [*on_cluster(["sbatch", "--test-only"], clusters), str(script)]

    def check(self, script: Path) -> None:
        """Raise ``ClusterError`` where sbatch would refuse the script."""
        try:
            call(self.check_command(script), timeout_s=TEST_S)
        except ClusterError as error:
            error.hint = error.hint or sbatch.hint_for(error.message)
            raise

    def submit(self, request: JobRequest) -> JobId:
        """Submit a script, once; see ``base.Scheduler.submit``."""
        return scripts.submitted(request, lambda: self._sbatch(request))

    def _sbatch(self, request: JobRequest) -> JobId:
        profile, cluster = self._profile, self._cluster(request)
        command = sbatch.sbatch_command(
            request.script, [job.id for job in request.after],
            profile is None or profile.kill_on_invalid_dep, cluster,
            [job.id for job in request.behind])
        wanted = Identity("", cluster, str(request.script)) if request.step is None \
            else identity.of_script(request.script, cluster)
        try:
            return sbatch.submit(sbatch.Submission(
                command, wanted, known=request.known, say=request.say, pause=request.pause,
                give_up_s=sbatch.GIVE_UP_S if request.give_up_s is None else request.give_up_s))
        except (NotReachedError, OutcomeUnknownError):
            raise
        except ClusterError as error:
            refusal = sbatch.classified(error)
            if isinstance(refusal, QueueFullError) and profile is not None \
                    and request.step is not None:
                sbatch.check_fits(profile, request.step.kind, len(request.calls), refusal,
                                    again=request.refused > 0)
            raise refusal from None

    def _cluster(self, request: JobRequest) -> str:
        """What stands behind ``--clusters``: where the jobs are that it waits for, else where Slurm
        put the first job of the run, else what the profile says.

        Raises ``InputError`` for a job of another cluster: Slurm has no such dependencies.
        """
        wanted = request.cluster
        if several(wanted) and request.placed:
            wanted = request.placed
        for job in (*request.after, *request.behind):
            place = job.cluster
            if several(wanted):
                wanted = place or default_cluster()
            elif place != wanted and (place or default_cluster()) != (
                    wanted or default_cluster()):
                there = place or default_cluster()
                name = self._profile.name if self._profile is not None else ""
                raise InputError(
                    f"it waits for job {job.id} on cluster {there} and would run on "
                    f"{wanted or default_cluster()}: Slurm has no dependencies between clusters",
                    hint="Wait until that job is done (l3hpc status), or set clusters: "
                         f"{there} in the profile {name}")
        return wanted

    def query(self, records: Sequence[RunRecord]) -> JobQuery:
        """A question about the jobs of these runs."""
        return _Query(self._workspace, records)

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> JobAnswer:
        """What squeue says of one run's jobs; a ``ClusterError`` where it does not answer."""
        found = _Answer(self._workspace)
        clusters = {found.identities(record, step)[task].cluster
                    for step in record.steps for task in (tasks or {}).get(step.name, ())}
        found.heard = queue.ask(record.user, clusters or identity.clusters(record))
        return found

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Every attempt of a run's jobs that sacct remembers."""
        return queue.ask_history({
            task: job for step in record.steps
            for task, job in identity.of_step(self._workspace, record, step).items()})

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """scancel, once for each cluster."""
        sbatch.cancel(jobs, run)

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """One squeue finds the live jobs of a run, one scancel stops them: the leaf first, and
        before all those that its record does not know. A number alone may be somebody else's job,
        so nothing is cancelled where squeue is silent."""
        try:
            answer = self.jobs(record)
        except ClusterError as error:
            raise ClusterError(
                error.message, hint=f"When Slurm answers: {command_line('cancel', record.run)}",
                allowed="nothing was cancelled: squeue has to show that the jobs are those of this "
                        "run") from None
        jobs = answer.untracked(record)
        for step in record.steps[::-1]:
            ids = identity.of_step(self._workspace, record, step)
            live = {JobId(ids[task].id, ids[task].cluster)
                    for task in answer.of(record, step, ids).live}
            jobs += sorted(live, key=lambda job: [-int(part) for part in job.id.split("_")])
        self.cancel(jobs, record.run)
        return jobs

    def changes(self, decision: Decision) -> list[str]:
        """What ``scontrol update`` is to change."""
        return requeue.arguments(decision)

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Change the request of a held job and let it go."""
        requeue.release(job.id, changes, wait_s=0, cluster=job.cluster)


class _Answer:
    """What squeue and sacct said, of the jobs of some runs."""

    def __init__(self, workspace: Path, heard: queue.Answer | None = None) -> None:
        self._workspace = workspace
        self.heard = heard or queue.Answer()
        self._identities: dict[tuple[str, str], dict[str, Identity]] = {}

    def identities(self, record: RunRecord, step: StepRecord) -> dict[str, Identity]:
        """The identities of all jobs of a step, by task id."""
        key = record.run, step.name
        if key not in self._identities:
            self._identities[key] = identity.of_step(self._workspace, record, step)
        return self._identities[key]

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """What Slurm says of these tasks."""
        heard = self.heard
        if not tasks or not (heard.live or heard.ended or heard.silent):
            return heard.of({})
        ids = self.identities(record, step)
        return heard.of({task: ids[task] for task in tasks})

    def notes(self, record: RunRecord) -> list[str]:
        """What did not answer."""
        return list(self.heard.notes)

    def queued(self, jobs: Collection[str]) -> bool:
        """Whether any of these jobs is in the queue, and of this workspace."""
        return any(identity.in_workspace(self._workspace, job.origin)
                   for task, found in self.heard.live.items()
                   if task in jobs or task.partition("_")[0] in jobs for job in found)

    def untracked(self, record: RunRecord) -> list[JobId]:
        """Live jobs of a run that its record does not know."""
        return identity.untracked(self._workspace, record, {
            task: [job.origin for job in found] for task, found in self.heard.live.items()})


class _Query:
    """One squeue for each cluster, which answers while the caller reads markers; then at most one
    sacct for each, of the tasks that squeue did not show."""

    def __init__(self, workspace: Path, records: Sequence[RunRecord]) -> None:
        self._answer = _Answer(workspace)
        self._users = {record.user for record in records}
        self._since = min((record.created for record in records), default=0.0)
        self._asked: list[tuple[RunRecord, Tasks]] = []
        self._waiting: dict[str, Future[queue.Answer]] = {}

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Ask the clusters that have unfinished tasks of this run, unless that was done already."""
        self._asked.append((record, tasks))
        clusters = {self._answer.identities(record, step)[task].cluster
                    for step in record.steps for task in tasks.get(step.name, ())}
        if record.state is RunState.SUBMITTING:
            clusters |= identity.clusters(record)
        for cluster in clusters - self._waiting.keys():
            pool = ThreadPoolExecutor(1)
            self._waiting[cluster] = pool.submit(_squeue, self._users, cluster)
            pool.shutdown(wait=False)

    def answer(self) -> JobAnswer:
        """Wait for what squeue says, and ask sacct for the rest."""
        heard = self._answer.heard
        for future in self._waiting.values():
            heard.add(future.result())
        if heard.squeue is None:
            return self._answer
        missing: dict[str, set[str]] = {}
        for record, tasks in self._asked:
            for step in record.steps:
                ids = self._answer.identities(record, step) if tasks.get(step.name) else {}
                own = heard.of({task: ids[task] for task in tasks.get(step.name, ())})
                for task in tasks.get(step.name, ()):
                    if task not in own.live and task not in own.ended:
                        missing.setdefault(ids[task].cluster, set()).add(ids[task].base)
        for cluster, jobs in missing.items():
            queue.ask_sacct(jobs, heard, users=self._users, since=self._since, cluster=cluster)
        return self._answer


def _squeue(users: Collection[str], cluster: str) -> queue.Answer:
    answer = queue.Answer()
    queue.ask_squeue(users, answer, cluster)
    return answer
