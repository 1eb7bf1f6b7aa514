"""The demonstration: a generated city, the whole chain on this machine, a page of results.

Nothing in it is a stand-in; only sizes are small. A second demonstration in the same folder uses
again what the first one computed. The folder is an ordinary working folder: its cluster.yaml, its
workspace and its ledger answer to every other command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.config import settings as configuration
from l3hpc.config.settings import Config
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError
from l3hpc.io.files import write_text
from l3hpc.pipelines import definition, plan
from l3hpc.pipelines.model import Plan
from l3hpc.report.findings import Findings, StepFacts
from l3hpc.runs import status, submit
from l3hpc.workspace import records
from l3hpc.workspace.markers import RunState, StepState

PIPELINE = "all"
MARK = "# Written by l3hpc demo."
FRAMES_PER_S = 9.0  # of the teacher on two cores
OVERHEAD_S = 75.0  # everything else
# what the page says of a step: it has fewer words
STATES = {StepState.REUSED: StepState.REUSED, StepState.DONE: StepState.DONE,
          StepState.RUNNING: StepState.RUNNING, StepState.REQUEUED: StepState.RUNNING,
          StepState.FAILED: StepState.FAILED, StepState.LOST: StepState.FAILED,
          StepState.BLOCKED: StepState.BLOCKED}


@dataclass(frozen=True)
class Settings:
    """Sizes of the demonstration. ``weights``: a teacher's file in place of random weights."""

    sensors: int = 3
    recordings: int = 20
    seconds: float = 10.0
    clips: int = 120
    days: int = 10
    seed: int = 20180216
    weights: str = "untrained"
    options: Mapping[str, Any] = field(default_factory=lambda: {
        "emb-dim": 32, "filters": [8, 8, 16, 16, 32, 32, 32, 32], "samples": 240, "epochs": 12,
        "batch-size": 32, "learning-rate": 1e-3, "classifier-epochs": 300})
    sets: tuple[str, ...] = ("extract.files_per_task=20", "classify.learning_rate=0.01")

    @property
    def city(self) -> str:
        """Name of the folder of the generated data: other sizes, other folder."""
        return f"city-{self.sensors}x{self.recordings}x{self.seconds:g}s-{self.clips}"

    @property
    def frames(self) -> int:
        """Teacher frames: two a second in every recording."""
        return int(self.sensors * self.recordings * 2 * self.seconds)

    @property
    def minutes(self) -> float:
        """About how long it takes on two cores."""
        return (self.frames / FRAMES_PER_S + OVERHEAD_S) / 60


QUICK = Settings(
    sensors=2, recordings=4, seconds=2.0, clips=16, days=4,
    options={"emb-dim": 8, "filters": [4, 4, 8, 8, 8, 8, 8, 8], "samples": 16, "epochs": 3,
             "batch-size": 8, "learning-rate": 1e-3, "classifier-epochs": 5},
    sets=("classify.learning_rate=0.01",))


@dataclass(frozen=True)
class Outcome:
    """What came out. state: that of the run (``done``, ``failed``, ``cancelled`` …)."""

    plan: Plan
    state: RunState
    findings: Findings
    report: Path
    seconds: float


def prepare(folder: Path, settings: Settings, progress: Progress) -> Config:
    """Generate the city (if it is not there) and write the folder's cluster.yaml.

    Refuses (``InputError``) a folder that holds anything but an earlier demonstration.
    """
    from l3hpc.datasets.synth import City, make_city

    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "cluster.yaml", cluster_file(settings))
    make_city(folder / settings.city, City(
        sensors=settings.sensors, recordings_per_sensor=settings.recordings,
        ust_clips=settings.clips, seconds=settings.seconds, days=settings.days,
        seed=settings.seed), progress=progress)
    progress.finish()
    return configuration.load(folder / "cluster.yaml", environ={})


def check_folder(folder: Path) -> None:
    """Refuse anything that is neither empty nor an earlier demonstration, and a path that cannot
    stand in scripts."""
    configuration.check_workspace(folder / "workspace", "-o")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", where=str(folder), hint="Name another folder: -o FOLDER")
    if folder.is_dir() and any(folder.iterdir()) and not is_demo(folder):
        raise InputError("is not empty, and not an earlier demonstration", where=str(folder),
                         hint="Name another folder: -o FOLDER")


def is_demo(folder: Path) -> bool:
    """Whether ``folder`` was made here."""
    with contextlib.suppress(OSError):
        return (folder / "cluster.yaml").read_text(encoding="utf-8").startswith(MARK)
    return False


def start_afresh(folder: Path) -> None:
    """Remove an earlier demonstration: its city, workspace and results."""
    check_folder(folder)
    if not is_demo(folder):
        return
    for place in (*folder.glob("city-*"), folder / "workspace", folder / "results"):
        shutil.rmtree(place, ignore_errors=True)


def cluster_file(settings: Settings) -> str:
    """The folder's cluster.yaml."""
    import json

    weights = settings.weights
    if weights.partition(":")[0] != "untrained":
        weights = str(Path(weights).absolute())
    return f"""{MARK} Work in this folder: l3hpc status, l3hpc ledger show, l3hpc submit …
cluster: local
paths:
  workspace: workspace
  audio: {settings.city}/audio
  sonyc_ust: {settings.city}/sonyc_ust
  weights: {json.dumps(weights)}
"""


def make_plan(config: Config, settings: Settings) -> Plan:
    """The plan of the pipeline ``all`` with the demonstration's small numbers."""
    folder = config.file.parent
    with inside(folder):
        return plan.build(definition.load(PIPELINE, folder), config, plan.Request(
            options=settings.options, sets=settings.sets, name="demo"))


def carry_out(planned: Plan, folder: Path) -> Outcome:
    """Run the plan here, in the foreground, and write ``results/`` whatever became of it."""
    from l3hpc.report.page import write_results

    begun = time.monotonic()
    with inside(folder):
        submit.submit(planned)
    seconds = time.monotonic() - begun
    state, findings = look(planned, seconds)
    artifacts = {step.name: step.artifact for step in planned.steps}
    report = write_results(folder / "results", findings, artifacts)
    return Outcome(planned, state, findings, report, seconds)


def look(planned: Plan, seconds: float) -> tuple[RunState, Findings]:
    """State and findings of a run."""
    from l3hpc.report.collect import collect

    (now,) = status.collect(planned.workspace, [planned.run])
    record = records.read(planned.workspace, planned.run)
    needs = {step.name: tuple(step.needs) for step in record.steps}
    steps = [StepFacts(
        name=step.name, needs=needs[step.name], state=STATES.get(step.state, step.state.WAITING),
        tasks=step.tasks, tasks_done=step.done, detail=step.detail, kind=step.kind)
        for step in now.steps]
    extra = [("run", planned.run), ("workspace", str(planned.workspace)),
             ("wall-clock time", f"{seconds:.0f} s"), ("user", record.user),
             ("command", " ".join(record.command)),
             ("options", option_words(planned.options))]
    return now.state, collect(
        planned.run, {step.name: step.artifact for step in planned.steps}, steps,
        workspace=planned.workspace, title="l3hpc demo", created=record.created, extra=extra)


def option_words(options: Mapping[str, Any]) -> str:
    """The options of a plan as one would type them."""
    words = []
    for name, value in options.items():
        values = value if name == "set" else [value]
        words += [f"--{name} " + (",".join(map(str, one)) if isinstance(one, list) else str(one))
                  for one in values]
    return " ".join(words)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work as if started in ``folder``, so that only its own templates and jobs count."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
