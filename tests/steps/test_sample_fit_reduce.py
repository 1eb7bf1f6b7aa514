"""From embeddings to targets: provenance kept, sizes right, mismatches refused."""

import json
import shutil

import h5py
import numpy as np
import pytest

from l3hpc.datasets.check import check_embeddings
from l3hpc.errors import InputError
from l3hpc.io.files import write_json
from l3hpc.reduction.phi import load_phi
from l3hpc.sampling import subset

DIM = 6
DAY = 86400.0
TEACHER = {"kind": "test", "digest": "1", "label": "a teacher"}


def write_task(folder, number, sensors, days, per_recording=4, loudness=True, seed=0, dim=DIM):
    """One extract task: a recording per (sensor, day); rows of sensor s have column 0 = s."""
    rng = np.random.default_rng([seed, number])
    task = folder / f"{number:04d}"
    task.mkdir(parents=True)
    pairs = [(sensor, day) for sensor in sensors for day in range(days)]
    rows = len(pairs) * per_recording
    moments = np.array([1511000000.0 + DAY * day for _, day in pairs])
    which = np.repeat(np.arange(len(pairs)), per_recording)
    start = np.tile(np.arange(per_recording) * 0.5, len(pairs))
    with h5py.File(task / "embeddings.h5", "w") as file:
        file["l3_embedding"] = rng.normal(size=(rows, dim)).astype(np.float32)
        file["recording"] = which.astype("i4")
        file["frame"] = np.tile(np.arange(per_recording), len(pairs)).astype("i4")
        file["start"] = start
        file["timestamp"] = moments[which] + start
        levels = rng.normal(-40, 5, rows) if loudness else np.full(rows, np.nan)
        file["loudness"] = levels.astype(np.float32)
        text = h5py.string_dtype()
        file.create_dataset("recordings/file", dtype=text, data=[
            f"{sensor}/{day}-{number}.wav" for sensor, day in pairs])
        file.create_dataset("recordings/sensor", data=[name for name, _ in pairs], dtype=text)
        file["recordings/timestamp"] = moments
        file.attrs["teacher"] = json.dumps(TEACHER)
        file.attrs.update({"hop": 0.5, "center": True, "audio": "/nowhere", "rate": 48000})
    write_json(task / "result.json", {})
    return {"sensors": sorted(set(sensors))}


@pytest.fixture
def extracted(runner):
    """Two tasks: sensor a in both, b in the second; three days each."""
    folder = runner.artifact("extract")
    runner.shards["extract"] = [write_task(folder, 0, ["a"], 3),
                                write_task(folder, 1, ["a", "b"], 3)]
    return folder


def rows_of(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in (
            "l3_embedding", "recording", "frame", "timestamp", "source_shard", "source_row")} | {
            "file": file["recordings/file"].asstr()[()],
            "sensor": file["recordings/sensor"].asstr()[()]}


@pytest.mark.parametrize("method", ["dpp", "dpp-div", "spl", "random"])
def test_every_row_is_where_its_provenance_says(runner, extracted, method):
    done = runner.run("sample", {"samples": 16, "method": method})
    assert [result["rows"] for result in done.results] == [9, 9]  # 8 over 3 days: 3 of each day
    for number, sensor in enumerate("ab"):
        found = rows_of(done.folder / f"{number:04d}/sample.h5")
        assert set(found["sensor"][found["recording"]]) == {sensor}
        for row in range(9):
            with h5py.File(extracted / f"{found['source_shard'][row]:04d}/embeddings.h5") as file:
                at = found["source_row"][row]
                np.testing.assert_array_equal(found["l3_embedding"][row], file["l3_embedding"][at])
                assert file["timestamp"][at] == found["timestamp"][row]
                assert file["frame"][at] == found["frame"][row]
                name = file["recordings/file"].asstr()[file["recording"][at]]
                assert name == found["file"][found["recording"][row]]
        days = np.floor((found["timestamp"] - 1511000000.0) / DAY)
        np.testing.assert_array_equal(np.unique(days, return_counts=True)[1], 3)
    assert ("in the diverse part" in done.text) == method.startswith("dpp")


