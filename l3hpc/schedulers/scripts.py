"""The text of a job script: what ``l3hpc render`` prints is byte for byte what runs.

Pure: a plan and templates in, text out; neither Slurm nor submitit is needed. A template is looked
up by step name, then by kind, in the working folder's ``templates/`` and then in ours;
``default/NAME`` always means ours. Every value is quoted or checked: a template that prints text
without ``| q`` is refused if that text could mean anything to the shell.

Steps of a sweep that go to Slurm as one job array, each of its tasks one step.

Together go the steps of one kind that ask for the same and wait for the same jobs: the trainings of
``--grid train.learning_rate=…``, say. A step that waits for a parent of its own stays a job of its
own, so that no combination waits for the slowest of another. Task n of job A is the job ``A_n`` of
its step, whose script it runs as it is; in records, status and dependencies it is a job like any.

What a job finds when it starts: its pickled call and its script, beside its logs.

submitit's names and its ``DelayedSubmission``, so that its entry point finds the call, counts the
time-outs and asks for a checkpoint.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from l3hpc.config import sources
from l3hpc.config.profile import ClusterProfile, plain
from l3hpc.config.units import slurm_time
from l3hpc.errors import ClusterError, InputError
from l3hpc.io.files import share_file
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers.base import JobId, JobRequest
from l3hpc.workspace.layout import StepFolder

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

SIGNAL_DELAY_S = 90
MAX_DIRECTIVE = 1024
SRUN = ("srun", "--export=ALL", "--nodes=1", "--ntasks=1", "--unbuffered")  # so memory is counted
CONTEXT = (  # what a template may use
    "command", "container", "directives", "env", "folder", "heal", "kind", "logs",
    "markers", "offset", "params", "pipeline", "profile", "python", "resources", "run",
    "setup", "shared", "srun", "step", "umask", "workspace")
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")
_DIRECTIVE_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./&|*()\[\]~-]+")
DEFAULT_ARRAY_LIMIT = 1000  # MaxArraySize unless a site says otherwise
_OWN = ("job-name", "output", "error", "array")
_ARRAY = re.compile(r"^#SBATCH\s+--array[= ]", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """What one script runs: these tasks of a step. offset: what is added to the array's indices,
    because a site's MaxArraySize caps the index."""

    offset: int
    tasks: tuple[int, ...]

    def split(self, apart: Collection[int]) -> list[Part]:
        """Two of them, or one: first the tasks that are not among these."""
        both = ([task for task in self.tasks if task not in apart],
                [task for task in self.tasks if task in apart])
        return [Part(self.offset, tuple(tasks)) for tasks in both if tasks]

    @property
    def indices(self) -> list[int]:
        """The tasks' indices in the array."""
        return [task - self.offset for task in self.tasks]


Texts = Mapping[str, Sequence[tuple[Part, str]]]  # step → its scripts


def parts(plan: Plan, step: PlannedStep) -> list[Part]:
    """The missing tasks of a step, split where the profile's ``limits.array`` demands it."""
    tasks = step.missing or tuple(range(step.tasks))
    most = plan.profile.limits.array or max(step.tasks, 1)
    return [Part(offset, chosen) for offset in range(0, step.tasks, most)
            if (chosen := tuple(task for task in tasks if offset <= task < offset + most))]


def render(plan: Plan, step: PlannedStep | str, part: Part | None = None, *,
           templates: Sequence[Path] | None = None) -> str:
    """The script of one step of a plan (one job, or an array of exactly the missing tasks).

    part: which of ``parts`` (default: the first). templates: folders in which templates are looked
    up (default: see ``assets``). Raises ``InputError`` for values that cannot stand in a script and
    for faults in a template.
    """
    import jinja2

    planned = _step_of(plan, step)
    folders = list(sources.template_folders() if templates is None else templates)
    environment = _environment(tuple(Path(folder).absolute() for folder in folders))
    names = [f"{planned.name}.sbatch.j2", f"{planned.kind}.sbatch.j2", "base.sbatch.j2"]
    try:
        template = environment.select_template(names)
        text = template.render(_context(plan, planned, part or parts(plan, planned)[0]))
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"template: {error.message}",
                         where=f"{error.filename or error.name}:{error.lineno}") from None
    except jinja2.UndefinedError as error:
        raise InputError(f"template: {error.message}", where=_template_location(error, names[1]),
                         allowed=f"valid: {', '.join(sorted(CONTEXT))}") from None
    except jinja2.TemplateNotFound as error:
        raise InputError(f"there is no template {error.name!r}",
                         where=", ".join(str(folder) for folder in folders)) from None
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def render_template(name: str, context: Mapping[str, Any]) -> str:
    """A template that belongs to no step, filled in."""
    environment = _environment(tuple(folder.absolute() for folder in sources.template_folders()))
    text = environment.get_template(name).render(context)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def quoted(value: Any) -> Markup:
    """The ``q`` filter: a value as one word of shell. Control characters are refused."""
    from markupsafe import Markup

    text = str(value)
    if len(text) > 16_384:
        raise InputError(f"{text[:40]!r}… has {len(text):,} characters; a script takes 16,384")
    return Markup(shlex.quote(plain(text)))


