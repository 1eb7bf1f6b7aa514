"""Teacher embeddings: audio files on disk → embeddings on disk (L3 mel256, 512-d, hop 0.1 s).

Peer: openl3 0.4.2 (``benchmarks.teacher_peer``): ``process_audio_file`` on the list of files with
its kapre front end, model loaded and traced before the clock starts. Its batch size is 32, its
default: 8, 64 and 128 were not faster. Ours is what the step extract does, with each engine that is
installed, its network loaded before the clock starts too. Both read the same weight file (random
values in openl3's own format) and the same 48 kHz WAV files; ours with ``convention=B``, which is
openl3's kapre front end, so that the embeddings are comparable. Threads: all cores, on both sides.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.cost import flops
from benchmarks.machine import gemm_rate
from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, run

RATE = 48000
HOP = 0.1
NAME = "openl3_audio_mel256_env.h5"
SIDES = {"ncnn": ("ncnn", "float32"), "TensorFlow (core dependencies)": ("tensorflow", "float32"),
         "OpenVINO bfloat16": ("openvino", "bfloat16"), "OpenVINO int8": ("openvino", "int8")}
ALLOWED = 1e-4  # relative error of float32


def make(folder: Path, files: int, seconds: float) -> None:
    """Make recordings, and random weights in openl3's format."""
    from l3hpc.models.spec import openl3_spec

    write_audio(folder / "audio", files, seconds, RATE)
    write_openl3(folder / NAME, random_layers(openl3_spec("mel256", 512)))


def write_audio(folder: Path, files: int, seconds: float, rate: int) -> None:
    """Write 16-bit WAV files with energy in every band and without clipping.

    (Where a signal stands still, a front end that computes in float32 shows its own rounding.)
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        rng = np.random.default_rng(number)
        time_s = np.arange(int(seconds * rate)) / rate
        noise = np.cumsum(rng.standard_normal(len(time_s)) * 0.003)
        noise -= np.mean(noise)
        noise *= 0.5 / np.abs(noise).max()
        noise += rng.standard_normal(len(time_s)) * 0.02
        loud = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * time_s)
        tone = 0.1 * np.sin(2 * np.pi * rng.uniform(200, 3500) * time_s)
        sound = np.clip(loud * (noise + tone), -1, 1)
        soundfile.write(folder / f"{number:03d}.wav", sound, rate, subtype="PCM_16")


def random_layers(spec: Any) -> list[tuple[np.ndarray, ...]]:
    """Random kernels, and normalisations that are not neutral."""
    from l3hpc.models.parameters import untrained

    rng = np.random.default_rng(0)
    layers = []
    for arrays in untrained(spec, 0).layers:
        if len(arrays) == 2:
            arrays = arrays[0], rng.normal(0, 0.05, arrays[1].shape).astype(np.float32)
        else:
            arrays = tuple(rng.uniform(0.8, 1.2, array.shape).astype(np.float32) + shift
                           for array, shift in zip(arrays, (0, -1, -1, 0), strict=True))
        layers.append(arrays)
    layers[0] = tuple(np.array([value], np.float32) for value in (1.0, 0.1, -40.0, 300.0))
    return layers


def write_openl3(path: Path, layers: list[tuple[np.ndarray, ...]]) -> None:
    """A file as openl3 0.4 ships them: Keras 2's ``save_weights``."""
    import h5py

    with h5py.File(path, "w") as file:
        names = []
        for index, arrays in enumerate(layers):
            kind, parts = (("conv2d", ("kernel", "bias")) if len(arrays) == 2 else
                           ("batch_normalization", ("gamma", "beta", "moving_mean",
                                                    "moving_variance")))
            name = f"{kind}_{index}" if index < len(layers) - 1 else "audio_embedding_layer"
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in parts]
            for part, array in zip(parts, arrays, strict=True):
                group.create_dataset(f"{name}/{part}:0", data=array)
            names.append(name.encode())
        file.attrs["layer_names"] = names
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"


def ours(folder: Path, out: Path, engine: str, precision: str) -> dict[str, Any]:
    """What the step extract does; ``start`` is the time until the first embedding could come."""
    from l3hpc.datasets.extraction import Extraction
    from l3hpc.models.embedder import Embedder
    from l3hpc.steps import Task, step
    from l3hpc.steps.extract import front_end, load_network, task_recordings

    shutil.rmtree(out, ignore_errors=True)  # or the work of an earlier run would be taken up
    out.mkdir(parents=True)
    start = time.perf_counter()
    extract = step("extract")
    params = extract.params_type(audio=folder / "audio", weights=str(folder / NAME), hop=HOP,
                                 engine="auto" if engine == "openvino" else engine,
                                 convention="B", precision=precision)
    task = Task(out, out / "scratch", {}, shard=extract.shards(params, {})[0])
    network, teacher, _ = load_network(params.weights, params, task, params.audio,
                                       front_end(params.convention))
    assert isinstance(network, Embedder)  # of the L3 family
    if network.engine.name != engine:
        raise RuntimeError(f"{network.engine.name} computes in place of {engine}")
    network.embed(np.random.default_rng(0).normal(0, 0.1, (4, RATE)).astype(np.float32))
    ready = time.perf_counter()
    result = Extraction(
        network, teacher, params.audio, task_recordings(task.shard), params.hop,
        params.center, task.scratch, progress=task.progress,
    ).run(out / "embeddings.h5", out / "skipped.csv")
    return {"seconds": time.perf_counter() - ready, "start": ready - start,
            "frames": result["rows"],
            "imported": [name for name in ("tensorflow", "pandas", "sklearn")
                         if name in sys.modules]}


