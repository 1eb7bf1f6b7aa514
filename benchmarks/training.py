"""One training step of Student 2: batch of 64, 8 kHz, 64 mels, 128 dimensions, Adam.

Ours is ``l3hpc.models.training.loop.Training`` as the step ``train`` runs it: spectra and targets
are read from the cache on disk, in random order, epochs end with validation, models and a
checkpoint (the time of those stands beside it). Peers: a bare Keras step (the same network, loss
and Adam in one ``tf.function``) on tensors that are in memory already, with and without XLA; Keras
``fit`` on arrays in memory; the same network in PyTorch, channels-last, eager and compiled. All
start from the same weights and see the same batches; their losses are compared.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.machine import gemm_rate
from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, figure, run

FULL = {"rate": 8000, "mels": 64, "hop": 160, "dft": 1024, "batch": 64, "batches": 10,
        "epochs": 4, "filters": [32, 32, 64, 64, 128, 128, 128, 128]}
QUICK = {"rate": 2000, "mels": 16, "hop": 100, "dft": 256, "batch": 8, "batches": 3, "epochs": 3,
         "filters": [8] * 8}
LEARNING_RATE, SEED = 1e-4, 1
AGREE = {"ours": (2e-5, 3e-4), "torch": (2e-5, 3e-4)}  # relative: the first epoch, all of them
SLOWER = 1.05


def spec_of(setting: Mapping[str, Any]) -> Any:
    """Return the student's ``NetworkSpec``."""
    from l3hpc.models.spec import NetworkSpec

    return NetworkSpec(rate=setting["rate"], n_mels=setting["mels"], hop=setting["hop"],
                       n_dft=setting["dft"], filters=tuple(setting["filters"]), head="linear",
                       emb_dim=setting["filters"][-1])


def flops(setting: Mapping[str, Any]) -> float:
    """Multiplications and additions of one step's convolutions, forwards and twice backwards."""
    bands, times = spec_of(setting).frontend.shape
    total, before = 0, 1
    for index, count in enumerate(setting["filters"]):
        total += 2 * 9 * before * count * bands * times
        before = count
        if index in (1, 3, 5):
            bands, times = bands // 2, times // 2
    return 3.0 * setting["batch"] * total


def prepare(folder: Path, quick: bool) -> dict[str, Any]:
    """Rows, order of batches, first weights and the setting, as files that every side reads."""
    import numpy as np

    from l3hpc.arrays.row_file import RowFile
    from l3hpc.models.parameters import untrained
    from l3hpc.models.training.state import BatchOrder

    setting: dict[str, Any] = dict(QUICK if quick else FULL)
    spec, rng = spec_of(setting), np.random.default_rng(0)
    setting |= {"shape": spec.frontend.shape, "learning_rate": LEARNING_RATE,
                "flops": flops(setting), "rows": setting["batch"] * setting["batches"]}
    rows = setting["rows"] + setting["batch"]  # one batch to validate with
    for name, values in (("spectra", rng.uniform(-80, 0, (rows, *spec.frontend.shape))),
                         ("targets", rng.normal(size=(rows, spec.dim)))):
        file = RowFile(folder / f"{name}.bin", "float32", values.shape, "w+")
        file[:] = values.astype(np.float32)
        file.flush()
    order = BatchOrder(np.arange(setting["rows"]), setting["batch"], SEED)
    np.save(folder / "order.npy", [
        [order.batch(epoch * setting["batches"] + batch) for batch in range(setting["batches"])]
        for epoch in range(setting["epochs"])])
    arrays = [array for layer in untrained(spec, SEED).layers for array in layer]
    np.savez(folder / "weights.npz", *arrays)
    (folder / "setting.json").write_text(json.dumps(setting))
    return {"flops": setting["flops"]}


