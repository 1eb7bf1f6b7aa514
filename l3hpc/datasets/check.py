"""Check a folder of data (a data set, recordings, embeddings, a city), or a table of clips."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from l3hpc.console.progress import Progress
from l3hpc.datasets import labelled, sonyc_ust, synth
from l3hpc.datasets.clip_columns import ClipTable, find_file_column, read_header
from l3hpc.datasets.clip_tables import read_table
from l3hpc.datasets.corpus import (
    AUDIO_SUFFIXES,
    TABLE,
    NoAudioError,
    describe_ignored_files,
    is_utf8,
    scan_recordings,
)
from l3hpc.datasets.inspection import Inspection, probe_audio_files
from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.findings import Finding
from l3hpc.io.files import walk_files
from l3hpc.io.tables import read_records


def check_folder(folder: Path | str, *, listen: bool = False,
                 progress: Progress | None = None) -> list[Inspection]:
    """Check whatever data a folder holds.

    A folder with ``annotations.csv`` is SONYC-UST, one with the table of UrbanSound8K or ESC-50 is
    that data set, and one with both ``audio`` and ``sonyc_ust`` is a city, of which both are
    checked (of one with ``city.json`` and no tagged clips, ``audio``); any other has audio,
    embeddings, or both in one file.

    Parameters
    ----------
    folder
        The data.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many files are done.

    Returns
    -------
    list of Inspection
        One per data set.

    Raises
    ------
    InputError
        The folder does not exist, or holds nothing of that kind.
    """
    folder, progress = Path(folder), progress or Progress()
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    if labelled.is_labelled_dataset(folder):
        return [check_labelled(folder, listen=listen, progress=progress)]
    if (folder / sonyc_ust.ANNOTATIONS).is_file():
        return [sonyc_ust.inspect_sonyc_ust(folder, listen=listen, progress=progress)]
    if (folder / "sonyc_ust" / sonyc_ust.ANNOTATIONS).is_file():
        inspections = []
        if (folder / "audio").is_dir():
            inspections.append(check_audio(folder / "audio", listen=listen, progress=progress))
        return [*inspections, sonyc_ust.inspect_sonyc_ust(
            folder / "sonyc_ust", listen=listen, progress=progress)]
    if (folder / synth.SUMMARY).is_file() and (folder / "audio").is_dir():
        # from above, ``audio`` would pass for a sensor
        return [check_audio(folder / "audio", listen=listen, progress=progress)]
    matrices = any(path.suffix in (".h5", ".hdf5", ".npz") and path.is_file()
                   for path in walk_files(folder))
    try:
        inspections = [check_audio(folder, listen=listen, progress=progress)]
        _name_tables(folder, inspections[0])
    except NoAudioError as error:  # any other error, such as a broken table, is shown as it is
        if matrices:
            inspections = [check_embeddings(folder, listen=listen)]
            _name_tables(folder, inspections[0])
            return inspections
        raise InputError("holds no data set, recordings or embeddings",
                         where=str(folder), allowed=error.allowed) from None
    if matrices:  # the published layout keeps both in one file
        with contextlib.suppress(InputError):
            inspections.append(check_embeddings(folder, listen=listen))
    return inspections


def _name_tables(folder: Path, findings: Inspection) -> None:
    """Add the tables in a folder, which may be of its clips, and how they are checked."""
    files = [path.relative_to(folder) for path in walk_files(folder)]
    sounds = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    # a table with the name of a recording is about that one
    stems = {path.with_suffix("") for path in sounds}
    tables = sorted(path for path in files if path.suffix.lower() == ".csv" and path.name not in
                    (TABLE, "skipped.csv") and path.with_suffix("") not in stems)
    findings.add("table", "{n} [table was|tables were] not checked", map(str, tables),
                 remark=True, hint="" if not tables else "As a table of clips: " + command_line(
                     "data", "check", folder / tables[0], *_audio_of(folder, tables[0], sounds)))


def _audio_of(folder: Path, table: Path, sounds: Iterable[Path]) -> list[object]:
    """``--audio`` with the folder of the files in a table, unless that is the table's own."""
    source = ClipTable(folder / table)
    try:
        column = find_file_column(source, read_header(source))
        _, row = next(read_records(source.table, "table of clips"))
        name = Path(row[column] or "")
    except (L3hpcError, OSError, StopIteration):
        return []
    parts = name.parts
    for sound in sounds:
        if parts and sound.parts[-len(parts):] == parts:
            above = Path(*sound.parts[:-len(parts)])
            return [] if above == table.parent else ["--audio", folder / above]
    return []


