"""extract: audio → teacher embeddings, one row per window, with provenance.

One task embeds ``files_per_task`` recordings; a killed task resumes after the last finished one.

Before and after the step itself is what it shares with ``embed``: parameters, and loading the
network in the requested precision. The value ranges of int8 come from a few recordings of the whole
listing, the same for every task of an array; the deviation from float32 is measured on each task's
own recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from l3hpc.audio.conventions import ALIASES, name_of
from l3hpc.errors import InputError, command_line
from l3hpc.io.values import count_of
from l3hpc.steps.base import Output, Params, PlanParams, ReportItem, Results, Shard, Step, Upstream
from l3hpc.steps.networks import NETWORK_OF_RUN, check_gpus
from l3hpc.steps.params import DAY_S, MAX_BATCH, MOST
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.datasets.corpus import Recording
    from l3hpc.datasets.extraction import Extraction
    from l3hpc.models.embedder import Embedder
    from l3hpc.teachers.base import Description, Teacher

RECORDINGS = 16  # from which windows for int8 and for the deviation are taken
RANGE_WINDOWS = 48
CHECK_WINDOWS = 24
OWN = "own"


def _as_letter(convention: object) -> object:
    """The letter of a convention that is given by name or alias; anything else unchanged."""
    return ALIASES.get(convention, convention) if isinstance(convention, str) else convention


# Frozen configurations and fingerprints contain the letter, so that all spellings of a convention
# are one artifact. kapre-0.1-batch is not allowed: there an embedding depends on the rest of its
# batch, but the rows of a step must not depend on how they were computed.
Convention = Annotated[
    Literal["own", "kapre-0.1", "openl3-0.4-kapre", "openl3-0.4-librosa", "embedding-approx",
            "A", "B", "C", "D"], BeforeValidator(_as_letter)]


def front_end(convention: str) -> dict[str, str]:
    """The front-end values that override those of the network's file."""
    return {} if convention == OWN else {"convention": convention}


class EmbeddingParams(Params):
    """The parameters of both steps that compute embeddings."""

    convention: Convention = Field("own", description=(
        "Front end; own: that of the network (kapre-0.1 for published weights, as in their "
        "training). The others follow openl3 0.4, and embedding-approx outside its models. "
        "A, B, C and D are the letters under which they are stored."))
    hop: float = Field(0.5, gt=0, le=60, description="Hop between windows in seconds.")
    center: bool = Field(True, description="Centre the first window on the first sample.")
    window: float | None = Field(None, gt=0, le=60, description=(
        "Length of a window in seconds, for a teacher that does not state it: a HEAR module, or "
        "precomputed embeddings (none: one second). With a sidecar, a shorter window than the "
        "network's is padded with zeros."))
    min_seconds: float = Field(1.0, ge=0, le=DAY_S, description=(
        "Shorter recordings are skipped; 0 keeps all and pads them with zeros."))
    batch_size: int | None = Field(None, ge=1, le=MAX_BATCH, description=(
        "Windows per batch (none: by memory)."))
    engine: Literal["auto", "tensorflow", "ncnn", "torch"] = Field("auto", description=(
        "Inference engine; auto: the fastest of those installed, measured once."))
    precision: Literal["float32", "tf32", "bfloat16", "int8"] = Field("float32", description=(
        "Precision of the network; the others are faster and change the embeddings slightly; the "
        "error is measured and stored with the result. tf32 needs PyTorch and a GPU."))


class ExtractParams(EmbeddingParams):
    """The audio and the teacher."""

    audio: Path = Field(description=(
        "Folder of sound files (WAV, FLAC, OGG, Opus, MP3, AIFF, AU; by ffmpeg M4A, AAC, MP4, "
        "WebM) or HDF5 files (dataset 'audio'), searched recursively."))
    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), hear:package.module for a module "
        "of the HEAR interface, a folder of precomputed embeddings, or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    files_per_task: int = Field(64, ge=1, le=MOST, description="Recordings per array task.")
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "Fraction of a task's recordings that may be unusable before the task fails."))


