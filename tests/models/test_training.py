"""Training as Keras would do it, and as if it had never been killed."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.console.progress import Progress
from l3hpc.errors import L3hpcError
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.state import BatchOrder, Checkpoint, Schedule, Status, bn_momentum
from l3hpc.models.weights import load_parameters

SPEC = NetworkSpec(rate=2000, n_mels=16, hop=100, n_dft=256, filters=(4, 4, 4, 8, 8),
                   head="linear", emb_dim=8)


class Data:
    """Random spectra and targets."""

    def __init__(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.uniform(-80, 0, (rows, *SPEC.frontend.shape, 1)).astype(np.float32)
        self.y = rng.normal(size=(rows, SPEC.dim)).astype(np.float32)

    def batch(self, rows):
        return self.x[rows], self.y[rows]


class InOrder(BatchOrder):
    """No shuffling, as ``fit(shuffle=False)``."""

    def _pass(self, turn):
        return self.rows


def test_losses_and_kernels_are_those_of_keras_fit(tmp_path, monkeypatch):
    import keras

    from l3hpc.models.network import assign, build
    from l3hpc.models.training import loop as training

    monkeypatch.setattr(training, "BatchOrder", InOrder)
    data = Data(150)
    run = training.Training(SPEC, data, (np.arange(100), np.arange(100, 150)), tmp_path,
                            Schedule(epochs=2), learning_rate=1e-3, batch_size=32,
                            validation_batch_size=20, bn_momentum=0.99, seed=3,
                            deterministic=False)
    ours = run.run().history
    model = build(SPEC)
    assign(model, untrained(SPEC, 3))
    model.compile(keras.optimizers.Adam(1e-3), "mse", metrics=["mean_absolute_error"])
    theirs = model.fit(data.x[:100], data.y[:100], batch_size=32, epochs=2, shuffle=False,
                       verbose=0, validation_batch_size=20,
                       validation_data=(data.x[100:], data.y[100:]))
    for name in ("loss", "mean_absolute_error", "val_loss", "val_mean_absolute_error"):
            # 2e-4 between processors: Adam enlarges what the order of sums changes
            np.testing.assert_allclose([row[name] for row in ours], theirs.history[name],
                                       rtol=1e-3)
    for mine, other in zip(run.engine.model.get_weights(), model.get_weights(), strict=True):
        if mine.ndim == 4:  # a bias before a normalisation has no gradient, only rounding noise
            np.testing.assert_allclose(mine, other, atol=2e-4)
    with open(tmp_path / "history.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["epoch", "loss", "mean_absolute_error", "val_loss",
                             "val_mean_absolute_error", "learning_rate"]
    assert [row["epoch"] for row in rows] == ["0", "1"]


KILLED = """
import os, signal, sys
import importlib.util
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
example = importlib.util.module_from_spec(spec); spec.loader.exec_module(example)
import numpy as np
from pathlib import Path
from l3hpc.models.training import loop as training
from l3hpc.models.training import tensorflow_engine
from l3hpc.models.training.state import Schedule

class Killed(tensorflow_engine.TensorFlowTrainingEngine):
    calls, kill_at = 0, 0
    def train(self, batch, first):
        Killed.calls += 1
        if Killed.calls == Killed.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        super().train(batch, first)

tensorflow_engine.TensorFlowTrainingEngine = Killed

folder, Killed.kill_at = sys.argv[2], int(sys.argv[3])
schedule = Schedule(epochs=3, plateau_patience=1, min_delta=10.0)
training.Training(example.SPEC, example.Data(120), (np.arange(90), np.arange(90, 120)),
                  Path(folder), schedule, learning_rate=1e-3, batch_size=16,
                  checkpoint_batches=2, seed=5, settings="same").run()
