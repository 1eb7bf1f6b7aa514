"""embed: the student's embeddings of SONYC-UST, UrbanSound8K, ESC-50, or any other audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from l3hpc.errors import InputError, command_line, option, setting
from l3hpc.io.values import count_of
from l3hpc.steps.base import Input, Output, PlanParams, Results, Shard, Step, Upstream, absolute
from l3hpc.steps.extract import (
    EmbeddingParams,
    block_of,
    changed_summary,
    check_network,
    check_precision,
    check_precomputed,
    extraction_of,
    front_end,
    load_network,
    note_ignored_files,
    note_network,
    precision_packages,
    precision_summary,
    ranges_from,
    task_recordings,
    window_digest,
)
from l3hpc.steps.networks import check_gpus
from l3hpc.steps.params import DAY_S, MOST
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.datasets.corpus import Recording

SOURCES = ("sonyc_ust", "clips", "table", "audio")  # parameters, of which exactly one is set


class EmbedParams(EmbeddingParams):
    """The audio and the network."""

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST (annotations.csv, taxonomy and audio): embed its annotated clips."))
    clips: Path | None = Field(None, description=(
        "Or a folder of UrbanSound8K or ESC-50: embed the clips of its table."))
    subset: Literal["all", "esc10"] = Field("all", description=(
        "esc10: only the clips of ESC-50 that belong to ESC-10."))
    table: Path | None = Field(None, description=(
        "Or a table (CSV) of clips: embed its files, from the folder audio."))
    file_column: str | None = Field(None, description=(
        "Column of the table with the files (none: found by its name)."))
    audio: Path | None = Field(None, description=(
        "Or any folder of audio; with a table, that of its files (none: the table's folder)."))
    student: str | None = Field(None, description=(
        "Weights of the network (none: the student trained by train)."))
    hop: float = Field(0.1, gt=0, le=60, description="Hop between windows in seconds.")
    center: bool = Field(False, description="Centre the first window on the first sample.")
    min_seconds: float = Field(0.0, ge=0, le=DAY_S, description=(
        "Shorter recordings are skipped; 0 keeps all and pads them with zeros."))
    npz: bool = Field(False, description=(
        "Also one npz file per recording (embedding, timestamps), as published."))
    files_per_task: int | None = Field(None, ge=1, le=MOST, description=(
        "Recordings per array task (none: one task for all)."))
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "Fraction of the recordings that may be unusable before the task fails."))

    _absolute = field_validator("table", "audio")(absolute)


class Embed(Step[EmbedParams]):
    """The student's embeddings of SONYC-UST, UrbanSound8K, ESC-50, or any other audio."""

    name = "embed"
    version = 3  # 3: loudness is not measured
    title = "student embeddings of the recordings to classify"
    params_type = EmbedParams
    inputs = {"train": Input(required=False, parameter="student")}
    not_in_fingerprint = frozenset({
        "audio", "sonyc_ust", "clips", "subset", "table", "file_column", "student", "window",
        "batch_size", "max_failed", "engine"})
    output = Output.EMBEDDINGS

    def check_gpus(self, params: EmbedParams, gpus: int) -> str:
        """Refuse int8 with a GPU, and tf32 without one."""
        check_gpus(params.precision, gpus, self.name)
        return ""

    def check(self, params: EmbedParams, plan: PlanParams) -> None:
        """Refuse no or several sources of audio, files that are no network, and an engine
        without the precision."""
        check_precision(params, self.name)
        _check_source(params)
        if params.student is not None:
            check_network(params, params.student, self.name)
            check_precomputed(params.student, params, _source(params)[0], _recordings(params))

    def packages(self, params: EmbedParams) -> dict[str, str]:
        """Importable name of what this needs beyond the core dependencies → how to install it."""
        return precision_packages(params)

    def shards(self, params: EmbedParams, upstream: Upstream) -> list[Shard]:
        """The recordings in groups of ``files_per_task``, or all in one task."""
        from l3hpc.datasets.corpus import refuse_same_npz

        recordings = _recordings(params)
        if params.npz:
            refuse_same_npz(recordings, "embed.npz")
        missing = [one.file for one in recordings if one.size < 0]
        if params.clips is not None and len(missing) > params.max_failed * len(recordings):
            raise InputError(f"{len(missing):,} of {len(recordings):,} clips have no audio: "
                             f"{missing[0]}" + " …" * (len(missing) > 1), where=str(params.clips),
                             allowed=f"at most {params.max_failed:.0%} "
                                     f"({setting('embed.max_failed')})",
                             hint=f"What is missing: {command_line('data', 'check', params.clips)}")
        if params.table is not None and missing:
            raise InputError(
                f"{len(missing):,} of {len(recordings):,} clips have no audio: "
                f"{', '.join(missing[:3])}" + ", …" * (len(missing) > 3), where=str(params.table),
                allowed=f"files below {_source(params)[0]}",
                hint=f"Name the folder ({option('audio', 'DIR')}), or remove these rows from the "
                     "table.")
        size = params.files_per_task or len(recordings)
        ranges = ranges_from(recordings, params)
        return [{"recordings": [one.as_json() for one in recordings[first:first + size]], **ranges}
                for first in range(0, len(recordings), size)]

    def digests(self, params: EmbedParams) -> dict[str, Any]:
        """The audio by its listing, a named student by its bytes."""
        from l3hpc.datasets.corpus import manifest_digest
        from l3hpc.teachers.find import fingerprint

        return {"audio": manifest_digest(_recordings(params)),
                "student": fingerprint(params.student) if params.student else None,
                **window_digest(params)}

    def run(self, params: EmbedParams, task: Task) -> dict[str, Any]:
        """Embed this task's recordings into ``embeddings.h5`` (and npz files, if requested)."""
        from l3hpc.datasets.clips import write_npz_files
        student = params.student or str(student_file(task.inputs.get("train")))
        folder = _source(params)[0]
        network, identity, precision = load_network(
            student, params, task, folder, front_end(params.convention))
        note_network(task, "student", student, network, params)
        if params.audio is not None and params.table is None:
            note_ignored_files(task, params.audio)
        target = task.output / "embeddings.h5"
        result = extraction_of(network)(
            network, identity, folder, task_recordings(task.shard), params.hop, params.center,
            task.scratch, params.min_seconds, params.max_failed, params.batch_size, task.progress,
            block_of(network), levels=False, threads=task.threads, settings=_settings(params),
        ).run(target, task.output / "skipped.csv")
        if params.npz:
            result["npz"] = write_npz_files(target, task.output / "npz")
        return {**result, **precision, "engine": network.engine_name}

    def summary(self, results: Results) -> str:
        """``18,510 recordings``."""
        files = sum(result.get("recordings", 0) for result in results)
        skipped = sum(result.get("skipped", 0) for result in results)
        text = count_of(files, "recording")
        return (f"{text}, {skipped:,} skipped" if skipped else text) \
            + changed_summary(results) + precision_summary(results)


