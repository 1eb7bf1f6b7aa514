"""``l3hpc logs``: print or follow the log of one step."""

from __future__ import annotations

import click

from l3hpc.cli.runs import complete_run, complete_step, workspace, workspace_options

ASK_SLURM_EVERY_S = 10.0


@click.command(epilog="""\b
Examples:
  l3hpc logs latest train             the log of a step
  l3hpc logs latest train -f          follow it while it grows
  l3hpc logs upstream-2026 extract --task 3 --out
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("step", shell_complete=complete_step)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends (Ctrl-C stops).")
@click.option("--task", type=click.IntRange(0), metavar="N",
              help="Which task of an array (default: the first failed, else the first running).")
@click.option("--out", "which", flag_value="out", help="What the step prints.")
@click.option("--err", "which", flag_value="err", default=True,
              help="Messages and errors (the default).")
@click.option("--path", "only_path", is_flag=True, help="Print where the file is.")
@workspace_options
def command(
    run: str, step: str, follow: bool, task: int | None, which: str, only_path: bool,
    config_file: str | None, workspace_dir: str | None,
) -> None:
    """Print the log of STEP in RUN (a name, the beginning of one, or 'latest')."""
    from l3hpc.errors import InputError
    from l3hpc.workflow import logs, records, status

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    record = records.read(folder, name)
    entry = records.step(record, step)
    path = logs.find(folder, record, entry, task=task, which=which or "err")
    if only_path:
        click.echo(path)
        return
    if follow:
        def ended() -> bool:
            state = next(each.state for each in status.collect(folder, [name])[0].steps
                         if each.name == step)
            return state not in status.MOVING

        ask_every_s = logs.POLL_S if record.local else ASK_SLURM_EVERY_S
        for text in logs.follow(path, ended, ask_every_s=ask_every_s):
            click.echo(text, nl=False)
        return
    if not path.exists():
        raise InputError(f"{step} of {name} has not started: it has no log yet",
                         hint=f"See where it stands: l3hpc status {name}")
    click.echo(path.read_text(errors="replace"), nl=False)