def ours(folder: Path, precision: str) -> dict[str, Any]:
    """``Training`` from the cache on disk; after every epoch, the same step on batches in memory.

    ``seconds``: per step with the input pipeline. ``bare``: per step without it. ``keeping``: of
    models, checkpoint and history, per epoch.
    """
    import numpy as np

    from l3hpc.arrays.row_file import RowFile
    from l3hpc.datasets.pair_cache import PairCache
    from l3hpc.models.training import loop as training
    from l3hpc.models.training.state import Schedule, Status

    setting = json.loads((folder / "setting.json").read_text())
    spec, batches, count = spec_of(setting), setting["batches"], setting["rows"]
    rows = count + setting["batch"]
    cache = PairCache(
        RowFile(folder / "spectra.bin", "float32", (rows, *spec.frontend.shape), "r+"),
        RowFile(folder / "targets.bin", "float32", (rows, spec.dim), "r+"))
    times: dict[str, list[float]] = {"loop": [], "validation": [], "epoch": [], "bare": []}

    class Timed(training.Training):
        def _epoch(self) -> None:
            self.began = time.perf_counter()
            super()._epoch()

        def _validation(self) -> tuple[float, float]:
            times["loop"].append(time.perf_counter() - self.began)
            found = super()._validation()
            times["validation"].append(time.perf_counter() - self.began - times["loop"][-1])
            return found

    def after(status: Status) -> None:
        times["epoch"].append(time.perf_counter() - training_run.began)
        state, engine = training_run.engine.state(), training_run.engine
        order = training_run.order
        ready = [engine.put(cache.batch(order.batch(number))) for number in range(batches)]
        start = time.perf_counter()
        for batch in ready:
            engine.train(batch, first=False)
        engine.averages()
        times["bare"].append(time.perf_counter() - start)
        engine.restore(state)

    with tempfile.TemporaryDirectory(dir=folder) as place:
        training_run = Timed(
            spec, cache, (np.arange(count), np.arange(count, rows)), Path(place),
            Schedule(setting["epochs"]), learning_rate=setting["learning_rate"],
            batch_size=setting["batch"], seed=SEED, bn_momentum=0.99,
            mixed_precision=precision == "bfloat16", threads=_cores(), on_epoch=after)
        status = training_run.run()
    keeping = [whole - loop - validation for whole, loop, validation in zip(
        times["epoch"], times["loop"], times["validation"], strict=True)]
    return {"seconds": float(np.median(times["loop"][1:])) / batches,
            "bare": float(np.median(times["bare"][1:])) / batches,
            "keeping": float(np.median(keeping[1:])),
            "losses": [row["loss"] for row in status.history],
            "precision": training_run.engine.precision}


def keras_step(folder: Path, compiled: str) -> dict[str, Any]:
    """The bare step; ``compiled``: ``function``, or ``xla``."""
    import keras
    import numpy as np
    import tensorflow as tf

    setting, x, y, order, model = _keras(folder)
    optimizer = keras.optimizers.Adam(setting["learning_rate"])
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=compiled == "xla")
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    losses, seconds = [], []
    for epoch in order:
        ready = [(tf.constant(x[rows]), tf.constant(y[rows])) for rows in epoch]
        start = time.perf_counter()
        found = [step(*batch) for batch in ready]
        losses.append(float(np.mean([loss.numpy() for loss in found])))
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds[1:])) / len(order[0]), "losses": losses}


def keras_fit(folder: Path) -> dict[str, Any]:
    """``fit`` on arrays in memory, shuffled by itself."""
    import keras
    import numpy as np

    setting, x, y, _, model = _keras(folder)

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seconds.append(time.perf_counter() - self.start)

    seconds: list[float] = []
    model.compile(keras.optimizers.Adam(setting["learning_rate"]), "mse", jit_compile=False)
    model.fit(x, y, batch_size=setting["batch"], epochs=setting["epochs"], verbose=0,
              callbacks=[Clock()])
    return {"seconds": float(np.median(seconds[1:])) / setting["batches"], "losses": []}