"""


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(forked, tmp_path):
    def train(name, kill_at):
        return forked.run(KILLED, __file__, tmp_path / name, kill_at)

    assert train("whole", 0) == 0, forked.errors()
    # In the second epoch and, after a restart there, in the third, whose rate is another.
    for kill_at, saved in ((10, 8), (8, 14)):
        assert train("killed", kill_at) == -9
        with np.load(tmp_path / "killed" / "checkpoint.npz") as file:
            assert file["position"] == saved
    assert train("killed", 0) == 0, forked.errors()
    one, other = tmp_path / "whole", tmp_path / "killed"
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    for name in ("model_latest.h5", "model_best_valid_loss.h5", "model_best_valid_mae.h5"):
        for mine, its in zip(load_parameters(one / name)[0].layers,
                             load_parameters(other / name)[0].layers, strict=True):
            for array, same in zip(mine, its, strict=True):
                np.testing.assert_array_equal(array, same)
    with np.load(tmp_path / "whole" / "checkpoint.npz") as one, \
            np.load(tmp_path / "killed" / "checkpoint.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
        history = json.loads(str(one["status"]))["history"]
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-3, 1e-3, 1e-4], rel=1e-5)


def test_after_an_epoch_no_batch_of_it_is_shown(tmp_path, monkeypatch):
    """It would be taken for one of the next epoch."""
    from l3hpc.models.training import loop

    lines = []

    class Shown(Progress):
        def show(self, force=False):
            lines.append(self.line())

    monkeypatch.setattr(loop, "SHOW_EVERY_S", 0)
    loop.Training(SPEC, Data(24), (np.arange(16), np.arange(16, 24)), tmp_path, Schedule(epochs=2),
                  batch_size=8, seed=2, deterministic=False, progress=Shown()).run()
    after = next(line for line in lines if "1/2 epochs" in line)
    assert "val loss" in after and "batch" not in after
    assert "batch 2/2" in lines[lines.index(after) - 1]


def test_asked_to_stop_it_saves_and_goes_on_at_the_next_batch(tmp_path, monkeypatch):
    from l3hpc.models.training.loop import Training
    from l3hpc.models.training.tensorflow_engine import TensorFlowTrainingEngine

    def make(folder):
        return Training(SPEC, Data(60), (np.arange(48), np.arange(48, 60)), tmp_path / folder,
                        Schedule(epochs=2), batch_size=8, seed=2, deterministic=False)

    whole = make("whole").run()
    step, calls = TensorFlowTrainingEngine.train, []

    def stop_at(number):
        def train(engine, batch, first):
            calls.append(first)
            if len(calls) == number:
                raise SystemExit(143)
            step(engine, batch, first)
        return train

    # the third batch of the second epoch
    monkeypatch.setattr(TensorFlowTrainingEngine, "train", stop_at(9))
    with pytest.raises(SystemExit):
        make("stopped").run()
    calls.clear()
    monkeypatch.setattr(TensorFlowTrainingEngine, "train", stop_at(0))
    status = make("stopped").run()
    assert calls == [False] * 4  # two of six batches were not done again
    assert [row["epoch"] for row in status.history] == [0, 1]
    for one, other in zip(whole.history, status.history, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_asked_to_stop_while_a_step_is_compiled_it_saves_exact_weights(tmp_path, monkeypatch,
                                                                       precision):
    """The variables have no values there, and under mixed precision look rounded."""
    from l3hpc.models.network import FusedNormalisation
    from l3hpc.models.training import tensorflow_engine
    from l3hpc.models.training.loop import Training

    monkeypatch.setattr(tensorflow_engine, "best_precision", lambda: precision)

    def make():
        return Training(SPEC, Data(60), (np.arange(48), np.arange(48, 60)), tmp_path,
                        Schedule(epochs=1), batch_size=8, seed=2, deterministic=False,
                        bn_momentum=0.9, mixed_precision=precision != "float32")

    def signalled(layer, inputs, training=None, mask=None):
        stopped.save()
        raise SystemExit(85)

    stopped = make()
    expected = stopped.make_engine().state()
    with monkeypatch.context() as patch:
        patch.setattr(FusedNormalisation, "call", signalled)
        with pytest.raises(SystemExit):
            stopped.run()
    with np.load(tmp_path / "checkpoint.npz") as saved:
        for name, array in expected.items():
            np.testing.assert_array_equal(saved[name], array, err_msg=name)
    assert make().run().epoch == 1


def test_validation_is_the_mean_over_windows_not_over_batches(tmp_path):
    """Batches of three sizes against one pass over all, with numpy's means and penalty."""
    from l3hpc.models.training.tensorflow_engine import TensorFlowTrainingEngine

    data = Data(23)
    engine = TensorFlowTrainingEngine(SPEC, seed=4, learning_rate=1e-3, deterministic=False)
    engine.train(engine.put(data.batch(np.arange(16))), first=True)  # statistics that are not 0, 1
    parts = [np.arange(0, 9), np.arange(9, 22), np.arange(22, 23)]
    found = engine.validate(engine.put(data.batch(rows)) for rows in parts)
    difference = np.asarray(engine.model(data.x, training=False), np.float64) - data.y
    penalty = 1e-5 * sum(float(np.square(layer[0].astype(np.float64)).sum())
                         for layer in engine.parameters().layers if layer[0].ndim == 4)
    assert found == pytest.approx(
        (np.square(difference).mean() + penalty, np.abs(difference).mean()), rel=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_and_restarts(tmp_path, monkeypatch, precision):
    from l3hpc.models.training import tensorflow_engine

    monkeypatch.setattr(tensorflow_engine, "best_precision", lambda: precision)
    data = Data(64)

    def make():
        engine = tensorflow_engine.TensorFlowTrainingEngine(
            SPEC, seed=1, learning_rate=1e-3, mixed_precision=True, deterministic=False)
        engine.set_rate(5e-3)
        return engine

    engine = make()
    assert engine.model.output.dtype == "float32"
    losses = []
    for _ in range(30):
        engine.train((data.x, data.y), first=True)
        losses.append(engine.averages()[0])
    assert losses[-1] < 0.9 * losses[0]
    again = make()
    again.restore(engine.state())
    assert again.validate([(data.x, data.y)]) == pytest.approx(
        engine.validate([(data.x, data.y)]), rel=1e-6)
    assert all(array.dtype == np.float32 for layer in again.parameters().layers
               for array in layer)
    assert float(again.optimizer.learning_rate) == pytest.approx(5e-3)


@pytest.mark.slow
def test_two_devices_train_as_one(forked, tmp_path):
    """Mirrored over two (virtual) devices: same losses up to rounding and batch statistics."""
    code = """
import sys, json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import importlib.util
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
example = importlib.util.module_from_spec(spec); spec.loader.exec_module(example)
from l3hpc.models.training.tensorflow_engine import TensorFlowTrainingEngine
from l3hpc.arrays.threads import read_ahead
import numpy as np
data = example.Data(32)
# twice the same half: then batch statistics do not depend on how the batch is shared out
x, y = np.concatenate([data.x[:16]] * 2), np.concatenate([data.y[:16]] * 2)
result = []
for devices in (None, ["CPU:0", "CPU:1"]):
    engine = TensorFlowTrainingEngine(example.SPEC, seed=1, learning_rate=1e-3, devices=devices,
                            deterministic=False)
    for number in range(3):
        engine.train(engine.put((x, y)), first=number == 0)
    validation = engine.validate(read_ahead(engine.put, [(x, y), (x[:3], y[:3])]))
    result.append([engine.replicas, *engine.averages(), *validation,
                   engine.position])
    engine.restore(engine.state())
print(json.dumps(result))
"""
    assert forked.run(code, __file__, out=tmp_path / "out") == 0, forked.errors()
    one, two = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert (one[0], two[0]) == (1, 2)
    np.testing.assert_allclose(one[1:], two[1:], rtol=1e-3)


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path):
    from l3hpc.models.training.loop import Training

    data = Data(40)
    data.y[3] = np.inf
    with pytest.raises(L3hpcError, match="epoch 1") as caught:
        Training(SPEC, data, (np.arange(30), np.arange(30, 40)), tmp_path, Schedule(epochs=2),
                 batch_size=16, deterministic=False).run()
    assert "--learning-rate" in str(caught.value)