def check_table(source: ClipTable, *, listen: bool = False,
                progress: Progress | None = None) -> Inspection:
    """Check a table of clips and its audio, as ``submit clips`` reads them.

    Parameters
    ----------
    source
        The table and its columns.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many clips are done.

    Returns
    -------
    Inspection
        Clips without audio and audio without a row, files that cannot be used, groups in several
        folds, folds or parts without a class or far smaller than the others.

    Raises
    ------
    InputError
        As ``read_table``.
    """
    dataset = read_table(source)
    findings = Inspection(str(source.table), f"table of clips {dataset.kind}")
    present = _compare_with_audio(dataset, findings)
    what = "part" if dataset.has_split else "fold"
    if source.group_column is not None:
        folds_of: dict[str, set[int]] = defaultdict(set)
        for clip in dataset.clips:
            folds_of[clip.source].add(clip.fold)
        findings.add("group", f"{{n}} [group|groups] of '{source.group_column}' [has|have] clips "
                     f"in several {what}s",
                     sorted(name for name, folds in folds_of.items() if len(folds) > 1),
                     remark=True, hint="A classifier is then tested on what it was trained on.")
    findings.add("class",
                 f"{{n}} [combination|combinations] of class and {what} [has|have] no clip",
                 _lacking_classes(dataset), remark=True)
    counts = Counter(clip.fold for clip in dataset.clips)
    findings.add("folds", "{n} [fold has|folds have] far fewer clips than the others",
                 [f"fold {fold} ({counts[fold]:,})" for fold in dataset.small_folds()],
                 hint="Correct the table, or have other folds made: --folds N")
    # Clips may be shorter than a window; embed pads them.
    seconds = probe_audio_files(dataset.audio, present, findings, listen, progress or Progress(),
                                shortest=0.0)
    names = labelled.PART_NAMES if dataset.has_split else {}
    findings.counts |= {
        "columns": dataset.columns, "clips": len(dataset.clips), "classes": len(dataset.classes),
        f"{what}s": {names.get(fold, str(fold)): counts[fold] for fold in dataset.folds},
        "hours": round(sum(seconds.values()) / 3600, 3)}
    return findings


def check_labelled(folder: Path | str, *, listen: bool = False,
                   progress: Progress | None = None) -> Inspection:
    """Check a data set, and count what it holds.

    Parameters
    ----------
    folder
        UrbanSound8K or ESC-50.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many clips are done.

    Returns
    -------
    Inspection
        Problems, remarks and counts.

    Raises
    ------
    InputError
        As ``read_labelled``.
    """
    dataset = labelled.read_labelled(folder)
    findings = Inspection(str(folder), dataset.kind)
    present = _compare_with_audio(dataset, findings)
    folds_of: dict[str, set[int]] = defaultdict(set)
    for clip in dataset.clips:
        folds_of[clip.source].add(clip.fold)
    findings.add("source", "{n} source [recording has|recordings have] clips in two folds", sorted(
        f"{source} ({', '.join(map(str, sorted(folds)))})"
        for source, folds in folds_of.items() if len(folds) > 1), remark=True,
        hint="A classifier is then tested on what it was trained on (published UrbanSound8K has "
             "five such).")
    _check_counts(dataset, findings)
    # Published clips may be shorter than a window; embed pads them.
    seconds = probe_audio_files(dataset.audio, present, findings, listen, progress or Progress(),
                                shortest=0.0)
    findings.counts["hours"] = round(sum(seconds.values()) / 3600, 3)
    return findings


def _compare_with_audio(dataset: labelled.LabelledDataset, findings: Inspection) -> list[str]:
    """Add clips without audio, and audio without a clip, to the findings; the files that are there.
    """
    listed = {clip.file for clip in dataset.clips}
    missing = sorted(name for name in listed if not os.path.isfile(dataset.audio / name))
    findings.add("missing audio", "{n} [clip has|clips have] no audio", missing,
                 hint=f"They should be in {dataset.audio}.")
    findings.add("extra audio", "{n} audio [file is|files are] not in the table", sorted(
        name for path in walk_files(dataset.audio)
        if path.suffix.lower() in AUDIO_SUFFIXES
        and (name := path.relative_to(dataset.audio).as_posix()) not in listed), remark=True,
        hint="They are not used.")
    return sorted(listed - set(missing))


def _lacking_classes(dataset: labelled.LabelledDataset) -> list[str]:
    """``rain in fold 2`` for every class without a clip in a fold, or in a part of the split."""
    pairs = {(clip.fold, label) for clip in dataset.clips for label in clip.labels or (clip.label,)}
    return [f"{name} in {dataset.fold_name(fold)}" for label, name in enumerate(dataset.classes)
            for fold in dataset.folds if (fold, label) not in pairs]


