"""``l3hpc run``: run one step on this machine, from a frozen configuration or from options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from l3hpc.errors import InputError
from l3hpc.io.values import in_number


def _complete_step(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of steps."""
    from l3hpc.steps import names

    return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


@click.command(epilog="""\b
Examples:
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
        click.echo(f"files in {output}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}")


def _run_config(step: str, path: Path, task: int | None) -> list[dict[str, Any]]:
    """Run one task of a frozen configuration, or all that are missing; return the results."""
    from l3hpc.console.progress import default_progress
    from l3hpc.worker import execute
    from l3hpc.workspace import artifacts

    config = execute.read_config(path)
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
