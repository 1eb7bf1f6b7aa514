"""avc_pairs and avc_train as the worker runs them: on scenes, on real videos, killed, refused."""

import json
import shutil
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from l3hpc import steps
from l3hpc.avc.scenes import CEILING
from l3hpc.errors import InputError, L3hpcError
from l3hpc.ledger.schema import find_tab
from l3hpc.models import weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

from films import make_video, needs_ffmpeg  # noqa: E402
from lazymodule import LazyModule  # noqa: E402

training = LazyModule("l3hpc.avc.training")
FILTERS = (8, 8, 8, 8, 16, 16, 16, 16)
SMALL = {"rate": 8000, "size": 16, "validation_share": 0.1}
NETWORK = {"asr": 8000, "mels": 16, "dft": 512, "hop": 400, "filters": FILTERS,
           "vision_filters": FILTERS}
PER_SCENE = 12


@pytest.fixture(scope="module")
def learnt(session_runner):
    """A small network taught on generated scenes, tested on 60 scenes that it never saw."""
    runner = session_runner("avc")
    runner.pairs = runner.run("avc_pairs", {
        **SMALL, "videos": "generated:5", "scenes": 240, "pairs_per_video": PER_SCENE,
        "test_share": 0.25, "videos_per_task": 80, "augment": False})
    runner.train = runner.run("avc_train", {
        **NETWORK, "epochs": 3, "batch_size": 32, "learning_rate": 1e-2, "schedule": "cosine"})
    return runner


@pytest.mark.slow
def test_generated_scenes_are_learnt_far_above_chance(learnt):
    """Guessing is right in half of the pairs; who knows all kinds of shapes, in eleven of twelve.

    The bound takes the twelve pairs of a scene as one (they may all stand or fall together), so 60
    trials: the exact binomial interval of 99% around the accuracy must lie above one half. That is
    so from 41 of 60, 68%, on; 81% was seen.
    """
    tested = learnt.train.results[0]["test"]
    scenes = tested["pairs"] // PER_SCENE
    assert (tested["pairs"], scenes) == (720, 60)
    low, _ = training.binomial_interval(round(tested["accuracy"] * scenes), scenes, confidence=0.99)
    assert low > 0.5
    assert (training.binomial_interval(41, 60, 0.99)[0] > 0.5
            > training.binomial_interval(40, 60, 0.99)[0])
    assert tested["accuracy"] < CEILING + 0.03  # more would be a shortcut
    assert min(tested["matching_right"], tested["non_matching_right"]) > 0.5
    assert f"{100 * tested['accuracy']:.1f}% of 720 unseen pairs right" in learnt.train.text


@pytest.mark.slow
def test_what_the_steps_leave(learnt):
    assert learnt.pairs.text == "2,880 pairs of 240 videos"
    assert [(one["split"], one["pairs"], one["matching"]) for one in learnt.pairs.results] == [
        ("train", 936, 468), ("train", 936, 468), ("validate", 288, 144), ("test", 720, 360)]
    folder = learnt.train.folder / "0000"
    assert {path.name for path in folder.iterdir()} == {
        "audio.h5", "teacher.h5", "vision.h5", "avc_latest.h5", "avc_best_valid_loss.h5",
        "avc_best_valid_accuracy.h5", "history.csv", "evaluation.json", "result.json"}
    told = json.loads((folder / "evaluation.json").read_text())["test"]
    assert told == learnt.train.results[0]["test"]
    low, high = told["interval"]
    assert low < told["accuracy"] == told["right"] / told["pairs"] < high


