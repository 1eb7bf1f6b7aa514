"""What a compressed network is judged by: distance to the teacher, and correspondence."""

import numpy as np
import pytest

from l3hpc.compression import fidelity, plans, pruning
from l3hpc.compression.fidelity import Fidelity, embedding_distance
from l3hpc.errors import InputError
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec

SPEC = NetworkSpec(rate=2000, n_mels=16, hop=100, n_dft=256, filters=(4,) * 6 + (8, 8),
                   tail="embedding")


def test_distance_from_its_definition():
    found = np.array([[1, 0], [0, 2], [0, 0], [0, 0]], np.float32)
    wanted = np.array([[1, 1], [0, -1], [0, 0], [3, 4]], np.float32)
    told = embedding_distance(found, wanted)
    assert told["mse"] == pytest.approx((0 + 1 + 0 + 9 + 0 + 0 + 9 + 16) / 8)
    assert told["mae"] == pytest.approx((0 + 1 + 0 + 3 + 0 + 0 + 3 + 4) / 8)
    assert told["cosine"] == pytest.approx((2 ** -0.5 - 1 + 1 + 0) / 4)
    assert told["windows"] == 4


def test_the_unpruned_network_is_the_teacher(monkeypatch):
    frames = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 2000)).astype(np.float32)
    network = untrained(SPEC, 1)
    judge = Fidelity(network, frames, engine="tensorflow")
    monkeypatch.setattr(judge, "embed", None)  # of the teacher they are known
    told = judge.of(network)
    monkeypatch.undo()
    assert told["mse"] == 0 and told["cosine"] == pytest.approx(1)
    rows = list(fidelity.scan_layers(network, fidelity.scan_points(8, (50, 95)), judge.of))
    assert [(row["layer"], row["sparsity"]) for row in rows] == [
        (layer, percent) for layer in range(1, 9) for percent in (50, 95)]
    assert rows[-1]["name"] == "audio_embedding_layer" and rows[0]["name"] == "conv_1"
    for one, more in zip(rows[::2], rows[1::2], strict=True):
        assert one["non_zero"] > more["non_zero"] >= 0
    alone = pruning.prune(network, (0, 0, 0, 95, 0, 0, 0, 0))
    assert rows[7]["mse"] == judge.of(alone)["mse"] > 0


def test_judges_refuse_what_they_cannot_compare():
    with pytest.raises(InputError, match="no windows"):
        Fidelity(untrained(SPEC, 1), np.empty((0, 2000), np.float32))
    judge = Fidelity(untrained(SPEC, 1), np.ones((1, 2000), np.float32), engine="tensorflow")
    other = NetworkSpec(**{**SPEC.to_dict(), "filters": (4,) * 8, "emb_dim": None})
    with pytest.raises(InputError, match="length 4 cannot be compared with"):
        judge.of(untrained(other, 1))
    with pytest.raises(InputError, match="a sparsity of 100%"):
        fidelity.scan_points(8, (100,))


@pytest.fixture(scope="module")
def avc(tmp_path_factory):
    """A tiny correspondence network with its file, and 40 pairs: loud sounds go with red."""
    from l3hpc.avc.batches import Batches, write_batch
    from l3hpc.avc.network import build_avc
    from l3hpc.avc.vision import VisionSpec

    folder = tmp_path_factory.mktemp("avc")
    network = build_avc(untrained(SPEC, 1), VisionSpec(16, (4,) * 8), seed=2)
    network.save(folder / "avc.h5")
    rng = np.random.default_rng(0)

    def examples():
        for number in range(40):
            loud, match = number % 2, (number // 2) % 2
            time = np.arange(2000) / 2000
            tone = np.sin(2 * np.pi * (700 if loud else 120) * time)
            audio = (tone * 20000 + rng.normal(size=2000) * 50).astype(np.int16)
            image = np.zeros((16, 16, 3), np.uint8)
            image[..., 0 if loud == match else 2] = 255
            yield audio, image, match

    write_batch(folder / "train_0.h5", examples(), 40)
    return network, Batches([folder / "train_0.h5"]), folder


def see(avc, tmp_path, rows=None):
    from l3hpc.compression.correspondence import embed_images

    network, batches, _ = avc
    rows = np.arange(batches.rows) if rows is None else rows
    return embed_images(network, batches, rows, SPEC.frontend, tmp_path / "seen")


def test_seen_images_give_what_the_whole_network_gives(avc, tmp_path):
    from l3hpc.avc.batches import AvcData
    from l3hpc.compression.correspondence import Correspondence, Head

    network, batches, _ = avc
    seen = see(avc, tmp_path)
    inputs, labels = AvcData(batches, SPEC.frontend).batch(np.arange(40))
    expected = np.asarray(network.model(list(inputs), training=False))
    head = Head(network.head)
    audio = np.asarray(network.audio(inputs[0], training=False))
    logits = head.logits(seen.vision[0:40], audio)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), expected, atol=1e-5)
    told = Correspondence(seen, head, network.parameters(), engine="tensorflow").of(
        untrained(SPEC, 1))
    assert told == {"accuracy": (expected.argmax(1) == labels.argmax(1)).mean(), "pairs": 40}


