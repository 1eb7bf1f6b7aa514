"""The report of a run as HTML, with the same bytes for the same data.

Sentences and tables are made here, figures in ``charts``; ``web/assets/report.html.j2`` is the
layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from l3hpc._version import __version__
from l3hpc.config.units import format_memory, format_time
from l3hpc.io.values import count_of
from l3hpc.report import charts, comparison_charts, timeline
from l3hpc.report.data import ReportData
from l3hpc.report.detection import detector
from l3hpc.report.ledger_rows import folds_shown, record
from l3hpc.report.results import (
    Comparison,
    Correspondence,
    Interval,
    Network,
    Scores,
    Variance,
    Variant,
)
from l3hpc.web.html import Table, element, join, render
from l3hpc.web.svg import between, both_widths, clock, number, significant

RANDOM_TEACHER = ("Results come from a random-weight teacher: they show that the pipeline works, "
                  "not how well.")

METRICS = ("micro_auprc", "micro_f1", "macro_auprc")
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}  # whether higher or lower values are better
SMALLEST_SHARE = 5e-6  # of the variance: less is shown as 0.000%
MOST_OPTIONS = 6  # more of them have no figure of their own
FIRST_PANELS, MOST_PANELS = 3, 48  # metrics that are drawn by option at once, and figures at most


@dataclass(frozen=True)
class Tile:
    """One key figure: its label, its value, and a note below it."""

    label: str
    figure: str
    note: str


def page(data: ReportData) -> str:
    """Return the report of a run as HTML.

    Parameters
    ----------
    data
        The result of ``run.of_run``. Parts that are missing are left out, and named at the end.

    Returns
    -------
    str
        The whole HTML document.
    """
    scores, judged = main_scores(data), judged_scores(data)
    return render(
        "report.html.j2", data=data, charts=charts, version=__version__,
        random_teacher=RANDOM_TEACHER, clock=clock, number=number, between=between,
        lead=lead(data), tiles=tiles(data), steps=steps_table(data),
        seconds=sum(step.seconds or 0 for step in data.steps),
        sweep=compared(data.sweep) if data.sweep is not None else None,
        timeline=timeline_figure(data), times=times_table(data), uses=use_table(data),
        timeline_kinds=timeline_kinds(data), changed=changed_table(data),
        loss=loss_note(data), epochs=epochs_table(data),
        loss_figure=both_widths(lambda width: charts.loss_chart(data.epochs, width))
        if data.epochs else None,
        variance=variance_note(data), components=components_table(data),
        variance_figure=variance_figure(data.variance),
        size_figure=both_widths(lambda width: charts.size_chart(data.networks, width),
                                charts.PAGE) if data.networks else None,
        pairs=pairs_table(data.correspondence) if data.correspondence else None,
        scores=scores, precision=precision_note(scores) if scores else "",
        detector=detector(judged, data.score(judged.level, "validate")) if judged else None,
        tags=tags_table(scores) if scores else None, levels=levels_table(data),
        networks=networks_table(data.networks) if data.networks else None,
        ledger=[record(row) for row in data.ledger if not row.in_folds],
        folds=[folds_shown(table) for table in data.folds], absent=absent(data),
        contents=contents(data))


def runs_page(found: Comparison) -> str:
    """Return a page that compares runs as HTML.

    Parameters
    ----------
    found
        The result of ``comparison.of_runs``.
    """
    return render(
        "runs.html.j2", found=found, compared=compared(found), version=__version__,
        random_teacher=RANDOM_TEACHER,
        random=[variant.label for variant in found.variants if variant.random_weights],
        differing=Table(("parameter", *(variant.label for variant in found.variants)), [
            (element("code", option), *(variant.values.get(option, "–")
                                        for variant in found.variants))
            for option in found.options]) if found.options else None)


def lead(data: ReportData) -> str:
    """Return the line below the title: run, date and teacher (or student)."""
    who = "student" if data.is_student else "teacher"
    teacher = data.teacher
    if teacher and not teacher.startswith("student of "):  # labels of students may begin so
        teacher = f"{who}: {teacher}"
    return " · ".join(filter(None, (f"run {data.run}", data.created, teacher)))


def tiles(data: ReportData) -> list[Tile]:
    """Return the key figures at the top of the page."""
    found: list[Tile] = []
    if data.headline is not None:
        name, value, note = data.headline
        found.append(Tile(name, f"{value:.4g}", note))
    scores = main_scores(data)
    if scores is not None:
        found.append(Tile(f"Micro-AUPRC, {scores.level} tags", number(scores.micro_auprc),
                          score_note(scores)))
    pairs = data.correspondence
    if pairs is not None:
        found.append(Tile("Correspondence", percent(pairs.right / pairs.pairs),
                          f"of {pairs.pairs:,} unseen pairs correct, "
                          f"{percent_range(pairs.interval)} with 95% confidence; "
                          "chance: 50%"))
    best = charts.best_epoch(data.epochs)
    if best is not None:
        found.append(Tile("Best validation loss", f"{best.valid_loss:.4g}",
                          f"epoch {best.epoch} of {data.epochs[-1].epoch}"))
    variance = data.variance
    if variance is not None:
        kept = "–" if variance.kept is None else percent(variance.kept)
        found.append(Tile("Variance kept by φ", kept,
                          f"{variance.in_dim} → {variance.out_dim} dimensions, {variance.method}"))
    if data.networks:
        student = data.networks[-1]
        found.append(Tile("Student", f"{student.parameters:,}",
                          f"parameters, {student.float32_mb:,.2f} MB, "
                          f"{student.emb_dim} dimensions"))
    return found


def score_note(scores: Scores) -> str:
    """Return the interval of the main score, and the scores beside it."""
    interval = scores.intervals.get("micro_auprc")
    confidence = f"{scores.confidence:.0%} CI {number(interval[0])} to {number(interval[1])}; " \
        if interval and scores.confidence else ""
    spread = scores.spread.get("micro_auprc")
    seeds = f"mean of {scores.seeds} seeds, standard deviation {number(spread)}; " \
        if spread is not None else ""
    return (f"{seeds}{confidence}F1@0.5 {metric(scores, 'micro_f1')}, macro-AUPRC "
            f"{metric(scores, 'macro_auprc')} on {scores.split}")


def steps_table(data: ReportData) -> Table:
    """Return the table of the steps, with state, time and fingerprint."""
    return Table(("step", "state", "tasks", "time", "detail", "fingerprint"), [
        (step.name, charts.STATE_LABELS.get(step.state, step.state),
         f"{step.tasks_done}/{step.tasks}", clock(step.seconds), step.detail,
         element("code", step.fingerprint) if step.fingerprint else "–")
        for step in data.steps], numeric=(3,))


@dataclass(frozen=True)
class Panel:
    """A small figure with its title."""

    title: str
    drawing: Markup


@dataclass(frozen=True)
class Compared:
    """What the template shows of a comparison; parts without content are None or empty."""

    best: str
    table: Table
    parallel: Markup | None
    panels: Sequence[Panel]
    more_panels: Sequence[Panel]
    losses: Markup | None
    losses_of: str
    legend: Sequence[tuple[str, str]]
    has_targets: bool = False


def compared(found: Comparison) -> Compared:
    """Return table and figures of a comparison.

    Parameters
    ----------
    found
        With at least one variant.
    """
    # a few runs differ in many parameters at once: a figure for each would tell nothing
    options = found.options if len(found.options) <= MOST_OPTIONS and len(found.variants) > 2 \
        else ()
    panels = [Panel(f"{metric.name} by {option}", comparison_charts.scatter(found, option, metric))
              for metric in found.metrics for option in options]
    losses = both_widths(lambda width: comparison_charts.losses(found, width) or Markup(),
                         charts.PAGE) if len(comparison_charts.curves_of(found)) > 1 else None
    curves = comparison_charts.curves_of(found)
    return Compared(
        comparison_charts.best_in_words(found),
        variants_table(found),
        both_widths(lambda width: comparison_charts.parallel(found, width), charts.PAGE)
        if len(found.variants) > 1 and found.metrics else None,
        panels[:FIRST_PANELS * len(options)], panels[FIRST_PANELS * len(options):MOST_PANELS],
        losses,
        next((f" of {variant.epochs_of}"
              for variant, _ in curves.values() if variant.epochs_of), ""),
        [(comparison_charts.colour_of(index, found), variant.label)
         for index, (variant, _) in curves.items()
         if comparison_charts.colour_of(index, found) != "grey"],
        found.has_targets)


def variants_table(found: Comparison) -> Table:
    """Return the table of the variants, the best first, those without a result last."""
    def rank(item: tuple[int, Variant]) -> tuple[bool, float, int]:
        index, variant = item
        first = found.metrics[0] if found.metrics else None
        value = None if first is None or not first.better else variant.metrics.get(first.name)
        sign = -1 if first is not None and first.better == "higher" else 1
        # equal ones stay in the order of the sweep
        return value is None, 0.0 if value is None else sign * value, index

    header = [*(("run",) if found.of_runs else found.options), "state",
              *(metric.name + ARROWS[metric.better] for metric in found.metrics), "result"]
    rows = []
    for index, variant in sorted(enumerate(found.variants), key=rank):
        name = element("a", variant.label, href=variant.address) if variant.address \
            else variant.label
        cells: list[object] = [name] if found.of_runs else [
            variant.values.get(option, "–") for option in found.options]
        if index == found.best:
            cells[0] = join(["★ ", cells[0]])
        rows.append((*cells,
                     charts.STATE_LABELS.get(variant.state, variant.state),
                     *("–" if (value := variant.metrics.get(metric.name)) is None
                       else significant(value, 5) for metric in found.metrics),
                     variant.result or "–"))
    first = len(header) - 1 - len(found.metrics)
    return Table(header, rows, numeric=range(first, first + len(found.metrics)))


def timeline_figure(data: ReportData) -> Markup | None:
    """Return the timeline of the jobs; None if no task was submitted in this run."""
    if timeline.figure(data.timeline, charts.PAGE) is None:
        return None
    return both_widths(lambda width: timeline.figure(data.timeline, width) or Markup(),
                       charts.PAGE)


def timeline_kinds(data: ReportData) -> list[tuple[str, str]]:
    """Return class and description of each kind of bar in the timeline."""
    there = {span.kind for step in data.timeline for task in step.tasks for span in task.spans}
    return [(kind, words) for kind, words in timeline.KINDS.items() if kind in there]


def times_table(data: ReportData) -> Table:
    """Return the timeline as a table."""
    return Table(("step", "task", "job", "", "from", "time", "note"),
                 timeline.rows(data.timeline), numeric=(5,))


def use_table(data: ReportData) -> Table | None:
    """Return the table of cores, memory and time; None before a task has finished."""
    uses = [step.use for step in data.timeline if step.use is not None]
    if not uses:
        return None
    return Table(("step", "tasks", "cores", "memory", "time", "waited", "requeues", "core-hours",
                  "suggestion"), [
        (use.name, use.tasks, f"{use.cpus_used:.1f} of {use.cpus}",
         f"{format_memory(round(use.mem_used_mb))} of {format_memory(use.mem_granted_mb)}",
         f"{clock(use.time_used_s)} of {format_time(use.time_granted_min)}", clock(use.waited_s),
         use.requeues, f"{use.core_hours:,.2f}" if use.core_hours >= 0.005 else "under 0.01",
         use.suggestion or "fits") for use in uses],
        numeric=(1, 2, 3, 4, 5, 6, 7))


def changed_table(data: ReportData) -> Table | None:
    """Return the table of the parameters that are not the defaults; None if there are none."""
    if not data.changed:
        return None
    return Table(("step", "parameter", "value", "default"), [
        (one.step, element("code", one.name), one.value, one.default or "–")
        for one in data.changed])


def loss_note(data: ReportData) -> str:
    """Return the caption of the loss chart."""
    if data.epochs_of:
        return f"Loss of {data.epochs_of}."
    # an audio-visual training has no mean absolute error, a student's has
    if data.correspondence and all(epoch.mae is None for epoch in data.epochs):
        return "Cross-entropy of matching and non-matching pairs, with weight decay."
    return "Mean squared error between the student and φ(teacher)."


def epochs_table(data: ReportData) -> Table:
    """Return the table of losses and errors per epoch."""
    return Table(("epoch", "loss", "valid loss", "MAE", "valid MAE"), [
        (epoch.epoch, number(epoch.loss, 5), number(epoch.valid_loss, 5), number(epoch.mae, 5),
         number(epoch.valid_mae, 5)) for epoch in data.epochs], numeric=range(5))


def variance_note(data: ReportData) -> str:
    """Return what the explained variance is of, or why it is unknown."""
    variance = data.variance
    if variance is None:
        return ""
    if not variance.ratios:
        return (f"φ is {variance.approx}, {variance.in_dim} → {variance.out_dim} dimensions: "
                "it has no explained variance.")
    fitted = f", fitted on {count_of(variance.samples, 'row')}." if variance.samples else "."
    if variance.kernel:
        return (f"Share of the variance in the space of the kernel {variance.kernel} kept by "
                f"φ{fitted} It cannot be compared with that of a linear PCA.")
    return f"Share of the teacher's variance kept by φ{fitted}"


def variance_figure(variance: Variance | None) -> Markup | None:
    """Return the figure of the explained variance; None if φ has no components."""
    if variance is None or not variance.ratios:
        return None
    return both_widths(lambda width: charts.variance_chart(variance, width))


def components_table(data: ReportData) -> Table | None:
    """Return the table of the variance of each component; None if φ has no components."""
    variance = data.variance
    if variance is None or not variance.ratios:
        return None
    # beyond the rank of the data, the shares are rounding errors
    shown = max(variance.out_dim, sum(ratio >= SMALLEST_SHARE for ratio in variance.ratios))
    totals = itertools.accumulate(variance.ratios)
    return Table(("component", "share", "cumulative"), [
        (index, f"{ratio * 100:.3f}%", f"{total * 100:.2f}%") for index, (ratio, total)
        in enumerate(list(zip(variance.ratios, totals, strict=True))[:shown], start=1)],
        numeric=range(3))


def pairs_table(pairs: Correspondence) -> Table:
    """Return the table of correct answers, over all pairs and over each half of them."""
    rows = [("all", f"{pairs.pairs:,}", percent(pairs.right / pairs.pairs),
             percent_range(pairs.interval))]
    rows += [(name, "half", percent(share), "–") for name, share in (
        ("matching", pairs.matching), ("not matching", pairs.non_matching))
        if share is not None]
    return Table(("pairs", "number", "correct", "range"), rows, numeric=(1, 2, 3))


def main_scores(data: ReportData) -> Scores | None:
    """Return the coarse scores on ``validate``, else the first; None if there are none."""
    return data.score("coarse", "validate") or next(iter(data.scores), None)


def judged_scores(data: ReportData) -> Scores | None:
    """Return the scores whose thresholds, calibration and sensors are shown: of test, if there are
    any, else of validate; None without them.
    """
    main = main_scores(data)
    shown = main and (data.score(main.level, "test") or main)
    return shown if shown and shown.detection else None


def precision_note(scores: Scores) -> str:
    """Return what the panels show, and how the intervals were computed if there are any."""
    recordings = f" ({count_of(scores.recordings, 'recording')})" if scores.recordings else ""
    note = (f"Precision (vertical) against recall on the {scores.split} split{recordings}. The "
            "number beside each tag is its AUPRC; the dashed line is the chance level.")
    if scores.seeds > 1:
        note += (f" Numbers are means over {scores.seeds} seeds, with ± their standard deviation; "
                 "curves are those of the first, with its AUPRC below.")
    if scores.confidence is None:
        return note
    method = f": {scores.method}" if scores.method else ""
    resamples = f", {scores.resamples:,} times" if scores.resamples else ""
    return (f"{note} Ranges are {scores.confidence:.0%} intervals{method}{resamples}. A resample "
            "without a positive clip of a tag counts as 0 for it: where tags are rare, that pulls "
            "the interval of macro-AUPRC down.")


def tags_table(scores: Scores) -> Table:
    """Return the table of the area under each tag's curve."""
    return Table(("tag", "AUPRC", "positive", "recordings"), [
        (curve.tag, measured(curve.auprc, curve.interval),
         "–" if curve.positives is None else curve.positives, curve.recordings or "–")
        for curve in scores.curves], numeric=(1, 2, 3),
        caption="Area under the precision–recall curve per tag")


