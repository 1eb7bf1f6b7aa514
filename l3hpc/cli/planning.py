"""``l3hpc render``, and what it shares with ``submit``: the options of a plan, and their help.

``l3hpc submit PIPELINE --help`` shows the options that this pipeline offers, step by step and with
its defaults; completion offers the same ones. Without a pipeline, the help lists the pipelines and
the options that are used most; ``--help-all`` lists every option.
"""

from __future__ import annotations

import contextlib
import difflib
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from l3hpc.cli.place import complete_run_or_path, config_option, place_option, remember
from l3hpc.errors import EXIT_INTERRUPTED, InputError, command_line, nearest
from l3hpc.pipelines.options import OPTIONS, Option

if TYPE_CHECKING:
    from pathlib import Path

    from l3hpc.config.profile import ClusterProfile
    from l3hpc.pipelines.definition import Pipeline
    from l3hpc.pipelines.offered import OfferedOption

Command = TypeVar("Command", bound=Callable[..., Any])
_NAMED = "l3hpc.pipeline"  # in the context: the pipeline on the command line
HELP_ALL = "--help-all"  # in the context, too
_COMMON = ("--audio-dir", "--weights", "--workspace", "--from", "--set", "--grid", "--name",
           "--cluster", "--config", "--dry-run", "--test-only", "--detach", "--yes", "--json",
           "--help")  # what the help without a pipeline lists
_PATHS = {
    "--workspace": "Folder for runs, artifacts and journals.",
    "--audio-dir": "Folder of sound files (WAV, FLAC, OGG, MP3 …; by ffmpeg M4A, WebM …) or HDF5.",
    "--embedding-dir": "Folder of published embeddings, for --from.",
    "--weights": "The teacher: a run that made a network (RUN, RUN/STEP, RUN/STEP/TASK or "
                 "'latest'), a weight or network file (TFLite, ONNX, Keras), a HEAR module "
                 "(hear:package.module), a folder of embeddings, or 'untrained' "
                 "(demonstration only).",
    "--sonyc-ust": "Folder of SONYC-UST: annotations.csv, taxonomy, audio/.",
    "--us8k": "Folder of UrbanSound8K: metadata/UrbanSound8K.csv, audio/fold1/ …",
    "--esc50": "Folder of ESC-50: meta/esc50.csv, audio/.",
}


def tell(text: str) -> None:
    """Print what has been submitted. If nobody reads it, the work goes on all the same."""
    with contextlib.suppress(OSError):
        click.echo(text)


