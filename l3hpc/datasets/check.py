"""What is wrong with a folder of data: a data set, recordings, embeddings, or a whole city."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from l3hpc.console.progress import Progress
from l3hpc.datasets import labelled, sonyc_ust
from l3hpc.datasets.corpus import NoAudioError, is_utf8, passed_over, scan
from l3hpc.datasets.inspection import Inspection, look
from l3hpc.errors import InputError, L3hpcError


def check_folder(folder: Path | str, *, listen: bool = False,
                 progress: Progress | None = None) -> list[Inspection]:
    """Look at whatever data the folder holds; one ``Inspection`` per data set.

    A folder with ``annotations.csv`` is SONYC-UST, one with the table of UrbanSound8K or ESC-50 is
    that; one with both ``audio`` and ``sonyc_ust`` is a
    city and both are looked at; else audio, embeddings, or both in one. ``listen`` reads all
    samples, not only headers. Raises ``InputError`` where there is nothing of that kind.
    """
    folder, progress = Path(folder), progress or Progress()
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    if labelled.recognised(folder):
        return [labelled.inspect(folder, listen=listen, progress=progress)]
    if (folder / sonyc_ust.ANNOTATIONS).is_file():
        return [sonyc_ust.inspect(folder, listen=listen, progress=progress)]
    if (folder / "sonyc_ust" / sonyc_ust.ANNOTATIONS).is_file():
        found = [sonyc_ust.inspect(folder / "sonyc_ust", listen=listen, progress=progress)]
        if (folder / "audio").is_dir():
            found.insert(0, check_audio(folder / "audio", listen=listen, progress=progress))
        return found
    matrices = any(path.suffix in (".h5", ".hdf5", ".npz") and path.is_file()
                   for path in folder.rglob("*"))
    try:
        found = [check_audio(folder, listen=listen, progress=progress)]
    except NoAudioError as error:  # any other error, such as a broken table, is for the reader
        if matrices:
            return [check_embeddings(folder, listen=listen)]
        raise InputError("holds no data set, no recordings and no embeddings",
                         where=str(folder), allowed=error.allowed) from None
    if matrices:  # the published layout keeps both in one file
        with contextlib.suppress(InputError):
            found.append(check_embeddings(folder, listen=listen))
    return found


def check_audio(folder: Path | str, *, listen: bool = False,
                progress: Progress | None = None) -> Inspection:
    """Recordings as ``extract`` will see them: missing, unreadable, empty, too short, unplaced."""
    folder = Path(folder)
    recordings = scan(folder, any_name=True)
    findings = Inspection(str(folder), "recordings")
    findings.add("missing audio", "{n} recordings are missing",
                 [one.file for one in recordings if one.size < 0],
                 hint="recordings.csv names them, or they are broken links.")
    findings.add("name", "{n} file names are not UTF-8",
                 [one.file for one in recordings if not is_utf8(one.file)],
                 hint="Rename them: no artifact can hold such a name.")
    findings.add("sensor", "{n} recordings name no sensor",
                 [one.file for one in recordings if one.sensor == "unknown"], remark=True,
                 hint="List them in recordings.csv (file, sensor, timestamp), or use one "
                      "subfolder per sensor.")
    findings.add("timestamp", "{n} recordings have no timestamp",
                 [one.file for one in recordings if one.timestamp is None], remark=True,
                 hint="Sampling by day then takes them as one time frame.")
    seconds = look(folder, [one.file for one in recordings if one.size >= 0], findings, listen,
                   progress or Progress())
    others = passed_over(folder)
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
    """An artifact or published files: key, dimension, rows, and the parts that do not fit.

    listen: read all rows, and name those that are not finite.
    """
    from l3hpc.datasets.embeddings import open_source

    source = open_source(folder)
    findings = Inspection(str(folder), "embeddings")
    rows, wrong = 0, []
    for part in source.parts:
        try:
            rows += part.rows
            if listen:
                for _ in part.chunks():
                    pass
        except L3hpcError as error:
            wrong.append(str(error).replace("\n", " "))
    findings.add("part", "{n} files do not fit", wrong)
    findings.add("rows", "no embeddings in any file", [] if rows or wrong else [source.key])
    findings.counts |= {"layout": source.kind, "files": len(source.parts), "rows": rows,
                        "key": source.key, "dimensions": source.dim,
                        "splits": {split: len(source.of_split(split)) for split in source.splits}}
    return findings


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