def levels_table(data: ReportData) -> Table:
    """Return the table of all scores of all levels and splits."""
    return Table(("level, split", "micro-AUPRC", "micro-F1@0.5", "macro-AUPRC"), [
        (f"{scores.level}, {scores.split}", *(metric(scores, name) for name in METRICS))
        for scores in data.scores], numeric=(1, 2, 3), caption="All scores")


def networks_table(networks: Sequence[Network]) -> Table:
    """Return the table of the sizes of networks, compared with the first one."""
    largest = networks[0]

    def cells(network: Network) -> tuple[object, ...]:
        ratio = largest.parameters / network.parameters if network.parameters else 0
        return (network.name, network.input, network.emb_dim, f"{network.parameters:,}",
                f"{network.float32_mb:,.3f}", f"{network.int8_bytes:,}",
                f"{network.activation_bytes:,}", "1" if network is largest else f"1/{ratio:,.1f}")

    return Table(("network", "input", "dimensions", "parameters", "float32 MB", "int8 bytes",
                  "activation bytes", "size"), [cells(network) for network in networks],
                 numeric=range(2, 8))


def contents(data: ReportData) -> list[tuple[str, str]]:
    """Return anchor and title of each part of the page."""
    parts = (("wrong", "What went wrong" if data.problems else "Remarks",
              data.problems or data.remarks),
             ("comparison", "Combinations", data.sweep), ("chain", "Chain", data.steps),
             ("timeline", "Timeline", any(task.spans for step in data.timeline
                                          for task in step.tasks)),
             ("loss", "Loss", data.epochs), ("variance", "Variance", data.variance),
             ("correspondence", "Correspondence", data.correspondence),
             ("tags", "Precision and recall", data.scores),
             ("detector", "Detector", judged_scores(data)), ("sizes", "Sizes", data.networks),
             ("rows", "Results tables", data.ledger), ("logs", "Scripts and logs", data.files),
             ("parameters", "Parameters", data.changed), ("provenance", "Provenance", True))
    return [(anchor, title) for anchor, title, there in parts if there]