@contextlib.contextmanager
def naming_resume(workspace: Path, run: str) -> Iterator[None]:
    """Say at a Ctrl-C within the block how a run can be continued, if it exists by then.

    Parameters
    ----------
    workspace, run
        The workspace folder, and the name of the run.
    """
    try:
        yield
    except KeyboardInterrupt:
        from l3hpc.workspace.layout import Workspace

        how = f"to continue: {command_line('resume', run)}" \
            if Workspace(workspace).run(run).record.exists() else "nothing was submitted"
        click.echo(f"interrupted; {how}", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def confirm(question: str, otherwise: str, *, default: bool = False) -> None:
    """Ask, and end the command unless the answer is yes.

    Parameters
    ----------
    question
        A question to answer with yes or no.
    otherwise
        What was not done, to be printed then.
    default
        What Enter answers.
    """
    try:
        if click.confirm(question, default=default, err=True):
            return
        click.echo(otherwise, err=True)
    except click.Abort:  # Ctrl-C, or no more input
        click.echo(f"\ninterrupted; {otherwise}", err=True)
    raise click.exceptions.Exit(EXIT_INTERRUPTED)


class PlanCommand(click.Command):
    """A command whose first argument is a pipeline; its help and completion depend on it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, after noting which pipeline it names."""
        # click answers --help before it looks at the arguments, and forgets them all where the
        # value of the last option is still to be completed
        typed = [*args, ""] if ctx.resilient_parsing else list(args)
        try:
            given, _, _ = self.make_parser(ctx).parse_args(typed)
            ctx.meta[_NAMED] = given.get("pipeline")
            return super().parse_args(ctx, list(args))  # click empties the list
        except click.UsageError as error:
            self._explain(ctx, error, args)
            raise

    def _explain(self, ctx: click.Context, error: click.UsageError, args: list[str]) -> None:
        """Refuse with the help of the pipeline on the command line, if there is one."""
        from l3hpc.config import sources

        name = next((word for word in args if word in sources.pipelines()), None)
        if name is None:
            if isinstance(error, click.MissingParameter) and error.param in self.params[:1]:
                raise InputError("missing argument 'PIPELINE'",
                                 allowed=f"valid: {', '.join(sorted(sources.pipelines()))}",
                                 hint=command_line(*ctx.command_path.split()[1:], "--help"))
            return
        # the allowed values are those of other pipelines, if this one lacks the option
        if isinstance(error, click.NoSuchOption):
            self._refuse(ctx, error.option_name, name)
        elif isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
            self._refuse(ctx, error.param.opts[-1], name)
        message, _, allowed = error.format_message().rstrip(".").partition("\n")
        raise InputError(f"{message[:1].lower()}{message[1:]}", allowed=" ".join(allowed.split()),
                         hint=command_line(*ctx.command_path.split()[1:], name, "--help"))

    def _refuse(self, ctx: click.Context, option: str, name: str) -> None:
        """Refuse an option that the pipeline of this name lacks."""
        from l3hpc.pipelines import definition, offered

        pipeline = definition.load_pipeline(name)
        options = [one.lstrip("-") for one in self._options(ctx)
                   if offered.is_offered(pipeline, one)]
        if option.lstrip("-") in options:
            return
        close = difflib.get_close_matches(option.lstrip("-"), options, n=1)
        near = f"did you mean '--{close[0]}'?" if close else None
        raise InputError(f"pipeline {name!r} has no option {option}",
                         allowed=offered.set_instead(pipeline, option) or near,
                         hint="its options: "
                         + command_line(*ctx.command_path.split()[1:], name, "--help"))

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help: of the pipeline that is named, otherwise of the command."""
        from l3hpc.pipelines import definition

        name = ctx.meta.get(_NAMED)
        if isinstance(name, str) and HELP_ALL not in ctx.meta:
            self._write_pipeline(ctx, formatter, definition.load_pipeline(name))
        else:
            super().format_help(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the pipelines, and the options: the common ones, or with ``--help-all`` all."""
        from l3hpc.pipelines import offered

        options = self._options(ctx)
        own = [option for name, option in options.items() if name[2:] in OPTIONS]
        common = [option for option in options.values() if option not in own]
        with formatter.section("Pipelines"):
            formatter.write_dl(list(offered.descriptions().items()))
        if HELP_ALL not in ctx.meta:
            with formatter.section("Common options"):
                formatter.write_dl(list(_records(ctx, (
                    option for option in common if option.opts[-1] in _COMMON))))
            with formatter.section("More options"):
                formatter.write_dl([
                    (f"{ctx.command_path} PIPELINE --help", "those of one pipeline, step by step"),
                    (f"{ctx.command_path} {HELP_ALL}", "all")])
            return
        with formatter.section("Options"):
            formatter.write_dl(list(_records(ctx, common)))
        with formatter.section("Options that only some pipelines offer "
                               f"({ctx.command_path} PIPELINE --help: which)"):
            formatter.write_dl(list(_records(ctx, own)))

    def _write_pipeline(self, ctx: click.Context, formatter: click.HelpFormatter,
                        pipeline: Pipeline) -> None:
        """Write the help of one pipeline: what it does, and its options step by step."""
        from l3hpc import steps
        from l3hpc.pipelines import offered

        words = [pipeline.name if piece == "PIPELINE" else piece
                 for piece in self.collect_usage_pieces(ctx)]
        formatter.write_usage(ctx.command_path, " ".join(words))
        usual = ", ".join(offered.usual_options(pipeline))
        for text in (pipeline.description, f"Steps: {' → '.join(pipeline.steps)}",
                     f"Usual options: {usual}" if usual else "",
                     "Any other parameter of a step: --set STEP.NAME=VALUE"):
            if text:
                # not write_text, which breaks lines inside the names of options
                formatter.write("\n" + textwrap.fill(
                    text, formatter.width, initial_indent="  ", subsequent_indent="  ",
                    break_on_hyphens=False) + "\n")
        by_step = offered.options_by_step(pipeline)
        own = offered.own_parameters(pipeline)
        params = {name: option for name, option in self._options(ctx).items()
                  if offered.is_offered(pipeline, name) and name != HELP_ALL}
        for step in (name for name in pipeline.steps if name in by_step or name in own):
            with formatter.section(f"{step} ({steps.step(pipeline.steps[step].kind).title})"):
                formatter.write_dl([
                    *(_record_here(ctx, params.pop(option.name), option)
                      for option in by_step.get(step, ())),
                    *((f"--set {step}.{name}=VALUE", f"[default: {value}]")
                      for name, value in own.get(step, {}).items())])
        with formatter.section("Inputs, settings and submission"):
            formatter.write_dl(list(_records(ctx, params.values())))
        examples = [line for line in (self.epilog or "").splitlines()
                    if f"{line.strip()} ".startswith(f"{ctx.command_path} {pipeline.name} ")]
        if examples:
            with formatter.section("Examples"):
                formatter.write("\n".join(examples) + "\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete options: only those that the pipeline offers, once it is named."""
        from l3hpc.pipelines import offered

        found = super().shell_complete(ctx, incomplete)
        pipeline = _named_pipeline(ctx)
        if pipeline is None:
            return found
        return [item for item in found if offered.is_offered(pipeline, item.value)]

    def _options(self, ctx: click.Context) -> dict[str, click.Option]:
        """Return the options by their long names."""
        return {param.opts[-1]: param for param in self.get_params(ctx)
                if isinstance(param, click.Option)}


def _records(ctx: click.Context, options: Iterable[click.Option]) -> Iterator[tuple[str, str]]:
    """Yield the two columns of every option in a help text."""
    for option in options:
        record = option.get_help_record(ctx)
        if record is not None:
            yield record


def _record_here(
    ctx: click.Context, option: click.Option, here: OfferedOption
) -> tuple[str, str]:
    """Return the two columns of an option as a pipeline offers it: its steps and its default."""
    [(left, text)] = _records(ctx, [option])
    known = OPTIONS.get(here.name[2:])
    if known is None:
        return left, text
    steps = f" Sets {', '.join(here.steps)}." if len(here.steps) > 1 else ""
    return left, f"{known.help}{steps} [default: {here.default}]"


def plan_options(command: Command) -> Command:
    """Add the argument PIPELINE and all options of a plan to a command."""
    options = [
        *(_click(option) for option in OPTIONS.values()),
        *(click.option(name, metavar="RUN|PATH" if name == "--weights" else "PATH",
                       help=f"{text} [default: that of cluster.yaml]",
                       shell_complete=complete_run_or_path if name == "--weights" else None,
                       callback=remember if name == "--workspace" else None)
          for name, text in _PATHS.items()),
        click.option("--embedding-valid-dir", metavar="PATH",
                     help="The validate/ folder, if --embedding-dir is a train/ folder."),
        click.option("--from", "start", metavar="STEP", shell_complete=_complete_step,
                     help="Start at this step; its inputs come from other runs or folders."),
        click.option("--input", "inputs", metavar="STEP=PATH|RUN", multiple=True,
                     shell_complete=_complete_input,
                     help="Folder, run, RUN/STEP or 'latest' to use as the output of a step. "
                          "Repeatable."),
        click.option("--student", metavar="RUN|FILE", help=(
            "The student to evaluate: a run (of a sweep: RUN/train-8), a weight file (or other "
            "teacher) or 'latest'. [default: latest]"), shell_complete=complete_run_or_path),
        click.option("--teacher", is_flag=True, help=(
            "Evaluate the teacher itself (--weights): the bound for its students.")),
        click.option("--set", "sets", metavar="STEP.NAME=VALUE", multiple=True,
                     shell_complete=_complete_set, help=(
            "Set any parameter of a step, or its cpus, mem (16GB), gpus, time (4h) or pack. "
            "Repeatable.")),
        click.option("--grid", "grid", metavar="OPTION=VALUE,VALUE", multiple=True,
                     shell_complete=_complete_grid, help=(
            "Run all combinations of these values in one run; STEP.NAME=… for any parameter. "
            "Repeatable.")),
        click.option("--name", help="Prefix of the run's name. [default: name of the pipeline]"),
        place_option("--cluster", metavar="NAME", shell_complete=complete_cluster,
                     help="Cluster profile. [default: that of cluster.yaml, or local]"),
        config_option(),
        click.option(HELP_ALL, is_flag=True, is_eager=True, expose_value=False,
                     callback=_show_all, help="List the options of all pipelines and exit."),
    ]
    # decorators apply from the last to the first, and the help lists options in that order
    for option in reversed(options):
        command = option(command)
    return click.argument("pipeline", shell_complete=_complete)(command)


def _show_all(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Print the help with all options, and exit."""
    if given and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def note_unused(profile: ClusterProfile) -> None:
    """Print a note about variables of the environment that have no effect.

    Parameters
    ----------
    profile
        The cluster profile; only Slurm has such variables.
    """
    import os

    from l3hpc.config.capabilities import SLURM
    from l3hpc.schedulers.slurm.commands import ignored_variables

    note = ignored_variables(os.environ) if profile.executor == SLURM else ""
    if note:
        click.echo(f"note: {note}", err=True)


class _Choice(click.Choice):  # type: ignore[type-arg,unused-ignore]  # not generic in click 8.1
    """The choices of an option of a pipeline."""

    def __init__(self, option: Option) -> None:
        super().__init__(option.choices)
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The choice; a value that cannot be had is refused with the reason."""
        self._option.refuse_unavailable(value)
        if value not in self._option.choices:
            self.fail(f"{value!r}\n{nearest(value, self._option.choices)}", param, ctx)
        return super().convert(value, param, ctx)


def _click(option: Option) -> Callable[[Command], Command]:
    """Return an option of a pipeline as an option of a command."""
    text = f"{option.help} [default: {option.default}]"
    if option.kind == "each":
        return click.option(f"--{option.name}", is_flag=True, help=text)
    if option.kind == "flag":
        # None, not False, where it is not given: a recipe may set the parameter.
        return click.option(f"--{option.name}", is_flag=True, default=None, help=text)
    kinds: dict[str, Any] = {"int": click.INT, "float": click.FLOAT}
    kind = _Choice(option) if option.choices else kinds.get(option.kind, click.STRING)
    return click.option(f"--{option.name}", type=kind,
                        shell_complete=complete_run_or_path if option.kind == "run" else None,
                        metavar="RUN|PATH" if option.kind == "run" else None,
                        help=text)


def complete_cluster(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of cluster profiles."""
    from l3hpc.config import settings as config

    try:
        names = config.load(context.params.get("config_file")).clusters
    except InputError:  # a message would break into the line that is being typed
        return []
    return [name for name in names if name.startswith(incomplete)]


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of pipelines."""
    from l3hpc.config import sources

    return [name for name in sources.pipelines() if name.startswith(incomplete)]


def _named_pipeline(context: click.Context) -> Pipeline | None:
    """Return the pipeline on the command line that is being completed; None for none."""
    from l3hpc.pipelines import definition

    try:
        return definition.load_pipeline(str(context.meta.get(_NAMED)))
    except InputError:  # a message would break into the line that is being typed
        return None


def _complete_set(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete ``STEP.NAME=`` with the parameters and resources of the pipeline's steps."""
    from l3hpc.pipelines import offered

    pipeline = _named_pipeline(context)
    names = offered.settable(pipeline) if pipeline else ()
    return [f"{name}=" for name in names if name.startswith(incomplete)]


def _complete_grid(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete ``OPTION=`` with the options of the pipeline."""
    pipeline = _named_pipeline(context)
    names = pipeline.options if pipeline else OPTIONS
    return [f"{name}=" for name in names
            if name.startswith(incomplete) and OPTIONS[name].kind != "each"]


def _complete_step(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the steps of the pipeline."""
    pipeline = _named_pipeline(context)
    return [name for name in (pipeline.steps if pipeline else ()) if name.startswith(incomplete)]


def _complete_input(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete ``STEP=`` with the steps of the pipeline."""
    return [f"{name}=" for name in _complete_step(context, parameter, incomplete)]


RENDER_EXAMPLES = """\b
Examples:
  l3hpc render upstream train --mels 64 > train.sbatch
  l3hpc render all --cluster greene
"""


@click.command("render", cls=PlanCommand, epilog=RENDER_EXAMPLES)
@plan_options
@click.argument("step", required=False)
def render(pipeline: str, step: str | None, **values: Any) -> None:
    """Print the scripts of PIPELINE, or the script of one STEP, on standard output.

    Takes the options of submit. With STEP, the output is byte for byte what runs in the job
    (dependencies are passed to sbatch and are not in the script). An array larger than the
    cluster's limits.array is split; with STEP, its first script is shown.

    As with submit, a HEAR module (hear:package.module) is imported and its model loaded, because
    nothing else states its sample rate and the length of its embeddings.
    """
    from l3hpc.pipelines.from_options import plan_from_options
    from l3hpc.schedulers.scripts import parts, render

    plan, _ = plan_from_options(pipeline, values)
    if step is not None:
        click.echo(render(plan, step), nl=False)
        return
    for planned in plan.steps:
        for number, part in enumerate(parts(plan, planned) if planned.missing else ()):
            click.echo(f"##### {plan.step_folder(planned.name).script(number)}")
            click.echo(render(plan, planned, part))
        if not planned.missing:
            click.echo(f"{planned.name}: done before, nothing to submit", err=True)
