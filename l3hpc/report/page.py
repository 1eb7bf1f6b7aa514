"""The report page: findings in, one self-contained HTML document out. Same findings, same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from l3hpc._version import __version__
from l3hpc.ledger.schema import TABS
from l3hpc.report import charts
from l3hpc.report.findings import Findings, LedgerRow, Network, Scores
from l3hpc.report.markup import Markup, element, join
from l3hpc.report.style import STYLE
from l3hpc.report.svg import between, number

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
RANDOM_TEACHER = ("Numbers come from a random-weight teacher: they show that the chain works, "
                  "not how well.")


def page(findings: Findings) -> str:
    """The whole document."""
    head = element(
        "head", Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", f"{findings.title}: {findings.run}"), element("style", Markup(STYLE)))
    lead = " · ".join(part for part in (
        f"run {findings.run}", findings.created,
        f"teacher: {findings.teacher}" if findings.teacher else "") if part)
    body = element(
        "body",
        element("header", element("h1", findings.title), element("p", lead, class_="lead"),
                banner(findings)),
        element("main", tiles(findings), chain(findings),
                element("div", loss(findings), variance(findings), class_="two"),
                correspondence(findings), tagging(findings), sizes(findings), ledger(findings),
                provenance(findings)),
        element("footer", f"Written by l3hpc {__version__} from the files of the run. "
                          "This page loads nothing from outside."))
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def banner(findings: Findings) -> Markup | None:
    """The warning that nobody may overlook when the teacher was never trained."""
    if findings.teacher_trained:
        return None
    sign = element("svg", element("path", d="M12 2 23 21H1Z", fill="none", stroke="currentColor",
                                  stroke_width=2, stroke_linejoin="round"),
                   element("path", d="M12 9v5m0 3v.5", stroke="currentColor", stroke_width=2,
                           stroke_linecap="round"),
                   viewBox="0 0 24 24", width=26, height=26, aria_hidden="true")
    return element("div", sign, element("div", element("strong", RANDOM_TEACHER), element(
        "p", "Give trained weights (--weights FILE) to get embeddings that mean "
             "something.")), class_="banner", role="note")


def tiles(findings: Findings) -> Markup:
    """The four figures that people ask for first."""
    scores = main_scores(findings)
    best = charts.best_epoch(findings.epochs)
    facts: list[tuple[str, str, str]] = []
    if scores is not None:
        interval = between(scores.intervals.get("micro_auprc"))
        sure = f"{interval} with {scores.confidence:.0%} confidence; " if interval and \
            scores.confidence else ""
        f1 = measured(scores.micro_f1, scores.intervals.get("micro_f1"))
        macro = measured(scores.macro_auprc, scores.intervals.get("macro_auprc"))
        facts.append((f"Micro-AUPRC, {scores.level} tags", number(scores.micro_auprc),
                      f"{sure}F1@0.5 {f1}, macro-AUPRC {macro} on {scores.split}"))
    taught = findings.correspondence
    if taught is not None:
        facts.append(("Correspondence", f"{100 * taught.right / taught.pairs:.1f} %",
                      f"of {taught.pairs:,} unseen pairs right, {percent(taught.interval)} with "
                      "95% confidence; guessing: 50 %"))
    if best is not None:
        facts.append(("Best validation loss", f"{best.valid_loss:.4g}",
                      f"epoch {best.epoch} of {findings.epochs[-1].epoch}"))
    if findings.variance is not None:
        kept = findings.variance.kept
        facts.append(("Variance kept by φ", "–" if kept is None else f"{kept * 100:.1f} %",
                      f"{findings.variance.in_dim} → {findings.variance.out_dim} dimensions, "
                      f"{findings.variance.approx}"))
    student = findings.networks[-1] if findings.networks else None
    if student is not None:
        facts.append(("Student", f"{student.parameters:,}",
                      f"parameters, {student.float32_mb:,.2f} MB, {student.emb_dim} dimensions"))
    return element("dl", [element(
        "div", element("dt", label), element("dd", figure, class_="figure"),
        element("dd", note, class_="note"), class_="tile") for label, figure, note in facts],
        class_="tiles", aria_label="Key figures")


def section(title: str, note: str, *children: object) -> Markup:
    """A card with a heading and one line of explanation."""
    return element("section", element("h2", title), element("p", note, class_="soft"), *children)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]],
          numeric: Sequence[int] = ()) -> Markup:
    """A table; the first cell of each row is its heading; ``numeric`` columns are right-aligned."""
    right = ["num" if index in numeric else None for index in range(len(header))]
    top = element("tr", [element("th", words, scope="col", class_=right[index])
                         for index, words in enumerate(header)])
    body = [element("tr", [
        element("td", cell, class_=right[index]) if index else element("th", cell, scope="row",
                                                                        class_=right[0])
        for index, cell in enumerate(row)]) for row in rows]
    return element("table", element("caption", caption) if caption else None,
                   element("thead", top), element("tbody", body))


def as_table(*content: object) -> Markup:
    """The same numbers as text, folded away until someone opens them."""
    return element("details", element("summary", "Show as a table"),
                   element("div", *content, class_="scroll"))


def scrolling(label: str, drawing: Markup) -> Markup:
    """A wide picture that can be scrolled by pointer and keyboard."""
    return element("div", drawing, class_="scroll", tabindex="0", role="region", aria_label=label)


def chain(findings: Findings) -> Markup | None:
    """The steps that ran."""
    if not findings.steps:
        return None
    rows = [(step.name, charts.MARKS.get(step.state, step.state),
             f"{step.tasks_done}/{step.tasks}", charts.clock(step.seconds), step.detail,
             element("code", step.fingerprint) if step.fingerprint else "–")
            for step in findings.steps]
    total = sum(step.seconds or 0 for step in findings.steps)
    header = ("step", "state", "tasks", "time", "detail", "fingerprint")
    return section(
        "The chain", f"{charts.clock(total)} of work; bars show each step's share of it.",
        scrolling("The chain of steps", charts.chain_picture(findings.steps)),
        as_table(table("", header, rows, (3,))))


def loss(findings: Findings) -> Markup:
    """How the student learned."""
    if not findings.epochs:
        return section("Loss", "No training in this run.")
    rows = [(epoch.epoch, number(epoch.loss, 5), number(epoch.valid_loss, 5),
             number(epoch.mae, 5), number(epoch.valid_mae, 5)) for epoch in findings.epochs]
    what = "Mean squared error between the student and φ(teacher)."
    if all(epoch.mae is None for epoch in findings.epochs) and findings.correspondence:
        what = "Cross-entropy of matching and non-matching pairs, with the weights' penalty."
    return section(
        "Loss per epoch", what,
        element("figure", charts.loss_chart(findings.epochs)),
        as_table(table("", ("epoch", "loss", "valid loss", "MAE", "valid MAE"), rows,
                       (0, 1, 2, 3, 4))))


def variance(findings: Findings) -> Markup:
    """What the reduction keeps."""
    kept = findings.variance
    if kept is None:
        return section("Explained variance", "No reduction in this run.")
    if not kept.ratios:
        return section("Explained variance",
                       f"φ is {kept.approx}, {kept.in_dim} → {kept.out_dim} dimensions: "
                       "it has no explained variance.")
    total, rows = 0.0, []
    for index, ratio in enumerate(kept.ratios, start=1):
        total += ratio
        rows.append((index, f"{ratio * 100:.3f} %", f"{total * 100:.2f} %"))
    note = "Share of the teacher's variance kept by φ"
    note += f", fitted on {kept.samples:,} rows." if kept.samples else "."
    return section("Explained variance", note, element("figure", charts.variance_chart(kept)),
                   as_table(table("", ("component", "share", "cumulative"), rows, (0, 1, 2))))


def correspondence(findings: Findings) -> Markup | None:
    """How well picture and sound are told to belong together; nothing where nobody was asked."""
    taught = findings.correspondence
    if taught is None:
        return None
    rows = [("all", f"{taught.pairs:,}", f"{100 * taught.right / taught.pairs:.1f} %",
             percent(taught.interval))]
    rows += [(name, "half", f"{100 * share:.1f} %", "–") for name, share in (
        ("matching", taught.matching), ("not matching", taught.non_matching))
        if share is not None]
    return section(
        "Audio-visual correspondence",
        "Does the picture belong to the sound? Pairs of videos that training never saw; half of "
        "them match. The range is the exact binomial interval of 95 %, which takes the pairs as "
        "independent.",
        table("", ("pairs", "number", "right", "range"), rows, (1, 2, 3)))


def percent(interval: tuple[float, float]) -> str:
    """``72.5 to 78.9 %``."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def main_scores(findings: Findings) -> Scores | None:
    """The coarse scores on ``validate``, else the first there are."""
    return findings.score("coarse", "validate") or next(iter(findings.scores), None)