class Extract(Step[ExtractParams]):
    """The teacher's embeddings of a folder of audio."""

    name = "extract"
    version = 2
    title = "teacher embeddings of every second of audio"
    params_type = ExtractParams
    not_in_fingerprint = frozenset({"audio", "weights", "window", "max_failed", "batch_size",
                                    "engine"})
    run_files = {"weights": NETWORK_OF_RUN}
    output = Output.EMBEDDINGS
    report_items = frozenset({ReportItem.TEACHER})
    kept_files = ("skipped.csv",)

    def check(self, params: ExtractParams, plan: PlanParams) -> None:
        """Refuse a hop shorter than a sample, and an engine without the precision."""
        check_precision(params, self.name)
        check_network(params, params.weights, self.name)
        check_precomputed(params.weights, params, Path(params.audio))
        if params.hop * 8000 < 1:
            raise InputError(f"hop {params.hop} s is shorter than one sample", where="extract.hop",
                             allowed="at least 0.000125 s; published: 0.5")

    def check_gpus(self, params: ExtractParams, gpus: int) -> str:
        """Refuse int8 with a GPU, and tf32 without one."""
        check_gpus(params.precision, gpus, self.name)
        return ""

    def packages(self, params: ExtractParams) -> dict[str, str]:
        """Importable name of what this needs beyond the core dependencies → how to install it."""
        return precision_packages(params)

    def describe(self, params: ExtractParams, plan: PlanParams) -> str:
        """``teacher untrained, hop 0.5 s, centred``."""
        from l3hpc.teachers.find import short_name

        name = short_name(params.weights)
        more = "" if params.convention == "own" else f", front end {name_of(params.convention)}"
        more += "" if params.precision == "float32" else f", {params.precision}"
        centred = "centred" if params.center else "not centred"
        return f"teacher {name}, hop {params.hop:g} s, {centred}{more}"

    def shards(self, params: ExtractParams, upstream: Upstream) -> list[Shard]:
        """The recordings, sorted by sensor and name, cut into groups of ``files_per_task``."""
        from l3hpc.datasets.corpus import scan_recordings

        recordings = sorted(scan_recordings(params.audio), key=lambda one: (one.sensor, one.file))
        size = params.files_per_task
        ranges = ranges_from(recordings, params)
        return [{"recordings": [one.as_json() for one in recordings[first:first + size]],
                 "sensors": sorted({one.sensor for one in recordings[first:first + size]}),
                 **ranges}
                for first in range(0, len(recordings), size)]

    def digests(self, params: ExtractParams) -> dict[str, Any]:
        """The audio by its listing (names, sizes, times), the teacher by its bytes."""
        from l3hpc.datasets.corpus import manifest_digest, scan_recordings
        from l3hpc.teachers.find import fingerprint

        return {"audio": manifest_digest(scan_recordings(params.audio)),
                "weights": fingerprint(params.weights), **window_digest(params)}

    def run(self, params: ExtractParams, task: Task) -> dict[str, Any]:
        """Embed this task's recordings into ``embeddings.h5``; unusable ones: ``skipped.csv``."""
        network, teacher, precision = load_network(
            params.weights, params, task, Path(params.audio), front_end(params.convention))
        note_network(task, "teacher", params.weights, network, params)
        note_ignored_files(task, params.audio)
        result = extraction_of(network)(
            network, teacher, Path(params.audio), task_recordings(task.shard), params.hop,
            params.center, task.scratch, params.min_seconds, params.max_failed, params.batch_size,
            task.progress, block_of(network), threads=task.threads,
        ).run(task.output / "embeddings.h5", task.output / "skipped.csv")
        return {**result, "teacher": teacher, **precision, "engine": network.engine_name}

    def summary(self, results: Results) -> str:
        """``1,024 rows of 64 recordings, 2 skipped``."""
        rows = sum(result.get("rows", 0) for result in results)
        files = sum(result.get("recordings", 0) for result in results)
        skipped = sum(result.get("skipped", 0) for result in results)
        text = f"{count_of(rows, 'row')} of {count_of(files, 'recording')}"
        return (f"{text}, {skipped:,} skipped" if skipped else text) \
            + changed_summary(results) + precision_summary(results)

    def networks(self, params: Mapping[str, Any], results: Results
                 ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The teacher."""
        teacher = results[0].get("teacher") if results else None
        if not isinstance(teacher, dict) or not teacher.get("spec"):
            return []
        return [(f"teacher ({teacher.get('kind')})", teacher["spec"])]


def block_of(network: Teacher) -> int | None:
    """Windows that are collected before the network is called; None for the default."""
    from l3hpc.audio.framing import window_samples
    from l3hpc.datasets.extraction import GPU_BLOCK_BYTES

    # A GPU needs enough work to stay busy while the next windows are collected.
    on_gpu = getattr(getattr(network, "engine", None), "device", "cpu") == "gpu"
    samples = window_samples(network.window_s, network.rate)
    return GPU_BLOCK_BYTES // (4 * samples) if on_gpu else None


def note_network(task: Task, who: str, weights: str, network: Teacher,
                 params: EmbeddingParams) -> None:
    """Log network and engine, why this engine, and what the weight file leaves undetermined.

    Parameters
    ----------
    task
        The task, for its log.
    who
        ``teacher`` or ``student``.
    weights
        The weight file, or ``untrained…``.
    network
        The loaded network.
    params
        Parameters of the step.
    """
    from l3hpc.models import engines
    from l3hpc.teachers.find import describe

    known = describe(weights)
    why = ""
    if params.precision == "float32" and known.spec is not None:
        why = f" ({engines.reason(known.spec, task.threads, params.engine)})"
    label = network.label if network.label.startswith(f"{who} of ") else f"{who}: {network.label}"
    task.progress.note(f"{label}, engine {network.engine_name}{why}, "
                       f"{task.threads} threads")
    for note in known.notes:
        task.progress.note(f"{who}: {note}")


def note_ignored_files(task: Task, folder: Path) -> None:
    """Log, in the first task only, the files in the folder of audio that are not recordings."""
    from l3hpc.datasets.corpus import describe_ignored_files

    others = describe_ignored_files(folder) if task.index == 0 else ""
    if others:
        task.progress.note(f"ignored {others}")


def task_recordings(shard: Mapping[str, Any]) -> list[Recording]:
    """The recordings of a frozen task."""
    from l3hpc.datasets.corpus import Recording

    return [Recording.from_json(values) for values in shard["recordings"]]


def check_precision(params: EmbeddingParams, step: str) -> None:
    """Refuse an engine that does not support the precision.

    Parameters
    ----------
    params
        Parameters of the step.
    step
        Its name, for the message.

    Raises
    ------
    InputError
        With the engines or precisions that are possible.
    """
    if params.precision != "float32":
        from l3hpc.models import precision

        precision.check_engine(params.precision, params.engine, step)


def check_network(params: EmbeddingParams, weights: str, step: str) -> None:
    """Refuse a network that cannot be used, and settings that only the L3 family has.

    Parameters
    ----------
    params
        Parameters of the step.
    weights
        The weight file, or another name of a network.
    step
        The step's name, for the message.

    Raises
    ------
    InputError
        With what is wrong in the file, or the parameter to change.
    """
    from l3hpc.teachers.base import Options
    from l3hpc.teachers.find import describe

    known = describe(weights, Options(front_end(params.convention), window_s=params.window))
    if params.window not in (None, known.window_s):
        raise InputError(f"window {params.window:g} s does not fit {known.label}",
                         where=f"{step}.window", allowed=f"{known.window_s:g}, or none")
    if known.spec is not None:
        return
    stated = {"precision": (params.precision, "float32"), "engine": (params.engine, "auto")}
    for name, (value, default) in stated.items():
        if value != default:
            raise InputError(f"{name} {value} is for networks of the L3 family, not for "
                             f"{known.label}", where=f"{step}.{name}", allowed=default)


def check_precomputed(weights: str, params: EmbeddingParams, audio: Path,
                      recordings: Sequence[Recording] | None = None) -> None:
    """Refuse precomputed embeddings that do not match the recordings; other networks always pass.

    Parameters
    ----------
    weights
        The folder of embeddings, or another name of a network.
    params
        Parameters of the step.
    audio
        Folder of the recordings.
    recordings
        Those that the step embeds; None: all in the folder, and there may be no embeddings of
        others.

    Raises
    ------
    InputError
        With the counts and the first names.
    """
    from l3hpc.datasets.corpus import scan_recordings
    from l3hpc.datasets.precomputed import PrecomputedEmbeddings
    from l3hpc.teachers.base import Options
    from l3hpc.teachers.find import load

    if not Path(weights).is_dir():
        return
    found = load(weights, Options(window_s=params.window))
    assert isinstance(found, PrecomputedEmbeddings)
    found.check(audio, recordings or scan_recordings(audio), params.hop, params.center,
                others=recordings is not None)


def extraction_of(network: Teacher) -> type[Extraction]:
    """The class that embeds with a network: it computes embeddings, or reads precomputed ones."""
    from l3hpc.datasets.extraction import Extraction
    from l3hpc.datasets.precomputed import PrecomputedEmbeddings, PrecomputedExtraction

    return PrecomputedExtraction if isinstance(network, PrecomputedEmbeddings) else Extraction


def window_digest(params: EmbeddingParams) -> dict[str, Any]:
    """The length of a window, if it is stated, for the digests of a step."""
    # Not a parameter of the fingerprint: earlier artifacts have none, and keep their names.
    return {} if params.window is None else {"window": params.window}


def precision_packages(params: EmbeddingParams) -> dict[str, str]:
    """Importable name of the packages that precision and engine need → how to install them."""
    if params.precision == "float32" and params.engine != "torch":
        return {}
    from l3hpc.models import precision

    return precision.required_packages(params.precision, params.engine)


def ranges_from(recordings: Sequence[Recording], params: EmbeddingParams
                ) -> dict[str, Any]:
    """For int8: the recordings that value ranges are measured on, as an entry of a shard."""
    if params.precision != "int8":
        return {}
    from l3hpc.datasets.windows import evenly_spaced

    return {"ranges_from": [one.as_json() for one in evenly_spaced(recordings, RECORDINGS)]}


def network_identity(weights: str, params: EmbeddingParams) -> dict[str, Any]:
    """What embeddings record of the network that makes them.

    Parameters
    ----------
    weights
        A weight file, or another name of a network.
    params
        Parameters of the step.
    """
    from l3hpc.teachers.base import Options
    from l3hpc.teachers.find import identity

    known = identity(weights, Options(front_end(params.convention), window_s=params.window))
    if params.precision != "float32":
        known.update(precision=params.precision, label=f"{known['label']}, {params.precision}")
    return known


def load_network(weights: str, params: EmbeddingParams, task: Task, folder: Path,
                 geometry: Mapping[str, Any]
                 ) -> tuple[Teacher, dict[str, Any], dict[str, Any]]:
    """Load the network of a task in the requested precision.

    Parameters
    ----------
    weights
        A weight file, ``untrained…``, or another name of a teacher.
    params
        Parameters of the step.
    task
        The task, for its shard, threads and log.
    folder
        Folder of the recordings.
    geometry
        As for ``weights.load``.

    Returns
    -------
    network : Teacher
        Ready to embed.
    identity : dict
        Label, kind and digest of the network, and its spec if it is of the L3 family; JSON values.
    precision : dict
        ``{"precision": …}`` with the measured deviation; empty for float32.

    Raises
    ------
    L3hpcError
        Where no recording can be used to measure ranges, or the deviation is too large.
    """
    from l3hpc.teachers.base import Options
    from l3hpc.teachers.find import describe, load

    options = Options(geometry, engine=params.engine, threads=task.threads,
                      window_s=params.window)
    known = network_identity(weights, params)
    if params.precision == "float32":
        return load(weights, options), known, {}
    embedder, deviation = _reduced(weights, params, task, folder, geometry,
                                   describe(weights, options))
    return embedder, known, {"precision": deviation}


def _reduced(weights: str, params: EmbeddingParams, task: Task, folder: Path,
             geometry: Mapping[str, Any], known: Description) -> tuple[Embedder, dict[str, Any]]:
    """The network in reduced precision, and its deviation from float32."""
    from l3hpc.datasets.corpus import Recording
    from l3hpc.datasets.windows import evenly_spaced, sample_windows
    from l3hpc.errors import L3hpcError
    from l3hpc.models import precision

    def windows(recordings: Sequence[Recording], count: int) -> Any:
        return sample_windows(folder, recordings, known.rate, params.hop, params.center, count,
                              params.min_seconds, known.window_s)

    ranges = [Recording.from_json(values) for values in task.shard.get("ranges_from", [])]
    frames = windows(ranges, RANGE_WINDOWS)
    if ranges and not len(frames):
        raise L3hpcError(f"none of the {len(ranges)} recordings on which int8 measures its ranges "
                         "can be used", where=str(folder),
                         hint="use precision float32, or check: " + command_line(
                             "data", "check", folder))
    embedder, exact = precision.load_reduced(weights, params.precision, frames, geometry=geometry,
                                             threads=task.threads, engine=params.engine)
    own = [Recording.from_json(values) for values in task.shard["recordings"]]
    check_windows = windows(evenly_spaced(own, RECORDINGS), CHECK_WINDOWS)
    deviation = precision.deviation(embedder, exact, check_windows)
    on_gpu = getattr(embedder.engine, "device", "cpu") == "gpu"
    for text in (None if on_gpu else precision.slow_warning(params.precision),
                 f"{params.precision}: {deviation or 'every embedding is 0, nothing to compare'}"):
        if text:
            task.progress.note(text)
    if deviation:
        deviation.refuse(params.precision)
    return embedder, {"name": params.precision, "range_windows": len(frames),
                      **(deviation.as_json() if deviation else {"frames": 0})}


def changed_summary(results: Results) -> str:
    """``, 2 changed since the submission``; empty where all recordings are those listed."""
    changed = sum(result.get("changed", 0) for result in results)
    return f", {changed:,} changed since the submission" if changed else ""


def precision_summary(results: Results) -> str:
    """``, int8 with cosine 0.9991 to float32``, of the task with the largest deviation.

    Empty for float32.
    """
    deviations = [result["precision"] for result in results if result.get("precision")]
    cosines = [one["cosine"] for one in deviations if "cosine" in one]
    if not cosines:
        return ""
    return f", {deviations[0]['name']} with cosine {min(cosines):.4f} to float32"
