"""``l3hpc doctor``: check everything that a run will need."""

from __future__ import annotations

import json
import sys

import click
from click.shell_completion import CompletionItem

from l3hpc.cli.place import config_option, place_option
from l3hpc.console.terminal import with_controls
from l3hpc.errors import EXIT_FAILED, EXIT_OK
from l3hpc.findings import Finding
from l3hpc.io.values import count_of

EXAMPLES = """\b
Examples:
  l3hpc doctor                      this machine and the profile of cluster.yaml
  l3hpc doctor upstream             also whether that pipeline can be submitted
  l3hpc doctor --cluster greene     before the first submission to a cluster
  l3hpc doctor --quick --json       no test job, no TensorFlow; for scripts

\b
The exit code is 1 if any line is marked ✗.
"""
MARKS = {"green": ("✓", "green"), "yellow": ("!", "yellow"), "red": ("✗", "red"),
         "off": ("–", None)}


def _complete_pipeline(context: click.Context, parameter: click.Parameter, incomplete: str
                       ) -> list[CompletionItem]:
    """Complete the names of pipelines."""
    from l3hpc.config import sources

    return [CompletionItem(name) for name in sources.pipelines() if name.startswith(incomplete)]


@click.command(epilog=EXAMPLES)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...", shell_complete=_complete_pipeline)
@place_option("--cluster", metavar="NAME",
              help="Profile to check. [default: that of cluster.yaml]")
@config_option("path")
@click.option("--quick", is_flag=True,
              help="Skip slow checks: no TensorFlow, no test job, no sheet.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(pipelines: tuple[str, ...], cluster: str | None, path: str | None, quick: bool,
            as_json: bool) -> int:
    """Check this machine, the cluster, the data and the ledger, and suggest fixes.

    Every line has a mark: ✓ works, ! works, but check it, ✗ will not work, – not needed or not
    set up. A pipeline that the cluster would refuse is marked ✗ if you named it, ! otherwise.
    """
    from l3hpc import doctor
    from l3hpc.config import settings

    findings = []
    for finding in doctor.examine(settings.load(path, cluster), probe=not quick,
                                  pipelines=pipelines):
        findings.append(finding)
        if not as_json:
            show(finding)
    red = sum(finding.severity == "red" for finding in findings)
    yellow = sum(finding.severity == "yellow" for finding in findings)
    if as_json:
        checks = [{"check": finding.subject, "state": finding.severity, "words": finding.message,
                   "todo": finding.advice} for finding in findings]
        click.echo(json.dumps({"checks": checks, "red": red, "yellow": yellow}, indent=2))
    else:
        click.echo(f"\n{summary(red, yellow)}")
    return EXIT_FAILED if red else EXIT_OK


def show(finding: Finding) -> None:
    """Print a line with mark, subject and message, and the advice on a line of its own."""
    mark, colour = MARKS[finding.severity]
    click.echo(click.style(mark, fg=colour, bold=True), nl=False, file=with_controls(sys.stdout))
    click.echo(f" {finding.subject:<22} {finding.message}")
    if finding.advice and finding.severity != "green":
        click.echo(f"{'':<24} → {finding.advice}")


def summary(red: int, yellow: int) -> str:
    """Return the last line.

    Parameters
    ----------
    red, yellow
        Number of checks with these marks.
    """
    if red:
        return f"{count_of(red, 'thing')} to repair (✗), {yellow} to look at (!)"
    return f"ready; {count_of(yellow, 'thing')} to look at (!)" if yellow else "ready"
