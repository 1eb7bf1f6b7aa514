"""extract and embed in reduced precision: what is frozen, computed, noted and recorded."""

import json

import h5py
import numpy as np
import pytest

from l3hpc.console.progress import Progress
from l3hpc.datasets.corpus import scan_recordings
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models import engines, precision, weights
from l3hpc.pipelines import planned
from l3hpc.reduction.phi import Phi
from l3hpc.steps import step
from l3hpc.steps.extract import precision_summary

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("SLURM_JOB_GPUS", raising=False)


@pytest.fixture
def said(monkeypatch):
    notes = []
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    return notes


def options(city, teacher, name, **more):
    key = "weights" if name == "extract" else "student"
    return {"audio": city / "audio", key: str(teacher), "hop": 0.5, "center": True,
            "files_per_task": 6, **more}


@pytest.mark.parametrize("name", ["extract", "embed"])
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_the_deviation_is_noted_and_in_the_result(runner, city, teacher, said, name, kind):
    done = runner.run(name, options(city, teacher, name, precision=kind))
    assert len(done.results) == 2
    for result, shard in zip(done.results, runner.shards[name], strict=True):
        told = result["precision"]
        assert told["name"] == kind
        assert told["range_windows"] == (48 if kind == "int8" else 0)
        assert told["frames"] == 24
        assert 0.98 < told["least_cosine"] <= told["cosine"] < 1
        assert 1e-4 < told["relative_error"] <= told["largest_relative_error"] < 0.2
        assert ("ranges_from" in shard) == (kind == "int8")
    notes = [note for note in said if note.startswith(f"{kind}: relative error ")]
    assert len(notes) == 2 and "against float32 on 24 frames" in notes[0]
    least = min(result["precision"]["cosine"] for result in done.results)
    assert done.text.endswith(f", {kind} with cosine {least:.4f} to float32")
    frames = next(iter(_windows(city, runner.shards[name][0])))
    exact = weights.load(teacher, engine="tensorflow").embed(frames)
    with h5py.File(done.folder / "0000/embeddings.h5") as file:
        found = file["l3_embedding"][:len(frames)]
        told = json.loads(file.attrs["teacher"])
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1
    assert told["precision"] == kind and told["label"].endswith(f", {kind}")
    with pytest.raises(InputError, match="fitted on those of"):
        Phi.identity(24, teacher=weights.identity(teacher)).check(24, told)


def _windows(city, shard):
    from l3hpc.datasets.windows import read_pieces

    for values in shard["recordings"]:
        yield np.concatenate([piece.windows for piece in
                              read_pieces(city / "audio" / values[0], 16000, 0.5, True)])


