"""``l3hpc export``: all files or none, true numbers, refusals before any work."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from invoke import invoke

from l3hpc.errors import InputError, L3hpcError
from l3hpc.export import costs, package
from l3hpc.export.build import ExportSettings
from l3hpc.export.graph import METADATA, Graph
from l3hpc.export.interpreter import TfliteRunner
from l3hpc.models import weights
from l3hpc.models.precision import deviation_of

FILES = {"model.tflite", "l3_model.c", "l3_model.h", "l3_frontend.c", "l3_frontend.h", "card.md",
         "report.json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, parameters):
    path = tmp_path_factory.mktemp("model") / "student_8000_64_160_512.h5"
    weights.save(parameters("wide"), path)
    return path


def run(*words):
    return invoke("export", *words).stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model, audio):
    output = tmp_path_factory.mktemp("out") / "sensor"
    said = run(model, "--int8", "--calibrate", audio, "-o", output, "--arena", "40000",
               "--licence", "CC0")
    return output, said, json.loads((output / "report.json").read_text())


def test_everything_is_written(exported):
    output, said, told = exported
    assert {path.name for path in output.iterdir()} == FILES
    flatbuffer = (output / "model.tflite").read_bytes()
    assert told["flatbuffer_bytes"] == len(flatbuffer) == told["models"][-1]["flatbuffer_bytes"]
    assert f"{len(flatbuffer):,} bytes of flash" in said
    assert [one["name"] for one in told["models"]] == ["plain", "strip-wise"]
    assert told["agreement"] == {"random": 8, "real": told["calibration"]["check_frames"],
                                 "bit_identical": True, "largest_difference": 0.0}
    assert told["calibration"]["recordings"] == 8
    assert told["accuracy"]["cosine"] > 0.98  # random weights
    assert told["models"][1]["arena"]["planned"] == costs.plan_arena(Graph(flatbuffer)).as_json()
    assert told["models"][1]["arena"]["planned"]["total"] <= 40_000
    assert told["models"][0]["arena"]["planned"]["head"] == 51_200
    assert told["models"][1]["extra_macs"] > 0 == told["models"][0]["extra_macs"]
    macs = told["models"][1]["macs"]
    assert told["macs_per_second_of_audio"] == {"1": macs, "0.5": 2 * macs, "0.1": 10 * macs}


def test_the_arena_is_recorded_or_the_reason_told(exported):
    output, said, told = exported
    for one in told["models"]:
        found = one["arena"]
        if found["measured"] is None:
            assert "tflite_micro" in found["not_measured"]
            assert found["not_measured"] in (output / "card.md").read_text()
        else:
            assert found["outputs_equal"] is True
            assert found["measured"]["head"] == found["planned"]["head"]
            assert f"arena {found['measured']['total']:,} bytes (measured)" in said


def test_a_network_that_fits_has_no_strips_and_is_told_so(tmp_path, model, audio):
    words = model, "--int8", "--calibrate", audio, "-o", tmp_path / "out", "--arena", "60000"
    assert "strip by strip where the arena exceeds 60,000 bytes otherwise" in run(
        *words, "--dry-run")
    said = run(*words)
    assert "  not strip by strip: the arena is not above 60,000 bytes (--arena)\n" in said
    assert "strip-wise" not in said


def test_the_card_says_what_it_is(exported):
    card = (exported[0] / "card.md").read_text()
    told = exported[2]
    for part in ("# student_8000_64_160_512.h5", "CC0", "| | plain | strip-wise |",
                 f"| {told['models'][0]['flatbuffer_bytes']:,} |", "bit-identical on 8 random",
                 "arXiv 1801.06601", "1 × 64 × 50 × 1, int8", "4 numbers"):
        assert part in card


def test_the_file_tells_its_network(exported, parameters):
    model = Graph((exported[0] / "model.tflite").read_bytes()).model
    [entry] = [each for each in model.metadata if bytes(each.name) == METADATA]
    assert json.loads(bytes(model.buffers[entry.buffer].data)) == {
        "spec": parameters("wide").spec.to_dict(), "input": "spectrogram", "format": "int8"}


def test_without_strips_or_recordings(tmp_path, model):
    output = tmp_path / "out"
    told = package.export_model(model, output, ExportSettings("fp16"))
    assert [one["name"] for one in told["models"]] == ["plain"]
    assert told["accuracy"] is told["calibration"] is told["agreement"] is told["strips"] is None
    card = (output / "card.md").read_text()
    assert "The weight file does not state it" in card and "No recordings were used" in card
    assert {path.name for path in output.iterdir()} == FILES


def test_the_card_says_what_a_student_learnt(tmp_path, model, parameters):
    """As far as its file states it, which may come from anybody."""
    output, student = tmp_path / "out", tmp_path / "student.h5"
    assert "does not state what the weights were trained on" in package.card_text(
        package.export_model(model, output / "plain", ExportSettings("fp16")))
    teacher = {"label": "openl3.h5\n# evil", "digest": "1", "random_weights": False}
    weights.save(parameters("wide"), student, {
        "teacher": teacher, "target": "x", "reduction": {"approx": "pca", "dim": 4}})
    card = package.card_text(package.export_model(student, output / "s", ExportSettings("fp16")))
    assert ("The network learnt the embeddings of openl3.h5\\n# evil, reduced to 4 values by pca. "
            "The file does not state of which recordings.") in card


@pytest.mark.parametrize("provenance", [
    {}, {"teacher": None}, {"teacher": "x"}, {"teacher": {"label": 3}}, {"teacher": {}}])
def test_a_file_that_does_not_state_its_teacher(tmp_path, parameters, provenance):
    weights.save(parameters("wide"), tmp_path / "x.h5", provenance)
    assert weights.describe_weights(tmp_path / "x.h5").learnt == ""


@pytest.mark.parametrize(("provenance", "learnt"), [
    ({"made_by": "distill", "plan": "95.45", "target": "l3_embedding"},
     "the embeddings of t.h5: l3hpc, after it was pruned (95.45)"),
    ({"made_by": "finetune", "plan": "95.45", "target": "audio-visual correspondence"},
     "audio-visual correspondence, after t.h5: l3hpc was pruned (95.45)"),
    ({"made_by": "prune", "plan": "95.45"},
     "what t.h5: l3hpc had learnt; it was pruned (95.45) and not trained again"),
    ({"teacher": None, "taught by": "audio-visual correspondence"}, "audio-visual correspondence"),
])
def test_compressed_networks_and_teachers_say_what_they_learnt(tmp_path, parameters, provenance,
                                                               learnt):
    weights.save(parameters("wide"), tmp_path / "x.h5",
                 {"teacher": {"label": "t.h5: l3hpc"}, **provenance})
    assert weights.describe_weights(tmp_path / "x.h5").learnt == learnt


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_front_end_inside(tmp_path, model, audio, parameters, form):
    from l3hpc.models.engines import TensorFlowEngine

    output = tmp_path / "out"
    settings = ExportSettings(form, frontend="inside", calibrate=audio)
    told = package.export_model(model, output, settings)
    assert {path.name for path in output.iterdir()} == FILES - {"l3_frontend.c", "l3_frontend.h"}
    runner = TfliteRunner((output / "model.tflite").read_bytes())
    assert runner.shape == (1, 8000) and runner.dtype == np.float32
    frames = (0.1 * np.random.default_rng(0).standard_normal((3, 8000))).astype(np.float32)
    network = parameters("wide")
    right = TensorFlowEngine(network.folded()).run(network.spec.frontend(frames))
    assert deviation_of(runner.embed(frames), right).relative_error < (
        1e-4 if form == "fp32" else 0.25)
    assert told["input"] == {"shape": [1, 8000], "type": "float32", "scale": 0.0, "zero": 0}
    assert "Audio at 8000 Hz" in (output / "card.md").read_text()


def test_dry_run_says_and_writes_nothing(tmp_path, model, audio):
    output = tmp_path / "out"
    said = run(model, "--calibrate", audio, "-o", output, "--dry-run")
    assert "4-d, as int8" in said and "strip by strip" in said and "8 recordings" in said
    told = json.loads(run(model, "--fp32", "-o", output, "--dry-run", "--json"))
    assert (told["strips"], told["recordings"], set(told["files"])) == (False, 0, FILES)
    assert not output.exists()


def test_a_dry_run_starts_nothing_heavy(tmp_path, model, audio):
    code = ("import sys; from l3hpc.export import package; from l3hpc.export.build import "
            "ExportSettings; from pathlib import Path; package.preview(sys.argv[1], "
            "Path(sys.argv[2]), ExportSettings(calibrate=Path(sys.argv[3]))); "
            "print('tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, model, tmp_path / "out", audio],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_name_stands_for_a_file(tmp_path, model, audio, monkeypatch):
    monkeypatch.setenv("L3HPC_MODELS", str(model.parent))
    told = json.loads(run(model.stem, "--calibrate", audio, "-o", tmp_path / "out", "--dry-run",
                          "--json"))
    assert told["model"].startswith("student_8000_64_160_512.h5")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_refusals(tmp_path, model, audio, dry):
    output = tmp_path / "out"
    with pytest.raises(InputError, match="int8 needs recordings") as refused:
        run(model, "--int8", "-o", output, *dry)
    assert "--calibrate FOLDER" in str(refused.value)
    with pytest.raises(InputError, match="no such folder"):
        run(model, "--calibrate", tmp_path / "nothing", "-o", output, *dry)
    with pytest.raises(InputError, match="already exists"):
        run(model, "--calibrate", audio, "-o", tmp_path, *dry)
    with pytest.raises(InputError):
        run(tmp_path / "none.h5", "--calibrate", audio, "-o", output, *dry)
    assert not output.exists()


def test_recordings_that_cannot_be_used(tmp_path, model):
    import soundfile

    folder = tmp_path / "silence"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(16000), 8000)
    with pytest.raises(InputError, match="the only recording cannot be used"):
        package.export_model(model, tmp_path / "out", ExportSettings(calibrate=folder))
    assert not (tmp_path / "out").exists()


def test_settings_are_checked(parameters):
    with pytest.raises(InputError, match="unknown format"):
        ExportSettings("int4")
    with pytest.raises(InputError, match="unknown place of the front end 'within'"):
        ExportSettings("fp32", frontend="within")
    with pytest.raises(InputError, match="an arena of 0 bytes"):
        ExportSettings("fp32", arena=0)
    from dataclasses import replace

    other = replace(parameters("wide").spec, convention="B")
    with pytest.raises(InputError, match="openl3-0.4-kapre cannot be part of the model"):
        ExportSettings("fp32", frontend="inside").check(other)


def test_nothing_is_left_of_a_failed_export(tmp_path, model, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(package, "card_text", fails)
    with pytest.raises(OSError, match="disk full"):
        package.export_model(model, tmp_path / "out", ExportSettings("fp32"))
    assert list(tmp_path.iterdir()) == []


def test_a_single_wrong_bit_stops_the_export(made):
    plain = Graph(made("small", "int8").flatbuffer)
    wrong = Graph(made("small", "int8").flatbuffer)
    last = [one for one in wrong.operators if wrong.name(one) == "CONV_2D"][-1]
    bias = wrong.model.buffers[wrong.tensors[last.inputs[2]].buffer]
    bias.data = (wrong.values(last.inputs[2]) + 300).astype(np.int32).tobytes()
    with pytest.raises(L3hpcError, match="differ on random inputs"):
        package.compare_outputs(plain.to_bytes(), wrong.to_bytes(), None)


def test_a_hear_package_loads_its_weights(tmp_path, model, monkeypatch):
    output = tmp_path / "hear_student"
    assert "would write __init__.py" in run(model, "--hear", "-o", output, "--dry-run")
    assert not output.exists()
    told = json.loads(run(model, "--hear", "-o", output, "--json"))
    assert (told["package"], told["files"]) == ("hear_student", ["__init__.py", model.name])
    assert {path.name for path in output.iterdir()} == set(told["files"])
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("hear_student")
    loaded = package.load_model(engine="ncnn")
    assert loaded.model.recognised.file == output / model.name
    assert loaded.scene_embedding_size == told["dim"]
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 16000)).astype(np.float32)
    assert package.get_scene_embeddings(audio, loaded).shape == (2, told["dim"])
    other = package.load_model(str(model), engine="ncnn")
    assert other.model.recognised.file == model


def test_a_hear_package_of_random_weights_has_no_file(tmp_path):
    told = json.loads(run("untrained:2", "--hear", "-o", tmp_path / "random", "--json"))
    assert told["files"] == ["__init__.py"]
    assert "MODEL = 'untrained:2'" in (tmp_path / "random" / "__init__.py").read_text()


@pytest.mark.parametrize(("name", "options", "message"), [
    ("hear-student", (), "'hear-student' is not a name of a Python package"),
    ("class", (), "'class' is not a name of a Python package"),
    ("hear", ("--int8", "--arena", "5"), "cannot be combined with --int8, --arena"),
    (".", (), "already exists")])
def test_a_hear_package_that_cannot_be_written(tmp_path, model, name, options, message):
    with pytest.raises(InputError, match=message):
        run(model, "--hear", "-o", tmp_path / name, *options)
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_model():
    with pytest.raises(InputError, match="not a TensorFlow Lite flatbuffer"):
        Graph(b"0123456789")


def test_help_names_every_option():
    said = run("--help")
    for word in ("--int8", "--int16x8", "--fp16", "--fp32", "--calibrate", "--strips", "--arena",
                 "--frontend", "--licence", "--dry-run", "--json", "Examples:"):
        assert word in said
