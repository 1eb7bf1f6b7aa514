"""Re-training keeps every zero, is deterministic, and does not notice that it was killed."""

import numpy as np
import pytest

from l3hpc.compression import plans, pruning
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.state import Schedule
from l3hpc.models.weights import load_parameters

SPEC = NetworkSpec(rate=2000, n_mels=16, hop=100, n_dft=256, filters=(4, 4, 4, 8, 8),
                   tail="embedding")
PRUNED = pruning.prune(untrained(SPEC, 3), plans.parse_plan("30,50,0,90,98", 5))


class Data:
    """Random spectra and targets."""

    def __init__(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.uniform(-80, 0, (rows, *SPEC.frontend.shape, 1)).astype(np.float32)
        self.y = rng.normal(size=(rows, SPEC.dim)).astype(np.float32)

    def batch(self, rows):
        return self.x[rows], self.y[rows]


def run(folder, **more):
    from l3hpc.compression.retraining import MaskedTraining

    trainer = MaskedTraining(
        SPEC, Data(60), (np.arange(48), np.arange(48, 60)), folder,
        **{"schedule": Schedule(epochs=2), "learning_rate": 1e-2, "batch_size": 8, "seed": 5,
           "settings": "same", "first": PRUNED, **more})
    return trainer, trainer.run()


def test_zeros_stay_and_the_rest_learns(tmp_path):
    trainer, status = run(tmp_path, deterministic=False)
    losses = [row["loss"] for row in status.history]
    assert losses[-1] < losses[0]
    after = trainer.engine.parameters()
    for mask, before, now in zip(pruning.nonzero_masks(PRUNED), pruning.kernels(PRUNED),
                                 pruning.kernels(after), strict=True):
        np.testing.assert_array_equal(now[~mask], 0)
        assert (now[mask] != before[mask]).mean() > 0.99
    state = trainer.engine.state()
    moments = [array for array in state.values() if array.ndim == 4]
    assert len(moments) == 3 * 5  # weights, and both of Adam's moments
    for mask in pruning.nonzero_masks(PRUNED):
        same = [array for array in moments if array.shape == mask.shape]
        assert any((array[~mask] == 0).all() for array in same)


def test_without_zeros_it_is_the_plain_training(tmp_path):
    """Dense weights, no mask: the same bits as the engine that knows nothing of masks."""
    from l3hpc.models.training.loop import Training

    _, ours = run(tmp_path / "masked", first=untrained(SPEC, 5))
    plain = Training(SPEC, Data(60), (np.arange(48), np.arange(48, 60)), tmp_path / "plain",
                     Schedule(epochs=2), learning_rate=1e-2, batch_size=8, seed=5).run()
    assert ours.history == plain.history


def test_another_network_than_the_training_is_refused(tmp_path):
    from l3hpc.compression.retraining import MaskedEngine
    from l3hpc.errors import InputError

    other = NetworkSpec(**{**SPEC.to_dict(), "filters": (4,) * 5, "emb_dim": None})
    with pytest.raises(InputError, match="another shape"):
        MaskedEngine(other, first=PRUNED, seed=0, learning_rate=1e-3)


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
example = importlib.util.module_from_spec(spec); spec.loader.exec_module(example)
from pathlib import Path
from l3hpc.compression import retraining

class Killed(retraining.MaskedEngine):
    calls, kill_at = 0, 0
    def train(self, batch, first):
        Killed.calls += 1
        if Killed.calls == Killed.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        super().train(batch, first)

retraining.MaskedEngine = Killed

folder, Killed.kill_at = Path(sys.argv[2]), int(sys.argv[3])
example.run(folder, checkpoint_batches=2)
"""


@pytest.mark.slow
def test_killed_re_training_ends_with_the_same_bits_and_zeros(forked, tmp_path):
    def train(name, kill_at):
        return forked.run(KILLED, __file__, tmp_path / name, kill_at)

    assert train("whole", 0) == 0, forked.errors()
    assert train("killed", 10) == -9  # the second epoch's 4th batch
    assert train("killed", 0) == 0, forked.errors()
    for name in ("model_latest.h5", "model_best_valid_loss.h5"):
        mine, its = (load_parameters(tmp_path / one / name)[0] for one in ("whole", "killed"))
        for ours, theirs in zip(mine.layers, its.layers, strict=True):
            for array, same in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(array, same)
        for mask, kernel in zip(pruning.nonzero_masks(PRUNED), pruning.kernels(its), strict=True):
            np.testing.assert_array_equal(kernel[~mask], 0)
    assert ((tmp_path / "whole/history.csv").read_bytes()
            == (tmp_path / "killed/history.csv").read_bytes())