def runs_here(engine: str, precision: str) -> bool:
    """Whether a library is installed, and computes in this precision on this processor."""
    if importlib.util.find_spec(engine) is None:
        return False
    if (engine, precision) == ("openvino", "bfloat16"):
        from l3hpc.models.openvino_engine import computes_bfloat16

        return computes_bfloat16()
    return True


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure openl3 and every installed engine in turn."""
    make(work, *((1, 2.0) if quick else (4, 10.0)))
    commands = {"openl3": worker("teacher_peer", work, work / "openl3", 32,
                                 python=peers.python("openl3"))}
    for name, (engine, precision) in SIDES.items():
        if runs_here(engine, precision):
            commands[name] = worker("teacher", work, work / name, engine, precision)
    found = in_turn(commands, 1 if quick else 3)
    missing = [name for name in SIDES if name not in found]
    return [_table(work, found, missing, gemm_rate())]


def _embeddings(work: Path, name: str) -> np.ndarray:
    """Return all embeddings of one side, in the order of files and windows."""
    import h5py

    if name == "openl3":
        return np.concatenate([np.load(path)["embedding"]
                               for path in sorted((work / name).glob("*.npz"))])
    with h5py.File(work / name / "embeddings.h5") as file:
        return np.asarray(file["l3_embedding"])


def gflop(spec: Any) -> float:
    """Of a network's convolutions for one frame: multiplications and additions, done directly."""
    return flops(spec) / 1e9


def _table(work: Path, found: dict[str, list[Measured]], missing: list[str], gemm: float) -> Table:
    from l3hpc.models.spec import openl3_spec

    peer, work_per_frame = found["openl3"], gflop(openl3_spec("mel256", 512))
    wanted = _embeddings(work, "openl3").astype(np.float64)
    rate = {name: float(results[0].values["frames"]) / middle(results)
            for name, results in found.items()}
    floor = gemm / work_per_frame
    rows, worst = [], {}
    for name, results in found.items():
        have = _embeddings(work, name).astype(np.float64)
        if have.shape != wanted.shape:
            raise RuntimeError(f"{name}: {have.shape} embeddings, openl3 gives {wanted.shape}")
        worst[name] = float(np.abs(have - wanted).max() / np.abs(wanted).max())
        lengths = np.linalg.norm(have, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((have * wanted).sum(axis=1) / lengths).min())
        memory = middle(results, "peak_mb")
        rows.append((name, f"{rate[name]:.1f}", f"{rate[name] / rate['openl3']:.2f}",
                     f"{rate[name] / floor:.2f}", f"{middle(results, 'start'):.1f}",
                     f"{memory:.0f}", f"{memory / middle(peer, 'peak_mb'):.2f}",
                     "" if name == "openl3" else f"{worst[name]:.1e}",
                     "" if name == "openl3" else f"{cosine:.6f}"))
    for name, (_, precision) in SIDES.items():
        if precision == "float32" and worst.get(name, 0) > ALLOWED:
            raise RuntimeError(f"{name} is {worst[name]:.1e} away from openl3")
    limit = (f"direct convolution at the measured {gemm:.0f} GFLOP/s: {floor:.1f} frames/s "
             f"({work_per_frame:.1f} GFLOP per frame); Winograd needs up to 4 times fewer")
    claims = []
    if "ncnn" in found:
        claims += [
            Claim("teacher, files to embeddings, float32", "openl3 0.4.2",
                  rate["ncnn"] / rate["openl3"], 2.2, limit=limit),
            Claim("the same, peak memory", "openl3 0.4.2",
                  middle(found["ncnn"], "peak_mb") / middle(peer, "peak_mb"), 1 / 3,
                  at_least=False),
            Claim("the same, relative error", "openl3 0.4.2", worst["ncnn"], ALLOWED, "", False)]
    if "OpenVINO int8" in found:
        claims.append(Claim("teacher, files to embeddings, int8", "openl3 0.4.2",
                            rate["OpenVINO int8"] / rate["openl3"], 4,
                            limit="the processor's int8 peak, direct convolution"))
    frames = int(peer[0].values["frames"])
    loaded = found["ncnn"][0].values["imported"] if "ncnn" in found else None
    notes = [
        f"{frames} frames of {len(list((work / 'audio').glob('*.wav')))} WAV files (48 kHz, 16 "
        f"bit), hop {HOP} s; median of {len(peer)} alternating runs. Times include reading, front "
        "end, network and writing; 'ready after' is the time for loading weights, tracing, and for "
        "reduced precision measuring ranges and errors, once per task.",
        "Error: largest difference from openl3 divided by its largest value; cosine: the smallest.",
        f"Times the floor: frames/s divided by {floor:.1f}, the rate of direct convolution at this "
        f"machine's measured matrix rate of {gemm:.0f} GFLOP/s (float32).",
    ]
    if loaded is not None:
        notes.append(f"Heavy packages that the ncnn side loads: {', '.join(loaded) or 'none'}.")
    if missing:
        notes.append(f"Not installed, or not for this processor: {', '.join(missing)}.")
    return Table("Teacher embeddings, audio files to embeddings",
                 ("side", "frames/s", "times openl3", "times the floor", "ready after s",
                  "peak MB", "of openl3's", "error", "cosine"), rows, notes, claims)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(ours(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])))
    else:
        run("teacher", __doc__, tables)
