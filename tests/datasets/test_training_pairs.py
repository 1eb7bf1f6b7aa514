"""Audio and targets meet row by row, and no recording is on both sides of the split."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.files import read_audio
from l3hpc.audio.formats import FileState
from l3hpc.audio.framing import frame_audio
from l3hpc.audio.frontends import Frontend
from l3hpc.datasets.embedding_file import EmbeddingFile
from l3hpc.datasets.pair_cache import cache_bytes, prepare_cache
from l3hpc.datasets.training_pairs import (
    PairUnit,
    TrainingPairs,
    approx_of,
    find_pairs,
    split_pairs,
)
from l3hpc.errors import InputError
from l3hpc.io.files import write_json

RATE = 2000
FRONTEND = Frontend(RATE, 256, 100, 16)


def units(groups):
    """Units of the given (group, rows)."""
    made, first = [], 0
    for number, (group, rows) in enumerate(groups):
        made.append(PairUnit(f"/audio/{number}.wav", first, EmbeddingFile("/t.h5"), 0,
                             np.arange(rows), 0.5, True, group))
        first += rows
    return TrainingPairs(made, "key", 4, "pca", {}, Path("audio"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 30)), min_size=2, max_size=40),
       st.floats(0.05, 0.9), st.integers(0, 99))
def test_groups_are_never_divided(groups, share, seed):
    pairs = units([(f"day {group}", rows) for group, rows in groups])
    train, validate = split_pairs(pairs, share, seed)
    assert len(train) and len(validate)
    assert sorted([*train, *validate]) == list(range(pairs.rows))
    held = set(validate)
    whole = {}
    for unit in pairs.units:
        rows = set(range(unit.first, unit.first + unit.count))
        key = unit.group if len({one.group for one in pairs.units}) > 1 else str(unit.audio)
        whole.setdefault(key, set()).update(rows)
    for rows in whole.values():
        assert rows <= held or not rows & held


def test_share_is_met_as_well_as_groups_allow():
    pairs = units([(f"day {number}", 10) for number in range(50)])
    assert len(split_pairs(pairs, 0.1, 1)[1]) == 50
    assert len(split_pairs(pairs, 0.1, 1)[1]) == len(split_pairs(pairs, 0.1, 2)[1])
    assert list(split_pairs(pairs, 0.1, 1)[1]) != list(split_pairs(pairs, 0.1, 2)[1])


def test_one_recording_cannot_be_divided():
    with pytest.raises(InputError, match="one recording"):
        split_pairs(units([("day 1", 10)]), 0.1, 0)


def test_kind_of_target_from_its_key():
    assert approx_of("pca_batch_500000_len_128_kernel_linear") == "pca"
    assert approx_of("umap_batch_500_len_16_k_15_metric_euclidean_dist|iter_0.3") == "umap"
    assert approx_of("l3_embedding") == "none"


@pytest.fixture
def corpus(tmp_path):
    """Two recordings, their extract artifact (hop 0.5, centred) and targets of 3 dimensions."""
    audio = tmp_path / "audio"
    audio.mkdir()
    rng = np.random.default_rng(0)
    lengths = {"a.wav": 7, "b.wav": 5}
    for name, seconds in lengths.items():
        soundfile.write(audio / name, rng.uniform(-0.5, 0.5, seconds * 4000), 4000)
    counts = [2 * seconds for seconds in lengths.values()]
    which = np.repeat([0, 1], counts)
    frame = np.concatenate([np.arange(count) for count in counts])
    for kind, name in (("extract", "embeddings.h5"), ("reduce", "reduced.h5")):
        task = tmp_path / kind / "0000"
        task.mkdir(parents=True)
        with h5py.File(task / name, "w") as file:
            if kind == "reduce":
                file["pca_batch_9_len_3_kernel_linear"] = rng.normal(size=(len(which), 3))
            else:
                file["l3_embedding"] = rng.normal(size=(len(which), 5)).astype("f4")
                file["recording"], file["frame"] = which, frame
                file.create_dataset("recordings/file", data=list(lengths),
                                    dtype=h5py.string_dtype())
                file.create_dataset("recordings/sensor", data=["s", "s"],
                                    dtype=h5py.string_dtype())
                file["recordings/timestamp"] = [np.nan, np.nan]
                file.attrs.update({"hop": 0.5, "center": True, "audio": str(audio),
                                   "teacher": json.dumps({"kind": "test"})})
        write_json(task / "result.json", {})
    return tmp_path


def test_cached_rows_are_the_windows_of_the_targets(corpus):
    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    assert (pairs.rows, pairs.dim, pairs.approx) == (24, 3, "pca")
    assert {unit.group for unit in pairs.units} == {"file a.wav", "file b.wav"}
    cache = prepare_cache(pairs, FRONTEND, corpus / "cache", threads=2)
    assert cache_bytes(pairs, FRONTEND) == sum(
        path.stat().st_size for path in (corpus / "cache").glob("*.bin"))
    spectra, targets = cache.batch(np.array([15, 3, 23]))
    for got, (name, frame) in zip(spectra, (("b.wav", 1), ("a.wav", 3), ("b.wav", 9)),
                                  strict=True):
        signal, _ = read_audio(corpus / "audio" / name, RATE)
        window = frame_audio(signal, RATE, 0.5, True)[0][frame]
        np.testing.assert_allclose(got[..., 0], FRONTEND(window[None])[0], atol=1e-4)
    with h5py.File(corpus / "reduce/0000/reduced.h5") as file:
        np.testing.assert_allclose(targets, file[pairs.key][()][[15, 3, 23]], rtol=1e-6)


def test_a_killed_preparation_goes_on_where_it_stopped(corpus, monkeypatch):
    from l3hpc.datasets import pair_cache

    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    whole = prepare_cache(pairs, FRONTEND, corpus / "whole")
    monkeypatch.setattr(pair_cache, "SAVE_EVERY_S", -1.0)
    fill, seen = pair_cache._fill_unit, []

    def stop_at_second(unit, *rest):
        seen.append(unit.first)
        if len(seen) == 2:
            raise KeyboardInterrupt
        fill(unit, *rest)

    monkeypatch.setattr(pair_cache, "_fill_unit", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(pairs, FRONTEND, corpus / "killed", threads=1)
    prepare_cache(pairs, FRONTEND, corpus / "killed")
    again = prepare_cache(pairs, FRONTEND, corpus / "killed")
    np.testing.assert_array_equal(whole.spectra, again.spectra)
    np.testing.assert_array_equal(whole.targets, again.targets)
    monkeypatch.setattr(pair_cache, "_fill_unit", fill)
    rows = prepare_cache(pairs, FRONTEND, corpus / "half", kind="float16")
    assert rows.batch(np.arange(24))[0].dtype == np.float32
    np.testing.assert_allclose(rows.spectra, whole.spectra, atol=0.04)


def test_audio_that_became_shorter_is_noticed(corpus):
    soundfile.write(corpus / "audio/a.wav", np.full(4000, 0.1), 4000)
    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    with pytest.raises(InputError, match="the embeddings refer to window 13"):
        prepare_cache(pairs, FRONTEND, corpus / "cache")


def record_states(corpus):
    """Write into the artifact of extract what its recordings are, as extract does."""
    with h5py.File(corpus / "extract/0000/embeddings.h5", "a") as file:
        states = [FileState.of(corpus / "audio" / name)
                  for name in file["recordings/file"].asstr()[()]]
        for name, values in zip(FileState._fields, zip(*states, strict=True), strict=True):
            file[f"recordings/{name}"] = np.array(values, np.int64)


def other_of_the_same_length(path):
    soundfile.write(path, np.random.default_rng(9).uniform(-0.5, 0.5, 7 * 4000), 4000)


def longer(path):
    soundfile.write(path, np.random.default_rng(9).uniform(-0.5, 0.5, 8 * 4000), 4000)


def shorter(path):
    soundfile.write(path, np.full(4000, 0.1), 4000)


@pytest.mark.parametrize("replace", [other_of_the_same_length, longer, shorter])
def test_a_recording_that_was_replaced_is_noticed(corpus, replace):
    record_states(corpus)
    path = corpus / "audio/a.wav"
    replace(path)
    # a copy's time may be any: only an equal one, with an equal size, is believed
    os.utime(path, (1, 1))
    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    with pytest.raises(InputError, match="has changed since extract computed its") as refused:
        prepare_cache(pairs, FRONTEND, corpus / "cache")
    assert refused.value.where == str(path) and "Submit the pipeline again" in refused.value.hint
    # the same folder by another name, and another folder, whose audio may be of another format
    (corpus / "link").symlink_to(corpus / "audio")
    again = find_pairs(corpus / "extract", corpus / "reduce", corpus / "link")
    assert [unit.state is None for unit in again.units] == [False, False]
    other = find_pairs(corpus / "extract", corpus / "reduce", corpus / "elsewhere")
    assert [unit.state for unit in other.units] == [None, None]


def test_a_recording_that_was_only_copied_or_restored_is_still_the_same(corpus):
    record_states(corpus)
    for path in (corpus / "audio").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (1, 1))
    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    prepare_cache(pairs, FRONTEND, corpus / "cache")


def test_recordings_of_which_nothing_is_known_are_believed(corpus):
    record_states(corpus)
    with h5py.File(corpus / "extract/0000/embeddings.h5", "a") as file:
        file["recordings/size"][0] = -1  # no digest was computed
    other_of_the_same_length(corpus / "audio/a.wav")
    pairs = find_pairs(corpus / "extract", corpus / "reduce", None)
    prepare_cache(pairs, FRONTEND, corpus / "cache")


def test_artifacts_that_do_not_match_are_refused(corpus):
    with h5py.File(corpus / "reduce/0000/reduced.h5", "w") as file:
        file["pca_batch_9_len_3_kernel_linear"] = np.zeros((5, 3))
    with pytest.raises(InputError, match="5 targets for 24 embeddings"):
        find_pairs(corpus / "extract", corpus / "reduce", None)


def published(folder, key, sizes, dim=3, audio=True):
    for name, rows in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / name, "w") as file:
            if audio:
                file["audio"] = np.random.default_rng(rows).integers(
                    -9999, 9999, (rows, 1, RATE)).astype(np.int16)
            if key:
                file[key] = np.full((rows, dim), rows, np.float32)


def test_published_folders_pair_files_of_one_name(tmp_path):
    sizes = {"train/x.h5": 4, "train/y.h5": 3, "validate/x.h5": 2}
    published(tmp_path / "audio", None, sizes)
    published(tmp_path / "reduced", "pca_batch_9_len_3_kernel_linear", sizes, audio=False)
    pairs = find_pairs(None, tmp_path / "reduced", tmp_path / "audio")
    assert [(unit.split, unit.count) for unit in pairs.units] == [
        ("train", 4), ("train", 3), ("validate", 2)]
    train, validate = split_pairs(pairs, 0.5, 0)
    assert (list(train), list(validate)) == (list(range(7)), [7, 8])
    cache = prepare_cache(pairs, FRONTEND, tmp_path / "cache")
    np.testing.assert_array_equal(cache.targets[:][:, 0], [4] * 4 + [3] * 3 + [2] * 2)
    with h5py.File(tmp_path / "audio/train/y.h5") as file:
        window = file["audio"][2] / np.float32(32768)
    np.testing.assert_allclose(cache.spectra[6], FRONTEND(window)[0], atol=1e-4)


def test_audio_beside_the_embeddings_needs_no_second_folder(tmp_path):
    published(tmp_path, "l3_embedding", {"train/x.h5": 4, "validate/x.h5": 2})
    pairs = find_pairs(None, tmp_path, None, key="l3_embedding")
    assert (pairs.rows, pairs.approx) == (6, "none")


def test_audio_beside_the_teachers_embeddings_serves_reduced_ones_too(tmp_path):
    sizes = {"train/x.h5": 4, "validate/x.h5": 2}
    published(tmp_path / "whole", "l3_embedding", sizes, dim=5)
    published(tmp_path / "reduce/0000", "pca_batch_9_len_3_kernel_linear", sizes, audio=False)
    write_json(tmp_path / "reduce/0000/result.json", {})
    pairs = find_pairs(tmp_path / "whole", tmp_path / "reduce", None)
    assert [(unit.audio, unit.split) for unit in pairs.units] == [
        (f"{tmp_path}/whole/train/x.h5", "train"), (f"{tmp_path}/whole/validate/x.h5", "validate")]
    assert (pairs.dim, pairs.approx) == (3, "pca")


def test_published_mismatches_are_named(tmp_path):
    published(tmp_path / "targets", "pca_batch_9_len_3_kernel_linear", {"x.h5": 4}, audio=False)
    published(tmp_path / "audio", None, {"x.h5": 5})
    with pytest.raises(InputError, match="4 targets for 5 rows of audio"):
        find_pairs(None, tmp_path / "targets", tmp_path / "audio")
    published(tmp_path / "long", None, {"x.h5": 4})
    with h5py.File(tmp_path / "long/x.h5", "a") as file:
        file["audio"].attrs["rate"] = RATE // 2
    with pytest.raises(InputError, match="has rows of 2 s"):
        find_pairs(None, tmp_path / "targets", tmp_path / "long")
    with pytest.raises(InputError, match="no audio for 1 of 1"):
        find_pairs(None, tmp_path / "targets", tmp_path / "targets/none")
    with pytest.raises(InputError, match="--audio-dir"):
        find_pairs(None, tmp_path / "targets", None)
    published(tmp_path / "half", "l3_embedding", {"train/x.h5": 4})
    with pytest.raises(InputError, match="hold no validate files"):
        split_pairs(find_pairs(None, tmp_path / "half", None), 0.1, 0)


def test_a_reduced_matrix_beside_the_teachers_must_be_named(tmp_path):

    reduced = "pca_batch_9_len_4_kernel_linear"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["audio"] = np.ones((3, 8000), np.int16)
        file["l3_embedding"], file[reduced] = np.ones((3, 6)), np.ones((3, 4))
    with pytest.raises(InputError, match=f"'l3_embedding' and {reduced}") as caught:
        find_pairs(None, tmp_path, None)
    assert f"--set train.embedding_key='{reduced}'" in str(caught.value)
    assert find_pairs(None, tmp_path, None, key=reduced).dim == 4
    assert find_pairs(None, tmp_path, None, key="l3_embedding").dim == 6
