"""Student embeddings of one hour of 8 kHz audio at hop 0.1 s: 360 files of 10 s → embeddings.

The network is the published Student 3 (64-d, 8 kHz, 64 mels) with random weights. Peer: edgel3's
way, which is a Keras model with its front end inside, and ``predict`` for one file after the other,
each saved as npz. (edgel3 0.2.1 itself does not install on a current Python; kapre 0.1.4's front
end, two dense convolutions, is replaced by ``tf.signal``: faster, and the same numbers.) Batch 96:
a file's windows at once, faster than edgel3's 32. Ours is what the step embed does, with each
engine that is installed. Networks are loaded and warm before the clock starts, on both sides.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import gemm_rate
from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, run
from benchmarks.teacher import ALLOWED, SIDES, gflop, random_layers, runs_here, write_audio

RATE = 8000
HOP = 0.1
BATCH = 96
PEER = "edgel3's method"


def make(folder: Path, files: int) -> None:
    """Recordings and a student of random weights."""
    from l3hpc.models.parameters import Parameters
    from l3hpc.models.spec import student_spec
    from l3hpc.models.weights import save

    spec = student_spec(emb_dim=64, head="relu")
    write_audio(folder / "audio", files, 10.0, RATE)
    save(Parameters(spec, tuple(random_layers(spec))), folder / "student.h5")


def ours(folder: Path, out: Path, engine: str, precision: str) -> dict[str, Any]:
    """Embed as the step embed does."""
    from l3hpc.datasets.extraction import Extraction
    from l3hpc.models.embedder import Embedder
    from l3hpc.steps import Task, step
    from l3hpc.steps.extract import load_network, task_recordings

    shutil.rmtree(out, ignore_errors=True)  # or the work of an earlier run would be taken up
    out.mkdir(parents=True)
    start = time.perf_counter()
    embed = step("embed")
    params = embed.params_type(audio=folder / "audio", student=str(folder / "student.h5"),
                               hop=HOP, center=True,
                               engine="auto" if engine == "openvino" else engine,
                               precision=precision)
    task = Task(out, out / "scratch", {}, shard=embed.shards(params, {})[0])
    network, known, _ = load_network(str(params.student), params, task, folder / "audio", {})
    assert isinstance(network, Embedder)  # of the L3 family
    if network.engine.name != engine:
        raise RuntimeError(f"{network.engine.name} computes in place of {engine}")
    network.embed(np.random.default_rng(0).normal(0, 0.1, (256, RATE)).astype(np.float32))
    ready = time.perf_counter()
    result = Extraction(
        network, known, folder / "audio", task_recordings(task.shard), params.hop, params.center,
        task.scratch, params.min_seconds, progress=task.progress, levels=False,
        threads=task.threads,
    ).run(out / "embeddings.h5", out / "skipped.csv")
    return {"seconds": time.perf_counter() - ready, "start": ready - start,
            "frames": result["rows"]}


def theirs(folder: Path, out: Path, batch: int) -> dict[str, Any]:
    """Embed with one ``predict`` per file, and write an npz file for each."""
    import soundfile

    from l3hpc.audio.framing import frame_audio
    from l3hpc.models.network import assign, build_with_frontend
    from l3hpc.models.weights import load_parameters

    shutil.rmtree(out, ignore_errors=True)  # or the work of an earlier run would be taken up
    out.mkdir(parents=True)
    start = time.perf_counter()
    parameters, info = load_parameters(folder / "student.h5")
    model = build_with_frontend(info.spec)
    assign(model, parameters)
    files = sorted((folder / "audio").glob("*.wav"))
    for path in files[:2]:
        model.predict(frame_audio(soundfile.read(path)[0], RATE, HOP)[0], batch, verbose=0)
    ready = time.perf_counter()
    frames = 0
    for path in files:
        signal, _ = soundfile.read(path, dtype="float32")
        windows, times = frame_audio(signal, RATE, HOP)
        found = model.predict(windows, batch_size=batch, verbose=0)
        np.savez(out / f"{path.stem}.npz", embedding=found, timestamps=times)
        frames += len(found)
    return {"seconds": time.perf_counter() - ready, "start": ready - start, "frames": frames}


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure edgel3's method and every installed engine in turn."""
    make(work, 3 if quick else 360)
    commands = {PEER: worker("student", "theirs", work, work / "theirs", BATCH)}
    for name, (engine, precision) in SIDES.items():
        if runs_here(engine, precision):
            commands[name] = worker("student", "ours", work, work / name, engine, precision)
    found = in_turn(commands, 1 if quick else 3)
    return [_table(work, found, gemm_rate())]


def _embeddings(work: Path, name: str) -> np.ndarray:
    import h5py

    if name == PEER:
        return np.concatenate([np.load(path)["embedding"]
                               for path in sorted((work / "theirs").glob("*.npz"))])
    with h5py.File(work / name / "embeddings.h5") as file:
        return np.asarray(file["l3_embedding"])


def _table(work: Path, found: dict[str, list[Measured]], gemm: float) -> Table:
    from l3hpc.models.spec import student_spec

    peer, wanted = found[PEER], _embeddings(work, PEER)
    work_per_frame = gflop(student_spec(emb_dim=64))
    floor = gemm / work_per_frame
    rate = {name: float(results[0].values["frames"]) / middle(results)
            for name, results in found.items()}
    rows, worst = [], {}
    for name, results in found.items():
        worst[name] = float(np.abs(_embeddings(work, name) - wanted).max() / np.abs(wanted).max())
        rows.append((name, f"{rate[name]:.0f}", f"{rate[name] / rate[PEER]:.2f}",
                     f"{rate[name] / floor:.2f}", f"{middle(results):.1f}",
                     f"{middle(results, 'start'):.1f}", f"{middle(results, 'peak_mb'):.0f}",
                     "" if name == PEER else f"{worst[name]:.1e}"))
        if SIDES.get(name, ("", ""))[1] == "float32" and worst[name] > ALLOWED:
            raise RuntimeError(f"{name} is {worst[name]:.1e} away from {PEER}")
    frames = int(peer[0].values["frames"])
    claims = []
    if "ncnn" in found:
        claims += [
            Claim("student, one hour of 8 kHz audio, hop 0.1, float32", PEER,
                  rate["ncnn"] / rate[PEER], 4,
                  limit=f"direct convolution at the measured {gemm:.0f} GFLOP/s: {floor:.0f} "
                        f"frames/s ({work_per_frame:.3f} GFLOP per frame)"),
            Claim("the same, relative error", PEER, worst["ncnn"], ALLOWED, "", False)]
    return Table(
        "Student embeddings, one hour of 8 kHz audio to embeddings",
        ("side", "windows/s", f"times {PEER}", "times the floor", "seconds", "ready after s",
         "peak MB", "error"), rows, (
            f"{frames:,} windows of {len(list((work / 'audio').glob('*.wav')))} WAV files of 10 s, "
            f"centred, hop {HOP} s; Student 3's geometry (64-d), random weights; median of "
            f"{len(peer)} alternating runs.",
            "Error: largest difference from the peer divided by its largest value.",
            "l3hpc computes spectra that overlapping windows share only once per file.",
        ), claims)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        kind, *words = sys.argv[2:]
        if kind == "ours":
            print(json.dumps(ours(Path(words[0]), Path(words[1]), *words[2:])))
        else:
            print(json.dumps(theirs(Path(words[0]), Path(words[1]), int(words[2]))))
    else:
        run("student", __doc__, tables)
