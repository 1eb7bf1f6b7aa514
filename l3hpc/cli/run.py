"""``l3hpc run``: run one step on this machine, from a frozen configuration or from options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from l3hpc.errors import InputError, shell_path
from l3hpc.io.values import in_number

_NAMED = "l3hpc.step"  # in the context: the step on the command line


def _complete_step(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of steps."""
    from l3hpc.steps import names

    return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


class StepCommand(click.Command):
    """A command whose first argument is a step; its help lists the inputs and parameters of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, after noting which step it names."""
        # click answers --help before it looks at the arguments
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        ctx.meta[_NAMED] = given.get("step")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and what the step on the command line takes."""
        from l3hpc import steps

        super().format_options(ctx, formatter)
        name = ctx.meta.get(_NAMED)
        if not isinstance(name, str):
            return
        kind = steps.step(name)
        if kind.inputs:
            with formatter.section(f"Inputs of {name} (--input)"):
                formatter.write_dl([
                    (f"{each}=DIR", f"Output of {each}{'' if need.required else ' (optional)'}.")
                    for each, need in kind.inputs.items()])
        if parameters := list(_parameters(kind.params_type)):
            with formatter.section(f"Parameters of {name} (--set)"):
                formatter.write_dl(parameters)


def _parameters(params: type[Any]) -> Iterator[tuple[str, str]]:
    """The two columns of every parameter in a help text."""
    for name, field in params.model_fields.items():
        if (field.json_schema_extra or {}).get("allowed") == "":
            continue  # not for users: l3hpc fills it in
        text = [field.description] if field.description else []
        if get_origin(field.annotation) is Literal:
            text.append(f"({', '.join(map(str, get_args(field.annotation)))})")
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            text.append("[required]")
        elif default is not None and default != {}:
            value = default if not isinstance(default, tuple) else ", ".join(map(str, default))
            text.append(f"[default: {str(value).lower() if isinstance(value, bool) else value}]")
        yield name, " ".join(text)


@click.command(cls=StepCommand, epilog="""\b
Examples:
  l3hpc run fit --help                    also the inputs and parameters of this step
  l3hpc run train --config workspace/runs/RUN/steps/train/config.json
  l3hpc run evaluate --set predictions=P.csv --set annotations=A.csv --set taxonomy=T.yaml -o out
  l3hpc run fit --input sample=workspace/artifacts/sample/7c1e… --set emb_dim=64 -o phi
""")
@click.argument("step", shell_complete=_complete_step)
@click.option("--config", "config_path", type=click.Path(dir_okay=False), metavar="FILE",
              help="Frozen config.json of a step in a run: repeat that step exactly.")
@click.option("--task", type=click.IntRange(0), metavar="N",
              help="With --config: task to run (default: all that are missing).")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="A parameter of the step.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=DIR",
              help="Artifact or folder of published files to use as this input.")
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="DIR",
              help="Folder for the step's files and result.json.")
@click.option("--overwrite", is_flag=True, help="Replace the contents of the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    step: str, config_path: str | None, task: int | None, sets: tuple[str, ...],
    inputs: tuple[str, ...], output: str | None, overwrite: bool, as_json: bool,
) -> None:
    """Run one step on this machine, without a scheduler.

    With --config, reruns one step of a run; the output goes to its place in the workspace.
    Otherwise parameters and inputs come from the command line, and the output goes to the folder
    given with -o.
    """
    from l3hpc import steps

    kind = steps.step(step)
    if config_path is not None:
        if sets or inputs or output:
            raise InputError("--config contains all parameters: remove --set, --input and -o")
        results = _run_config(step, Path(config_path), task)
    elif output is None:
        raise InputError("an output folder is required: use -o DIR, or repeat a step of a run "
                         "with --config FILE")
    else:
        results = [_run_options(step, _pairs(sets, "--set"), _pairs(inputs, "--input"),
                                Path(output), overwrite)]
    if as_json:
        click.echo(json.dumps(results if config_path else results[0], indent=2))
        return
    summary = steps.summary_text(kind, [result["summary"] for result in results])
    click.echo(f"{step}: {summary}")
    if output is not None:
        names = sorted(results[0]["files"])
        more = ", …" if len(names) > 8 else ""
        click.echo(f"files in {shell_path(output)}: {', '.join(names[:8])}{more}")


def _run_config(step: str, path: Path, task: int | None) -> list[dict[str, Any]]:
    """Run one task of a frozen configuration, or all that are missing; return the results."""
    from l3hpc.console.progress import default_progress
    from l3hpc.worker import execute
    from l3hpc.workspace import artifacts, step_config

    config = step_config.read_config(path)
    if config["step"] != step:
        raise InputError(f"{path} is the configuration of step {config['step']!r}, not {step!r}")
    done = artifacts.finished(Path(config["artifact"]))
    tasks = [task] if task is not None else \
        [index for index in range(len(config["shards"])) if index not in done]
    if not tasks:
        tasks_are = in_number(f"[the only task is|all {len(done)} tasks are]", len(done))
        click.echo(f"{tasks_are} already done: {config['artifact']}", err=True)
        return artifacts.results(Path(config["artifact"]))
    return [execute.run_task(path, index, progress=default_progress()) for index in tasks]


def _run_options(
    step: str, params: dict[str, str], inputs: dict[str, str], output: Path, overwrite: bool
) -> dict[str, Any]:
    """Run a step with parameters and inputs of the command line; return the result."""
    from l3hpc.worker.standalone import run_standalone

    folders = {name: Path(folder) for name, folder in inputs.items()}
    return run_standalone(step, params, folders, output, overwrite=overwrite)


def _pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Parse the values ``NAME=VALUE`` of an option."""
    pairs = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"{option} {text!r} is not NAME=VALUE")
        if name in pairs:
            raise InputError(f"{option} {name} is given twice")
        pairs[name] = value
    return pairs