def test_short_epochs_are_validated_with_their_own_statistics(tmp_path):
    """Rows seen in training, a rate that changes nothing: both losses are of the same weights."""
    from l3hpc.models.training.loop import Training

    data, rows = Data(96), np.arange(96)

    def gap(momentum):
        run = Training(SPEC, data, (rows, rows), tmp_path / str(momentum), Schedule(epochs=1),
                       learning_rate=1e-12, batch_size=32, bn_momentum=momentum,
                       deterministic=False)
        row = run.run().history[0]
        return abs(row["val_loss"] / row["loss"] - 1)

    assert gap(None) < 0.05
    assert gap(0.99) > 10 * gap(None)


def test_momentum_is_the_published_one_where_epochs_are_long():
    assert [bn_momentum(steps) for steps in (459, 4096)] == [0.99, 0.99]
    for steps in (1, 7, 100, 458):
        assert bn_momentum(steps) < 0.99
        assert bn_momentum(steps) ** steps == pytest.approx(0.01)


def test_every_row_comes_once_per_pass_and_seeds_differ():
    rows = np.arange(100, 137)
    order = BatchOrder(rows, 8, seed=1)
    assert order.epoch_size == 5
    first = np.concatenate([order.batch(number) for number in range(5)])
    second = np.concatenate([order.batch(number) for number in range(5, 10)])
    assert sorted(first) == sorted(second) == list(rows)
    assert list(first) != list(second)
    assert list(BatchOrder(rows, 8, seed=2).batch(0)) != list(order.batch(0))
    np.testing.assert_array_equal(BatchOrder(rows, 8, seed=1).batch(7), order.batch(7))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 2**32),
       stated=st.none() | st.integers(1, 9), whole=st.booleans())