def absent(data: ReportData) -> str:
    """Return a sentence about the parts that this run does not have; '' if it has them all."""
    parts = {"a training": data.epochs, "a reduction": data.variance,
             "an evaluation of tags": data.scores, "a network": data.networks,
             "rows of the results tables": data.ledger}
    names = [name for name, content in parts.items() if not content]
    return f"Not in this run: {', '.join(names)}." if names else ""


# --- number formats -------------------------------------------------------------------------------

def percent(share: float) -> str:
    """Return a share as a percentage: ``75.0%``."""
    return f"{100 * share:.1f}%"


def percent_range(interval: Interval) -> str:
    """Return an interval of shares as percentages: ``72.5 to 78.9%``."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}%"


def metric(scores: Scores, name: str) -> str:
    """Return a metric with its spread and interval: ``0.612 ± 0.004 (0.551 to 0.671)``."""
    spread, interval = scores.spread.get(name), scores.intervals.get(name)
    return (number(getattr(scores, name)) + ("" if spread is None else f" ± {number(spread)}")
            + (f" ({between(interval)})" if interval else ""))


def measured(value: float | None, interval: Interval | None) -> str:
    """Return a value with its interval: ``0.612 (0.551 to 0.671)``."""
    return number(value) + (f" ({between(interval)})" if interval else "")