def _keras(folder: Path) -> tuple[Any, ...]:
    """Setting, rows, order, and the network with the first weights."""
    import numpy as np

    from l3hpc.models.network import build

    setting = json.loads((folder / "setting.json").read_text())
    spec, rows = spec_of(setting), setting["rows"]
    x = np.fromfile(folder / "spectra.bin", np.float32).reshape(-1, *spec.frontend.shape, 1)
    y = np.fromfile(folder / "targets.bin", np.float32).reshape(-1, spec.dim)
    model = build(spec)
    with np.load(folder / "weights.npz") as file:
        arrays = [file[name] for name in file.files]
    for layer in model.layers:
        count = len(layer.weights)
        layer.set_weights(arrays[:count])
        arrays = arrays[count:]
    return setting, x[:rows], y[:rows], np.load(folder / "order.npy"), model


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all sides in turn; those for comparison only once."""
    torch = peers.python("torch")
    in_turn({"prepare": worker("training", "prepare", work, "quick" if quick else "full")}, 1)
    setting = json.loads((work / "setting.json").read_text())
    main = {"keras": worker("training", "keras", work, "function"),
            "ours": worker("training", "ours", work, "float32"),
            "torch": worker("training_peer", work, "eager", "float32", python=torch),
            "torch compiled": worker("training_peer", work, "compiled", "float32", python=torch)}
    beside = {"keras xla": worker("training", "keras", work, "xla"),
              "keras fit": worker("training", "fit", work),
              "ours bfloat16": worker("training", "ours", work, "bfloat16"),
              "torch bfloat16": worker("training_peer", work, "eager", "bfloat16", python=torch)}
    if quick:
        del main["torch compiled"]
    found = in_turn(main, 1 if quick else 3) | in_turn(beside, 1)
    apart = {name: _apart(results[0], found["keras"][0]) for name, results in found.items()}
    for name, (first, all_of_them) in AGREE.items():
        at_first = _apart(found[name][0], found["keras"][0], 1)
        if at_first > first or apart[name] > all_of_them:
            raise RuntimeError(f"losses of {name} differ by {figure(at_first, 2)} in the first "
                               f"epoch and {figure(apart[name], 2)} in all from Keras's")
    return [_steps(found, apart, setting)]


def _apart(one: Measured, other: Measured, epochs: int | None = None) -> float:
    """The largest relative difference of two sides' epoch losses; no number without losses.

    It grows with the steps: float32 sums in another order are other weights after each.
    """
    pairs = list(zip(one.values["losses"], other.values["losses"], strict=False))[:epochs]
    return max((abs(a - b) / b for a, b in pairs), default=float("nan"))


NAMES = {"keras": "bare Keras step, batches in memory", "keras xla": "the same with XLA",
         "keras fit": "Keras fit, arrays in memory",
         "torch": "PyTorch, channels-last", "torch compiled": "the same, torch.compile",
         "torch bfloat16": "PyTorch, channels-last, autocast to bfloat16"}


def _steps(found: Mapping[str, Sequence[Measured]], apart: Mapping[str, float],
           setting: Mapping[str, Any]) -> Table:
    work = float(setting["flops"]) / 1e9
    reference = middle(found["keras"])

    def row(name: str, seconds: float, side: str) -> tuple[str, ...]:
        difference = apart[side]
        return (name, f"{1e3 * seconds:.1f}", f"{work / seconds:.0f}",
                f"{seconds / reference:.2f}", f"{middle(found[side], 'peak_mb'):.0f}",
                "–" if difference != difference else figure(difference, 1))

    rows = []
    for side, results in found.items():
        if side in NAMES:
            rows.append(row(NAMES[side], middle(results), side))
            continue
        suffix = " in bfloat16" if side != "ours" else ""
        rows.append(row(f"l3hpc{suffix}, batches in memory", middle(results, "bare"), side))
        rows.append(row(f"l3hpc{suffix}, from the cache on disk", middle(results), side))
    mine, pipeline = found["ours"], middle(found["ours"]) / middle(found["ours"], "bare")
    torch = min(middle(results) for side, results in found.items()
                if side in ("torch", "torch compiled"))
    rate = gemm_rate()
    limit = f"the convolutions' {work:.1f} GFLOP at the GEMM rate of {rate:.0f} GFLOP/s: " \
            f"{1e3 * work / rate:.0f} ms"
    return Table(
        f"One training step: batch {setting['batch']}, {setting['filters'][-1]}-d student",
        ("method", "ms", "GFLOP/s", "times bare Keras", "peak MB", "largest difference of losses"),
        rows,
        notes=(
            f"{work:.1f} GFLOP per step (convolutions, forward and backward). "
            f"{setting['epochs']} epochs of {setting['batches']} batches; medians over epochs "
            "without the first. Losses: mean of an epoch, relative to bare Keras, with the same "
            "weights and batches. float32 unless stated; Adam, L2 penalty in the loss.",
            f"l3hpc is deterministic and also writes models, checkpoint and history, which take "
            f"{1e3 * middle(mine, 'keeping'):.0f} ms per epoch and are not included in a step. The "
            "cache was in memory, as it is after it has been written.",
            "l3hpc is faster than bare Keras on the same batches because of its fused batch "
            "normalisation; the difference between the two l3hpc rows is the input pipeline.",
            f"The input pipeline costs {100 * (pipeline - 1):+.1f}% of a step.",
            "bfloat16 is `mixed_precision`; no GPU was used.",
        ),
        claims=(
            Claim("training step from disk, Student 2", "bare Keras step in memory",
                  middle(mine) / reference, SLOWER, at_least=False, limit=limit),
            Claim("training step from disk, Student 2", "our own step in memory", pipeline,
                  SLOWER, at_least=False),
            Claim("training step from disk, Student 2", "PyTorch at its best",
                  middle(mine) / torch, SLOWER, at_least=False, limit=limit),
        ))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        way, place, *words = sys.argv[2:]
        if way == "prepare":
            print(json.dumps(prepare(Path(place), words[0] == "quick")))
        else:
            sides = {"ours": ours, "keras": keras_step, "fit": keras_fit}
            print(json.dumps(sides[way](Path(place), *words)))
    else:
        run("training", __doc__, tables)
