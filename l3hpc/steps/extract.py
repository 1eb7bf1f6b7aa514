"""extract: audio → teacher embeddings, one row per window of one second, with provenance.

One task works through ``files_per_task`` recordings; a killed task goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from l3hpc.audio.conventions import name_of
from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps import reduced
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task
from l3hpc.steps.conventions import Convention, front_end

if TYPE_CHECKING:
    from l3hpc.models.embedder import Embedder

NAME = "extract"
VERSION = 2
TITLE = "teacher embeddings of every second of audio"
INPUTS: dict[str, str] = {}
PLACES = frozenset({"audio", "weights", "max_failed", "batch_size", "engine"})


class Params(BaseParams):
    """What decides the teacher's embeddings."""

    audio: Path = Field(description=(
        "Folder of sound files (WAV, FLAC, OGG, Opus, MP3, AIFF, AU; by ffmpeg M4A, AAC, MP4, "
        "WebM) or HDF5 files (dataset 'audio'), searched with its subfolders."))
    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    hop: float = Field(0.5, gt=0, le=60, description="Seconds from one window to the next.")
    center: bool = Field(True, description="Centre the first window on the first sample.")
    convention: Convention = Field("own", description=(
        "Front end; own: the network's (kapre-0.1 for published weights, as they were trained). "
        "The others: as openl3 0.4 computes it, and as embedding-approx does outside its models. "
        "A to D: the letters under which they are stored."))
    min_seconds: float = Field(1.0, ge=0, description=(
        "Shorter recordings are skipped; 0 keeps all and pads them with zeros."))
    files_per_task: int = Field(64, ge=1, description="Recordings per array task.")
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "The largest share of a task's recordings that may be unusable before the task fails."))
    batch_size: int | None = Field(None, ge=1, description="Windows per batch (none: by memory).")
    engine: Literal["auto", "tensorflow", "ncnn"] = Field("auto", description=(
        "What computes the network; auto: the faster one of those installed, measured once."))
    precision: Literal["float32", "bfloat16", "int8"] = Field("float32", description=(
        "Of the network's arithmetic; bfloat16 and int8 are faster and change the embeddings a "
        "little: how much is measured, noted and in the result."))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a hop of less than a sample, and an engine that does not compute in the precision."""
    own = params.get(NAME)
    if not isinstance(own, Params):
        return
    reduced.check(own, NAME)
    if own.hop * 8000 < 1:
        raise InputError(f"hop {own.hop} s is shorter than one sample", where="extract.hop",
                         allowed="at least 0.000125 s; 0.5 is the published one")


def packages(params: BaseModel) -> dict[str, str]:
    """Importable name of what this needs beyond the core dependencies → how to install it."""
    assert isinstance(params, Params)
    return reduced.packages(params)


def describe(params: Mapping[str, BaseModel]) -> str:
    """``teacher untrained, hop 0.5 s, centred``."""
    own = params[NAME]
    assert isinstance(own, Params)
    name = own.weights if own.weights.startswith("untrained") else Path(own.weights).name
    more = "" if own.convention == "own" else f", front end {name_of(own.convention)}"
    more += "" if own.precision == "float32" else f", {own.precision}"
    return f"teacher {name}, hop {own.hop:g} s, {'centred' if own.center else 'not centred'}{more}"


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """The recordings, sorted by sensor and name, cut into groups of ``files_per_task``."""
    from l3hpc.datasets.corpus import scan

    assert isinstance(params, Params)
    recordings = sorted(scan(params.audio), key=lambda one: (one.sensor, one.file))
    size = params.files_per_task
    ranges = reduced.ranges_from(recordings, params)
    return [{"recordings": [one.as_json() for one in recordings[first:first + size]],
             "sensors": sorted({one.sensor for one in recordings[first:first + size]}),
             **ranges}
            for first in range(0, len(recordings), size)]


def digests(params: BaseModel) -> dict[str, Any]:
    """The audio by its listing (names, sizes, times), the teacher by its bytes."""
    from l3hpc.datasets.corpus import manifest_digest, scan

    assert isinstance(params, Params)
    return {"audio": manifest_digest(scan(params.audio)), "weights": weights_digest(params.weights)}


def weights_digest(weights: str | Path) -> str:
    """What identifies a teacher: ``untrained…`` itself, or the digest of a weight file's bytes.

    Raises ``InputError`` when there is no such file.
    """
    name = str(weights)
    if name == "untrained" or name.startswith("untrained:"):
        return name
    if not Path(name).is_file():
        raise InputError(f"no weight file {name}", where="--weights",
                         allowed="a file of openl3, edgel3, Keras or l3hpc weights, or 'untrained'",
                         hint="See what a file holds: l3hpc doctor")
    return digest_file(Path(name))


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Embed this task's recordings into ``embeddings.h5``; list the unusable in ``skipped.csv``."""
    from l3hpc.datasets.extraction import Extraction

    assert isinstance(params, Params)
    network, teacher, precision = reduced.network(
        params.weights, params, task, Path(params.audio), front_end(params.convention))
    tell(task, "teacher", params.weights, network, params)
    tell_passed_over(task, params.audio)
    result = Extraction(
        network, teacher, Path(params.audio), task_recordings(task.shard), params.hop,
        params.center, task.scratch, params.min_seconds, params.max_failed, params.batch_size,
        task.progress, threads=task.threads,
    ).run(task.output / "embeddings.h5", task.output / "skipped.csv")
    return {**result, "teacher": teacher, **precision, "engine": network.engine.name}


def tell(task: Task, who: str, weights: str, network: Embedder, params: reduced.Settings) -> None:
    """Note in the log which network computes, on what and why, and what its file left open."""
    from l3hpc.models import engines
    from l3hpc.models.weights import describe as describe_weights

    why = ""
    if params.precision == "float32":
        why = f" ({engines.reason(network.spec, task.threads, params.engine)})"
    task.progress.note(f"{who}: {network.label}, engine {network.engine.name}{why}, "
                       f"{task.threads} threads")
    for note in describe_weights(weights).notes:
        task.progress.note(f"{who}: {note}")


def tell_passed_over(task: Task, folder: Path) -> None:
    """Note, in the first task's log, which files of the folder of audio are no recordings."""
    from l3hpc.datasets.corpus import passed_over

    others = passed_over(folder) if task.index == 0 else ""
    if others:
        task.progress.note(f"ignored {others}")


def task_recordings(shard: Mapping[str, Any]) -> list[Any]:
    """The recordings of a frozen task."""
    from l3hpc.datasets.corpus import Recording

    return [Recording.from_json(values) for values in shard["recordings"]]


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``1,024 rows of 64 recordings, 2 skipped``."""
    rows = sum(result.get("rows", 0) for result in results)
    files = sum(result.get("recordings", 0) for result in results)
    skipped = sum(result.get("skipped", 0) for result in results)
    text = f"{rows:,} rows of {files:,} recordings"
    return (f"{text}, {skipped:,} skipped" if skipped else text) + reduced.summary(results)
