"""The scripts of jobs: what ``l3hpc render`` prints is byte for byte what runs.

Rendering is pure: a plan and templates in, text out; neither Slurm nor submitit is needed. A
template is looked up by the name of the step, then by its kind, in ``templates/`` of the working
folder and then in ours; ``default/NAME`` always means ours.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.units import slurm_time
from l3hpc.config.validators import plain
from l3hpc.errors import InputError, nearest
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import packing, templates
from l3hpc.schedulers.requeue_policy import SIGNAL_DELAY_S
from l3hpc.schedulers.templates import quoted

MAX_DIRECTIVE = 1024
# a step of srun, so that Slurm accounts for its memory
SRUN = ("srun", "--export=ALL", "--nodes=1", "--ntasks=1", "--unbuffered")
CONTEXT = (  # what a template may use
    "artifact", "command", "container", "directives", "env", "folder", "heal", "kind", "logs",
    "markers", "offset", "pack", "packed", "params", "pipeline", "profile", "python",
    "record", "resources", "run",
    "setup", "shared", "srun", "step", "umask", "workspace")
_ARRAY = re.compile(r"-a|--ar(r|ra|ray)?")  # as sbatch reads it: any unambiguous beginning
_DIRECTIVE_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./&|*()\[\]~-]+")


@dataclass(frozen=True)
class Part:
    """The tasks that one script runs.

    Attributes
    ----------
    offset : int
        Task index minus array index: a site's MaxArraySize limits the array index.
    tasks : tuple of int
        Indices of the tasks.
    pack : int
        How many of them one element runs, one after another; with more than one, the elements are
        counted from 0.
    """

    offset: int
    tasks: tuple[int, ...]
    pack: int = 1

    def split(self, apart: Collection[int]) -> list[Part]:
        """Split off some tasks.

        Parameters
        ----------
        apart
            Indices of the tasks.

        Returns
        -------
        list of Part
            The other tasks first, then these; without empty parts.
        """
        both = ([task for task in self.tasks if task not in apart],
                [task for task in self.tasks if task in apart])
        return [Part(self.offset, tuple(tasks), self.pack) for tasks in both if tasks]

    @property
    def elements(self) -> dict[int, tuple[int, ...]]:
        """Array index → the tasks of that element."""
        if self.pack == 1:
            return {task - self.offset: (task,) for task in self.tasks}
        firsts = range(0, len(self.tasks), self.pack)
        return {index: self.tasks[first:first + self.pack] for index, first in enumerate(firsts)}


Texts = Mapping[str, Sequence[tuple[Part, str]]]  # step → its scripts


def parts(plan: Plan, step: PlannedStep) -> list[Part]:
    """Divide the missing tasks of a step into arrays, as ``limits.array`` of the profile requires.

    Parameters
    ----------
    plan
        The plan of the run.
    step
        The step.
    """
    tasks = step.missing or tuple(range(step.tasks))
    most = plan.profile.limits.array or max(step.tasks, 1)
    if (pack := step.of_a_job.pack) > 1:
        size = most * pack
        return [Part(0, tasks[first:first + size], pack)
                for first in range(0, len(tasks), size)]
    return [Part(offset, chosen) for offset in range(0, step.tasks, most)
            if (chosen := tuple(task for task in tasks if offset <= task < offset + most))]


def is_array(step: PlannedStep) -> bool:
    """Whether the tasks of a step are those of arrays, also if only one of them is missing.

    Parameters
    ----------
    step
        The step.
    """
    return step.tasks > 1


def render(plan: Plan, step: PlannedStep | str, part: Part | None = None, *,
           folders: Sequence[Path] | None = None) -> str:
    """Render the script of one step (one job, or an array of exactly the missing tasks).

    Parameters
    ----------
    plan
        The plan of the run.
    step
        The step, or its name.
    part
        Which of ``parts``; None: the first.
    folders
        Folders in which templates are looked up; None: see ``config.sources``.

    Raises
    ------
    InputError
        For a value that cannot stand in a script, and for a fault in a template.
    """
    planned = _step_of(plan, step)
    names = [f"{planned.name}.sbatch.j2", f"{planned.kind}.sbatch.j2", "base.sbatch.j2"]
    chosen = part or parts(plan, planned)[0]
    text, file = templates.render(names, _context(plan, planned, chosen), folders)
    if chosen.pack > 1 and packing.VARIABLE not in text:  # it would run one task of each job
        raise InputError("the template does not run several tasks in one job",
                         where=file,
                         hint=f"Extend default/base.sbatch.j2, or set pack: 1 for {planned.name}.")
    _check_array(planned, chosen, text, file)
    return text


def _check_array(step: PlannedStep, part: Part, text: str, file: str | None) -> None:
    """Refuse a script that would not run its tasks, each once: a template may have directives of
    its own.
    """
    wanted = array_spec([*part.elements]) if is_array(step) else ""
    try:
        found = _array_of(text)
    except InputError as error:
        error.where = file
        raise
    if found == wanted:
        return
    raise InputError(
        f"the script has {f'--array={found}' if found else 'no --array'}; "
        + (f"the tasks of {step.name} need --array={wanted}" if wanted
           else f"{step.name} has a single task"), where=file,
        hint="Print all lines of the variable directives in the block directives: {{ super() }} "
             "does, and lines of your own can follow.")


def _array_of(text: str) -> str:
    """The array indices of a script, without the limit after %; '' if it is no array."""
    found = ""
    # sbatch looks no further than the first command; of several directives, the last one counts
    for line in itertools.takewhile(lambda line: line.lstrip()[:1] in ("", "#"),
                                    text.splitlines()):
        if not line.startswith("#SBATCH") or "-a" not in line:
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError:
            raise InputError(f"a quote of this line is not closed: {line}") from None
        for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
            name, given, value = word.partition("=")
            if _ARRAY.fullmatch(name):
                found = value if given else following
            elif word.startswith("-a"):
                found = word[2:]
    return found.partition("%")[0]


@functools.lru_cache(maxsize=256)  # so are most of these lines
def directive(name: str, value: str | int | None = None) -> str:
    """Format one ``#SBATCH`` line.

    Parameters
    ----------
    name
        Name of the option.
    value
        Its value; None: it has none.

    Raises
    ------
    InputError
        If Slurm cannot read the value.

    Examples
    --------
    >>> directive("mem", "2048M"), directive("requeue")
    ('#SBATCH --mem=2048M', '#SBATCH --requeue')
    """
    if value is None:
        return f"#SBATCH --{name}"
    text = plain(str(value))
    if not 0 < len(text) <= MAX_DIRECTIVE:
        raise InputError(f"--{name}: {text[:40]!r}… has {len(text):,} characters",
                         allowed=f"1 to {MAX_DIRECTIVE:,} characters")
    if re.search(r"[\"'\\]", text):
        raise InputError(f"--{name}: {text[:60]!r} contains a quote or a backslash")
    shown = text if _DIRECTIVE_SAFE.fullmatch(text) else f'"{text}"'
    return f"#SBATCH --{name}={shown}"


def array_spec(tasks: Sequence[int], parallel: int | None = None) -> str:
    """Format array indices.

    Parameters
    ----------
    tasks
        The indices.
    parallel
        How many may run at once; None: all.

    Examples
    --------
    >>> array_spec([0, 1, 2, 3, 7], 2)
    '0-3,7%2'
    """
    parts: list[str] = []
    ordered = sorted(tasks)
    first = 0
    for index, task in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != task + 1:
            start = ordered[first]
            parts.append(str(start) if start == task else f"{start}-{task}")
            first = index + 1
    return ",".join(parts) + (f"%{parallel}" if parallel else "")


def directives(plan: Plan, step: PlannedStep, part: Part | None = None) -> list[str]:
    """Return the ``#SBATCH`` lines of a step.

    The dependency is not among them: it is given to sbatch.

    Parameters
    ----------
    plan
        The plan of the run.
    step
        The step.
    part
        Which of ``parts``; None: the first.
    """
    profile: ClusterProfile = plan.profile
    overrides = profile.at(step.placement)
    resources = step.resources
    # Slurm expands % in paths of logs
    logs = str(plan.step_folder(step.name).logs).replace("%", "%%")
    # the names that submitit gives; in an array %j would be the raw id of each task
    stem = "%A_%a_0_log" if is_array(step) else "%j_0_log"
    lines = [directive("job-name", f"l3-{plan.run}-{step.name}")]
    for name in ("account", "partition", "qos", "constraint", "reservation", "wckey", "exclude"):
        value = getattr(overrides, name, None) or getattr(profile, name)
        if value:
            lines.append(directive(name, value))
    lines += [directive("nodes", 1), directive("ntasks", 1),
              directive("cpus-per-task", resources.cpus)]
    if not resources.mem_mb and profile.memory_request != "none":
        lines.append(directive("mem", 0))  # all memory of the node
    elif profile.memory_request == "mem":
        lines.append(directive("mem", f"{resources.mem_mb}M"))
    elif profile.memory_request == "mem-per-cpu":
        # rounded up, so that the task has no less than it requests
        lines.append(directive("mem-per-cpu", f"{-(-resources.mem_mb // resources.cpus)}M"))
    gpu_request = profile.gpu_request_of(step.placement)
    if resources.gpus and gpu_request != "none":
        gpu_type = overrides.gpu_type or profile.gpu_type
        amount = f"{gpu_type}:{resources.gpus}" if gpu_type else str(resources.gpus)
        if gpu_request in ("gres", "shard"):
            kind = "gpu" if gpu_request == "gres" else "shard"
            lines.append(directive("gres", f"{kind}:{amount}"))
        else:
            lines.append(directive("gpus-per-node", amount))
    lines.append(directive("time", slurm_time(step.of_a_job.job_min)))
    if is_array(step):
        lines.append(directive("array", array_spec([*(part or parts(plan, step)[0]).elements],
                                                   profile.array_parallelism)))
    # append, because a requeue would truncate the log; B: sends the warning to the batch shell,
    # which forwards it (without B: only steps of srun get it); requeue, because a site may have
    # turned it off by default
    lines += [directive("output", f"{logs}/{stem}.out"), directive("error", f"{logs}/{stem}.err"),
              directive("open-mode", "append"), directive("signal", f"B:USR2@{SIGNAL_DELAY_S}"),
              directive("requeue")]
    if profile.mail_user:
        lines += [directive("mail-user", profile.mail_user),
                  directive("mail-type", profile.mail_type)]
    if profile.is_exclusive(step.placement):
        lines.append(directive("exclusive"))
    for option in profile.extra_options(step.placement):
        name, _, value = option.removeprefix("--").partition("=")
        lines.append(directive(name, value or None))
    return lines


def _context(plan: Plan, step: PlannedStep, part: Part) -> dict[str, Any]:
    """The values that a template may use. ``directives``, ``setup`` and ``command`` are shell text.
    """
    from markupsafe import Markup

    profile: ClusterProfile = plan.profile
    folder = plan.step_folder(step.name)
    srun = profile.capabilities.remote and profile.srun
    command = [*(SRUN if srun else ()), *profile.container, profile.python, "-u", "-m",
               "l3hpc.worker.job_entry", str(folder.logs)]
    if profile.scratch:
        # quoted: its variables are those of the job, and no shell expands them
        command += ["--scratch", profile.scratch]
    # the script has the index of the task in a variable
    task = ' --task "$task"' if part.pack > 1 else ""
    heal = [*profile.container, profile.python, "-m", "l3hpc.worker.requeue", str(folder)]
    return {
        "directives": [Markup(line) for line in directives(plan, step, part)],
        "setup": [Markup(line) for line in profile.setup],
        "command": Markup(" ".join(quoted(word) for word in command) + task), "srun": srun,
        "heal": Markup(" ".join(quoted(word) for word in heal)) if _requeues(plan) else "",
        "offset": part.offset, "pack": part.pack, "packed": Markup(packing.words(part.tasks)),
        "artifact": str(step.artifact), "env": profile.env, "umask": profile.umask,
        "resources": step.resources,
        "markers": str(folder.markers), "logs": str(folder.logs),
        "folder": str(folder), "record": str(folder.run.record), "workspace": str(plan.workspace),
        "run": plan.run, "pipeline": plan.pipeline, "step": step.name, "kind": step.kind,
        "params": step.params, "profile": profile, "python": profile.python,
        "container": list(profile.container), "shared": profile.shared_group,
    }


def _requeues(plan: Plan) -> bool:
    """Whether the script decides about requeues (as on Slurm; on this machine the runner does)."""
    return not plan.profile.capabilities.runner


def _step_of(plan: Plan, step: PlannedStep | str) -> PlannedStep:
    if isinstance(step, PlannedStep):
        return step
    for planned in plan.steps:
        if planned.name == step:
            return planned
    raise InputError(f"the plan has no step {step!r}",
                     allowed=nearest(step, [planned.name for planned in plan.steps]))
