"""Which network the results of a step come from, whether its weights are random, and where it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, report_damage, setting
from l3hpc.io.files import RESULT, read_json, task_folders
from l3hpc.models import NETWORK_FILES
from l3hpc.steps.base import RunFile

# of any embedding; of audio-visual correspondence; and its pairs
NETWORK_OF_RUN = RunFile(("train", "avc_train", "finetune", "distill", "prune"), NETWORK_FILES,
                         others=True)
AVC_OF_RUN = RunFile(("avc_train",), ("avc_best_valid_loss.h5",))
PAIRS_OF_RUN = RunFile(("avc_pairs",))


def network_of(artifact: Path) -> Mapping[str, Any]:
    """Return the network that made the embeddings of an artifact.

    Parameters
    ----------
    artifact
        The folder.

    Returns
    -------
    Mapping
        As ``l3hpc.models.weights.identity`` returns it; empty for an artifact without embeddings,
        and for a damaged one, which is reported.
    """
    from l3hpc.datasets.clips import artifact_attributes

    tasks = task_folders(artifact) if artifact.is_dir() else []
    if not any((task / "embeddings.h5").is_file() for task in tasks[:1]):
        found = first_result(artifact).get("teacher")
    else:
        try:
            found = artifact_attributes(artifact).get("teacher")
        except InputError as error:
            report_damage(error)
            found = None
    return found if isinstance(found, dict) else {}


def has_random_weights(artifact: Path) -> bool:
    """Return whether the results of an artifact come from a network with random weights.

    Parameters
    ----------
    artifact
        The folder.
    """
    network = network_of(artifact)
    # networks of earlier versions only say that they are untrained
    return is_noted([first_result(artifact)]) or bool(
        network.get("random_weights", network.get("kind") == "untrained"))


def label_of(teacher: Mapping[str, Any] | None) -> dict[str, str]:
    """The ``note`` of a result that comes from a teacher with random weights; otherwise nothing.

    Parameters
    ----------
    teacher
        The identity of the teacher.
    """
    from l3hpc.models.weights import random_weights_note

    note = random_weights_note(teacher)
    return {"note": note} if note else {}


def is_noted(results: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a step noted in its results that they come from random weights.

    Parameters
    ----------
    results
        What ``run`` returned, task by task.
    """
    notes = [str(result["note"]) for result in results if result.get("note")]
    if not notes:  # as for most steps: what reads networks takes longer to import than they run
        return False
    from l3hpc.models.weights import RANDOM_WEIGHTS

    return any(RANDOM_WEIGHTS in note for note in notes)


def first_result(artifact: Path) -> Mapping[str, Any]:
    """Return what the first task of an artifact returned; empty if it is missing or damaged.

    Parameters
    ----------
    artifact
        The folder.
    """
    tasks = task_folders(artifact) if artifact.is_dir() else []
    try:
        content = read_json(tasks[0] / RESULT) if tasks else {}
    except (FileNotFoundError, InputError):  # reported where the results of the step are shown
        return {}
    found = content.get("summary") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def check_gpus(precision: str, gpus: int, step: str) -> None:
    """Refuse int8 in tasks with a GPU, and tf32 in tasks without one.

    Parameters
    ----------
    precision
        Of the network.
    gpus
        GPUs that each task requests.
    step
        The step's name, for the message.

    Raises
    ------
    InputError
        With both ways out: another precision, or another number of GPUs.
    """
    if precision == "int8" and gpus:
        raise InputError(f"int8 runs on the CPU, and each task of {step} requests "
                         f"{gpus} GPU{'s' * (gpus > 1)}", where=f"{step}.precision",
                         allowed="float32, tf32 or bfloat16 on a GPU",
                         hint=f"or, for int8, request no GPU: {setting(f'{step}.gpus', 0)}")
    if precision == "tf32" and not gpus:
        raise InputError(f"tf32 needs a GPU, and the tasks of {step} request none",
                         where=f"{step}.precision",
                         allowed="float32 or bfloat16 on the CPU",
                         hint=f"or, for tf32, request a GPU: {setting(f'{step}.gpus', 1)}")
