"""The demonstration: generate a city, run the whole chain on this machine, write a report.

Only the sizes are small; every step is the real one. A second demonstration in the same folder
reuses the results of the first. The folder is an ordinary working folder with a cluster.yaml, a
workspace and a ledger, so all other commands work in it.
"""

from __future__ import annotations

import contextlib
import json
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
from l3hpc.io.folders import follow_links
from l3hpc.pipelines import definition, plan
from l3hpc.pipelines.planned import Plan
from l3hpc.report.data import ReportData
from l3hpc.runs import submit
from l3hpc.workspace.states import RunState

PIPELINE = "all"
FIRST_LINE = "# Written by l3hpc demo."  # of cluster.yaml, by which a demonstration is recognised
FRAMES_PER_S = 9.0  # of the teacher on two cores
OVERHEAD_S = 55.0  # everything else


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demonstration.

    Attributes
    ----------
    sensors, recordings, seconds
        Number of sensors, recordings per sensor, and length of a recording in seconds.
    clips, days, seed
        Number of tagged clips, days that the recordings span, and random seed of the city.
    weights
        A weight file of the teacher, or ``untrained`` for random weights.
    options, sets
        Options of the pipeline, and values for ``--set``.
    """

    sensors: int = 3
    recordings: int = 9
    seconds: float = 10.0
    clips: int = 120
    days: int = 9
    seed: int = 20180216
    weights: str = "untrained"
    options: Mapping[str, Any] = field(default_factory=lambda: {
        "emb-dim": 32, "width": 0.125, "samples": 108, "epochs": 10,
        "batch-size": 32, "learning-rate": 3e-3, "classifier-epochs": 300})
    sets: tuple[str, ...] = ("extract.files_per_task=9", "classify.learning_rate=0.01")

    @property
    def city(self) -> str:
        """Name of the folder of the generated data; other sizes have another folder."""
        return f"city-{self.sensors}x{self.recordings}x{self.seconds:g}s-{self.clips}"

    @property
    def frames(self) -> int:
        """Number of frames that the teacher embeds: two a second."""
        return int(self.sensors * self.recordings * 2 * self.seconds)

    @property
    def minutes(self) -> float:
        """Estimated time on two cores, in minutes."""
        return (self.frames / FRAMES_PER_S + OVERHEAD_S) / 60


QUICK = DemoSettings(
    sensors=2, recordings=4, seconds=2.0, clips=16, days=4,
    options={"emb-dim": 8, "filters": [4, 4, 8, 8, 8, 8, 8, 8], "samples": 16, "epochs": 3,
             "batch-size": 8, "learning-rate": 1e-3, "classifier-epochs": 5},
    sets=("classify.learning_rate=0.01",))


@dataclass(frozen=True)
class DemoResult:
    """The result of a demonstration.

    Attributes
    ----------
    plan, state
        The plan, and the state of its run afterwards.
    data, report
        What the report shows, and the path of its page.
    seconds
        Wall-clock time of the run.
    """

    plan: Plan
    state: RunState
    data: ReportData
    report: Path
    seconds: float


def prepare(folder: Path, settings: DemoSettings, progress: Progress) -> Config:
    """Generate the city, unless it exists, and write the folder's cluster.yaml.

    Parameters
    ----------
    folder
        Empty, missing, or an earlier demonstration.
    settings
        Sizes of the city.
    progress
        Shows how far the generation has got.

    Returns
    -------
    Config
        The configuration of the folder. Environment variables are ignored.

    Raises
    ------
    InputError
        The folder has other contents.
    """
    from l3hpc.datasets.synth import City, make_city

    check_folder(folder)
    follow_links(folder).mkdir(parents=True, exist_ok=True)
    write_text(folder / "cluster.yaml", cluster_file(settings))
    make_city(folder / settings.city, City(
        sensors=settings.sensors, recordings_per_sensor=settings.recordings,
        ust_clips=settings.clips, seconds=settings.seconds, days=settings.days,
        seed=settings.seed), progress=progress)
    progress.finish()
    return configuration.load(folder / "cluster.yaml", environ={})


def check_folder(folder: Path) -> None:
    """Refuse a folder that the demonstration cannot use.

    Raises
    ------
    InputError
        ``folder`` is a file or a circular link, is neither empty nor an earlier demonstration, or
        has characters in its path that scripts cannot hold.
    """
    configuration.check_workspace(folder / "workspace", "-o")
    follow_links(folder)
    if folder.is_dir() and any(folder.iterdir()) and not is_demo(folder):
        raise InputError("is not empty, and not an earlier demonstration", where=str(folder),
                         hint="Name another folder: -o FOLDER")


def is_demo(folder: Path) -> bool:
    """Return whether ``folder`` holds an earlier demonstration."""
    with contextlib.suppress(OSError):
        return (folder / "cluster.yaml").read_text(encoding="utf-8").startswith(FIRST_LINE)
    return False


def remove_earlier(folder: Path) -> None:
    """Remove city, workspace and results of an earlier demonstration; other files are kept.

    Raises
    ------
    InputError
        ``check_folder`` refuses the folder.
    """
    check_folder(folder)
    if not is_demo(folder):
        return
    for path in (*folder.glob("city-*"), folder / "workspace", folder / "results"):
        shutil.rmtree(path, ignore_errors=True)


def cluster_file(settings: DemoSettings) -> str:
    """Return the text of the folder's cluster.yaml."""
    weights = settings.weights
    if weights.partition(":")[0] != "untrained":
        weights = str(Path(weights).absolute())
    # JSON quotes a path in a way that YAML reads too, whatever characters it holds
    return f"""{FIRST_LINE} Work in this folder: l3hpc status, l3hpc ledger show, l3hpc submit …
cluster: local
paths:
  workspace: workspace
  audio: {settings.city}/audio
  sonyc_ust: {settings.city}/sonyc_ust
  weights: {json.dumps(weights)}
"""


def make_plan(config: Config, settings: DemoSettings) -> Plan:
    """Plan the pipeline ``all`` with the options of the demonstration.

    Parameters
    ----------
    config
        The configuration that ``prepare`` returned.
    settings
        Options of the pipeline.
    """
    folder = config.file.parent
    with working_in(folder):
        return plan.build(definition.load_pipeline(PIPELINE, folder), config, plan.Request(
            options=settings.options, sets=settings.sets, name="demo"))


def run_plan(planned: Plan, folder: Path) -> DemoResult:
    """Run the plan on this machine, in the foreground, and write ``results/``.

    Parameters
    ----------
    planned
        The plan that ``make_plan`` returned.
    folder
        The demonstration's folder.

    Returns
    -------
    DemoResult
        Also for a run that failed: its report shows how far it got.
    """
    from l3hpc.report.folder import PAGE, write_results
    from l3hpc.report.run import of_run

    begun = time.monotonic()
    with working_in(folder):
        submit.submit(planned)
    seconds = time.monotonic() - begun
    results = folder / "results"
    data = of_run(planned.workspace, planned.run, results / PAGE, title="l3hpc demo",
                  extra=[("wall-clock time", f"{seconds:.0f} s")])
    report = write_results(results, data, {step.name: step.artifact for step in planned.steps})
    return DemoResult(planned, RunState(data.state), data, report, seconds)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change into ``folder`` while the block runs, so that only its templates and jobs count."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