@pytest.mark.parametrize("name", ["extract", "embed"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_pytorch_computes_where_it_is_asked_for(runner, city, teacher, said, name, kind):
    pytest.importorskip("torch", reason="the engine torch needs PyTorch (extra torch)")
    done = runner.run(name, options(city, teacher, name, engine="torch", precision=kind))
    assert {result["engine"] for result in done.results} == {"torch"}
    assert [note for note in said if "engine torch" in note]
    frames = next(iter(_windows(city, runner.shards[name][0])))
    exact = weights.load(teacher, engine="tensorflow").embed(frames)
    with h5py.File(done.folder / "0000/embeddings.h5") as file:
        found = file["l3_embedding"][:len(frames)]
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < 1e-4 if kind == "float32" else 1e-4 < error < 0.1


def test_in_float32_nothing_is_said_or_frozen(runner, city, teacher, said):
    done = runner.run("extract", options(city, teacher, "extract"))
    assert all("precision" not in result for result in done.results)
    assert all("ranges_from" not in shard for shard in runner.shards["extract"])
    assert not [note for note in said if "cosine" in note] and "float32" not in done.text
    with h5py.File(done.folder / "0000/embeddings.h5") as file:
        assert json.loads(file.attrs["teacher"]) == weights.identity(teacher)


def test_every_task_takes_the_same_ranges_from_the_whole_listing(city, teacher):
    module = step("extract")
    params = module.params_type(**options(city, teacher, "extract", precision="int8",
                                          files_per_task=2))
    shards = module.shards(params, {})
    assert len(shards) == 6
    ranges = shards[0]["ranges_from"]
    assert all(shard["ranges_from"] == ranges for shard in shards)
    names = {values[0] for values in ranges}
    assert names == {one.file for one in scan_recordings(city / "audio")}  # 12, fewer than 16


def test_the_precision_is_part_of_what_an_artifact_is(city, teacher):
    for name in ("extract", "embed"):
        module = step(name)
        marks = set()
        for kind in precision.PRECISIONS:
            params = module.params_type(**options(city, teacher, name, precision=kind))
            values = params.model_dump(mode="json")
            marks.add(planned.fingerprint_of_step(module, values, {}, {}, []))
        assert len(marks) == len(precision.PRECISIONS)
        assert "precision" not in module.not_in_fingerprint


def test_nonsense_is_refused_before_submission(city, teacher):
    for name in ("extract", "embed"):
        module = step(name)

        def checked(module=module, name=name, **more):
            params = module.params_type(**options(city, teacher, name, **more))
            module.check(params, {})
            return module.packages(params)

        with pytest.raises(InputError, match="ncnn does not compute in int8") as refused:
            checked(precision="int8", engine="ncnn")
        assert refused.value.where == f"{name}.engine"
        assert checked(precision="int8") == {"openvino": install_command("reduced")}
        assert checked(precision="bfloat16", engine="tensorflow") == checked(engine="ncnn") == {}
        with pytest.raises(InputError, match="ncnn does not compute in tf32"):
            checked(precision="tf32", engine="ncnn")
        assert checked(precision="tf32") == checked(engine="torch") == {
            "torch": install_command("torch")}
        assert module.params_type(**options(city, teacher, name)).precision == "float32"
    describe = step("extract").describe
    for kind, ends in (("float32", "centred"), ("int8", "centred, int8")):
        assert describe(step("extract").params_type(
            **options(city, teacher, "extract", precision=kind)), {}).endswith(ends)


def test_ranges_from_recordings_that_cannot_be_used(tmp_path, runner, city, teacher):
    params = options(city, teacher, "extract", precision="int8")
    shards = step("extract").shards(step("extract").params_type(**params), {})
    lost = [["gone.wav", *values[1:]] for values in shards[0]["ranges_from"]]
    with pytest.raises(L3hpcError, match="12 recordings on which int8 measures its ranges"):
        runner.run("extract", params, shards=[{**shards[0], "ranges_from": lost}])


def test_embeddings_that_are_too_far_off_fail_the_task(runner, city, teacher, monkeypatch, said):
    monkeypatch.setattr(precision, "MIN_COSINE", 0.9999999)
    with pytest.raises(L3hpcError, match="int8 are too far off"):
        runner.run("extract", options(city, teacher, "extract", precision="int8"))
    assert [note for note in said if note.startswith("int8: relative error")]


def test_a_slow_processor_is_told(runner, city, teacher, monkeypatch, said):
    monkeypatch.setattr(precision, "_flags", set)
    runner.run("embed", options(city, teacher, "embed", precision="bfloat16",
                                files_per_task=None))
    assert [note for note in said if "no instructions for bfloat16" in note]


def test_where_every_embedding_is_zero_there_is_nothing_to_compare(monkeypatch, runner, city,
                                                                   teacher, said):
    monkeypatch.setattr(precision, "deviation", lambda *_: None)
    done = runner.run("extract", options(city, teacher, "extract", precision="bfloat16",
                                         files_per_task=64))
    assert done.results[0]["precision"] == {"name": "bfloat16", "range_windows": 0, "frames": 0}
    assert any("every embedding is 0" in note for note in said)
    assert "cosine" not in done.text


def test_the_summary_tells_the_worst_task():
    results = [{"precision": {"name": "int8", "cosine": value}} for value in (0.9991, 0.9876)]
    assert precision_summary([*results, {}]) == ", int8 with cosine 0.9876 to float32"
    assert precision_summary([{}]) == ""
