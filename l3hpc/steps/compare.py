"""compare: the compression report, a table for people and the same numbers as JSON.

The published table by its formula, true counts and bytes beside it, the sensitivity scan, and every
network of the run with its sizes and its distance to the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from l3hpc.errors import InputError
from l3hpc.steps import judging
from l3hpc.steps.base import Task

NAME = "compare"
VERSION = 1
TITLE = "the compression report: sizes, and what was lost"
INPUTS = {"prune": "required", "sensitivity": "optional", "distill": "optional",
          "finetune": "optional"}
PLACES = judging.PLACES
TABLE, REPORT = "report.md", "report.json"


class Params(judging.JudgeParams):
    """The teacher, and what its compressed versions are judged on."""


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a judge that cannot judge, and another teacher than the one that is pruned."""
    from l3hpc.steps import prune

    own, cut = params.get(NAME), params.get("prune")
    if not isinstance(own, Params):
        return
    judging.check(own, NAME)
    if isinstance(cut, prune.Params) and cut.weights != own.weights:
        raise InputError(f"compares with {own.weights}, but {cut.weights} is pruned",
                         where="compare.weights", allowed="one teacher for both")


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Files by their bytes, folders by their listings."""
    assert isinstance(params, Params)
    return judging.digests(params)


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Judge every network; write ``report.md`` and ``report.json``."""
    from l3hpc.compression import plans, sizes
    from l3hpc.io.files import write_json, write_text
    from l3hpc.models.weights import caution, identity, load_parameters

    assert isinstance(params, Params)
    teacher, _ = load_parameters(params.weights)
    known = identity(params.weights)
    found = list(networks(task.inputs))
    task.progress.start("weighing", total=len(found) + 1 + len(plans.PUBLISHED), unit="networks")
    judges: list[Any] = [judging.fidelity(params, teacher, task)]
    if params.kind == judging.CORRESPONDENCE:
        judges.append(judging.correspondence(params, teacher, task))
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for made_by, told, path in [("teacher", {}, Path(params.weights)), *found]:
        rows.append(_row(made_by, told, path, teacher, judges, left_out))
        task.progress.advance(1)
    report = {
        "teacher": known, "note": caution(known), "judge": params.kind, "networks": rows,
        "left_out": left_out, "sensitivity": scanned(task.inputs.get("sensitivity")),
        "published": sizes.published_rows(teacher, lambda plan: task.progress.advance(1)),
        "formula": sizes.FORMULA}
    write_json(task.output / REPORT, report)
    write_text(task.output / TABLE, sizes.markdown(report))
    return {"networks": rows, "teacher": known["label"], "note": report["note"],
            "report": TABLE}


def networks(inputs: Mapping[str, Path]) -> list[tuple[str, dict[str, Any], Path]]:
    """(step, what it told, network file) of every network of the run, in the order of making."""
    from l3hpc.io.files import read_json, task_folders
    from l3hpc.steps import distill, finetune, prune

    found = []
    for step, module in (("prune", prune), ("distill", distill), ("finetune", finetune)):
        folder = inputs.get(step)
        for one in (task_folders(folder) or [folder]) if folder is not None else ():
            if not (one / module.TOLD).is_file():
                raise InputError(f"holds no {module.TOLD}", where=str(one),
                                 hint=f"The step {step} writes one.")
            told = read_json(one / module.TOLD)
            found.append((step, told, one / told.get("model", prune.NETWORK)))
    return found


def scanned(folder: Path | None) -> dict[str, Any] | None:
    """The sensitivity scan with the points of all tasks; None without one."""
    from l3hpc.io.files import read_json, task_folders
    from l3hpc.steps.sensitivity import FILE

    if folder is None:
        return None
    parts = [read_json(one / FILE) for one in (task_folders(folder) or [folder])]
    return {**parts[0], "points": [row for part in parts for row in part["points"]]}


def _row(made_by: str, told: Mapping[str, Any], path: Path, teacher: Any, judges: Sequence[Any],
         left_out: list[str]) -> dict[str, Any]:
    from l3hpc.compression import sizes
    from l3hpc.models.weights import load_parameters

    parameters = teacher if made_by == "teacher" else load_parameters(path)[0]
    row: dict[str, Any] = {
        "made_by": made_by, "plan": told.get("plan") or ("none" if made_by == "teacher" else "own"),
        "convolutions": len(parameters.spec.filters), "filters": list(parameters.spec.filters),
        "dim": parameters.spec.dim, "sizes": sizes.weigh(parameters).as_json()}
    if told.get("best_validation_accuracy") is not None:  # with the head that it learnt
        row["accuracy"] = told["best_validation_accuracy"]
    if parameters.spec.dim != teacher.spec.dim:
        left_out.append(f"{made_by}, {row['plan']}: {parameters.spec.dim} values cannot be "
                        f"compared with the teacher's {teacher.spec.dim}.")
        return row
    for judge in judges:
        row = {**judge.of(parameters), **row}
    return row


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``3 networks; smallest 213,284 weights that are not zero, cosine 0.9132``."""
    rows = [row for result in results for row in result.get("networks", [])
            if row["made_by"] != "teacher"]
    if not rows:
        return ""
    least = min(rows, key=lambda row: row["sizes"]["non_zero"])
    text = (f"{len(rows)} networks; smallest ({least['made_by']} {least['plan']}): "
            f"{least['sizes']['non_zero']:,} weights that are not zero")
    return f"{text}, cosine {least['cosine']:.4f}" if "cosine" in least else text
