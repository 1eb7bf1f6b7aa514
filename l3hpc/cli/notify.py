"""``l3hpc notify``: send what is due about runs to Slack, mail and other services."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.cli.place import place_option, workspace, workspace_options
from l3hpc.cli.planning import complete_cluster
from l3hpc.cli.runs import error_lines
from l3hpc.errors import EXIT_OFFLINE, EXIT_OK, InputError, command_line

if TYPE_CHECKING:
    from l3hpc.config.settings import Config

EXAMPLES = """\b
Examples:
  l3hpc notify                send what is due, once
  l3hpc notify --test         send a test message to every address
  l3hpc notify --cron         print a crontab line that does so every 5 minutes
  l3hpc notify --dry-run      only show what would be sent

\b
In cluster.yaml, for one profile (https://github.com/caronc/apprise/wiki lists the addresses):
  notify: ~/.config/l3hpc/notify                 a file with one address per line (chmod 600)
  notify: {urls: [$L3HPC_NOTIFY], on: [failed]}  a variable; only failures

\b
The exit code is 75 if a service rejected a message; it is retried on the next run.
"""


@click.command("notify", epilog=EXAMPLES)
@click.option("--test", is_flag=True, help="Send a test message to every address of the profile.")
@click.option("--cron", is_flag=True, help="Print a crontab line for this machine.")
@click.option("--every", metavar="MINUTES", type=click.IntRange(1, 59), default=5,
              show_default=True, help="With --cron: interval in minutes.")
@place_option("--cluster", metavar="NAME", shell_complete=complete_cluster,
              help="With --test: the profile. [default: that of cluster.yaml]")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the messages as JSON.")
@workspace_options
def command(test: bool, cron: bool, every: int, cluster: str | None, dry_run: bool, as_json: bool,
            config_file: str | None, workspace_dir: str | None) -> int:
    """Send messages about your runs: done, failed, requeued.

    Each message is sent once, to the addresses under 'notify' of the run's profile, from a machine
    with a network: by this command, by cron, or by 'l3hpc status --watch'. Runs that were
    submitted before 'notify' was set send none. Addresses are secrets and are never shown.
    """
    from l3hpc.config import settings
    from l3hpc.runs import notifications

    if cron and (test or dry_run or as_json):
        other = "--test" if test else "--dry-run" if dry_run else "--json"
        raise InputError(f"--cron prints a line for crontab and sends nothing, so {other} has no "
                         "meaning", hint=f"Leave {other} out, or --cron.")
    config = settings.load(config_file, cluster)
    if cron:
        _print_cron(config, workspace(config_file, workspace_dir), every)
        return EXIT_OK
    if test:
        found = list(notifications.test(config.profile, dry_run=dry_run))
    else:
        found = list(notifications.announce(workspace(config_file, workspace_dir), config_file,
                                            dry_run=dry_run))
    if as_json:
        click.echo(json.dumps({"schema": 1, "messages": [
            {"run": one.message.run, "event": one.message.event, "title": one.message.title,
             "body": one.message.body, "to": one.to, "sent": bool(one.sent),
             "would_send": one.sent is None} for one in found]},
            indent=2))
    else:
        for one in found:
            click.echo(one.words)
        if not found:
            click.echo("nothing to send")
    return EXIT_OFFLINE if any(one.sent is False for one in found) else EXIT_OK


def _print_cron(config: Config, folder: Path, every: int) -> None:
    from l3hpc.cli.cron import crontab_line
    from l3hpc.io.files import digest
    from l3hpc.runs import notifications

    wanted = config.profile.notify
    if wanted is not None and any(url.get_secret_value().startswith("$") for url in wanted.urls):
        raise InputError("cron does not know the variables of your shell",
                         where=f"clusters.{config.profile.name}.notify",
                         hint="name a file that holds the address: notify: ~/.config/l3hpc/notify")
    kept = {name: value for name in ("PATH", "SLURM_CONF") if (value := os.environ.get(name))}
    line, log = crontab_line(
        ["notify", "--workspace", str(folder.absolute()), "--config", str(config.file.absolute())],
        digest(["notify", str(folder.absolute())])[:8], every, Path("~/.l3hpc/notify"), kept)
    click.echo(line)
    click.echo(f"log: {log}", err=True)
    if wanted is None:
        click.echo(f"note: profile {config.profile.name} has no notify: in {config.file}; see "
                   + command_line("notify", "--help"), err=True)
        return
    try:
        notifications.destinations(wanted)
    except InputError as error:  # the file may be written later
        click.echo("\n".join(error_lines("warning: no messages would be sent", error)), err=True)
