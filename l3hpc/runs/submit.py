"""Submitting a plan: the run's folder with all that its jobs will read, then the jobs themselves.

A run that cannot be written leaves nothing behind; ``submit_jobs`` does the same for its jobs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config.capabilities import LOCAL, SLURM
from l3hpc.config.profile import ClusterProfile
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, L3hpcError, command_line
from l3hpc.io.files import current_user, make_durable, share_file, write_json
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import ledger_sync, submission_lock
from l3hpc.runs.dependencies import made_elsewhere
from l3hpc.runs.submit_jobs import arrays_of, hand_over, write_scripts
from l3hpc.schedulers import requeue_policy as healing
from l3hpc.schedulers import scripts as render
from l3hpc.schedulers.base import Scheduler
from l3hpc.workspace import artifacts, records, sharing
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.markers import RunState, StepState
from l3hpc.workspace.records import RunRecord, StepRecord

HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def submit(
    plan: Plan, *, test_only: bool = False, detach: bool = False,
    progress: Progress | None = None, on_submitted: Callable[[RunRecord], None] | None = None,
) -> RunRecord:
    """Write the run's folder and hand its missing tasks to the cluster; return the record.

    test_only: ask Slurm about every script (``sbatch --test-only``), submit and keep nothing.
    detach: on ``local``, leave a runner behind and return at once; otherwise the jobs run here in
    the foreground, after ``on_submitted`` (for the words about what was submitted).

    Raises ``InputError`` for a step that its partition can never run, ``ClusterError`` when the
    cluster refuses a job; then no job of the run is left.
    """
    steps, scheduler = in_order(plan.steps), schedulers.of(plan.profile, plan.workspace)
    scheduler.prepare()
    if not test_only:
        sharing.check(plan.workspace, {step.kind for step in plan.steps})
    elsewhere = made_elsewhere(plan)
    texts = scripts(plan, steps, elsewhere)
    if unchecked := scheduler.validate(plan):
        (progress or Progress()).note(unchecked)
    if test_only:
        return _test(plan, steps, texts, progress or Progress(), scheduler)
    with umask(plan.profile):
        claim = _make_folder(plan)
        for danger in sharing.dangers(plan.workspace):
            if danger.anybody:
                (progress or Progress()).note(f"warning: {danger.words}; close it: {danger.fix}")
        try:
            record = _write_folder(plan, steps, texts)
            with _durable(_written(plan, steps), progress or Progress()):
                left_out = hand_over(plan, steps, texts, record, progress or Progress(),
                                     elsewhere=elsewhere)
            ledger_sync.follow(plan.workspace, record, progress or Progress())
        finally:
            claim.release(forget=True)
        if on_submitted is not None:
            on_submitted(record)
        refuse_part(plan.run, left_out)
        if record.capabilities.runner \
                and any(step.state is StepState.SUBMITTED for step in record.steps):
            run_local(plan.workspace, plan.run, detach=detach)
            record = records.read(plan.workspace, plan.run)
    return record


def refuse_part(run: str, left_out: Mapping[str, str]) -> None:
    """End with an error where not all of what was announced was submitted."""
    if left_out:
        first = next(iter(left_out.values()))
        raise L3hpcError(f"{first} meanwhile: {', '.join(left_out)} "
                         f"{'was' if len(left_out) == 1 else 'were'} not submitted",
                         hint=f"See: {command_line('status', run)}; then: "
                              + command_line("resume", run))


def scripts(plan: Plan, steps: Sequence[PlannedStep],
            elsewhere: Mapping[str, Collection[int]] | None = None) -> render.Texts:
    """Step → its scripts, of the steps that have something to do.

    elsewhere: as from ``dependencies.made_elsewhere``. These tasks get a script of their own: the
    others need not wait.
    """
    return {step.name: [(part, render.render(plan, step, part))
                        for whole in render.parts(plan, step)
                        for part in whole.split((elsewhere or {}).get(step.name, ()))]
            for step in steps if step.missing}


def arrays(plan: Plan) -> list[render.JobArray]:
    """The steps of a sweep that would go to Slurm together, as things stand."""
    if not render.apply(plan):
        return []
    steps, elsewhere = in_order(plan.steps), made_elsewhere(plan)
    texts = scripts(plan, steps, elsewhere)
    return arrays_of(plan, steps, texts, texts, elsewhere)


def run_local(workspace: Path, run: str, *, detach: bool) -> None:
    """Run the submitted jobs of a local run: here with a display, or behind (``detach``)."""
    here = schedulers.starting(schedulers.of_record(workspace, records.read(workspace, run)))
    if detach:
        here.start_runner(run, Path.cwd())
        return
    from l3hpc.runs import display

    shown = display.for_person(workspace)
    previous = {number: signal.signal(number, signal.default_int_handler)
                for number in (signal.SIGTERM, signal.SIGHUP)
                if signal.getsignal(number) is not signal.SIG_IGN} if _in_main_thread() else {}
    try:
        here.run_jobs(run, shown)
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
            raise InputError("circular dependency between steps: "
                             + ", ".join(step.name for step in waiting))
        ordered += ready
        names |= {step.name for step in ready}
        waiting = [step for step in waiting if step.name not in names]
    return ordered


def _make_folder(plan: Plan) -> Lease:
    """The run's folder, locked: no other command submits its jobs meanwhile."""
    if plan.profile.shared_group:
        sharing.prepare(plan.workspace, {step.kind for step in plan.steps})
    try:
        plan.folder.path.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"the run {plan.run} exists already", where=str(plan.folder),
                         hint="Give it another name with --name.") from None
    try:
        return submission_lock.acquire(plan.workspace, plan.run, "submit")
    except BaseException:  # a full disk, Ctrl-C
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def _write_folder(plan: Plan, steps: list[PlannedStep], texts: render.Texts) -> RunRecord:
    """Everything that the jobs will read, and the record in state ``submitting``."""
    try:
        return _fill_folder(plan, steps, texts)
    except BaseException:  # a full disk, Ctrl-C: no half of a run
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def _fill_folder(plan: Plan, steps: list[PlannedStep], texts: render.Texts) -> RunRecord:
    plan.folder.artifacts.mkdir()
    for step in steps:
        _fill_step(plan, step, texts.get(step.name, ()))
    ledger_sync.prepare(plan)
    here = not plan.profile.capabilities.remote
    executor = plan.profile.executor
    record = RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=current_user(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state=RunState.SUBMITTING, local=executor == LOCAL,
        folder=os.getcwd(),
        slots={"cpus": plan.profile.slot_cpus(), "mem_mb": plan.profile.slot_mem_mb()}
        if here else {}, clusters=plan.profile.slurm_clusters,
        scheduler="" if executor in (LOCAL, SLURM) else executor,
        steps=[StepRecord(
            name=step.name, kind=step.kind, artifact=str(step.artifact), tasks=step.tasks,
            needs=list(step.needs),
            state=StepState.PLANNED if step.missing else StepState.REUSED,
            resources=vars(step.resources).copy(), waits_for=list(step.waits_for),
        ) for step in steps])
    records.write(plan.workspace, record)  # from here on the run exists
    return record