def directive(name: str, value: str | int | None = None) -> str:
    """One ``#SBATCH`` line; a value that Slurm cannot read is an ``InputError``."""
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
    """``0-3,7%2`` for tasks 0, 1, 2, 3 and 7, two of them at once."""
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
    """The ``#SBATCH`` lines of a step. The dependency is not among them: it is given to sbatch."""
    profile: ClusterProfile = plan.profile
    over = profile.at(step.kind)
    wanted = step.resources
    logs = str(plan.step_folder(step.name).logs).replace("%", "%%")
    is_array = step.tasks > 1
    stem = "%A_%a_0_log" if is_array else "%j_0_log"
    lines = [directive("job-name", f"l3-{plan.run}-{step.name}")]
    for name in ("account", "partition", "qos", "constraint", "reservation", "wckey", "exclude"):
        value = getattr(over, name, None) or getattr(profile, name)
        if value:
            lines.append(directive(name, value))
    lines += [directive("nodes", 1), directive("ntasks", 1),
              directive("cpus-per-task", wanted.cpus)]
    if profile.memory_request == "mem":
        lines.append(directive("mem", f"{wanted.mem_mb}M"))
    elif profile.memory_request == "mem-per-cpu":
        lines.append(directive("mem-per-cpu", f"{-(-wanted.mem_mb // wanted.cpus)}M"))
    if wanted.gpus and profile.gpu_request != "none":
        kind = over.gpu_type or profile.gpu_type
        amount = f"{kind}:{wanted.gpus}" if kind else str(wanted.gpus)
        if profile.gpu_request == "gres":
            lines.append(directive("gres", f"gpu:{amount}"))
        else:
            lines.append(directive("gpus-per-node", amount))
    lines.append(directive("time", slurm_time(wanted.time_min)))
    if is_array:
        lines.append(directive("array", array_spec((part or parts(plan, step)[0]).indices,
                                                   profile.array_parallelism)))
    lines += [directive("output", f"{logs}/{stem}.out"), directive("error", f"{logs}/{stem}.err"),
              directive("open-mode", "append"), directive("signal", f"B:USR2@{SIGNAL_DELAY_S}"),
              directive("requeue")]
    if profile.mail_user:
        lines += [directive("mail-user", profile.mail_user),
                  directive("mail-type", profile.mail_type)]
    return lines


def _context(plan: Plan, step: PlannedStep, part: Part) -> dict[str, Any]:
    """What a template may use. ``directives``, ``setup`` and ``command`` are ready shell text."""
    from markupsafe import Markup

    profile: ClusterProfile = plan.profile
    folder = plan.step_folder(step.name)
    srun = profile.capabilities.remote and profile.srun
    command = [*(SRUN if srun else ()), *profile.container, profile.python, "-u", "-m",
               "l3hpc.worker.job_entry", str(folder.logs)]
    heal = [*profile.container, profile.python, "-m", "l3hpc.worker.requeue", str(folder)]
    return {
        "directives": [Markup(line) for line in directives(plan, step, part)],
        "setup": [Markup(line) for line in profile.setup],
        "command": Markup(" ".join(quoted(word) for word in command)), "srun": srun,
        "heal": Markup(" ".join(quoted(word) for word in heal)) if _requeues(plan) else "",
        "offset": part.offset, "env": profile.env, "umask": profile.umask,
        "resources": step.resources,
        "markers": str(folder.markers), "logs": str(folder.logs),
        "folder": str(folder), "workspace": str(plan.workspace),
        "run": plan.run, "pipeline": plan.pipeline, "step": step.name, "kind": step.kind,
        "params": step.params, "profile": profile, "python": profile.python,
        "container": list(profile.container), "shared": profile.shared_group,
    }


def _requeues(plan: Plan) -> bool:
    """On Slurm the script decides about requeues; on this machine the runner does."""
    return not plan.profile.capabilities.runner


@functools.cache
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    """One for all scripts of a submission: a template is compiled once."""
    import jinja2

    delivered = sources.defaults_folder() / "templates"
    loader = jinja2.ChoiceLoader([
        jinja2.FileSystemLoader([str(folder) for folder in folders]),
        jinja2.PrefixLoader({"default": jinja2.FileSystemLoader(str(delivered))}),
    ])
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, autoescape=True, finalize=_refuse_unquoted,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )
    environment.filters["q"] = quoted
    return environment


def _refuse_unquoted(value: Any) -> Any:
    """Refuse what a template prints unquoted, unless it is plainly harmless."""
    import jinja2
    from markupsafe import Markup

    if isinstance(value, (Markup, int, float, jinja2.Undefined)):
        return value
    text = str(value)
    if not _SAFE.fullmatch(text):
        raise InputError(f"a template prints {text[:60]!r} without quoting it",
                         hint="write {{ name | q }} in the template")
    return value