@pytest.mark.slow
def test_the_audio_half_is_a_teacher(learnt, city):
    """teacher.h5 serves extract; it is the audio network up to its eighth convolution."""
    folder = learnt.train.folder / "0000"
    teacher, _ = weights.load_parameters(folder / "teacher.h5")
    audio, info = weights.load_parameters(folder / "audio.h5")
    assert (teacher.spec.tail, audio.spec.tail, teacher.spec.dim) == ("embedding", "student", 16)
    assert not info.random_weights
    for mine, its in zip(teacher.layers, audio.layers[:-1], strict=True):
        for one, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(one, same)
    found = learnt.run("extract", {"audio": city / "audio", "weights": str(folder / "teacher.h5"),
                                   "engine": "tensorflow"})
    assert found.results[0]["teacher"]["dim"] == 16
    with h5py.File(found.folder / "0000/embeddings.h5") as file:
        assert file["l3_embedding"].shape[1] == 16


@pytest.mark.slow
def test_the_row_of_the_ledger(learnt):
    rows = [(values, epoch) for tab, values, epoch in learnt.records.rows if tab == "embedding"]
    assert {*find_tab("embedding").fields, "state"} == set().union(*(row for row, _ in rows))
    assert [epoch for _, epoch in rows] == [None, 0, 1, 2, 2]
    last = rows[-1][0]
    assert last["state"] == "finished" and last["latest_epoch"] == 2
    assert (last["samp_rate"], last["num_mels"], last["num_hops"], last["num_dft"]) == (
        8, 16, 20, 512)
    assert last["best_validation_acc"] == max(
        row["latest_validation_acc"] for row, epoch in rows if epoch is not None)


@pytest.mark.slow
def test_a_smaller_network_learns_from_the_soft_labels_of_a_trained_one(
        learnt, session_runner, eager):
    """One epoch: what is stored and recorded. The loss itself is tested in tests/avc."""
    runner = session_runner("distilled")
    teacher = learnt.train.folder / "0000/avc_best_valid_loss.h5"
    runner.run("avc_pairs", {**SMALL, "scenes": 10, "pairs_per_video": 4, "test_share": 0.1})
    found = runner.run("avc_train", {
        **NETWORK, "filters": (4,) * 8, "vision_filters": (4,) * 8, "epochs": 1, "batch_size": 32,
        "teacher": teacher, "temperature": 3.0})
    rows = [values for tab, values, _ in runner.records.rows if tab == "distillation"]
    assert not [tab for tab, _, _ in runner.records.rows if tab != "distillation"]
    assert {*find_tab("distillation").fields, "state"} == set().union(*rows)
    last = rows[-1]
    assert (last["student"], last["teacher"], last["loss_type"], last["temperature"],
            last["lambda"]) == ("4 4 4 4 4 4 4 4", str(teacher), "soft labels", 3.0, 0.9)
    assert last["state"] == "finished" and 0 < last["best_validation_acc"] <= 1
    assert found.results[0]["distillation"]["soft_weight"] == 0.9

    from l3hpc.avc.batches import AvcData, Batches
    from l3hpc.avc.distillation import soften, teacher_logits
    from l3hpc.avc.network import load_avc

    network, pairs = load_avc(teacher), Batches.find(runner.artifact("avc_pairs"), "train")
    (sound, image), _ = AvcData(pairs, network.audio_spec.frontend).batch(np.arange(pairs.rows))
    expected = network.model([sound, image], training=False).numpy()
    np.testing.assert_allclose(soften(teacher_logits(network, pairs), 1.0), expected, atol=1e-5)


