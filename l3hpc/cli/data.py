"""``l3hpc data``: generate a synthetic city, or check a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l3hpc.console.formatting import file_size
from l3hpc.console.progress import default_progress
from l3hpc.errors import EXIT_FAILED, EXIT_OK, InputError, command_line, shell_path
from l3hpc.io.values import count_of, one_line

if TYPE_CHECKING:
    from l3hpc.datasets.inspection import Inspection

EXAMPLES = """\b
Examples:
  l3hpc data synth city       write a synthetic city
  l3hpc data check city       check it
"""

SYNTH_EXAMPLES = """\b
Examples:
  l3hpc data synth city                                   20 minutes of sound, 115 MB
  l3hpc data synth city --rate 16000 --seconds 4          a smaller one
  l3hpc data synth city --sensors 8 --recordings 200 --days 60 --clips 400
  l3hpc data synth city --difficulty hard                 rare and correlated tags, noise
  l3hpc data synth city --imbalance 1.5 --hours 0.8       only what these options change

\b
What is written:
  city/audio/<sensor>/<sensor>_<unix time>.wav            recordings, with recordings.csv
  city/sonyc_ust/annotations.csv, dcase-ust-taxonomy.yaml, audio/*.wav
  city/city.json                                          settings and counts
"""

CHECK_EXAMPLES = """\b
Examples:
  l3hpc data check city                    both parts of a synthetic city
  l3hpc data check /data/sonyc-ust         annotations against taxonomy and audio
  l3hpc data check /data/ESC-50            folds, classes and audio (also UrbanSound8K)
  l3hpc data check /data/audio --listen    read every sample, to find silence and damage
  l3hpc data check /data/embeddings        an artifact, or published embeddings
  l3hpc data check labels.csv --audio audio --split-column set
"""


@click.group("data", epilog=EXAMPLES)
def command() -> None:
    """Generate a synthetic city, or check a data set."""


@command.command("synth", epilog=SYNTH_EXAMPLES)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sensors", default=3, show_default=True, help="Number of sensors.")
@click.option("--recordings", default=20, show_default=True, help="Recordings per sensor.")
@click.option("--clips", default=60, show_default=True,
              help="Number of tagged clips in SONYC-UST format (0: none).")
@click.option("--seconds", default=10.0, show_default=True,
              help="Length of a recording or clip, in seconds.")
@click.option("--rate", default=48000, show_default=True, help="Sample rate in Hz.")
@click.option("--days", default=10, show_default=True, help="Days that the recordings span.")
@click.option("--seed", default=20180216, show_default=True,
              help="Random seed; the same seed gives the same bytes.")
@click.option("--difficulty", default="usual", show_default=True,
              type=click.Choice(["easy", "usual", "hard"]),
              help="How hard the tags are to learn; the options below change parts of it.")
@click.option("--imbalance", type=float, help="Exponent of Zipf's law over the categories, 0 to 3.")
@click.option("--correlation", type=float,
              help="Probability that a sound occurs with its partner (engine and horn), 0 to 1.")
@click.option("--noise", type=float, help="Gain of the background noise in dB, -20 to 30.")
@click.option("--disagreement", type=float,
              help="Factor on the volunteers' mistakes, 0 to 3.")
@click.option("--hours", type=float,
              help="Fraction of clips recorded when their first sound is usual, 0 to 1.")
@click.option("--colour", type=float, help="dB by which microphones differ, 0 to 20.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def synth(out: Path, sensors: int, recordings: int, clips: int, seconds: float, rate: int,
          days: int, seed: int, difficulty: str, as_json: bool, **parts: float | None) -> None:
    """Write a synthetic city into the folder OUT.

    Sensors at different places record over several days, with loudness and sound events that
    follow the time of day; clips are tagged by annotators who disagree. The folder appears only
    once it is complete; a complete one with the same settings is kept.
    """
    from dataclasses import replace

    from l3hpc.datasets.synth import City, make_city
    from l3hpc.datasets.synth_clips import DIFFICULTIES

    changed = {name: value for name, value in parts.items() if value is not None}
    city = City(sensors, recordings, clips, seconds, rate, days, seed,
                replace(DIFFICULTIES[difficulty], **changed))
    summary = make_city(out, city, progress=default_progress())
    if as_json:
        click.echo(json.dumps({"folder": str(out), **summary}))
        return
    tagged = ", ".join(f"{count} {split}" for split, count in summary["clips"].items())
    click.echo(f"{shell_path(out)}: {'exists already, ' if summary['reused'] else ''}"
               f"{count_of(summary['recordings'], 'recording')} of {count_of(sensors, 'sensor')}, "
               f"{count_of(sum(summary['clips'].values()), 'tagged clip')}"
               + (f" ({tagged})" if tagged else "") + f", {file_size(summary['bytes'])}")
    click.echo(f"next: {command_line('data', 'check', out)}")


@command.command("check", epilog=CHECK_EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER|TABLE")
@click.option("--audio", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the audio files of TABLE. [default: the table's folder]")
@click.option("--file-column", metavar="NAME", help="Column of TABLE with the files.")
@click.option("--label-column", metavar="NAME", help="Column of TABLE with the labels.")
@click.option("--label-separator", metavar="TEXT", help="Between several labels in a cell.")
@click.option("--fold-column", metavar="NAME", help="Column of TABLE with the folds.")
@click.option("--split-column", metavar="NAME",
              help="Column of TABLE that says which clips train, validate and test.")
@click.option("--group-column", metavar="NAME", help="Column of TABLE with groups of clips.")
@click.option("--folds", type=click.IntRange(2, 1000), help="Make this number of folds.")
@click.option("--listen", is_flag=True, help="Read every sample, not only the file headers.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(folder: Path, listen: bool, as_json: bool, **table: Any) -> int:
    """Report what FOLDER or TABLE contains and what is wrong with it.

    Recognises SONYC-UST, UrbanSound8K, ESC-50, folders of recordings, embeddings and synthetic
    cities. A TABLE is a CSV file as for submit clips, with the same options. Exits with 1 if there
    are problems; remarks do not count.
    """
    from l3hpc.datasets.check import check_folder, check_table
    from l3hpc.datasets.clip_columns import ClipTable

    stated = [f"--{name.replace('_', '-')}" for name, value in table.items() if value is not None]
    if folder.is_file():
        inspections = [check_table(ClipTable(folder, **table), listen=listen,
                                   progress=default_progress())]
    elif stated:
        raise InputError(f"{', '.join(stated)}: only for a table of clips", where=str(folder),
                         allowed="a CSV file with a row per clip")
    else:
        inspections = check_folder(folder, listen=listen, progress=default_progress())
    failed = any(inspection.problems for inspection in inspections)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "found": [
            inspection.as_json() for inspection in inspections]}))
    else:
        for inspection in inspections:
            _show(inspection)
    return EXIT_FAILED if failed else EXIT_OK


def _show(inspection: Inspection) -> None:
    """Print the contents, problems and remarks of one data set."""
    from l3hpc.datasets.corpus import printable

    click.echo(one_line(printable(f"{inspection.kind} in {inspection.folder}")))
    for name, value in inspection.counts.items():
        if value in (None, {}):
            continue
        label, shown = _UNITS.get(name, (name.replace("_", " "), _text))
        click.echo(f"  {label:<18} {one_line(printable(shown(value)))}")
    for label, problems in (("problem", inspection.problems), ("remark", inspection.remarks)):
        for problem in problems:
            click.echo(one_line(printable(f"  {label}: {problem}")))
            if problem.advice:
                click.echo(f"  {'':{len(label)}}  {problem.advice}")
    count = len(inspection.problems)
    click.echo(f"  {count_of(count, 'problem')}" if count else "  no problems")


def _text(value: object) -> str:
    """Return a count, or counts by name; of many names, only their number."""
    if isinstance(value, dict):
        if len(value) > 9:
            return f"{len(value):,}"
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rates(files: Mapping[str, int]) -> str:
    """Return ``16000 Hz``, or how many files have which rate."""
    if len(files) == 1:
        return f"{next(iter(files))} Hz"
    return ", ".join(f"{rate} Hz {count:,}" for rate, count in files.items())


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _moment(text: str) -> str:
    """Return ``2017-11-20 09:00:26 UTC`` for an ISO 8601 time."""
    return text.replace("T", " ").replace("+00:00", " UTC")


# the names in JSON → those on the screen, and how the value is written there
_UNITS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "rates": ("sample rates", _rates), "hours": ("duration", _duration),
    "bytes": ("size", file_size),
    "first": ("first", _moment), "last": ("last", _moment),
}
