"""PyTorch trains as TensorFlow does, goes on where either stopped, and never saves half a step.

On the CPU: what only a GPU does (tf32, page-locked memory) is run by ``benchmarks.gpu``.
"""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the engine torch needs PyTorch (extra torch)")

from l3hpc.errors import InputError  # noqa: E402
from l3hpc.models.spec import NetworkSpec  # noqa: E402
from l3hpc.models.training.loop import Training  # noqa: E402
from l3hpc.models.training.state import Schedule  # noqa: E402
from l3hpc.models.training.torch_engine import TorchTrainingEngine  # noqa: E402
from l3hpc.models.weights import load_parameters  # noqa: E402

pytestmark = pytest.mark.slow

SPEC = NetworkSpec(rate=2000, n_mels=16, hop=100, n_dft=256, filters=(4,) * 6 + (8, 8),
                   head="linear", emb_dim=8)
COLUMNS = ("loss", "mean_absolute_error", "val_loss", "val_mean_absolute_error")


class Data:
    """Random spectra and targets."""

    def __init__(self, rows=60, spec=SPEC):
        rng = np.random.default_rng(0)
        self.x = rng.uniform(-80, 0, (rows, *spec.frontend.shape, 1)).astype(np.float32)
        self.y = rng.normal(size=(rows, spec.dim)).astype(np.float32)

    def batch(self, rows):
        return self.x[rows], self.y[rows]


def make(folder, engine="torch", spec=SPEC, epochs=3, **options):
    options = {"learning_rate": 1e-4, "batch_size": 10, "seed": 3, "threads": 1,
               "deterministic": False, "settings": "same", "engine_name": engine, **options}
    return Training(spec, Data(spec=spec), (np.arange(44), np.arange(44, 60)), folder,
                    Schedule(epochs=epochs), **options)


def engine(spec=SPEC, **options):
    return TorchTrainingEngine(spec, **{"seed": 3, "learning_rate": 1e-3, "threads": 1, **options})


@pytest.fixture
def eager():
    """TensorFlow without compiling, which takes most of the time of so small a training."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_history_and_kernels_are_those_of_tensorflow(tmp_path, eager):
    """Also that the last, smaller batch of an epoch counts by its windows."""
    runs = [make(tmp_path / name, name) for name in ("torch", "tensorflow")]
    ours, theirs = (run.run() for run in runs)
    for name in COLUMNS:
        np.testing.assert_allclose([row[name] for row in ours.history],
                                   [row[name] for row in theirs.history], rtol=1e-4, err_msg=name)
    one, other = (run.engine.state() for run in runs)
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        if array.ndim == 4:  # a bias before a normalisation has no gradient, only rounding noise
            np.testing.assert_allclose(array, other[name], atol=1e-5, err_msg=name)
    assert (ours.best_loss_epoch, ours.best_mae_epoch) == (
        theirs.best_loss_epoch, theirs.best_mae_epoch)
    for name in ("model_latest.h5", "model_best_valid_loss.h5", "model_best_valid_mae.h5"):
        mine, its = (load_parameters(tmp_path / engine / name)[0].layers[1][0]
                     for engine in ("torch", "tensorflow"))
        np.testing.assert_allclose(mine, its, atol=1e-5, err_msg=name)


def test_a_run_goes_on_with_the_other_engine(tmp_path, eager):
    """An epoch with PyTorch, one with TensorFlow and one with PyTorch, as three with PyTorch."""
    spec = NetworkSpec(**{**SPEC.to_dict(), "head": "relu"})
    written = []
    for epochs, name in enumerate(("torch", "tensorflow", "torch"), 1):
        status = make(tmp_path / "both", name, spec, epochs=epochs).run()
        with np.load(tmp_path / "both" / "checkpoint.npz") as file:
            written.append((file.files, int(file["optimizer_000"])))
    assert [steps for _, steps in written] == [5, 10, 15]
    assert written[0][0] == written[1][0] == written[2][0]
    whole = make(tmp_path / "whole", "torch", spec).run()
    assert [row["epoch"] for row in status.history] == [0, 1, 2]
    for name in COLUMNS:
        np.testing.assert_allclose([row[name] for row in status.history],
                                   [row[name] for row in whole.history], rtol=1e-4, err_msg=name)


KILLED = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from pathlib import Path
import test_torch_training as example
from l3hpc.models.training import torch_engine

class Killed(torch_engine.TorchTrainingEngine):
    calls = 0
    def train(self, batch, first):
        Killed.calls += 1
        if Killed.calls == 8:
            # TensorFlow would reserve the memory of the GPU.
            print(*(name for name in ("tensorflow", "keras") if name in sys.modules), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        super().train(batch, first)

torch_engine.TorchTrainingEngine = Killed
example.make(Path(sys.argv[2]), deterministic=True, checkpoint_batches=2).run()
"""