def test_every_pass_is_a_permutation_whatever_the_sizes(count, batch, seed, stated, whole):
    rows = np.arange(100, 100 + count)
    order = BatchOrder(rows, batch, seed, epoch_size=stated, whole=whole)
    batches = [order.batch(number) for number in range(2 * order.per_pass)]
    if stated is not None or whole:
        assert all(len(one) == batch for one in batches)
    else:
        assert all(len(one) == batch for one in batches[:order.per_pass - 1])
    stream = np.concatenate(batches)
    passes = [stream[turn * count:(turn + 1) * count] for turn in range(2)]
    assert all(sorted(one) == list(rows) for one in passes)
    assert order.epoch_size == (stated or -(-count // batch))
    for number in (0, len(batches) // 2, len(batches) - 1):  # in any order of asking
        np.testing.assert_array_equal(
            BatchOrder(rows, batch, seed, epoch_size=stated, whole=whole).batch(number),
            batches[number])


def test_batches_of_stated_epochs_run_on_across_passes():
    rows = np.arange(10)
    order = BatchOrder(rows, 4, seed=1, epoch_size=3)
    stream = np.concatenate([order.batch(number) for number in range(5)])
    assert len(stream) == 20
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(rows)
    tiny = BatchOrder(np.arange(3), 8, seed=1, epoch_size=1).batch(0)
    assert len(tiny) == 8
    assert set(tiny) == {0, 1, 2}


def _losses(schedule, losses):
    status = Status(rate=1.0)
    for loss in losses:
        if status.finished(schedule):
            break
        status = status.after(schedule, (loss, loss), (loss, loss))
    return status


def test_stopping_and_plateau_count_as_keras_does():
    """The same losses through Keras's own callbacks."""
    import keras

    class Model:
        stop_training = False

        def __init__(self):
            self.optimizer = SimpleNamespace(learning_rate=1.0)

        def get_weights(self):
            return []

    rng = np.random.default_rng(0)
    for _ in range(50):
        losses = np.round(rng.normal(size=30).cumsum() * 0.05 + 3 - np.arange(30) * 0.02, 2)
        schedule = Schedule(30, patience=4, min_delta=0.03, plateau_patience=2, plateau_factor=0.5)
        stop = keras.callbacks.EarlyStopping(min_delta=0.03, patience=4)
        plateau = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.03)
        model = Model()
        for callback in (stop, plateau):
            callback.set_model(model)
            callback.on_train_begin()
        rates = []
        for epoch, loss in enumerate(losses):
            rates.append(float(model.optimizer.learning_rate))
            for callback in (stop, plateau):
                callback.on_epoch_end(epoch, {"val_loss": loss})
            if model.stop_training:
                break
        ours = _losses(schedule, losses)
        assert ours.epoch == len(rates)
        assert [row["learning_rate"] for row in ours.history] == pytest.approx(rates)
        assert ours.best_loss == min(losses[:len(rates)])


def test_cosine_rates_are_those_of_the_formula():
    """Loshchilov & Hutter 2017, equation 5, from the first rate to 0 over one period."""
    schedule = Schedule(8, rule="cosine")
    status = _losses(schedule, [4.0, 3.0, 3.5, 2.0, 2.0, 1.0, 0.5, 0.4])
    expected = [0.5 * (1 + np.cos(np.pi * epoch / 8)) for epoch in range(9)]
    assert [row["learning_rate"] for row in status.history] == pytest.approx(expected[:8])
    assert status.rate == pytest.approx(expected[8], abs=1e-15)
    assert status.finished(schedule) and not status.stopped
    other = Status(rate=3e-3).after(schedule, (1.0, 1.0), (1.0, 1.0))
    assert other.rate == pytest.approx(3e-3 * expected[1])


def test_cosine_rates_are_the_same_after_a_restart_in_the_middle():
    schedule = Schedule(8, patience=8, rule="cosine")
    losses = [4.0, 3.0, 3.5, 2.0, 2.5, 2.6, 2.7, 2.8]
    whole = _losses(schedule, losses)
    status = Status(rate=1.0)
    for loss in losses:
        status = Status.from_json(status.to_json()).after(schedule, (loss, loss), (loss, loss))
    assert status == whole


def test_cosine_stops_early_but_never_lowers_the_rate_for_a_plateau():
    status = _losses(Schedule(100, patience=3, plateau_patience=1, rule="cosine"),
                     [1.0, 2.0, 2.0, 2.0, 2.0])
    assert status.stopped and status.epoch == 4
    assert status.rate == pytest.approx(0.5 * (1 + np.cos(np.pi * 4 / 100)))
    assert status.plateau_wait == 0


def test_status_survives_json_with_infinities():
    status = _losses(Schedule(), [3.0, 2.0, 2.5])
    assert Status.from_json(status.to_json()) == status
    assert Status.from_json(Status(rate=0.1).to_json()) == Status(rate=0.1)


def test_checkpoint_of_other_settings_is_ignored(tmp_path):
    arrays = {"position": np.int64(3)}
    Checkpoint(tmp_path / "c.npz", "a").save(Status(rate=0.5), arrays)
    assert Checkpoint(tmp_path / "c.npz", "b").load() is None
    status, found = Checkpoint(tmp_path / "c.npz", "a").load()
    assert (status.rate, int(found["position"])) == (0.5, 3)
