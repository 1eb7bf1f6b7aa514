"""``l3hpc doctor``: checks everything that a run needs, and says what to do about what is wrong.

``examine`` yields one ``Finding`` after the other. ``environment`` checks Python, packages and this
machine, ``container`` the container of the jobs, ``slurm`` the batch system and the scripts that
would be submitted, ``storage`` the workspace, weights, data and the results sheet. No check changes
anything, or raises for what it finds. ``configuration`` is ``l3hpc config check``: what can
be checked without programs or data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l3hpc.config import sources
from l3hpc.config.settings import Config
from l3hpc.doctor import container, environment, slurm, storage
from l3hpc.doctor.environment import Ask, ask
from l3hpc.doctor.slurm import check_names, script_lines
from l3hpc.doctor.storage import notify_line, results_line
from l3hpc.errors import command_line
from l3hpc.findings import Finding

__all__ = ["Finding", "examine"]


def examine(config: Config, *, probe: bool = True, ask: Ask = ask,
            pipelines: Sequence[str] = ()) -> Iterator[Finding]:
    """Run all checks, in the order in which one would repair things.

    Parameters
    ----------
    config
        The configuration.
    probe
        Whether also to start TensorFlow once (in the container, if there is one), run a job of one
        second on a node (on Slurm), and read the first row of the results sheet (if one is
        configured).
    ask
        Runs a program.
    pipelines
        The pipelines that the user wants to submit. None given: all are checked, and one that the
        cluster refuses is only a warning.

    Yields
    ------
    Finding
        One per check.

    Raises
    ------
    InputError
        If there is no such pipeline.
    """
    check_names(pipelines)
    delivered = config.file.resolve() == (sources.defaults_folder() / "cluster.yaml").resolve()
    yield Finding("configuration", "green", f"{config.file}, cluster {config.profile.name}"
                  + (f" (the default file; {command_line('init')} writes yours)"
                     if delivered else ""))
    yield environment.python_line()
    yield from environment.package_lines()
    yield from environment.step_lines()
    if config.profile.container:
        yield from container.container_lines(config, ask, probe)
    elif probe:
        yield environment.tensorflow_line(config.profile, ask)
    yield environment.hardware_line()
    responds = True
    for finding in slurm.slurm_lines(config.profile, ask):
        responds = responds and not (finding.subject == "Slurm" and finding.severity == "red")
        yield finding
    yield from script_lines(config, ask, pipelines, slurm_responds=responds)
    yield from storage.workspace_lines(config, ask, probe)
    if config.profile.scratch:
        yield storage.scratch_line(config, ask, probe)
    yield storage.weights_line(config)
    yield from storage.data_lines(config)
    yield results_line(config, probe)
    yield notify_line(config)
