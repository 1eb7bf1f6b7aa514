"""Training of the tag classifier at the size of SONYC-UST: time of an epoch, and memory.

18,510 clips of 91 windows with 128 values, float32, in a file. Peer: ``keras.Model.fit`` with the
same network, the same loss and the same batches, on the standardised array in memory. An epoch is
training and validation.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, figure, run

CLIPS, VALIDATE, FRAMES, DIM, SENSORS = 18_510, 4_308, 91, 128, 56
QUICK = (300, 60)
OPTIONS: dict[str, dict[str, Any]] = {
    "mil": {},
    "mil, everything": {"sensor_factor": True, "proximity_factor": True, "cooccurrence_loss": True,
                        "autopool_constraint": False},
    "mil, L-BFGS": {"optimizer": "lbfgs"},
    "mil, L-BFGS, everything": {"sensor_factor": True, "proximity_factor": True,
                                "cooccurrence_loss": True, "optimizer": "lbfgs"},
}


def make(folder: Path, clips: int) -> None:
    """Embeddings with a little of each of 8 tags in them, and their targets."""
    rng = np.random.default_rng(0)
    y = (rng.random((clips, 8)) < [0.5, 0.2, 0.1, 0.05, 0.2, 0.1, 0.4, 0.05]).astype(np.float32)
    directions = rng.standard_normal((8, DIM)).astype(np.float32)
    with open(folder / f"x-{clips}.bin", "wb") as stream:
        for first in range(0, clips, 256):
            shown = y[first:first + 256] @ directions
            block = rng.standard_normal((len(shown), FRAMES, DIM), np.float32)
            stream.write((3 + 2 * block + shown[:, None]).tobytes())
    np.savez(folder / f"y-{clips}.npz", y=y, sensor=rng.integers(0, SENSORS, clips),
             proximity=rng.integers(-1, 2, (clips, 8)).astype(np.int8))


def ours(folder: Path, clips: int, validate: int, epochs: int, options: str) -> dict[str, Any]:
    """Train from the file."""
    from l3hpc.arrays.row_file import RowFile
    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
    from l3hpc.models.training.tensorflow_engine import limit_threads
    from l3hpc.tagging.classifier import ClassifierConfig
    from l3hpc.tagging.training import train

    limit_threads(2)
    data = np.load(folder / f"y-{clips}.npz")
    x = RowFile(folder / f"x-{clips}.bin", "f4", (clips, FRAMES, DIM))
    part = clips - validate
    config = ClassifierConfig(epochs=epochs, **OPTIONS[options])
    before = peak_mb()
    ends, used, read = [time.perf_counter()], [time.process_time()], [bytes_read()]

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        ends.append(time.perf_counter())
        used.append(time.process_time())
        read.append(bytes_read())

    classifier = train(
        config, sonyc_ust_taxonomy(), x.part(0, part), data["y"][:part], x.part(part, clips),
        data["y"][part:], sensors=[str(number) for number in range(SENSORS)],
        sensor=data["sensor"][:part], proximity=data["proximity"][:part], on_epoch=on_epoch)
    # The first epoch compiles.
    return {"seconds": statistics.median(np.diff(ends)[1:]),
            "cpu": statistics.median(np.diff(used)[1:]),
            "above_mb": peak_mb() - before, "loss": classifier.history[-1]["val_loss"],
            "passes": statistics.median(np.diff(read)[1:]) / x.nbytes}


def keras_fit(folder: Path, clips: int, validate: int, epochs: int) -> dict[str, Any]:
    """Train with ``fit`` on the array."""
    import keras

    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
    from l3hpc.models.training.tensorflow_engine import limit_threads
    from l3hpc.tagging import network

    limit_threads(2)
    data = np.load(folder / f"y-{clips}.npz")
    model = network.build("mil", DIM, 8, hidden_layers=0, hidden_size=0, l2=1e-5, normalize=False,
                          seed=0)
    before = peak_mb()
    x = np.fromfile(folder / f"x-{clips}.bin", np.float32).reshape(clips, FRAMES, DIM)
    part = clips - validate
    x -= x[:part].mean(axis=(0, 1))
    x /= x[:part].std(axis=(0, 1))
    ends, used = [], []

    class Times(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ends.append(time.perf_counter())
            used.append(time.process_time())

    model.compile(keras.optimizers.Adam(1e-3), network.TagLoss("coarse", sonyc_ust_taxonomy()))
    history = model.fit(x[:part], data["y"][:part], batch_size=64, epochs=epochs, verbose=0,
                        validation_data=(x[part:], data["y"][part:]), callbacks=[Times()])
    return {"seconds": statistics.median(np.diff(ends)), "cpu": statistics.median(np.diff(used)),
            "above_mb": peak_mb() - before, "loss": history.history["val_loss"][-1], "passes": 0}


def peak_mb() -> float:
    """Peak memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure ours and ``fit`` in turn, then the options."""
    clips, validate = QUICK if quick else (CLIPS, VALIDATE)
    make(work, clips)
    sides = {"fit": worker("classifier", "fit", work, clips, validate, 4)}
    sides |= {name: worker("classifier", name, work, clips, validate, 6 if "L-BFGS" in name else 4)
              for name in OPTIONS}
    found = in_turn(sides, 1 if quick else 2)
    mine, fit = found["mil"], found["fit"]
    rows = [_row("keras.Model.fit, array in memory", fit, fit)]
    rows += [_row(f"l3hpc, {name}", found[name], fit) for name in OPTIONS]
    most = max(middle(found[name], "above_mb") for name in OPTIONS)
    return [Table(
        "Training of the tag classifier",
        ("method", "CPU seconds per epoch", "times fit", "seconds per epoch", "read per epoch",
         "MB above the imports", "peak MB", "validation loss"), rows,
        notes=(
            f"{clips:,} clips ({validate:,} of them for validation) of {FRAMES} windows x {DIM} "
            f"values: {clips * FRAMES * DIM * 4 / 1e6:.0f} MB; no hidden layer, batches of 64 "
            "clips, two threads. The median of the epochs after the first, which compiles; in "
            "turn, medians of the runs. CPU seconds are of both threads: where other programs run "
            "beside it, the time of the clock says little.",
            "read per epoch: bytes from the file, as a share of it; 1 is one pass over training "
            "and validation. An iteration of L-BFGS with a longer search reads training again.",
            f"everything: outputs for {SENSORS} sensors and 8 proximities, loss of co-occurrence.",
        ),
        claims=(
            Claim("training of the tag classifier, SONYC-UST v2, CPU time", "keras.Model.fit",
                  middle(fit, "cpu") / middle(mine, "cpu"), 1),
            Claim("the same, memory above the imports, all options", "", most, 1000, "MB", False),
        ))]


def _row(name: str, runs: list[Measured], fit: list[Measured]) -> tuple[str, ...]:
    passes = middle(runs, "passes")
    cpu = middle(runs, "cpu")
    return (name, figure(cpu), figure(cpu / middle(fit, "cpu")), figure(middle(runs)),
            figure(passes) if passes else "–", f"{middle(runs, 'above_mb'):.0f}",
            f"{middle(runs, 'peak_mb'):.0f}", figure(middle(runs, "loss"), 4))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        kind, place, *numbers = sys.argv[2:]
        clips, validate, epochs = map(int, numbers)
        print(json.dumps(
            keras_fit(Path(place), clips, validate, epochs) if kind == "fit"
            else ours(Path(place), clips, validate, epochs, kind)))
    else:
        run("classifier", __doc__, tables)