def test_a_teacher_that_cannot_teach_is_refused_before_submission(tmp_path):
    from l3hpc.avc.vision import VisionSpec, head_layers, save_arrays
    from l3hpc.models.parameters import random_layers
    from l3hpc.models.spec import NetworkSpec

    module, pairs = steps.step("avc_train"), steps.step("avc_pairs")
    audio, vision = NetworkSpec(8000, 16, 400, 512, filters=FILTERS), VisionSpec(16, FILTERS)
    shapes = [*audio.layers(), *vision.layers(), *head_layers(audio.dim + vision.dim)]
    whole = tmp_path / "avc.h5"
    save_arrays(whole, {"audio": audio.to_dict(), "vision": vision.to_dict()}, shapes,
                random_layers(shapes, 1), None)

    def check(own, **settings):
        own = module.params_type(**{**NETWORK, **own})
        module.check(own, {"avc_pairs": pairs.params_type(**{**SMALL, **settings})})
        return own

    own = check({"teacher": whole})
    assert module.describe(own, {}).endswith("; soft labels of avc.h5")
    plain = module.params_type(**NETWORK)
    assert set(module.digests(own)) - set(module.digests(plain)) == {"teacher"}
    assert not {"teacher", "temperature", "soft_weight"} & set(plain.model_dump())
    for values, settings, what in (
            ({"teacher": whole}, {"size": 32}, "images of 16 pixels and sound of 8000 Hz, not of "
                                               "32 pixels"),
            ({"teacher": tmp_path / "no.h5"}, {}, "no weight file"),
            ({"temperature": 4.0}, {}, "temperature is set, but there is no teacher"),
            ({"soft_weight": 0.5}, {}, "soft_weight is set, but there is no teacher")):
        with pytest.raises(InputError, match=what):
            check(values, **settings)