def _step_of(plan: Plan, step: PlannedStep | str) -> PlannedStep:
    if isinstance(step, PlannedStep):
        return step
    from l3hpc.errors import nearest

    for planned in plan.steps:
        if planned.name == step:
            return planned
    raise InputError(f"this plan has no step {step!r}",
                     allowed=nearest(step, [planned.name for planned in plan.steps]))


def _template_location(error: Exception, default: str) -> str:
    trace = error.__traceback__
    place = default
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@dataclass(frozen=True)
class JobArray:
    """steps: in the order of the array's indices. script: where its text is to be written."""

    steps: tuple[PlannedStep, ...]
    script: Path
    text: str

    @property
    def names(self) -> list[str]:
        """Names of the steps."""
        return [step.name for step in self.steps]


def supports_step_arrays(plan: Plan) -> bool:
    """Whether a plan can have any: a sweep, where the scheduler takes them."""
    return "grid" in plan.options and plan.profile.capabilities.step_arrays


def group_steps(plan: Plan, steps: Sequence[PlannedStep], texts: Texts, waiting: Collection[str]
         ) -> list[JobArray]:
    """What of ``steps`` goes together; nothing where these do not ``apply``.

    texts: step → its scripts. waiting: names of the steps whose jobs have to be waited for.
    """
    if not supports_step_arrays(plan):
        return []
    groups: dict[tuple, list[PlannedStep]] = {}
    for step in steps:
        if step.tasks == 1 and step.name in texts:
            [(_, text)] = texts[step.name]
            alike = (step.kind, tuple(_header(text)), frozenset({*step.needs} & {*waiting}),
                     step.waits_for)
            groups.setdefault(alike, []).append(step)
    most = plan.profile.limits.array or DEFAULT_ARRAY_LIMIT
    found = []
    for members in groups.values():
        for first in range(0, len(members), most):
            together = tuple(members[first:first + most])
            if len(together) > 1:
                found.append(JobArray(
                    together, plan.step_folder(together[0].name).array_script,
                    _array_text(plan, together, texts[together[0].name][0][1])))
    return found


def _header(text: str) -> list[str]:
    """The script's ``#SBATCH`` lines, without those that name the step."""
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH"))
    return [line for line in lines
            if line.removeprefix("#SBATCH --").partition("=")[0] not in _OWN]


def _array_text(plan: Plan, steps: Sequence[PlannedStep], first: str) -> str:
    from markupsafe import Markup

    header = [
        directive("job-name", f"l3-{plan.run}-{steps[0].kind}"), *_header(first),
        directive("array", array_spec(range(len(steps)),
                                                    plan.profile.array_parallelism)),
        directive("output", "/dev/null"), directive("error", "/dev/null")]
    return render_template("job-array.sbatch.j2", {
        "directives": [Markup(line) for line in header],
        "folders": [str(plan.step_folder(step.name)) for step in steps]})


def submit_with_pickles(request: JobRequest, submit: Callable[[], JobId]) -> JobId:
    """Pickle first, submit once, rename the pickles to the ids that the jobs will look for.

    Of an array these keep our own indices (``3,7-9``): ``<id>_<index>_submitted.pkl``. The script
    is kept under the id as well.
    """
    if not request.calls:
        return submit()
    is_array = bool(_ARRAY.search(request.script.read_text(encoding="utf-8")))
    if not is_array and len(request.calls) != 1:
        raise ClusterError(f"the script is not an array, but {len(request.calls)} tasks are to be "
                           "submitted", hint="its template has lost the --array line")
    pickles = _pickled(request)
    try:
        job = submit()
    except BaseException:
        for pickle in pickles:
            pickle.unlink(missing_ok=True)
        raise
    kept = StepFolder(request.script.parent).submitted_script(job.id)
    kept.unlink(missing_ok=True)
    share_file(request.script, kept)
    for one, pickle in zip(request.calls, pickles, strict=True):
        name = f"{job.id}_{one.index}" if is_array else job.id
        pickle.rename(one.folder / f"{name}_submitted.pkl")
    return job


def _pickled(request: JobRequest) -> list[Path]:
    """One file for each call, under a name that nobody looks for."""
    DelayedSubmission = import_submitit().DelayedSubmission
    assert request.step is not None
    pickles = []
    for one in request.calls:
        delayed = DelayedSubmission(one.work)
        # it tells a time-out from a preemption by the true limit
        delayed.set_timeout(request.step.resources.time_min, request.max_timeouts)
        pickles.append(one.folder / f".{uuid.uuid4().hex}.pkl")
        delayed.dump(pickles[-1])
    return pickles


def import_submitit() -> ModuleType:
    """Import ``submitit.core.utils`` and leave the logging of this process as it is."""
    # By default submitit configures logging when it is imported, which closes every handler of the
    # process: a notebook's log file, and the stderr that TensorFlow's handler (absl) writes to.
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        from submitit.core import utils
    finally:
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if before is not None:  # for the jobs
            os.environ["SUBMITIT_LOG_LEVEL"] = before
    return utils
