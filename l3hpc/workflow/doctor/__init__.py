"""``l3hpc doctor``: looks at everything a run will need and says what to do about what is wrong.

``examine`` yields one ``Line`` per finding. ``machine`` looks at Python and packages, ``slurm`` at
the batch system, ``scripts`` at what would be submitted, ``places`` at workspace, weights and data,
``results`` at the results tables. No check changes anything or raises for what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l3hpc.workflow import assets
from l3hpc.workflow.config import Config
from l3hpc.workflow.doctor import machine, places, slurm
from l3hpc.workflow.doctor.line import Ask, Line, ask
from l3hpc.workflow.doctor.results import results_line
from l3hpc.workflow.doctor.scripts import check_names, script_lines

__all__ = ["Line", "examine"]


def examine(config: Config, *, probe: bool = True, ask: Ask = ask,
            pipelines: Sequence[str] = ()) -> Iterator[Line]:
    """All checks, in the order in which a person would repair things.

    probe: also start TensorFlow once, send one job of a second to a node (on Slurm) and ask the
    results sheet for its first row (where one is configured). pipelines: those that a person wants
    to submit (none: all are tried, and one that the cluster refuses is no more than a warning).
    """
    check_names(pipelines)
    delivered = config.file.resolve() == (assets.defaults_folder() / "cluster.yaml").resolve()
    yield Line("configuration", "green", f"{config.file}, cluster {config.profile.name}"
               + (" (the delivered file)" if delivered else ""))
    yield machine.python_line()
    yield from machine.package_lines()
    if probe:
        yield machine.tensorflow_line(config.profile, ask)
    yield machine.hardware_line()
    yield from slurm.slurm_lines(config.profile, ask)
    yield from script_lines(config, ask, pipelines)
    yield from places.workspace_lines(config, ask, probe)
    yield places.weights_line(config)
    yield from places.data_lines(config)
    yield results_line(config, probe)
