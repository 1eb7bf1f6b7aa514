"""What judges a compressed network in the steps sensitivity and compare: parameters, and the judge.

With a correspondence network (``avc``) and pairs (``scenes``) it is the accuracy of audio-visual
correspondence, as published; else the distance of embeddings to the unpruned teacher's. The output
always says which.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from l3hpc.errors import InputError
from l3hpc.steps.base import Params, Task
from l3hpc.steps.extract import weights_digest

EMBEDDING, CORRESPONDENCE = "embedding", "correspondence"
WORDS = {EMBEDDING: "distance of embeddings to the unpruned teacher's, on the same windows",
         CORRESPONDENCE: "accuracy of audio-visual correspondence (0.5 is chance)"}
NOT_IN_FINGERPRINT = frozenset({"audio", "weights", "avc", "scenes", "engine"})
RECORDINGS = 64


class JudgeParams(Params):
    """The teacher, and what its compressed versions are judged on."""

    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    audio: Path = Field(description=(
        "Folder of recordings on which the embeddings are compared with the teacher's."))
    windows: int = Field(256, ge=1, description="Number of one-second windows to compare.")
    avc: Path | None = Field(None, description=(
        "Correspondence network (a whole one from avc_train) whose audio branch is the teacher: "
        "evaluate by its accuracy."))
    scenes: Path | None = Field(None, description=(
        "Folder of audio-visual batches for the evaluation (needs avc)."))
    split: Literal["train", "validate", "test"] = Field("validate", description=(
        "Split of the batches to use."))
    pairs: int = Field(1024, ge=1, description=(
        "Number of pairs, spread evenly over the batches."))
    engine: Literal["auto", "tensorflow", "ncnn"] = Field("auto", description=(
        "Inference engine; auto: the fastest of those installed, measured once."))

    @property
    def kind(self) -> str:
        """``correspondence`` or ``embedding``."""
        return CORRESPONDENCE if self.avc is not None else EMBEDDING


def check(own: JudgeParams, step: str) -> None:
    """Refuse one of avc and scenes without the other, and files that are not there."""
    from l3hpc.models.weights import describe

    check_scenes(own.avc, own.scenes, step)
    spec = describe(own.weights).spec
    if own.avc is not None:
        check_branch(spec, own.avc)


def check_scenes(avc: Path | None, scenes: Path | None, step: str) -> None:
    """Refuse one of the two without the other, and what does not exist."""
    if (avc is None) != (scenes is None):
        missing = "avc" if avc is None else "scenes"
        raise InputError("correspondence needs a network and pairs, both or neither",
                         where=f"{step}.{missing}",
                         hint="--avc avc.h5 --scenes FOLDER")
    if avc is not None and not avc.is_file():
        raise InputError(f"no such file {avc}", where=f"{step}.avc",
                         allowed="a whole network that avc_train wrote")
    if scenes is not None and not scenes.is_dir():
        raise InputError(f"no such folder {scenes}", where=f"{step}.scenes")


def check_branch(spec: Any, avc: Path) -> None:
    """Refuse (``InputError``) a network that cannot stand in for the audio branch of ``avc``."""
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weight_files import open_network

    with open_network(avc) as stored:
        audio = (stored.spec or {}).get("audio")
    if not isinstance(audio, dict):
        raise InputError("is not a whole audio-visual network", where=str(avc))
    branch = NetworkSpec.from_dict(audio)
    if spec.frontend != branch.frontend or (spec.tail, spec.head) not in (
            (branch.tail, branch.head), ("embedding", spec.head)):
        raise InputError(
            f"the network ({spec.rate} Hz, {spec.n_mels} mels, '{spec.tail}' with {spec.head}) "
            f"cannot stand in for the audio branch of {avc.name} ({branch.rate} Hz, "
            f"{branch.n_mels} mels, '{branch.tail}' with {branch.head})", where=str(avc),
            hint="take the teacher that was trained with it: --weights teacher.h5 of avc_train")


def digests(own: JudgeParams) -> dict[str, Any]:
    """Teacher and correspondence network by their bytes, audio and scenes by their listings."""
    from l3hpc.datasets.corpus import manifest_digest, scan

    return {"weights": weights_digest(own.weights), "audio": manifest_digest(scan(own.audio)),
            **scene_digests(own.avc, own.scenes)}


def scene_digests(avc: Path | None, scenes: Path | None) -> dict[str, Any]:
    """The correspondence network by its bytes, the batches by names, sizes and times."""
    from l3hpc.io.files import digest, digest_file

    listing = [[path.relative_to(scenes).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
               for path in sorted(scenes.rglob("*.h5"))] if scenes is not None else None
    return {"avc": digest_file(avc) if avc is not None else None,
            "scenes": digest(listing) if listing is not None else None}


def fidelity(own: JudgeParams, teacher: Any, task: Task) -> Any:
    """A ``Fidelity`` on windows spread over the folder of audio; ``InputError`` without any."""
    from l3hpc.compression.fidelity import Fidelity
    from l3hpc.datasets.corpus import scan
    from l3hpc.datasets.windows import spread, windows_of

    recordings = spread(scan(own.audio), RECORDINGS)
    frames = windows_of(own.audio, recordings, teacher.spec.rate, 0.5, True, own.windows)
    if not len(frames):
        raise InputError("no recording of at least one second can be read", where=str(own.audio),
                         hint="look into it: l3hpc data check FOLDER")
    return Fidelity(teacher, frames[:own.windows], threads=task.threads, engine=own.engine)


def correspondence(own: JudgeParams, teacher: Any, task: Task) -> Any:
    """A ``Correspondence`` with the head that the network was trained with."""
    from l3hpc.avc.batches import Batches
    from l3hpc.avc.network import load_avc
    from l3hpc.compression.correspondence import Correspondence, Head, look, spread_rows
    from l3hpc.io.files import digest_file

    assert own.avc is not None and own.scenes is not None
    network = load_avc(own.avc)
    batches = Batches.find(own.scenes, own.split)
    seen = look(network, batches, spread_rows(batches, own.pairs), teacher.spec.frontend,
                task.scratch / "seen", settings=digest_file(own.avc), progress=task.progress)
    return Correspondence(seen, Head(network.head), network.parameters(), task.threads, own.engine)


def judge(own: JudgeParams, teacher: Any, task: Task) -> Callable[[Any], dict[str, Any]]:
    """The function that judges networks, of the kind that ``own.kind`` says."""
    made = correspondence if own.kind == CORRESPONDENCE else fidelity
    found: Callable[[Any], dict[str, Any]] = made(own, teacher, task).of
    return found