@contextlib.contextmanager
def _durable(paths: Iterable[Path], progress: Progress) -> Iterator[None]:
    """At the end of the block the disk has these files. It writes them while sbatch is at work,
    which makes that cost next to nothing."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        # its threads must not be given the Ctrl-C that the submission of a job holds back
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            synced = pool.submit(make_durable, list(paths))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
        try:
            synced.result()
        except OSError as error:
            progress.note(f"warning: the disk did not confirm the files of this run "
                          f"({error.strerror}): a power failure now could lose them")


def _written(plan: Plan, steps: Sequence[PlannedStep]) -> Iterator[Path]:
    """Every file that the jobs of a new run will read, and the folders that hold them."""
    run = plan.folder
    yield from (run.path.parent, run.artifacts, run.steps, run.sync_script)
    for step in steps:
        folder = plan.step_folder(step.name)
        yield from (folder.path, folder.config, folder.requeue_policy, *folder.scripts,
                    step.artifact, step.artifact.parent)


def _fill_step(plan: Plan, step: PlannedStep, texts: Sequence[tuple[render.Part, str]]) -> None:
    """The step's folder, and its artifact's. Every file less counts: on a shared disk the making of
    files is most of what a submission takes beside sbatch."""
    folder = plan.step_folder(step.name)
    for made in (folder.logs, folder.markers):
        made.mkdir(parents=True)
    write_json(folder.config, step.config(plan.run), durable=False)
    if texts:
        write_scripts(folder, texts)
        write_json(folder.requeue_policy, healing.of(plan.profile, step).to_json(), durable=False)
    step.artifact.mkdir(parents=True, exist_ok=True)
    if plan.profile.shared_group and step.missing:
        sharing.prepare_artifact(step.artifact)
    records.replace_damaged_config(step.artifact)
    share_file(folder.config, ArtifactFolder(step.artifact).config)
    plan.folder.artifact(step.name).symlink_to(step.artifact)


def _test(
    plan: Plan, steps: list[PlannedStep], texts: render.Texts, progress: Progress,
    scheduler: Scheduler,
) -> RunRecord:
    """Ask the scheduler about every script."""
    import tempfile

    together = arrays_of(plan, steps, texts, texts, {})
    bundled = {name for one in together for name in one.names}
    every = [(step, text) for step in steps if step.name not in bundled
             for _, text in texts.get(step.name, ())]
    every += [(one.steps[0], one.text) for one in together]
    progress.start("asking", len(every), "scripts")
    for step, text in every:
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as script:
            script.write(text)
            script.flush()
            try:
                scheduler.check(Path(script.name))
            except ClusterError as error:
                raise ClusterError(f"{step.name}: {error.message}", hint=error.hint) from None
        progress.advance(1)
    progress.finish()
    return RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=current_user(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state=RunState.TESTED, steps=[])


@contextlib.contextmanager
def umask(profile: ClusterProfile) -> Iterator[None]:
    """While the block runs, new files are open to the group only where the profile says so."""
    previous = os.umask(int(profile.umask, 8))
    try:
        yield
    finally:
        os.umask(previous)


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def describe_chain(record: RunRecord) -> str:
    """``sample 8812 → fit 8813``: the submitted jobs in order ('' for none)."""
    return " → ".join(f"{step.name} {step.job}" for step in record.steps if step.job)

