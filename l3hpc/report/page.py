"""The report page: findings in, one HTML document that stands alone out. Same findings, same bytes.

The sentences and tables are made here, the drawings in ``charts``; ``web/assets/report.html.j2``
says what stands where.

The results folder: the report page and the small files that people keep, replaced as a whole.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from l3hpc._version import __version__
from l3hpc.errors import InputError
from l3hpc.io.files import task_folders, write_json, write_text
from l3hpc.ledger.schema import TABS
from l3hpc.report import charts
from l3hpc.report.charts import between, number
from l3hpc.report.collect import by_kind, known_step
from l3hpc.report.findings import Correspondence, Findings, Interval, LedgerRow, Network, Scores
from l3hpc.web.html import element, render

RANDOM_TEACHER = ("Results come from a random-weight teacher: they show that the pipeline works, "
                  "not how well.")
PAGE = "report.html"
SUMMARY = "summary.json"
LARGEST = 100 * 10**6


@dataclass(frozen=True)
class Tile:
    """One key figure: what it is, its value, a note below it."""

    label: str
    figure: str
    note: str


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading, ``numeric`` columns are right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[int] = ()
    caption: str = ""


@dataclass(frozen=True)
class Record:
    """A row of the results tables, a line per filled column; ``note`` names those left empty."""

    tab: str
    filled: Sequence[tuple[str, str]]
    note: str


def page(findings: Findings) -> str:
    """Write the report of a run.

    Parameters
    ----------
    findings
        What ``collect`` found. Any part may be missing; the page then says so.

    Returns
    -------
    str
        The whole HTML document.
    """
    scores = main_scores(findings)
    return render(
        "report.html.j2", findings=findings, charts=charts, version=__version__,
        random_teacher=RANDOM_TEACHER, clock=charts.clock, number=number, between=between,
        lead=lead(findings), tiles=tiles(findings), steps=steps_table(findings),
        seconds=sum(step.seconds or 0 for step in findings.steps),
        loss=loss_note(findings), epochs=epochs_table(findings),
        variance=variance_note(findings), components=components_table(findings),
        pairs=pairs_table(findings.correspondence) if findings.correspondence else None,
        scores=scores, precision=precision_note(scores) if scores else "",
        tags=tags_table(scores) if scores else None, levels=levels_table(findings),
        networks=networks_table(findings.networks) if findings.networks else None,
        ledger=[record(row) for row in findings.ledger])


def lead(findings: Findings) -> str:
    """The line below the title: which run, when, which teacher."""
    teacher = f"teacher: {findings.teacher}" if findings.teacher else ""
    return " · ".join(filter(None, (f"run {findings.run}", findings.created, teacher)))


def tiles(findings: Findings) -> list[Tile]:
    """The figures that people ask for first."""
    found: list[Tile] = []
    scores = main_scores(findings)
    if scores is not None:
        found.append(Tile(f"Micro-AUPRC, {scores.level} tags", number(scores.micro_auprc),
                          score_note(scores)))
    taught = findings.correspondence
    if taught is not None:
        found.append(Tile("Correspondence", percent(taught.right / taught.pairs),
                          f"of {taught.pairs:,} unseen pairs right, "
                          f"{percent_range(taught.interval)} with 95% confidence; "
                          "guessing: 50 %"))
    best = charts.best_epoch(findings.epochs)
    if best is not None:
        found.append(Tile("Best validation loss", f"{best.valid_loss:.4g}",
                          f"epoch {best.epoch} of {findings.epochs[-1].epoch}"))
    kept = findings.variance
    if kept is not None:
        found.append(Tile("Variance kept by φ", "–" if kept.kept is None else percent(kept.kept),
                          f"{kept.in_dim} → {kept.out_dim} dimensions, {kept.approx}"))
    if findings.networks:
        student = findings.networks[-1]
        found.append(Tile("Student", f"{student.parameters:,}",
                          f"parameters, {student.float32_mb:,.2f} MB, "
                          f"{student.emb_dim} dimensions"))
    return found


def score_note(scores: Scores) -> str:
    """How sure the main score is, and the scores beside it."""
    interval = between(scores.intervals.get("micro_auprc"))
    sure = f"{interval} with {scores.confidence:.0%} confidence; " \
        if interval and scores.confidence else ""
    f1 = measured(scores.micro_f1, scores.intervals.get("micro_f1"))
    macro = measured(scores.macro_auprc, scores.intervals.get("macro_auprc"))
    return f"{sure}F1@0.5 {f1}, macro-AUPRC {macro} on {scores.split}"


def steps_table(findings: Findings) -> Table:
    """The steps that ran."""
    return Table(("step", "state", "tasks", "time", "detail", "fingerprint"), [
        (step.name, charts.MARKS.get(step.state, step.state), f"{step.tasks_done}/{step.tasks}",
         charts.clock(step.seconds), step.detail,
         element("code", step.fingerprint) if step.fingerprint else "–")
        for step in findings.steps], numeric=(3,))


def loss_note(findings: Findings) -> str:
    """Which loss the chart shows."""
    if findings.correspondence and all(epoch.mae is None for epoch in findings.epochs):
        return "Cross-entropy of matching and non-matching pairs, with the weights' penalty."
    return "Mean squared error between the student and φ(teacher)."


def epochs_table(findings: Findings) -> Table:
    """How the student learned, epoch by epoch."""
    return Table(("epoch", "loss", "valid loss", "MAE", "valid MAE"), [
        (epoch.epoch, number(epoch.loss, 5), number(epoch.valid_loss, 5), number(epoch.mae, 5),
         number(epoch.valid_mae, 5)) for epoch in findings.epochs], numeric=range(5))


def variance_note(findings: Findings) -> str:
    """What the reduction keeps, or why that is not known."""
    kept = findings.variance
    if kept is None:
        return "No reduction in this run."
    if not kept.ratios:
        return (f"φ is {kept.approx}, {kept.in_dim} → {kept.out_dim} dimensions: "
                "it has no explained variance.")
    fitted = f", fitted on {kept.samples:,} rows." if kept.samples else "."
    return f"Share of the teacher's variance kept by φ{fitted}"


def components_table(findings: Findings) -> Table | None:
    """The variance of each component of φ; None where φ has none."""
    kept = findings.variance
    if kept is None or not kept.ratios:
        return None
    return Table(("component", "share", "cumulative"), [
        (index, f"{ratio * 100:.3f} %", f"{total * 100:.2f} %") for index, (ratio, total)
        in enumerate(zip(kept.ratios, itertools.accumulate(kept.ratios), strict=True), start=1)],
        numeric=range(3))


def pairs_table(taught: Correspondence) -> Table:
    """How often an audio-visual network was right, over all pairs and over each half of them."""
    rows = [("all", f"{taught.pairs:,}", percent(taught.right / taught.pairs),
             percent_range(taught.interval))]
    rows += [(name, "half", percent(share), "–") for name, share in (
        ("matching", taught.matching), ("not matching", taught.non_matching))
        if share is not None]
    return Table(("pairs", "number", "right", "range"), rows, numeric=(1, 2, 3))


def main_scores(findings: Findings) -> Scores | None:
    """The coarse scores on ``validate``, else the first there are."""
    return findings.score("coarse", "validate") or next(iter(findings.scores), None)


def precision_note(scores: Scores) -> str:
    """What the panels show, and how the intervals were found where there are any."""
    recordings = f" ({scores.recordings:,} recordings)" if scores.recordings else ""
    note = (f"Precision (upwards) over recall on the {scores.split} split{recordings}. The figure "
            "beside each tag is its AUPRC; the dashed line is the precision of guessing.")
    if scores.confidence is None:
        return note
    method = f": {scores.method}" if scores.method else ""
    often = f", {scores.resamples:,} times" if scores.resamples else ""
    return f"{note} Ranges are {scores.confidence:.0%} intervals{method}{often}."


def tags_table(scores: Scores) -> Table:
    """The area under each tag's curve."""
    return Table(("tag", "AUPRC", "positive", "recordings"), [
        (curve.tag, measured(curve.auprc, curve.interval),
         "–" if curve.positives is None else curve.positives, curve.recordings or "–")
        for curve in scores.curves], numeric=(1, 2, 3),
        caption="Area under the precision–recall curve per tag")


