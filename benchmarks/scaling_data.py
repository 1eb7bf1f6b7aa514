"""Synthetic inputs of every step with any number of rows: artifacts as the steps write them.

The content of the rows does not affect memory and hardly time; their storage does. Recordings
are names of one sound file, so that audio takes no disk.
"""

from __future__ import annotations

import csv
import json
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
from l3hpc.io.files import read_json, write_json
from l3hpc.steps import step as load_step

SECONDS = 10.0
ROWS_PER_RECORDING = 20  # windows of 10 s, centred, hop 0.5
FIRST_DAY = 1_483_246_800  # 2017-01-01, New York
DAY_S = 86_400
TEACHER = {"label": "made up", "digest": "0" * 32}


def freeze(
    name: str, artifact: Path, params: Mapping[str, Any], inputs: Mapping[str, Path] | None = None,
) -> Path:
    """Write the frozen config of a step, as a submission would; returns its path."""
    module, inputs = load_step(name), inputs or {}
    typed = module.params_type(**params)
    shards = module.shards(typed, {kind: read_json(folder / "config.json")["shards"]
                                   for kind, folder in inputs.items()})
    write_json(artifact / "config.json", {
        "schema": 1, "run": "scaling", "name": name, "step": name, "version": module.version,
        "params": typed.model_dump(mode="json"),
        "inputs": {kind: str(folder) for kind, folder in inputs.items()},
        "artifact": str(artifact), "shards": shards, "labels": {}})
    return artifact / "config.json"


def recordings(folder: Path, count: int, rate: int, sensors: int = 1,
               seconds: float = SECONDS) -> Path:
    """A folder of ``count`` recordings: links to one file of noise, a quarter of an hour apart."""
    folder.mkdir(parents=True)
    first = folder / ".noise.wav"
    noise = np.random.default_rng(0).normal(0, 3000, round(seconds * rate)).astype("<i2")
    with wave.open(str(first), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(noise.tobytes())
    for number in range(count):
        place = folder / f"sensor{number % sensors:02d}"
        place.mkdir(exist_ok=True)
        os.link(first, place / f"{FIRST_DAY + 900 * number}.wav")
    return folder


def embeddings(
    artifact: Path, rows: int, dim: int, *, key: str = "l3_embedding", rows_per_day: int = 0,
    audio: Path | None = None, names: list[str] | None = None,
    rows_per_recording: int = ROWS_PER_RECORDING, sensors: int = 1,
) -> Path:
    """An artifact with ``rows`` embeddings and where each comes from: one task for each sensor.

    rows, names: of one sensor. rows_per_day: rows of a local day (0: all of one day). names: of the
    recordings, below ``audio``.
    """
    shards = []
    for number in range(sensors):
        sensor = f"sensor{number:02d}"
        _task(artifact / f"{number:04d}", rows, dim, key, rows_per_day, audio or artifact, names,
              rows_per_recording, sensor)
        shards.append({"sensors": [sensor], "recordings": []})
    write_json(artifact / "config.json", {
        "name": "extract", "step": "extract", "params": {}, "inputs": {}, "artifact": str(artifact),
        "shards": shards})
    return artifact


def _task(folder: Path, rows: int, dim: int, key: str, rows_per_day: int, audio: Path,
          names: list[str] | None, rows_per_recording: int, sensor: str) -> None:
    """The output of one task."""
    import h5py

    folder.mkdir(parents=True)
    count = -(-rows // rows_per_recording)
    names = names or [f"{sensor}/{number}.wav" for number in range(count)]
    which = np.arange(rows) // rows_per_recording
    start = (np.arange(rows) % rows_per_recording) * 0.5
    moments = FIRST_DAY + np.arange(count) * (
        DAY_S * rows_per_recording / rows_per_day if rows_per_day else 0.001)
    rng = np.random.default_rng(0)
    block = rng.standard_normal((8192, dim), np.float32)
    with h5py.File(folder / "embeddings.h5", "w") as file:
        data = file.create_dataset(key, (rows, dim), "f4", chunks=(min(1024, rows), dim))
        for first in range(0, rows, len(block)):
            part = block[:min(len(block), rows - first)]
            data[first:first + len(part)] = part + np.float32(0.1) * rng.standard_normal(
                dim, np.float32)
        file["recording"], file["start"] = which.astype("i4"), start
        file["frame"] = (np.arange(rows) % rows_per_recording).astype("i4")
        file["timestamp"] = moments[which] + start
        file["loudness"] = rng.normal(50, 10, rows).astype("f4")
        text = h5py.string_dtype()
        file.create_dataset("recordings/file", data=names, dtype=text)
        file.create_dataset("recordings/sensor", data=[sensor] * count, dtype=text)
        file["recordings/timestamp"] = moments
        file.attrs["teacher"] = json.dumps(TEACHER)
        file.attrs["hop"], file.attrs["center"] = 0.5, True
        file.attrs["audio"] = str(audio)
    write_json(folder / "result.json", {"summary": {"rows": rows}})


def tagged(folder: Path, clips: int) -> tuple[Path, Path, list[str]]:
    """(annotations.csv, taxonomy, clip names): a quarter is validate, each has three opinions."""
    taxonomy = sonyc_ust_taxonomy()
    folder.mkdir(parents=True)
    tags = [f"{name}_presence" for name in (*taxonomy.fine_columns, *taxonomy.coarse_columns)]
    rng = np.random.default_rng(0)
    names = [f"{number % 60:02d}_{number:06d}.wav" for number in range(clips)]
    with open(folder / "annotations.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "sensor_id", "audio_filename", "annotator_id", *tags])
        for number, name in enumerate(names):
            split = "train" if number % 4 < 3 else "validate"
            heard = (rng.random((3, len(tags))) < 0.1).astype(int).tolist()
            for opinion, annotator in zip(heard, (1, 2, 0 if split == "validate" else 3),
                                          strict=True):
                writer.writerow([split, number % 60, name, annotator, *opinion])
    taxonomy.save(folder / "taxonomy.yaml")
    return folder / "annotations.csv", folder / "taxonomy.yaml", names


def predictions(path: Path, annotations: Path) -> Path:
    """Write predictions for all clips of the validate split."""
    taxonomy = sonyc_ust_taxonomy()
    rng = np.random.default_rng(1)
    with open(annotations, newline="") as stream:
        names = sorted({row["audio_filename"] for row in csv.DictReader(stream)
                        if row["split"] == "validate"})
    columns = [*taxonomy.fine_columns, *taxonomy.coarse_columns]
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["audio_filename", *columns])
        for name, values in zip(names, rng.random((len(names), len(columns))), strict=True):
            writer.writerow([name, *(f"{value:.6f}" for value in values)])
    return path


def network(path: Path, filters: tuple[int, ...], **spec: Any) -> Path:
    """Write a weight file of a network with random weights."""
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weights import save

    path.parent.mkdir(parents=True, exist_ok=True)
    save(untrained(NetworkSpec(filters=filters, **spec), 1), path,
         {"teacher": {"random_weights": True}})
    return path