def test_an_interrupted_look_goes_on(avc, tmp_path, monkeypatch):
    from l3hpc.compression import correspondence

    monkeypatch.setattr(correspondence, "CHUNK", 8)
    whole = see(avc, tmp_path / "whole")
    calls = []
    original = correspondence.AvcData.batch

    def batch(self, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, rows)

    monkeypatch.setattr(correspondence.AvcData, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        see(avc, tmp_path)
    again = see(avc, tmp_path)
    np.testing.assert_array_equal(again.vision[0:40], whole.vision[0:40])
    np.testing.assert_array_equal(again.spectra[0:40], whole.spectra[0:40])
    before = len(calls)
    see(avc, tmp_path)
    assert len(calls) == before


def test_fine_tuning_learns_correspondence_and_keeps_zeros(avc, tmp_path):
    from l3hpc.compression.correspondence import Correspondence, fusion_head
    from l3hpc.compression.retraining import CorrespondenceTraining
    from l3hpc.models.training.state import Schedule

    seen = see(avc, tmp_path)
    first = pruning.prune(untrained(SPEC, 1), plans.parse_plan("0,50,50,50,50,50,50,70"))
    head, fresh = fusion_head(avc[0], first, 0)
    assert not fresh
    rows = np.arange(40)
    trainer = CorrespondenceTraining(
        SPEC, seen, (rows, rows), tmp_path / "training", Schedule(epochs=12), learning_rate=1e-2,
        batch_size=8, seed=1, deterministic=False, first=first, head=head)
    status = trainer.run()
    wrong = status.history[-1]["val_mean_absolute_error"]
    assert wrong < 0.1 < status.history[0]["val_mean_absolute_error"]
    judged = Correspondence(seen, trainer.engine.head(), first, engine="tensorflow")
    assert judged.of(trainer.engine.parameters())["accuracy"] == pytest.approx(1 - wrong, abs=1e-6)
    for mask, kernel in zip(pruning.nonzero_masks(first),
                            pruning.kernels(trainer.engine.parameters()), strict=True):
        np.testing.assert_array_equal(kernel[~mask], 0)


def test_a_narrower_network_gets_a_fresh_head(avc):
    from l3hpc.compression.correspondence import fusion_head
    from l3hpc.compression.pruning import reduce_width

    narrow = reduce_width(untrained(SPEC, 1), (4,) * 6 + (8, 5))
    head, fresh = fusion_head(avc[0], narrow, 7)
    assert fresh and head.joint == 4 + 5
    again, _ = fusion_head(avc[0], narrow, 7)
    np.testing.assert_array_equal(head.layers[0][0], again.layers[0][0])


def test_images_of_another_size_are_refused(avc, tmp_path):
    from l3hpc.avc.network import build_avc
    from l3hpc.avc.vision import VisionSpec
    from l3hpc.compression.correspondence import embed_images

    other = build_avc(untrained(SPEC, 1), VisionSpec(24, (4,) * 8))
    with pytest.raises(InputError, match="images of 16 x 16 pixels"):
        embed_images(other, avc[1], np.arange(4), SPEC.frontend, tmp_path)


def test_an_embedding_is_dressed_as_the_branch_was(tmp_path):
    """openl3's end: the embedding without the branch's last normalisation and ReLU."""
    from l3hpc.compression.correspondence import with_final_norm, without_final_norm
    from l3hpc.compression.pruning import reduce_depth, reduce_width
    from l3hpc.models.parameters import Parameters

    whole = NetworkSpec(**{**SPEC.to_dict(), "tail": "student"})
    branch = untrained(whole, 1)
    branch = Parameters(whole, (*branch.layers[:-1], tuple(
        np.full(8, value, np.float32) for value in (3, 1, 2, 4))))
    bare = Parameters(SPEC, branch.layers[:-1])
    again = with_final_norm(bare, branch)
    assert again.spec == branch.spec
    for mine, its in zip(again.layers, branch.layers, strict=True):
        for array, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(array, same)
    assert without_final_norm(again, SPEC).spec == SPEC
    assert with_final_norm(branch, branch) is branch
    for cut in (reduce_width(bare, (4,) * 6 + (8, 5)), reduce_depth(bare, 6)):
        fresh = with_final_norm(cut, branch)
        assert fresh.spec.tail == "student" and fresh.spec.dim == cut.spec.dim
        for value, array in zip((1, 0, 0, 1), fresh.layers[-1], strict=True):
            np.testing.assert_array_equal(array, np.full(cut.spec.dim, value, np.float32))
    with pytest.raises(InputError, match="the audio branch does not"):
        with_final_norm(branch, bare)
    other = NetworkSpec(**{**SPEC.to_dict(), "n_mels": 32})
    with pytest.raises(InputError, match="2000 Hz, 32 mels"):
        with_final_norm(untrained(other, 1), branch)