def levels_table(findings: Findings) -> Table:
    """Every score of every level and split."""
    return Table(("level, split", "micro-AUPRC", "micro-F1@0.5", "macro-AUPRC"), [
        (f"{scores.level}, {scores.split}",
         measured(scores.micro_auprc, scores.intervals.get("micro_auprc")),
         measured(scores.micro_f1, scores.intervals.get("micro_f1")),
         measured(scores.macro_auprc, scores.intervals.get("macro_auprc")))
        for scores in findings.scores], numeric=(1, 2, 3), caption="All scores")


def networks_table(networks: Sequence[Network]) -> Table:
    """What the networks need, and how they compare with the first."""
    largest = networks[0]

    def cells(network: Network) -> tuple[object, ...]:
        ratio = largest.parameters / network.parameters if network.parameters else 0
        return (network.name, network.input, network.emb_dim, f"{network.parameters:,}",
                f"{network.float32_mb:,.3f}", f"{network.int8_bytes:,}",
                f"{network.activation_bytes:,}", "1" if network is largest else f"1/{ratio:,.1f}")

    return Table(("network", "input", "dimensions", "parameters", "float32 MB", "int8 bytes",
                  "activation bytes", "size"), [cells(network) for network in networks],
                 numeric=range(2, 8))


def record(row: LedgerRow) -> Record:
    """A row that this run added to the results tables."""
    columns = TABS[row.tab].columns if row.tab in TABS else ()
    labels = {column.title: column.label for column in columns}
    filled = [(labels.get(title, title), value)
              for title, value in row.cells if value not in ("", "-")]
    empty = [title for title, value in row.cells if value in ("", "-")]
    note = f"{len(row.cells)} columns"
    if empty:
        note += f", {len(empty)} of them empty: {', '.join(empty)}"
    return Record(row.tab, filled, note)


