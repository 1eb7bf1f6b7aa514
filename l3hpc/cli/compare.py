"""``l3hpc compare``: whether the difference between two evaluations is more than chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from l3hpc.cli.place import complete_run, workspace, workspace_options
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.steps.scored_clips import Compared, ScoredClips

EXAMPLES = """\b
Examples:
  l3hpc compare downstream-20261120-1a2b latest
  l3hpc compare downstream-20261120 downstream-20261121 --split test --level fine
  l3hpc compare downstream-20261120 downstream-20261121/evaluate-2    of a sweep
  l3hpc compare esc50-20261120 esc50-20261121                         accuracy
  l3hpc compare ours.csv theirs.csv --sonyc-ust /data/sonyc-ust

\b
With --json: {"schema", "kind", "first", "second", "clips", "samples", "confidence", "differences",
"mcnemar", "notes"}; first and second have name, label (the name as it is printed), classifiers and
random_weights; each difference has metric, first, second, difference, low, high, p.
"""


def complete_evaluation(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of runs, and of files."""
    return [*complete_run(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


@click.command("compare", epilog=EXAMPLES)
@click.argument("first", metavar="RUN", shell_complete=complete_evaluation)
@click.argument("second", metavar="RUN", shell_complete=complete_evaluation)
@click.option("--split", type=click.Choice(["validate", "test"]),
              help="Split of SONYC-UST. [default: validate]")
@click.option("--level", type=click.Choice(["coarse", "fine"]),
              help="Tags of SONYC-UST. [default: coarse]")
@click.option("--sonyc-ust", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of SONYC-UST with whose annotations both are scored. [default: those "
                   "of the runs]")
@click.option("--samples", type=click.IntRange(1000, 1_000_000), default=10_000, show_default=True,
              help="Resamplings of the clips.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def command(first: str, second: str, split: str | None, level: str | None,
            sonyc_ust: Path | None, samples: int, as_json: bool, config_file: str | None,
            workspace_dir: str | None) -> None:
    """Compare two evaluations on the same clips: differences, intervals and p-values.

    RUN is a run of downstream, all, esc50, us8k or clips (a name, the beginning of one, or
    'latest'); RUN/STEP where it has several evaluations; or a CSV file of predictions of
    SONYC-UST.

    Both are scored on the same resampled clips (a paired bootstrap). p is the two-sided p-value
    of a difference: small values mean that another choice of clips would hardly change its sign.
    Classes of clips are also compared by McNemar's exact test.
    """
    from l3hpc.console.progress import doing
    from l3hpc.datasets.sonyc_ust import locate_sonyc_ust
    from l3hpc.report import paired

    labels = None
    if sonyc_ust is not None:
        found = locate_sonyc_ust(sonyc_ust)
        labels = Path(found.annotations), Path(found.taxonomy)
    with doing("comparing"):
        compared = paired.compare(
            (first, second), lambda: workspace(config_file, workspace_dir), split=split,
            level=level, labels=labels, samples=samples)
    if as_json:
        click.echo(json.dumps(as_json_value(compared), indent=2))
        return
    for line in lines(compared, split or "validate", level or "coarse"):
        click.echo(line)


def as_json_value(compared: Compared) -> dict[str, object]:
    """Return a comparison as ``--json`` prints it (schema 1)."""
    return {
        "schema": 1, "kind": compared.first.kind,
        **{name: {"name": one.name, "label": label_of(one), "classifiers": len(one.events) or 1,
                  "random_weights": one.random_weights}
           for name, one in (("first", compared.first), ("second", compared.second))},
        "clips": len(compared.first.clips), "samples": compared.samples,
        "confidence": compared.confidence,
        "differences": [{"metric": one.metric, "first": one.first, "second": one.second,
                         "difference": one.difference, "low": one.low, "high": one.high,
                         "p": one.p} for one in compared.differences],
        "mcnemar": None if compared.mcnemar is None else {
            "only_first": compared.only_first, "only_second": compared.only_second,
            "p": compared.mcnemar},
        "notes": compared.notes}


def label_of(one: ScoredClips) -> str:
    """Return the name of an evaluation with what has to be known of it, as text and JSON show it.

    Parameters
    ----------
    one
        The evaluation.
    """
    seeds = f" (mean of {len(one.events)} seeds)" if len(one.events) > 1 else ""
    return one.name + seeds + (" (random-weight teacher)" if one.random_weights else "")


def lines(compared: Compared, split: str, level: str) -> list[str]:
    """Return a comparison as text.

    Parameters
    ----------
    compared
        The comparison.
    split, level
        What was compared of SONYC-UST.
    """
    from l3hpc.console.formatting import table_lines

    both = (compared.first, compared.second)
    what = f"{split}, {level} tags: " if compared.first.files else ""
    found = [f"{what}{count_of(len(compared.first.clips), 'clip')}"]
    for letter, one in zip("AB", both, strict=True):
        found.append(f"  {letter}  {label_of(one)}")
    rows = [("", "A", "B", "B − A", f"{compared.confidence:.0%} interval", "p")]
    rows += [(one.metric, f"{one.first:.3f}", f"{one.second:.3f}", f"{one.difference:+.3f}",
              f"{one.low:+.3f} to {one.high:+.3f}", f"{one.p:.4f}")
             for one in compared.differences]
    found += ["", *table_lines(rows, right=range(1, 6)), ""]
    if compared.mcnemar is not None:
        found.append(f"clips on which only A is right: {compared.only_first:,}, only B: "
                     f"{compared.only_second:,}; McNemar's exact p {compared.mcnemar:.4f}")
    found.append(f"paired bootstrap, {compared.samples:,} resamplings of the clips; p is two-sided")
    if len(compared.differences) > 1:
        found.append(f"{len(compared.differences)} metrics are tested: decide beforehand which one "
                     "counts")
    found += [f"note: {one}" for one in compared.notes]
    return found