def tagging(findings: Findings) -> Markup:
    """Precision and recall per coarse tag, and every score as a table."""
    scores = main_scores(findings)
    if scores is None:
        return section("Precision and recall", "No evaluation in this run.")
    panels = [element(
        "figure", element("figcaption", element("span", curve.tag),
                          element("b", number(curve.auprc), title="AUPRC")),
        charts.curve_panel(curve),
        element("div", between(curve.interval), class_="under") if curve.interval else None,
        element("div", f"{curve.positives or 'none'} of {curve.recordings} recordings",
                class_="under")
        if curve.positives is not None else None, class_="panel")
        for curve in scores.curves if curve.recall]
    levels = [(f"{entry.level}, {entry.split}", *(
        measured(getattr(entry, name), entry.intervals.get(name))
        for name in ("micro_auprc", "micro_f1", "macro_auprc"))) for entry in findings.scores]
    tags = [(curve.tag, measured(curve.auprc, curve.interval), curve.positives
             if curve.positives is not None else "–", curve.recordings or "–")
            for curve in scores.curves]
    return section(
        f"Precision and recall per {scores.level} tag",
        f"Precision (upwards) over recall on the {scores.split} split"
        + (f" ({scores.recordings:,} recordings)" if scores.recordings else "")
        + ". The figure beside each tag is its AUPRC; the dashed line is the precision of "
        "guessing." + how_sure(scores),
        element("div", panels, class_="panels") if panels else None,
        element("details", element("summary", "Show as tables"), element("div", table(
            "Area under the precision–recall curve per tag",
            ("tag", "AUPRC", "positive", "recordings"), tags, (1, 2, 3)), Markup("<br>"), table(
            "All scores", ("level, split", "micro-AUPRC", "micro-F1@0.5", "macro-AUPRC"), levels,
            (1, 2, 3)), class_="scroll")))


