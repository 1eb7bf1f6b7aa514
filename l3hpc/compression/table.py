"""The compression report: the published table by its formula, what is really there beside it, and
the networks of a run. Numbers as JSON, and the same as Markdown for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from l3hpc.compression import plans, pruning, sizes
from l3hpc.models.parameters import Parameters

FORMS = {"float32": "float32 (dense)", "float16": "float16 (dense)", "csr": "CSR",
         "bitmask": "bitmask + values", "gzip": "gzip"}
FORMULA = ("remaining = Σ (1 − qᵢ/100) · (kernelᵢ + biasᵢ); MB = 4 · remaining / 2²⁰; "
           "reduction = 1 − remaining / 4,688,066")


def published_rows(teacher: Parameters, on_plan: Callable[[str], None] = lambda plan: None
                   ) -> list[dict[str, Any]]:
    """The eleven published plans: their formula on L3, and this teacher pruned by them.

    ``own`` is the formula on this teacher and ``sizes`` what is really left of it; both are None
    for a teacher that has not eight convolutions.
    """
    rows = []
    for name, percent in plans.PUBLISHED.items():
        row: dict[str, Any] = {"plan": name, "percent": list(percent),
                               "published": asdict(sizes.published(percent)),
                               "own": None, "sizes": None}
        if len(teacher.spec.filters) == len(percent):
            row["own"] = asdict(sizes.published(percent, teacher.spec))
            row["sizes"] = sizes.weigh(pruning.prune(teacher, percent)).as_json()
        rows.append(row)
        on_plan(name)
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report for people. Keys as the step compare writes them into ``report.json``."""
    parts = ["# Compression", f"Teacher: {report['teacher']['label']}"]
    if report.get("note"):
        parts.append(f"**{report['note']}**")
    parts += ["## The networks of this run", networks(report["networks"])]
    if report["left_out"]:
        parts.append("\n".join(f"* {line}" for line in report["left_out"]))
    if report.get("sensitivity"):
        parts += ["## One layer at a time", f"Judged by: {report['sensitivity']['words']}.",
                  sensitivity(report["sensitivity"])]
    parts += ["## The published plans", f"By the published formula: {FORMULA}. It counts biases as "
              "if they were pruned and percentages in place of zeros; the columns from "
              "“non-zero” on are counted, on the teacher of this run.",
              published(report["published"])]
    return "\n\n".join(parts) + "\n"


def published(rows: Sequence[Mapping[str, Any]]) -> str:
    """The published table with true counts and bytes beside it."""
    titles = ["plan", "percent per convolution", "parameters", "MB", "reduction %",
              "non-zero", *(f"{title}, bytes" for title in FORMS.values())]
    return grid(titles, ([
        row["plan"], " ".join(f"{value:g}" for value in row["percent"]),
        f"{row['published']['remaining']:,.0f}", f"{row['published']['mb']:.3f}",
        f"{row['published']['reduction']:.2f}", *_bytes(row["sizes"])] for row in rows))


def networks(rows: Sequence[Mapping[str, Any]]) -> str:
    """The networks of a run: how they were made, how large and how close to the teacher."""
    titles = ["network", "plan", "convolutions", "values", "parameters", "non-zero",
              *(f"{title}, bytes" for title in FORMS.values()), "MSE", "cosine", "accuracy"]
    return grid(titles, ([
        row["made_by"], row["plan"], str(row["convolutions"]), str(row["dim"]),
        f"{row['sizes']['parameters']:,}", *_bytes(row["sizes"]),
        _number(row.get("mse")), _number(row.get("cosine")), _number(row.get("accuracy"))]
        for row in rows))


def sensitivity(told: Mapping[str, Any]) -> str:
    """Layers down, sparsities across; of the judge's numbers the one that counts."""
    measure = "accuracy" if told["judge"] == "correspondence" else "cosine"
    sparsities = sorted({row["sparsity"] for row in told["points"]})
    layers = sorted({(row["layer"], row["name"]) for row in told["points"]})
    found = {(row["layer"], row["sparsity"]): row[measure] for row in told["points"]}
    return grid([measure, *(f"{value:g} %" for value in sparsities)], [
        [name, *(_number(found.get((layer, value))) for value in sparsities)]
        for layer, name in layers]) + (
            f"\n\nUnpruned: {measure} {_number(told['unpruned'].get(measure))}.")


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _bytes(told: Mapping[str, int] | None) -> list[str]:
    if told is None:
        return ["–"] * (1 + len(FORMS))
    return [f"{told['non_zero']:,}", *(f"{told[form]:,}" for form in FORMS)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
