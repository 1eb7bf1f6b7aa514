import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OUTPUT_DIR", "L3_MODEL_PATH", "SONYC_UST_PATH", "EMBEDDING_DIR", "GSHEET_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUDIO_DIR", "/no/such/audio")
    Path("cluster.yaml").write_text("paths: {workspace: ws}\nclusters:\n  far:\n    qos: high\n"
                                    "    setup: [module purge]\n")


def test_show_tells_values_and_origins(say):
    code, out, _ = say("config", "show", "--cluster", "far")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert rows["cluster"].split() == ["cluster", "far", "--cluster"]
    assert rows["paths.workspace"].split()[1:] == [str(Path.cwd() / "ws"), "cluster.yaml:1"]
    assert rows["paths.audio"].split() == ["paths.audio", "/no/such/audio", "environment",
                                           "variable", "AUDIO_DIR"]
    assert rows["clusters.far.qos"].split()[1:] == ["high", "cluster.yaml:4"]
    assert "module purge" in rows["clusters.far.setup"]
    assert "clusters.far.account" not in rows
    assert "clusters.far.account" in say("config", "show", "--cluster", "far", "--all")[1]


def test_show_json(say):
    code, out, _ = say("config", "show", "--json")
    value = json.loads(out)
    assert code == 0 and value["schema"] == 1
    assert value["values"]["paths.audio"] == {"value": "/no/such/audio",
                                              "origin": "environment variable AUDIO_DIR"}


def test_check_finds_what_would_not_work(say, monkeypatch):
    Path("jobs").mkdir()
    Path("jobs/mine.yaml").write_text("steps:\n  extarct:\n")
    Path("templates").mkdir()
    Path("templates/train.sbatch.j2").write_text("{{ nodez }}")
    Path("templates/trian.sbatch.j2").write_text("x")
    code, out, _ = say("config", "check")
    assert code == 2
    bad = [line for line in out.splitlines() if line.startswith("BAD")]
    assert [line.split("  ")[1].strip() for line in bad] == [
        "paths.audio", "pipeline mine", "template train", "template trian.sbatch.j2"]
    assert "jobs/mine.yaml:2" in out and "did you mean 'train.sbatch.j2'?" in out
    assert "there is no such folder; it was set by environment variable AUDIO_DIR" in out
    findings = json.loads(say("config", "check", "--json")[1])["findings"]
    assert sum(not one["ok"] for one in findings) == 4


def test_check_of_what_is_right(say, monkeypatch):
    monkeypatch.delenv("AUDIO_DIR")
    code, out, _ = say("config", "check")
    assert code == 0 and "BAD" not in out
    assert "extract → sample → fit → reduce → train → embed → classify → evaluate" in out


def test_a_bad_file_is_one_short_message(say):
    Path("cluster.yaml").write_text("clusters:\n  far:\n    partitoin: x\n")
    code, out, err = say("config", "show")
    assert (code, out) == (2, "")
    assert err.startswith("error: cluster.yaml:3: unknown key 'partitoin'\n")
    assert "did you mean 'partition'?" in err


def test_values_are_shown_with_units_and_a_container_can_be_copied(say, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("""clusters:
  far:
    container: apptainer exec --bind "/my data" image.sif
    limits: {time: 7d, mem: 180GB}
    steps: {train: {partition: gpu, time: 90min, mem: 16GB}}
""")
    code, out, _ = say("config", "show", "--config", str(file), "--cluster", "far")
    assert code == 0
    shown = {line.split()[0]: line for line in out.splitlines()}
    assert "apptainer exec --bind '/my data' image.sif" in shown["clusters.far.container"]
    assert "time: 7 d, mem: 180 GB" in shown["clusters.far.limits"]
    assert "train: {mem: 16 GB, time: 1 h 30 min, partition: gpu}" in shown["clusters.far.steps"]


def test_check_names_limits_within_the_warning(say):
    Path("cluster.yaml").write_text(
        "paths: {workspace: ws, audio: .}\n"
        "clusters:\n  far: {steps: {fit: {time: 2m}, reduce: {time: 2m}}}\n")
    code, out, _ = say("config", "check", "--cluster", "far")
    assert code == 0 and "; fit, reduce: a time limit of 2 min is too short: " in out