def test_killed_training_ends_with_the_same_bits(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, __file__, str(tmp_path / "killed")],
                          check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert done.stdout.split() == []
    with np.load(tmp_path / "killed" / "checkpoint.npz") as file:
        assert file["position"] == 7  # five batches an epoch, and two
    for name in ("killed", "whole"):
        make(tmp_path / name, deterministic=True, checkpoint_batches=2).run()
    one, other = (np.load(tmp_path / name / "checkpoint.npz") for name in ("killed", "whole"))
    assert one.files == other.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert ((tmp_path / "killed/history.csv").read_bytes()
            == (tmp_path / "whole/history.csv").read_bytes())


def test_a_checkpoint_asked_for_within_a_step_is_that_before_it(monkeypatch):
    """A signal arrives between any two lines: after the moving statistics, say, or the weights."""
    data, mine = Data(), engine()
    batch = mine.put(data.batch(np.arange(10)))
    mine.train(batch, first=True)
    before, seen = mine.state(), []

    def ask(function):
        def asked(*args, **options):
            seen.append(mine.state())
            result = function(*args, **options)
            seen.append(mine.state())
            return result
        return asked

    for place, name in ((mine, "_errors"), (mine._adam, "step"), (torch, "_foreach_copy_")):
        monkeypatch.setattr(place, name, ask(getattr(place, name)))
    mine.train(batch, first=False)
    assert len(seen) == 6
    for state in seen:
        for name, array in before.items():
            np.testing.assert_array_equal(state[name], array, err_msg=name)
    after = mine.state()
    assert after["position"] == 2
    assert all((after[name] != before[name]).any() for name in ("weight_002", "weight_004", "sums"))
    fresh = engine()
    fresh.restore(seen[-1])
    fresh.train(batch, first=False)
    for name, array in fresh.state().items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_adam_is_that_of_keras_where_its_epsilon_counts():
    """Gradients of 1e-6 to 1, ten steps, against Keras's formula in float64."""
    mine = engine()
    scale = 10.0 ** np.arange(-6, 2)
    rng = np.random.default_rng(1)
    beta = mine._normalisations[-1].beta
    wanted, m, v = beta.detach().double().numpy().copy(), np.zeros(8), np.zeros(8)

    def errors(*_, **__):
        return (beta * torch.from_numpy(gradient.astype(np.float32))).sum()[None], torch.zeros(1), \
            torch.zeros(())

    mine._errors = errors
    for step in range(1, 11):
        gradient = rng.normal(size=8) * scale
        mine.train(mine.put(Data().batch(np.arange(2))), first=True)
        m += (gradient - m) * (1 - 0.9)
        v += (gradient**2 - v) * (1 - 0.999)
        rate = 1e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        wanted -= rate * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(beta.detach().numpy(), wanted, rtol=2e-5)


def test_bfloat16_learns_with_weights_and_statistics_in_float32():
    data, mine = Data(), engine(precision="bfloat16")
    batch = mine.put(data.batch(np.arange(32)))
    losses = []
    for _ in range(25):
        mine.train(batch, first=True)
        losses.append(mine.averages()[0])
    assert losses[-1] < 0.9 * losses[0]
    assert {array.dtype for name, array in mine.state().items()
            if name.startswith("weight")} == {np.dtype(np.float32)}
    exact = engine()
    exact.restore(mine.state())
    found, wanted = mine.validate([batch]), exact.validate([batch])
    assert found != wanted  # it did compute in bfloat16
    assert found == pytest.approx(wanted, rel=0.02)


def test_what_the_engine_cannot_do_is_refused():
    with pytest.raises(InputError, match="does not train in float16"):
        engine(precision="float16")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU here that computes in tf32"):
            engine(precision="tf32")
    mine = engine()
    state = mine.state()
    for wrong in ({**state, "optimizer_099": state["sums"]},
                  {**state, "weight_000": np.zeros(2, np.float32)}):
        with pytest.raises(InputError, match="another network"):
            mine.restore(wrong)
