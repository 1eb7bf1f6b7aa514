"""score: the folds together: mean accuracy with its interval, accuracy per class, confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from l3hpc.errors import InputError
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "score"
VERSION = 1
TITLE = "accuracy over the folds"
INPUTS = {"folds": "required"}
PLACES: frozenset[str] = frozenset()


class Params(BaseParams):
    """Nothing to choose."""


def check(params: Mapping[str, BaseModel]) -> None:
    """Nothing to refuse."""


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Nothing from outside."""
    return {}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Write ``scores.json`` and ``confusion.csv``."""
    import numpy as np

    from l3hpc.classification import scores
    from l3hpc.io.files import write_json
    from l3hpc.models.weights import caution
    from l3hpc.steps.folds import noted

    told = read_folds(task.inputs["folds"])
    names, part = told[0]["classes"], told[0].get("part", "")
    tested = [one["scores"]["test"] for one in told]
    matrix = np.sum([one["confusion"] for one in tested], axis=0)
    together = scores.of_confusion(matrix, names)
    result = {
        "data": told[0]["data"], "part": part, "model": told[0]["model"],
        "features": told[0]["features"],
        "confidence": scores.CONFIDENCE, "method": scores.METHOD,
        "accuracy": scores.over_folds([one["accuracy"] for one in tested]),
        "average_class_accuracy": scores.over_folds(
            [one["average_class_accuracy"] for one in tested]),
        "pooled": {name: value for name, value in together.items() if name != "confusion"},
        "folds": {str(one["fold"]): {
            "accuracy": test["accuracy"], "clips": test["clips"],
            "average_class_accuracy": test["average_class_accuracy"],
            "valid_accuracy": one["scores"]["valid"]["accuracy"], "chosen": one["chosen"],
        } for one, test in zip(told, tested, strict=True)},
        "missing": told[0]["missing"], "network": told[0]["network"].get("label"),
        "note": noted(caution(told[0]["network"]), part),
    }
    write_json(task.output / "scores.json", result)
    _write_confusion(task.output / "confusion.csv", names, matrix)
    return {"data": result["data"], "part": part, "model": result["model"],
            "accuracy": result["accuracy"], "missing": len(result["missing"])}


def read_folds(folder: Path) -> list[dict[str, Any]]:
    """What the tasks of ``folds`` wrote, by test fold.

    Raises ``InputError`` where there is none, where one is missing, and where they are not of one
    set of classes.
    """
    from l3hpc.io.files import read_json, task_folders

    told: list[dict[str, Any]] = []
    for place in task_folders(folder):
        if (place / "fold.json").is_file():
            told.append(read_json(place / "fold.json"))
    if not told:
        raise InputError("holds no scores of folds", where=str(folder),
                         allowed="the output of the step folds")
    if any(one["classes"] != told[0]["classes"] for one in told):
        raise InputError("the folds have different classes", where=str(folder))
    done = Counter(int(one["fold"]) for one in told)
    wanted = told[0].get("folds") or list(done)  # older files do not tell
    wrong = [fold for fold in wanted if done[fold] != 1]
    if wrong:
        raise InputError(f"holds scores of {len(done)} of {len(wanted)} folds: fold {wrong[0]} is "
                         f"there {done[wrong[0]]} times", where=str(folder),
                         hint="Finish folds first: l3hpc resume RUN")
    return sorted(told, key=lambda one: int(one["fold"]))


def _write_confusion(path: Path, names: Sequence[str], matrix: Any) -> None:
    """A row per true class, a column per predicted one."""
    import csv
    import io

    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["class", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    write_text(path, stream.getvalue())


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``ESC-50, mlp: accuracy 0.842 (0.801 to 0.883)``."""
    if not results:
        return ""
    found = results[0]["accuracy"]
    part = results[0].get("part")
    text = (f"{results[0]['data']}{f' ({part})' if part else ''}, {results[0]['model']}: "
            f"accuracy {found['mean']:.3f}")
    low_high = found.get("interval")
    return text + (f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else "")
