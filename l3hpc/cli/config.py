"""``l3hpc config show|check``: print the effective configuration, or check it."""

from __future__ import annotations

import json
import shlex

import click

from l3hpc.cli.place import config_option, place_option
from l3hpc.config.units import format_memory, format_time
from l3hpc.errors import EXIT_OK, EXIT_USAGE

EXAMPLES = """\b
Examples:
  l3hpc config show
  l3hpc config show --cluster greene --json
  l3hpc config check
"""


@click.group("config", epilog=EXAMPLES)
def command() -> None:
    """Show or check the effective configuration.

    Values are looked up, in this order, on the command line, in cluster.yaml and in the
    environment: the variables of the published jobs (AUDIO_DIR, EMBEDDING_DIR, OUTPUT_DIR,
    L3_MODEL_PATH, SONYC_UST_PATH, GSHEET_ID), US8K_PATH and ESC50_PATH. Otherwise the defaults
    apply.
    """


_CLUSTER = place_option("--cluster", metavar="NAME",
                        help="Cluster profile. [default: that of cluster.yaml, or local]")
_FILE = config_option()
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command("show", short_help="Print the values in effect and their origins.", epilog="""\b
Examples:
  l3hpc config show                        the values in effect, and where they come from
  l3hpc config show --cluster greene --all
  l3hpc config show --config other.yaml --json
""")
@_CLUSTER
@_FILE
@_JSON
@click.option("--all", "everything", is_flag=True, help="Include values that are not set.")
def show(cluster: str | None, config_file: str | None, as_json: bool, everything: bool) -> int:
    """Print every effective value and where it comes from."""
    from l3hpc.config import settings as configuration
    from l3hpc.console import formatting

    config = configuration.load(config_file, cluster)
    values = config.values()
    if as_json:
        rows = {key: {"value": value, "origin": config.origin(key)}
                for key, value in values.items()}
        click.echo(json.dumps({"schema": 1, "file": str(config.file), "values": rows}, indent=2))
        return EXIT_OK
    texts = {key: _text(key, value) for key, value in values.items()}
    shown = {key: text for key, text in texts.items()
             if everything or text or config.origin(key) != "default"}
    cells = [(key, text, config.origin(key)) for key, text in shown.items()]
    for line in formatting.table_lines(cells, indent="", at_most={1: 60}):
        click.echo(line)
    return EXIT_OK


@command.command("check", short_help="Check the configuration and its files.", epilog="""\b
Examples:
  l3hpc config check                       exit code 2 if something is wrong
  l3hpc config check --cluster greene --json
""")
@_CLUSTER
@_FILE
@_JSON
def check(cluster: str | None, config_file: str | None, as_json: bool) -> int:
    """Check cluster.yaml, paths, pipelines and templates; exit code 2 if something is wrong."""
    from l3hpc.config import settings as configuration
    from l3hpc.console import formatting
    from l3hpc.doctor import configuration as configcheck

    findings = configcheck.check(configuration.load(config_file, cluster))
    if as_json:
        click.echo(json.dumps({"schema": 1, "findings": [
            {"what": finding.subject, "ok": finding.ok, "detail": finding.message,
             "fix": finding.advice or None} for finding in findings]}, indent=2))
    else:
        lines = formatting.table_lines(
            [("ok" if finding.ok else "BAD", finding.subject, finding.message)
             for finding in findings], indent="", at_least={0: 3})
        # advice is printed below the messages, indented by the two columns before them
        below = " " * (max(formatting.cell_width(finding.subject) for finding in findings) + 7)
        for finding, line in zip(findings, lines, strict=True):
            click.echo(line)
            if not finding.ok:
                for advice in finding.advice.splitlines():
                    click.echo(f"{below}{advice}")
    return EXIT_OK if all(finding.ok for finding in findings) else EXIT_USAGE


def _text(key: str, value: object) -> str:
    """Return a configured value with its unit; an empty text if it is not set."""
    if value is None or value == [] or value == {}:
        return ""
    name = key.rpartition(".")[2]
    if isinstance(value, dict):
        items = {inner: _text(inner, item) for inner, item in value.items()}
        nested = {inner for inner, item in value.items() if isinstance(item, dict)}
        return ", ".join(f"{inner}: {{{text}}}" if inner in nested else f"{inner}: {text}"
                         for inner, text in items.items() if text)
    if isinstance(value, (list, tuple)):
        return shlex.join(value) if name == "container" else "; ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        if name == "mem":
            return format_memory(value)
        if name == "time":
            return format_time(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