def percent(share: float) -> str:
    """``75.0 %``."""
    return f"{100 * share:.1f} %"


def percent_range(interval: Interval) -> str:
    """``72.5 to 78.9 %``."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def measured(value: float | None, interval: Interval | None) -> str:
    """``0.612 (0.551 to 0.671)``."""
    return number(value) + (f" ({between(interval)})" if interval else "")


def write_results(target: Path, findings: Findings, artifacts: Mapping[str, Path]) -> Path:
    """Write the results folder of a run: the page, ``summary.json``, copies, rows of the tables.

    Parameters
    ----------
    target
        The folder. One that was written before is replaced as a whole.
    findings
        What ``collect`` found.
    artifacts
        Name of a step → its artifact folder, as for ``collect``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        ``target`` is a file, or a folder with something else in it.
    """
    target = Path(target)
    if target.exists() and not (target / SUMMARY).is_file() and (
            not target.is_dir() or any(target.iterdir())):
        raise InputError("is not a results folder", where=str(target),
                         hint="Use another folder, or move this one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        _copy(fresh, by_kind(artifacts, findings.steps))
        for tab in dict.fromkeys(row.tab for row in findings.ledger):
            write_text(fresh / "ledger" / f"{tab}.csv",
                       csv_text([row for row in findings.ledger if row.tab == tab]))
        write_text(fresh / PAGE, page(findings))
        write_json(fresh / SUMMARY, _plain(asdict(findings)))
        if target.exists():
            shutil.rmtree(target)
        os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / PAGE


def csv_text(rows: Sequence[LedgerRow]) -> str:
    """The rows of one tab: header and a line each, quoted as spreadsheets read it; formulas are
    text."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([title for title, _ in rows[0].cells])
    for row in rows:
        writer.writerow([f"'{value}" if _is_formula(value) else value for _, value in row.cells])
    return stream.getvalue()


def _is_formula(value: str) -> bool:
    """Whether a spreadsheet might compute ``value``: a sign in front of what is no number."""
    try:
        float(value)
    except ValueError:
        return value.startswith(("=", "+", "-", "@", "\t", "\r")) and value != "-"
    return False


def _plain(value: object) -> object:
    """JSON values: what is not a finite number is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy(folder: Path, artifacts: Mapping[str, Path]) -> None:
    for kind, artifact in artifacts.items():
        step = known_step(kind)
        done = task_folders(artifact) if step is not None and artifact.is_dir() else []
        for task in done:
            for pattern in step.kept_files if step is not None else ():
                for source in sorted(task.glob(pattern)):
                    if not source.is_file() or source.stat().st_size > LARGEST:
                        continue
                    place = folder / kind / (task.name if len(done) > 1 else "") / source.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, place)