def test_the_same_seed_repeats_and_frames_differ(runner, new_runner, extracted):
    first = runner.run("sample", {"samples": 16, "method": "random", "epsilon": 0.1})
    one = rows_of(first.folder / "0000/sample.h5")
    places = [set(one["source_row"][one["timestamp"] // DAY == day] % 4)
              for day in np.unique(one["timestamp"] // DAY)]
    assert len({tuple(sorted(place)) for place in places}) > 1
    again = new_runner("again")
    again.shards = dict(runner.shards)
    second = again.run("sample", {"samples": 16, "method": "random"}, {"extract": extracted})
    np.testing.assert_array_equal(one["source_row"],
                                  rows_of(second.folder / "0000/sample.h5")["source_row"])


def test_a_frame_with_fewer_rows_gives_all(runner, extracted):
    done = runner.run("sample", {"samples": 1000})
    assert done.results[0]["rows"] == 24
    assert done.results[0]["short_frames"] == 3
    assert done.results[1]["rows"] == 12
    assert "; fewer than requested in " in done.text


def test_loudness_is_needed_only_where_it_is_used(runner):
    runner.shards["extract"] = [write_task(runner.artifact("extract"), 0, ["a"], 2, loudness=False)]
    with pytest.raises(InputError, match="needs the loudness") as caught:
        runner.run("sample", {"samples": 4})
    assert "dpp-div" in str(caught.value)


def test_a_published_folder_is_one_task(runner, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    for number in range(2):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["l3_embedding"] = np.random.default_rng(number).normal(size=(20, DIM))
    done = runner.run("sample", {"samples": 12, "method": "dpp-div"}, {"extract": folder})
    assert done.results[0]["rows"] == 12
    found = rows_of(done.folder / "0000/sample.h5")
    assert set(found["file"]) <= {"0.h5", "1.h5"}
    assert runner.run("fit", {"emb_dim": 3}).results[0]["in_dim"] == DIM


def test_a_missing_extract_task_is_named(runner, extracted):
    (extracted / "0001/result.json").unlink()
    with pytest.raises(InputError, match="task 1 is missing"):
        runner.run("sample", {"samples": 4})


def test_a_task_of_reduce_looks_at_no_file_but_its_own(runner, extracted):
    runner.run("sample", {"samples": 30})
    runner.run("fit", {"emb_dim": 3})
    (extracted / "0000/embeddings.h5").write_bytes(b"damaged")
    done = runner.run("reduce", shards=[{"part": 1}])
    with h5py.File(extracted / "0001/embeddings.h5") as file:
        assert done.results[0]["rows"] == len(file["l3_embedding"])


@pytest.mark.parametrize("method", ["dpp", "spl", "random"])
def test_a_frame_read_in_blocks_gives_the_same_rows(
        runner, new_runner, extracted, monkeypatch, method):
    chosen = []
    for size in (1 << 30, 1):
        monkeypatch.setattr(subset, "FRAME_BYTES", size)
        again = new_runner(f"{method}-{size}")
        again.shards = dict(runner.shards)
        done = again.run("sample", {"samples": 12, "method": method, "timescale": "month"},
                         {"extract": extracted})
        chosen.append(rows_of(done.folder / "0000/sample.h5"))
    np.testing.assert_array_equal(chosen[0]["l3_embedding"], chosen[1]["l3_embedding"])


def test_selected_rows_are_not_read_again_to_be_written(
        runner, new_runner, extracted, monkeypatch):
    counts, take = [], subset.PartRows.take
    monkeypatch.setattr(subset.PartRows, "take",
                        lambda part, rows: (counts.append(len(rows)), take(part, rows))[1])
    read = []
    for size in (subset.KEPT_BYTES, 0):
        monkeypatch.setattr(subset, "KEPT_BYTES", size)
        again = new_runner(f"kept-{size}")
        again.shards = dict(runner.shards)
        again.run("sample", {"samples": 12}, {"extract": extracted})
        read.append(sum(counts))
        counts.clear()
    assert read[0] == 36 < read[1]


def test_reduced_rows_are_phi_of_the_rows(runner, extracted):
    runner.run("sample", {"samples": 30})
    fit = runner.run("fit", {"emb_dim": 3, "chunk": 5})
    done = runner.run("reduce", {"chunk": 7})
    phi = load_phi(fit.folder / "0000/phi.h5")
    for number in range(2):
        with h5py.File(extracted / f"{number:04d}/embeddings.h5") as file:
            rows = file["l3_embedding"][()]
        with h5py.File(done.folder / f"{number:04d}/reduced.h5") as file:
            reduced = file[phi.key][()]
            assert json.loads(file.attrs["teacher"]) == TEACHER
            assert file.attrs["phi"] == phi.digest
        expected = (rows - phi.arrays["mean"]) / phi.arrays["scale"] @ phi.arrays["components"].T
        np.testing.assert_allclose(reduced, expected, rtol=1e-4, atol=1e-5)
    assert done.text == "36 rows"
    assert fit.results[0]["rows"] == 15 + 12  # sensor b has no more


def test_fit_refuses_too_few_rows_and_too_many_dimensions(runner, extracted):
    runner.run("sample", {"samples": 2})
    with pytest.raises(InputError, match="7 dimensions|more than the 6"):
        runner.run("fit", {"emb_dim": 7})
    with h5py.File(runner.artifact("sample") / "0000/sample.h5") as file:
        few = len(file["l3_embedding"])
    assert few == 3  # one row of every day


def test_fit_refuses_fewer_rows_than_dimensions(runner):
    runner.shards["extract"] = [write_task(runner.artifact("extract"), 0, ["a"], 1)]
    runner.run("sample", {"samples": 4})
    with pytest.raises(InputError, match="the sample has 4 rows, fewer than the 5 dimensions"):
        runner.run("fit", {"emb_dim": 5})


def test_reduce_refuses_another_teacher(runner, extracted):
    runner.run("sample", {"samples": 30})
    runner.run("fit", {"emb_dim": 3})
    with h5py.File(extracted / "0001/embeddings.h5", "r+") as file:
        file.attrs["teacher"] = json.dumps({**TEACHER, "digest": "2"})
    with pytest.raises(InputError, match="but the pca reduction was fitted on"):
        runner.run("reduce")


def test_reduce_keeps_names_and_splits_of_published_folders(runner, extracted, tmp_path):
    runner.run("sample", {"samples": 30})
    runner.run("fit", {"emb_dim": 3})
    folder = tmp_path / "published"
    for name in ("train/x.h5", "validate/y.h5"):
        (folder / name).parent.mkdir(parents=True)
        with h5py.File(folder / name, "w") as file:
            file["audio"] = np.zeros((5, 8000), np.int16)
            file["l3_embedding"] = np.ones((5, DIM), np.float32)
    runner.shards["extract"] = []
    done = runner.run("reduce", inputs={"extract": folder, "fit": runner.artifact("fit")})
    assert done.results[0]["files"] == ["train/x.h5", "validate/y.h5"]
    from l3hpc.datasets.training_pairs import find_pairs, split_pairs

    pairs = find_pairs(folder, done.folder, folder)
    assert [unit.split for unit in pairs.units] == ["train", "validate"]
    assert [len(rows) for rows in split_pairs(pairs, 0.1, 0)] == [5, 5]
    assert pairs.approx == "pca"


def test_no_reduction_is_the_identity(runner, extracted):
    runner.run("sample", {"samples": 4})
    fit = runner.run("fit", {"approx": "none"})
    assert fit.text == "none: 6 → 6"
    done = runner.run("reduce")
    with h5py.File(done.folder / "0000/reduced.h5") as file, \
            h5py.File(extracted / "0000/embeddings.h5") as source:
        np.testing.assert_array_equal(file[done.results[0]["key"]][()],
                                      source["l3_embedding"][()])


def test_without_times_there_is_one_frame_and_no_talk_of_days(runner, extracted):
    for path in extracted.glob("*/embeddings.h5"):
        with h5py.File(path, "a") as file:
            file["timestamp"][...] = np.nan
            file["recordings/timestamp"][...] = np.nan
    done = runner.run("sample", {"samples": 16})
    assert [result["frames"] for result in done.results] == [1, 1]
    assert done.text.startswith("16 rows, ") and "per frame in the diverse part" in done.text


@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_embeddings_without_a_row_are_refused_by_every_step(new_runner, tmp_path, kind):
    """Sampling them divided by zero, reducing them failed inside HDF5."""
    empty, some = tmp_path / "empty", tmp_path / "some"
    for folder, rows in ((empty, 0), (some, 40)):
        folder.mkdir()
        matrix = np.random.default_rng(0).random((rows, 8), np.float32)
        if kind == "npz":
            np.savez(folder / "a.npz", embedding=matrix)
        else:
            with h5py.File(folder / "a.h5", "w") as file:
                file["l3_embedding"] = matrix
    fitted = new_runner("fit").run("fit", {"emb_dim": 2}, {"sample": some}).folder
    for step, params, inputs in (
            ("sample", {"method": "random", "samples": 5}, {"extract": empty}),
            ("sample", {"method": "dpp-div", "samples": 5}, {"extract": empty}),
            ("fit", {"emb_dim": 2}, {"sample": empty}),
            ("fit", {"approx": "none", "emb_dim": 8}, {"sample": empty}),
            ("reduce", {}, {"extract": empty, "fit": fitted})):
        with pytest.raises(InputError, match="has no rows"):
            new_runner(step + str(params)).run(step, params, inputs)
    assert "no embeddings in any file" in str(check_embeddings(empty).problems[0])
    if kind == "h5":  # one file of several may be empty
        shutil.copy(empty / "a.h5", some / "b.h5")
        done = new_runner("both").run("reduce", {}, {"extract": some, "fit": fitted})
        assert done.results[0]["rows"] == 40


def test_data_check_finds_rows_that_are_not_finite_when_it_reads_all(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["l3_embedding"] = np.full((3, 4), np.nan)
    assert not check_embeddings(tmp_path).problems
    (problem,) = check_embeddings(tmp_path, listen=True).problems
    assert "a.h5: row 0 of 'l3_embedding' holds NaN" in str(problem)


def test_the_reduction_of_one_sensor_sees_its_rows_alone(runner, extracted):
    runner.run("sample", {"samples": 24})
    every = runner.run("fit", {"emb_dim": 3}, artifact="all").folder
    own = {}
    for sensor in "ab":
        done = runner.run("fit", {"emb_dim": 3, "sensor": sensor}, artifact=f"fit-{sensor}")
        own[sensor] = load_phi(done.folder / "0000/phi.h5")
        number = "ab".index(sensor)
        assert runner.shards["fit"] == [{"sensor": sensor, "tasks": [number]}]
        rows = rows_of(runner.artifact("sample") / f"{number:04d}/sample.h5")["l3_embedding"]
        np.testing.assert_allclose(own[sensor].arrays["mean"], rows.mean(axis=0), rtol=1e-5)
        assert own[sensor].n_samples == len(rows)
        assert own[sensor].sampled["sensor"] == sensor
    both = load_phi(every / "0000/phi.h5")
    assert both.n_samples == own["a"].n_samples + own["b"].n_samples
    assert both.sampled["sensor"] is None
    assert len({phi.fingerprint for phi in (both, *own.values())}) == 3
    assert len({phi.digest for phi in (both, *own.values())}) == 3


@pytest.mark.parametrize("empty", [0, 1, 2])
@pytest.mark.parametrize(("method", "kernel"), [
    ("dpp", "linear"), ("random", "rbf"), ("spl", "poly"), ("dpp-div", "linear")])
def test_a_sensor_without_a_usable_recording_stops_nobody(runner, empty, method, kernel):
    folder = runner.artifact("extract")
    runner.shards["extract"] = [write_task(folder, number, [sensor], 0 if number == empty else 3)
                                for number, sensor in enumerate("abc")]
    done = runner.run("sample", {"samples": 24, "method": method})
    assert [result["rows"] for result in done.results] == [
        0 if number == empty else 9 for number in range(3)]
    assert done.text.startswith("18 rows (1 sensor without rows), ") and "per day" in done.text
    assert rows_of(done.folder / f"{empty:04d}/sample.h5")["l3_embedding"].shape == (0, DIM)
    runner.run("fit", {"emb_dim": 3, "kernel": kernel})
    assert runner.run("reduce").text == "24 rows"
    with h5py.File(runner.artifact("reduce") / f"{empty:04d}/reduced.h5") as file:
        [key] = [name for name in file if name.startswith("pca")]
        assert file[key].shape == (0, 3)


def test_without_any_row_the_fit_is_refused(runner):
    folder = runner.artifact("extract")
    runner.shards["extract"] = [write_task(folder, number, ["ab"[number]], 0)
                                for number in range(2)]
    assert runner.run("sample", {"samples": 24}).text == "0 rows"
    with pytest.raises(InputError, match="holds no embeddings: 'l3_embedding' has no rows"):
        runner.run("fit", {"emb_dim": 3})