@pytest.mark.slow
def test_the_report_tells_the_accuracy(learnt):
    from l3hpc.report.collect import collect
    from l3hpc.report.data import StepFacts
    from l3hpc.report.page import page

    artifacts = {name: learnt.artifact(name) for name in ("avc_pairs", "avc_train")}
    findings = collect("avc-1", artifacts, [StepFacts(name) for name in artifacts])
    tested = learnt.train.results[0]["test"]
    taught = findings.correspondence
    assert (taught.pairs, taught.right) == (tested["pairs"], tested["right"])
    assert len(findings.epochs) == 3 and findings.networks[0].emb_dim == 16
    text = page(findings)
    assert f"{100 * tested['accuracy']:.1f}%" in text
    low, high = tested["interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f}%" in text
    assert "Cross-entropy of matching" in text


# pairs --------------------------------------------------------------------------------------------


def digest_of(folder):
    found = {}
    for path in sorted(folder.glob("*/*.h5")):
        with h5py.File(path) as file:
            found[path.name] = [file[key][()].tobytes() for key in ("audio", "video", "label")]
    return found


@pytest.mark.slow
def test_pairs_are_the_same_for_a_seed_whatever_was_killed(new_runner):
    options = {**SMALL, "videos": "generated:1", "scenes": 12, "pairs_per_video": 5,
               "pairs_per_file": 7}
    whole = new_runner("whole").run("avc_pairs", options)
    assert [one["files"] for one in whole.results] == [6, 2, 2]  # 8, 2 and 2 videos
    killed = new_runner("killed")
    from l3hpc.avc import pairs
    write, written = pairs.write_batch, []

    def dies(path, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        write(path, *rest)
        written.append(path.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "write_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            killed.run("avc_pairs", options)
    assert written == [f"train_0000_00{number}.h5" for number in range(3)]
    shutil.rmtree(killed.artifact("avc_pairs"))
    again = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "write_batch",
                      lambda path, *rest: (again.append(path.name), write(path, *rest)))
        resumed = killed.run("avc_pairs", options)
    assert not set(again) & set(written) and len(again) == 7
    assert digest_of(whole.folder) == digest_of(resumed.folder)
    other = new_runner("other").run("avc_pairs", {**options, "seed": 2})
    assert digest_of(other.folder) != digest_of(whole.folder)


def test_splits_share_no_scene(runner):
    module = steps.step("avc_pairs")
    params = module.params_type(**SMALL, scenes=40, videos_per_task=7)
    shards = module.shards(params, {})
    scenes = [one for shard in shards for one in shard["videos"]]
    assert sorted(scenes) == list(range(40))
    assert [shard["split"] for shard in shards].count("train") == 5
    assert module.describe(params, {}) == (
        "512 train, 64 validate, 64 test pairs of 40 generated scenes, 16 pixels, 8000 Hz")


def test_only_training_pairs_are_augmented(new_runner):
    options = {**SMALL, "videos": "generated:1", "scenes": 8, "pairs_per_video": 2}
    plain, changed = (digest_of(new_runner(str(augment)).run(
        "avc_pairs", {**options, "augment": augment}).folder) for augment in (False, True))
    assert plain.keys() == changed.keys()
    same = {name.split("_")[0] for name in plain if plain[name] == changed[name]}
    assert same == {"validate", "test"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    first = make_video(folder / "0.mp4", "red", 400, seconds=2)
    for number in range(1, 4):
        shutil.copy(first, folder / f"{number}.mp4")
    second = make_video(folder / "4.mp4", "blue", 800, seconds=2)
    for number in range(5, 8):
        shutil.copy(second, folder / f"{number}.mp4")
    return folder


@pytest.mark.slow
@needs_ffmpeg
def test_real_videos_become_pairs(films, runner):
    """Red sounds at 400 Hz, blue at 800; in the files every image meets a sound of its label."""
    found = runner.run("avc_pairs", {**SMALL, "videos": films, "pairs_per_video": 1,
                                     "augment": False})
    assert found.text == "8 pairs of 8 videos"
    seen = set()
    for path in sorted(found.folder.glob("*/*.h5")):
        with h5py.File(path) as file:
            assert file.attrs["rate"] == 8000
            for audio, video, label in zip(file["audio"], file["video"], file["label"],
                                           strict=True):
                pitch = np.argmax(np.abs(np.fft.rfft(audio[0] * np.hanning(8000.0))))
                red = video[..., 0].mean() > 128
                assert pitch in (400, 800)
                if label[1]:
                    assert pitch == (400 if red else 800)
                seen.add((int(label[1]), int(pitch), bool(red)))
    assert len(seen) >= 3


@pytest.mark.slow
@needs_ffmpeg
def test_a_broken_video_is_left_out_and_told(films, tmp_path, runner):
    folder = tmp_path / "some"
    shutil.copytree(films, folder)
    (folder / "broken.mp4").write_bytes(b"this is no video")
    cut = folder / "cut.mp4"  # its header is at the end: gone
    cut.write_bytes((films / "0.mp4").read_bytes()[:-400])
    options = {**SMALL, "videos": folder, "pairs_per_video": 1, "max_failed": 0.5}
    found = runner.run("avc_pairs", options)
    assert sum(one["skipped"] for one in found.results) == 2
    assert found.text == "8 pairs of 8 videos, 2 skipped"
    told = "".join((found.folder / f"{n:04d}" / "skipped.csv").read_text()
                   for n in range(len(found.results)))
    for name in ("broken.mp4", "cut.mp4"):  # ffprobe says so, or ffmpeg where there is no ffprobe
        assert f"{name},cannot be decoded" in told or f"{name},does not state its dur" in told


def test_a_video_that_fails_while_it_is_cut_is_planned_without(tmp_path):
    from l3hpc.avc.pairs import PairMaker
    from l3hpc.avc.scenes import Scene
    from l3hpc.avc.videos import VideoError

    class Failing(Scene):
        def sound(self, start, rate):
            raise VideoError("is damaged in the middle", where=self.name)

    def open_source(name):
        return (Failing if name == "2" else Scene)(int(name))

    def make(names, **more):
        folder = tmp_path / f"scratch{len(names)}{len(more)}"
        output = tmp_path / f"out{len(names)}{len(more)}"
        output.mkdir()
        return output, PairMaker(names, open_source, "train_0000", 8000, 16, 4, [1], folder,
                                 **more).run(output)

    output, result = make(["0", "1", "2", "3", "4"], max_failed=0.5)
    assert (result["videos"], result["skipped"], result["pairs"]) == (4, 1, 16)
    assert "2,is damaged in the middle" in (output / "skipped.csv").read_text()
    same, expected = make(["0", "1", "3", "4"])
    assert expected["pairs"] == 16
    for name in ("audio", "video", "label"):
        with h5py.File(output / "train_0000_000.h5") as one, \
                h5py.File(same / "train_0000_000.h5") as other:
            np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(L3hpcError, match="1 of 5 videos cannot be used; the last: 2"):
        make(["0", "1", "2", "3", "4"])


def test_too_many_broken_videos_end_the_step_at_once_and_in_every_attempt(tmp_path):
    from l3hpc.avc.pairs import PairMaker
    from l3hpc.avc.scenes import Scene
    from l3hpc.avc.videos import VideoError

    opened, broken = [], {"3", "4", "5"}

    def open_source(name):
        opened.append(name)
        time.sleep(0.01)
        if name in broken:
            raise VideoError("cannot be decoded", where=name)
        return Scene(int(name))

    (tmp_path / "out").mkdir()
    maker = PairMaker([str(number) for number in range(60)], open_source, "train_0000", 8000, 16,
                      1, [1], tmp_path / "scratch")
    maker.max_failed = 2 / 60
    for _ in range(2):
        with pytest.raises(L3hpcError, match="3 of 60 videos cannot be used; the last: 5") as end:
            maker.run(tmp_path / "out")
        assert "resume the run" in end.value.hint and len(opened) < 12
        opened.clear()
    broken.clear()
    assert maker.run(tmp_path / "out")["skipped"] == 0


# refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "what"), [
    ({"include": "Music"}, "need the ontology"),
    ({"ontology": "o.json"}, "needs the segment lists"),
    ({"videos": "generated:x"}, "no valid seed"),
    ({"videos": "/nowhere/at/all"}, "no such folder of videos"),
    ({"metadata": "s.csv"}, "with generated scenes"),
    ({"validation_share": 0.5, "test_share": 0.5}, "fewer than two to train"),
])
def test_pairs_that_cannot_be_made_are_refused_before_submission(values, what):
    module = steps.step("avc_pairs")
    with pytest.raises(InputError, match=what):
        module.check(module.params_type(**values), {})


@pytest.mark.parametrize(("values", "what"), [
    ({"freeze_vision": True}, "keep the random weights"),
    ({"vision_weights": "nowhere.h5"}, "no weight file nowhere.h5"),
    ({"filters": (1, 2)}, "filters"), ({"vision_filters": (1,) * 7}, "vision network"),
    ({"asr": 8000, "dft": 512}, "mel bands empty"), ({"hop": 40000}, "hop"),
])
def test_networks_that_cannot_be_built_are_refused_before_submission(values, what):
    module = steps.step("avc_train")
    with pytest.raises(InputError, match=what):
        module.check(module.params_type(**values), {})


def test_the_published_network_is_allowed_and_sound_must_suffice():
    module, pairs = steps.step("avc_train"), steps.step("avc_pairs")
    params = {"avc_train": module.params_type(), "avc_pairs": pairs.params_type()}
    own = params["avc_train"]
    module.check(own, params)
    assert module.describe(own, params) == (
        "audio 512-d, 48000 Hz, 256 mels, 4,691,908 parameters; 30 epochs of all pairs")
    with pytest.raises(InputError, match="pairs of 8000 Hz for a network of 48000 Hz"):
        module.check(own, {**params, "avc_pairs": pairs.params_type(rate=8000)})
    with pytest.raises(ValidationError):
        pairs.params_type(size=2000)


def test_the_listing_decides_the_fingerprint(tmp_path):
    module = steps.step("avc_pairs")
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
    first = module.digests(module.params_type(videos=tmp_path))
    assert module.digests(module.params_type(videos=tmp_path)) == first
    (tmp_path / "3.mp4").write_bytes(b"xy")
    assert module.digests(module.params_type(videos=tmp_path)) != first
    assert module.digests(module.params_type()) == {"videos": "generated:20180216"}