def _check_counts(dataset: labelled.LabelledDataset, findings: Inspection) -> None:
    folds = Counter(clip.fold for clip in dataset.clips)
    findings.add("class", "{n} [combination|combinations] of class and fold [has|have] no clip",
                 _lacking_classes(dataset), remark=True)
    assert dataset.published is not None
    total, classes, size = dataset.published
    # A copy that holds ESC-10 alone is complete as such.
    if dataset.kind == "ESC-50" and len(dataset.classes) == labelled.ESC10_SIZE[0]:
        classes, size = labelled.ESC10_SIZE
    hint = ("Get the whole data set. To score this part, with a note that it is one: --set "
            "folds.partial=true")
    findings.add("folds", f"{{n}} of {total} folds have no clips in the table", [
        f"fold {fold}" for fold in range(1, total + 1) if not folds[fold]], hint=hint)
    silent = Counter(clip.fold for clip in dataset.clips
                     if not os.path.isfile(dataset.audio / clip.file))
    findings.add("folds", f"{{n}} of {total} folds have no audio", [
        f"fold {fold}" for fold in dataset.folds if silent[fold] == folds[fold]], hint=hint)
    findings.add("folds", "{n} [fold has|folds have] far fewer clips than the others", [
        f"fold {fold} ({folds[fold]:,})" for fold in dataset.small_folds() if folds[fold]],
        hint=hint)
    if len(dataset.classes) < classes:
        findings.findings.append(Finding(
            "classes", "yellow", f"{len(dataset.classes)} of {classes} classes"))
    findings.add("size", f"not the published number of clips ({size:,})", [
        f"{len(dataset.clips):,}"] if len(dataset.clips) != size else [], remark=True)
    findings.counts |= {"clips": len(dataset.clips), "classes": len(dataset.classes),
                        "folds": {str(fold): folds[fold] for fold in dataset.folds}}


def check_audio(folder: Path | str, *, listen: bool = False,
                progress: Progress | None = None) -> Inspection:
    """Check recordings as ``extract`` reads them.

    Parameters
    ----------
    folder
        The recordings.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many files are done.

    Returns
    -------
    Inspection
        Missing, unreadable, empty and too short files, and those without sensor or time.

    Raises
    ------
    InputError
        The folder holds no recordings, or its table is broken.
    """
    folder = Path(folder)
    # A name that is not UTF-8 is one of the findings here, not the end of the check.
    recordings = scan_recordings(folder, any_name=True)
    findings = Inspection(str(folder), "recordings")
    findings.add("missing audio", "{n} [recording is|recordings are] missing",
                 [one.file for one in recordings if one.size < 0],
                 hint="They are listed in recordings.csv, or are broken links.")
    findings.add("name", "{n} file [name is|names are] not UTF-8",
                 [one.file for one in recordings if not is_utf8(one.file)],
                 hint="Rename them: no artifact can hold such a name.")
    findings.add("sensor", "{n} [recording has|recordings have] no sensor",
                 [one.file for one in recordings if one.sensor == "unknown"], remark=True,
                 hint="List them in recordings.csv (file, sensor, timestamp), or use one "
                      "subfolder per sensor.")
    findings.add("timestamp", "{n} [recording has|recordings have] no timestamp",
                 [one.file for one in recordings if one.timestamp is None], remark=True,
                 hint="Sampling by day then treats them as one time frame. Name them "
                      "SENSOR_20171121T090000.wav, or list them in recordings.csv (file, sensor, "
                      "timestamp).")
    seconds = probe_audio_files(folder, [one.file for one in recordings if one.size >= 0], findings,
                                listen, progress or Progress())
    others = describe_ignored_files(folder)
    findings.add("other files", "ignored", [others] if others else [], remark=True,
                 hint="Only recordings are read.")
    times = [one.timestamp for one in recordings if one.timestamp is not None]
    per_sensor = Counter(one.sensor for one in recordings)
    findings.counts |= {
        "recordings": len(recordings), "sensors": dict(sorted(per_sensor.items())),
        "hours": round(sum(seconds.values()) / 3600, 3),
        "bytes": sum(max(one.size, 0) for one in recordings),
        "first": _iso(min(times)) if times else None, "last": _iso(max(times)) if times else None,
    }
    return findings


def check_embeddings(folder: Path | str, *, listen: bool = False) -> Inspection:
    """Check an artifact or published files of embeddings.

    Parameters
    ----------
    folder
        The embeddings.
    listen
        Whether to read all rows, and report those that are not finite.

    Returns
    -------
    Inspection
        Key, dimension and rows, and the files that do not match the others.

    Raises
    ------
    InputError
        The folder holds no embeddings.
    """
    from l3hpc.datasets.embeddings import open_source

    source = open_source(folder)
    findings = Inspection(str(folder), "embeddings")
    rows, errors = 0, []
    for part in source.parts:
        try:
            rows += part.rows
            if listen:
                for _ in part.chunks():
                    pass
        except L3hpcError as error:
            errors.append(str(error).replace("\n", " "))
    findings.add("part", "{n} [file does|files do] not match the others or cannot be read", errors)
    findings.add("rows", "no embeddings in any file", [] if rows or errors else [source.key])
    findings.counts |= {"layout": source.kind, "files": len(source.parts), "rows": rows,
                        "key": source.key, "dimensions": source.dim,
                        "splits": {split: len(source.of_split(split)) for split in source.splits}}
    return findings


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