def _check_source(params: EmbedParams) -> None:
    """Refuse no or several sources of audio, and a subset of anything but clips."""
    given = {source for source in SOURCES if getattr(params, source) is not None}
    if "table" in given:
        given.discard("audio")
    if len(given) != 1:
        several = " and ".join(setting(f"embed.{source}") for source in SOURCES if source in given)
        raise InputError(
            f"{several} are both set" if given else "embed has no recordings",
            allowed=f"exactly one of {option('table', 'FILE')} (submit clips), "
                    f"{option('sonyc-ust', 'FOLDER')} (downstream), --us8k or --esc50 FOLDER, "
                    f"{setting('embed.clips', 'FOLDER')} and {setting('embed.audio', 'FOLDER')}")
    if params.subset != "all" and params.clips is None:
        raise InputError("subset needs clips, which are not set", where="embed.subset",
                         hint=setting("embed.clips", "FOLDER"))
    if params.file_column is not None and params.table is None:
        raise InputError("file_column needs a table, which is not set", where="embed.file_column",
                         hint=f"{option('table', 'FILE')}, or {setting('embed.table', 'FILE')}")


def _recordings(params: EmbedParams) -> list[Recording]:
    return _source(params)[1]()


def _source(params: EmbedParams) -> tuple[Path, Callable[[], list[Recording]]]:
    """The folder of audio, and the function that lists its recordings."""
    _check_source(params)
    if params.sonyc_ust is not None:
        from l3hpc.datasets.sonyc_ust import locate_sonyc_ust

        paths = locate_sonyc_ust(params.sonyc_ust)
        return paths.audio, lambda: annotated_recordings(paths.annotations, paths.audio)
    if params.clips is not None:
        from l3hpc.datasets.labelled import read_labelled

        dataset = read_labelled(params.clips, params.subset)
        return dataset.audio, dataset.recordings
    if params.table is not None:
        from l3hpc.datasets.clip_columns import ClipTable
        from l3hpc.datasets.clip_tables import read_files
        from l3hpc.datasets.labelled import recordings_of

        source = ClipTable(params.table, params.audio, params.file_column)
        return source.folder, lambda: recordings_of(source.folder, read_files(source))
    from l3hpc.datasets.corpus import scan_recordings

    folder = params.audio
    assert folder is not None
    return folder, lambda: scan_recordings(folder)


def annotated_recordings(annotations: Path, audio: Path) -> list[Recording]:
    """The annotated clips of SONYC-UST.

    Parameters
    ----------
    annotations
        The file ``annotations.csv``.
    audio
        The folder of audio.

    Returns
    -------
    list of Recording
        In the order of their names; a missing file has size −1 and is later listed as unreadable.
    """
    from l3hpc.datasets.corpus import Recording
    from l3hpc.io.tables import read_records

    rows = {row["audio_filename"]: row.get("sensor_id") or "unknown"
            for _, row in read_records(annotations, "annotations", ["audio_filename"])}
    recordings = []
    for name in sorted(rows):
        path = audio / name
        status = path.stat() if path.is_file() else None
        recordings.append(Recording(name, rows[name], None, None,
                                    status.st_size if status else -1,
                                    status.st_mtime_ns if status else 0))
    return recordings


def student_file(folder: Path | None) -> Path:
    """The best student of an artifact of train, or of a folder of published models.

    Parameters
    ----------
    folder
        The artifact, the folder, or the file itself.

    Raises
    ------
    InputError
        Where there is none.
    """
    from l3hpc.models.weights import BEST_STUDENT

    if folder is not None:
        for path in (folder / "0000" / BEST_STUDENT, folder / BEST_STUDENT, folder):
            if path.is_file():
                return path
    raise InputError(f"contains no {BEST_STUDENT}" if folder else "no student is given",
                     where=str(folder) if folder else "embed.student",
                     hint=f"Train one ({command_line('submit', 'upstream')}), or name its file: "
                          + setting("embed.student", "FILE"))


def _settings(params: EmbedParams) -> tuple[str, ...]:
    """What to set where more recordings may be unusable; clips are counted by folds as well."""
    if params.clips is None and params.table is None:
        return ("embed.max_failed",)
    return ("embed.max_failed", "folds.max_missing")
