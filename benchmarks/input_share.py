"""How much of an extraction is its input: reading, decoding, resampling, levels and front end.

On a CPU the input side and the network compete for the same cores, so that "hidden behind the
network" means a small share of the core time. For every engine that is installed (L3 mel256, 512-d,
hop 0.5 s) and every kind of file, the network alone (on spectrograms in memory) and the extraction
(files to embeddings on disk, loudness included) run in turn, in one process per engine; in float32
``l3hpc embed``, too, which writes a file per recording.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import alone, worker
from benchmarks.tables import Claim, Table, run
from benchmarks.teacher import runs_here, write_audio

RATE = 48000
OTHER_RATE = 44100
HOP = 0.5
KINDS = {"WAV, 48 kHz": "wav", "FLAC, 44.1 kHz": "flac", "OGG, 44.1 kHz": "ogg",
         "MP3, 44.1 kHz": "mp3"}
SIDES = {"ncnn, float32": ("ncnn", "float32"), "TensorFlow, float32": ("tensorflow", "float32"),
         "OpenVINO, float32": ("openvino", "float32"),
         "OpenVINO, bfloat16": ("openvino", "bfloat16"), "OpenVINO, int8": ("openvino", "int8")}
WEIGHTS = "untrained"


def make(folder: Path, files: int, seconds: float) -> None:
    """Write the same kind of sound in every kind of file."""
    import soundfile

    write_audio(folder / "wav", files, seconds, RATE)
    write_audio(folder / "other", files, seconds, OTHER_RATE)
    for path in sorted((folder / "other").glob("*.wav")):
        samples, rate = soundfile.read(path)
        for kind in ("flac", "ogg", "mp3"):
            (folder / kind).mkdir(exist_ok=True)
            soundfile.write(folder / kind / f"{path.stem}.{kind}", samples, rate)


def ours(folder: Path, engine: str, precision: str, rounds: int) -> dict[str, Any]:
    """Wall and CPU seconds per frame of the network, and of each kind of file: input and whole."""
    from l3hpc.audio.framing import JoinedFrames
    from l3hpc.datasets.corpus import scan_recordings
    from l3hpc.datasets.extraction import Extraction
    from l3hpc.datasets.windows import read_pieces
    from l3hpc.embedding.batch import EmbedSettings, embed_all
    from l3hpc.embedding.folders import plan_embedding
    from l3hpc.embedding.model import load_model
    from l3hpc.models import precision as reduced
    from l3hpc.models.engines import BatchesEngine
    from l3hpc.models.weights import load

    def windows(kind: str) -> list[np.ndarray]:
        return [piece.windows for path in sorted((folder / kind).iterdir())
                for piece in read_pieces(path, RATE, HOP, True, levels=True)]

    frames = JoinedFrames(windows("wav"))
    if engine == "openvino":
        # float32 is not offered with OpenVINO, but what the others are compared with: here int8,
        # because TensorFlow computes bfloat16 where the processor does not.
        network, exact = reduced.load_reduced(
            WEIGHTS, "int8" if precision == "float32" else precision, frames[:16],
            embedding_size=512)
        network = exact if precision == "float32" else network
    else:
        network = load(WEIGHTS, embedding_size=512, engine=engine)
    if network.engine_name != engine:
        raise RuntimeError(f"{network.engine_name} computes in place of {engine}")
    front_end = network.spec.frontend
    spectrograms = front_end(frames[:])
    size = network.engine.batch_size(1 << 24)

    def input_side(kind: str) -> None:
        for part in windows(kind):
            for start in range(0, len(part), size):
                front_end(part[start:start + size])

    def network_alone() -> None:
        batches = (spectrograms[start:start + size]
                   for start in range(0, len(spectrograms), size))
        if isinstance(network.engine, BatchesEngine):
            for _ in network.engine.run_batches(batches):
                pass
        else:
            for batch in batches:
                network.engine.run(batch)

    number = 0

    def whole(kind: str) -> None:
        nonlocal number
        number += 1
        scratch = folder / f"scratch-{engine}-{precision}-{number}"  # a new one: nothing is resumed
        Extraction(network, {}, folder / kind, scan_recordings(folder / kind), HOP, True, scratch,
                   threads=2).run(scratch / "embeddings.h5", scratch / "skipped.csv")

    model = load_model(WEIGHTS, embedding_size=512, engine=engine) if engine != "openvino" else None

    def embed(kind: str) -> None:
        nonlocal number
        number += 1
        assert model is not None  # embed runs with the engines that have one
        plan = plan_embedding([folder / kind], folder / f"embedded-{engine}-{number}")
        results = list(embed_all(model, plan.tasks, EmbedSettings(HOP)))
        if any(result.state != "done" for result in results):
            raise RuntimeError(f"not embedded: {results}")

    network_alone()  # tuning and first memory
    kinds = [kind for kind in KINDS.values() if any((folder / kind).iterdir())]
    network_times: list[tuple[float, float]] = []
    input_times, whole_times, embed_times = ({kind: [] for kind in kinds} for _ in range(3))
    for _ in range(rounds):
        for kind in kinds:
            network_times.append(_timed(network_alone))
            input_times[kind].append(_timed(lambda kind=kind: input_side(kind)))
            whole_times[kind].append(_timed(lambda kind=kind: whole(kind)))
            if model is not None:
                embed_times[kind].append(_timed(lambda kind=kind: embed(kind)))
    count = len(spectrograms)
    return {"frames": count, "network": _middle(network_times, count),
            "input": {kind: _middle(found, count) for kind, found in input_times.items()},
            "whole": {kind: _middle(found, count) for kind, found in whole_times.items()},
            "embed": {kind: _middle(found, count) for kind, found in embed_times.items() if found}}


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _middle(found: list[tuple[float, float]], frames: int) -> list[float]:
    """Median wall and CPU time in milliseconds per frame."""
    return [1000 * statistics.median(times) / frames for times in zip(*found, strict=True)]


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure every installed engine, one after the other."""
    files, seconds, rounds = (1, 3.0, 1) if quick else (4, 20.0, 3)
    make(work, files, seconds)
    rows, shares, frames = [], {}, 0
    ratios: dict[tuple[str, ...], float] = {}
    for name, (engine, precision) in SIDES.items():
        if not runs_here(engine, precision):
            continue
        print(f"  {name}", file=sys.stderr, flush=True)
        found = alone(worker("input_share", work, engine, precision, rounds)).values
        frames = found["frames"]
        wall, cpu = found["network"]
        for label, kind in KINDS.items():
            whole_wall, whole_cpu = found["whole"][kind]
            input_cpu = found["input"][kind][1]
            ratio, share = wall / whole_wall, input_cpu / whole_cpu
            ratios[name, label], shares[name, label] = ratio, share
            embedded = "–"
            if kind in found["embed"]:
                embedded_ratio = wall / found["embed"][kind][0]
                ratios[name, label, "embed"] = embedded_ratio
                embedded = f"{embedded_ratio:.2f}"
            rows.append((name, label, f"{1000 / wall:.1f}", f"{1000 / whole_wall:.1f}",
                         f"{ratio:.2f}", embedded, f"{cpu:.1f}", f"{whole_cpu:.1f}",
                         f"{input_cpu:.2f}", f"{share:.1%}"))
    claims = [Claim("files to embeddings, all engines, precisions and formats: slowest",
                    "the network alone", min(ratios.values()), 0.85),
              Claim("the input side's share of the core time: largest", "", max(shares.values()),
                    0.15, "", False)]
    notes = [
        f"{frames} frames of {files} recordings of {seconds:.0f} s, L3 mel256, 512-d, hop {HOP} s; "
        f"median of {rounds} alternating runs, on all cores.",
        "Input side: reading, decoding, resampling, A-weighted levels and front end, alone on one "
        "thread; its share is of the core time of the whole extraction, writing included.",
        "OpenVINO in float32 is the reference of the reduced precisions, not an engine to choose.",
    ]
    return [Table("Input side and network",
                  ("engine", "files", "network alone, frames/s", "files to embeddings, frames/s",
                   "of the network's rate", "embed, of that rate", "network, core-ms a frame",
                   "whole, core-ms", "input side, core-ms", "share of the input side"),
                  rows, notes, claims)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(ours(Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))))
    else:
        run("input_share", __doc__, tables)
