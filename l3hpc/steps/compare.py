"""compare: the compression report, as a table and as JSON.

It contains the published table by its formula with true counts and bytes, the sensitivity scan, and
every network of the run with its sizes and its distance to the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.values import count_of
from l3hpc.steps import prune
from l3hpc.steps.base import Input, PlanParams, Results, Step
from l3hpc.steps.prune import METADATA, NETWORK, SCAN, Prune
from l3hpc.steps.retrain import METADATA as RETRAINED
from l3hpc.steps.task import Task

TABLE, REPORT = "report.md", "report.json"


class CompareParams(prune.JudgeParams):
    """The teacher, and what its compressed versions are evaluated on."""


class Compare(Step[CompareParams]):
    """The compression report, as a table and as JSON."""

    name = "compare"
    version = 1
    title = "the compression report: size and fidelity of every network"
    params_type = CompareParams
    inputs = {"prune": Input(), "sensitivity": Input(required=False),
              "distill": Input(required=False), "finetune": Input(required=False)}
    not_in_fingerprint = prune.NOT_IN_FINGERPRINT
    run_files = prune.JUDGED_BY

    def check(self, params: CompareParams, plan: PlanParams) -> None:
        """Refuse an incomplete evaluation, and another teacher than the one that is pruned."""
        prune.check(params, self.name)
        pruned = Prune().params_in(plan)
        if pruned is not None and pruned.weights != params.weights:
            raise InputError(f"compares with {params.weights}, but {pruned.weights} is pruned",
                             where="compare.weights", allowed="one teacher for both")

    def digests(self, params: CompareParams) -> dict[str, Any]:
        """Files by their bytes, folders by their listings."""
        return prune.digests(params)

    def run(self, params: CompareParams, task: Task) -> dict[str, Any]:
        """Evaluate every network; write ``report.md`` and ``report.json``."""
        from l3hpc.compression import plans, sizes
        from l3hpc.io.files import write_json, write_text
        from l3hpc.models.weights import identity, load_parameters, random_weights_note

        teacher, _ = load_parameters(params.weights)
        known = identity(params.weights)
        found = list(networks(task.inputs))
        task.progress.start("weighing", total=len(found) + 1 + len(plans.PUBLISHED),
                            unit="networks")
        judges: list[Any] = [prune.fidelity(params, teacher, task)]
        if params.kind == prune.CORRESPONDENCE:
            judges.append(prune.correspondence(params, teacher, task))
        rows: list[dict[str, Any]] = []
        left_out: list[str] = []
        for made_by, metadata, path in [("teacher", {}, Path(params.weights)), *found]:
            rows.append(_row(made_by, metadata, path, teacher, judges, left_out))
            task.progress.advance(1)
        report = {
            "teacher": known, "note": random_weights_note(known),
            "judge": params.kind, "networks": rows,
            "left_out": left_out, "sensitivity": scanned(task.inputs.get("sensitivity")),
            "published": sizes.published_rows(teacher, lambda plan: task.progress.advance(1)),
            "formula": sizes.FORMULA}
        write_json(task.output / REPORT, report)
        write_text(task.output / TABLE, sizes.markdown(report))
        return {"networks": rows, "teacher": known["label"], "note": report["note"],
                "report": TABLE}

    def summary(self, results: Results) -> str:
        """``3 networks; smallest 213,284 weights that are not zero, cosine 0.9132``."""
        rows = [row for result in results for row in result.get("networks", [])
                if row["made_by"] != "teacher"]
        if not rows:
            return ""
        least = min(rows, key=lambda row: row["sizes"]["non_zero"])
        text = (f"{count_of(len(rows), 'network')}; smallest ({least['made_by']} {least['plan']}): "
                f"{least['sizes']['non_zero']:,} weights that are not zero")
        return f"{text}, cosine {least['cosine']:.4f}" if "cosine" in least else text


def networks(inputs: Mapping[str, Path]) -> list[tuple[str, dict[str, Any], Path]]:
    """Step, metadata and file of every network of the run, in the order of the steps.

    Parameters
    ----------
    inputs
        Input → artifact.

    Raises
    ------
    InputError
        For an artifact without metadata.
    """
    from l3hpc.io.files import read_json, task_folders

    found = []
    for step, name in {"prune": METADATA, **RETRAINED}.items():
        folder = inputs.get(step)
        for one in (task_folders(folder) or [folder]) if folder is not None else ():
            if not (one / name).is_file():
                raise InputError(f"contains no {name}", where=str(one),
                                 hint=f"The step {step} writes it.")
            metadata = read_json(one / name)
            found.append((step, metadata, one / metadata.get("model", NETWORK)))
    return found


def scanned(folder: Path | None) -> dict[str, Any] | None:
    """The sensitivity scan with the points of all tasks; None without one."""
    from l3hpc.io.files import read_json, task_folders

    if folder is None:
        return None
    parts = [read_json(one / SCAN) for one in (task_folders(folder) or [folder])]
    return {**parts[0], "points": [row for part in parts for row in part["points"]]}


def _row(made_by: str, metadata: Mapping[str, Any], path: Path, teacher: Any, judges: Sequence[Any],
         left_out: list[str]) -> dict[str, Any]:
    from l3hpc.compression import sizes
    from l3hpc.models.weights import load_parameters

    parameters = teacher if made_by == "teacher" else load_parameters(path)[0]
    row: dict[str, Any] = {
        "made_by": made_by,
        "plan": metadata.get("plan") or ("none" if made_by == "teacher" else "own"),
        "convolutions": len(parameters.spec.filters), "filters": list(parameters.spec.filters),
        "dim": parameters.spec.dim, "sizes": sizes.measure_sizes(parameters).as_json()}
    if metadata.get("best_validation_accuracy") is not None:  # with its re-trained fusion head
        row["accuracy"] = metadata["best_validation_accuracy"]
    if parameters.spec.dim != teacher.spec.dim:
        left_out.append(f"{made_by}, {row['plan']}: {parameters.spec.dim} values cannot be "
                        f"compared with the teacher's {teacher.spec.dim}.")
        return row
    for judge in judges:
        row = {**judge.of(parameters), **row}
    return row