def how_sure(scores: Scores) -> str:
    """A sentence on the intervals; nothing where there are none."""
    if scores.confidence is None:
        return ""
    way = f": {scores.method}" if scores.method else ""
    often = f", {scores.resamples:,} times" if scores.resamples else ""
    return f" Ranges are {scores.confidence:.0%} intervals{way}{often}."


def measured(value: float | None, interval: tuple[float, float] | None) -> str:
    """``0.612 (0.551 to 0.671)``."""
    return number(value) + (f" ({between(interval)})" if interval else "")


def sizes(findings: Findings) -> Markup:
    """What the networks need, counted as on the SEA poster."""
    if not findings.networks:
        return section("Sizes", "No network in this run.")
    largest = findings.networks[0]

    def cells(network: Network) -> tuple[str, ...]:
        ratio = largest.parameters / network.parameters if network.parameters else 0
        return (network.name, network.input, str(network.emb_dim), f"{network.parameters:,}",
                f"{network.float32_mb:,.3f}", f"{network.int8_bytes:,}",
                f"{network.activation_bytes:,}", "1" if network is largest else f"1/{ratio:,.1f}")

    file = ""
    if findings.model_file:
        size = f" ({findings.model_bytes:,} bytes)" if findings.model_bytes is not None else ""
        file = f"Model file: {findings.model_file}{size}."
    return section(
        "Sizes", "Parameters include the moving statistics of batch normalisation; 8-bit size is "
        "one byte per parameter; activations are the largest single feature map in float32. The "
        "mel front end is not counted.",
        scrolling("Parameters in float32", charts.size_chart(findings.networks)),
        element("div", table("", ("network", "input", "dimensions", "parameters", "float32 MB",
                                  "int8 bytes", "activation bytes", "size"),
                             [cells(network) for network in findings.networks],
                             (2, 3, 4, 5, 6, 7)), class_="scroll"),
        element("p", file, class_="soft") if file else None)


def ledger(findings: Findings) -> Markup:
    """The rows this run added to the results tables; empty cells are folded away."""
    if not findings.ledger:
        return section("Results tables", "This run recorded no rows.")
    return section("Results tables", "The rows of this run, column by column.",
                   [ledger_row(row) for row in findings.ledger])


def ledger_row(row: LedgerRow) -> Markup:
    """One row, its columns under each other."""
    columns = TABS[row.tab].columns if row.tab in TABS else ()
    labels = {column.title: column.label for column in columns}
    filled = [(labels.get(title, title), value)
              for title, value in row.cells if value not in ("", "-")]
    empty = [title for title, value in row.cells if value in ("", "-")]
    note = f"{len(row.cells)} columns" + (f", {len(empty)} of them empty: {', '.join(empty)}"
                                          if empty else "")
    return element("div", element("h3", row.tab), definitions(filled),
                   element("p", note, class_="soft"), class_="ledger")


def definitions(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Names and values in two columns."""
    return element("dl", [element("div", element("dt", name), element("dd", value))
                          for name, value in pairs], class_="cells")


def provenance(findings: Findings) -> Markup:
    """Where the numbers come from."""
    notes = join([element("p", note) for note in findings.notes])
    return section("Provenance", "What decided these numbers.", definitions(findings.provenance),
                   notes)
