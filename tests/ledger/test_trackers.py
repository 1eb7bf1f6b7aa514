"""Rows as runs of experiment trackers. MLflow and Weights & Biases are the real packages."""

import json
import socket
import struct
import sys
from types import ModuleType

import pytest

from l3hpc.cli import main
from l3hpc.errors import InputError, L3hpcError
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.store import Store
from l3hpc.ledger.views import mlflow_store, wandb_folder
from l3hpc.ledger.views.runs import view_tabs
from l3hpc.ledger.views.trackers import Exported, tracked_runs
from l3hpc.workspace import records
from l3hpc.workspace.run_record import RunRecord, StepRecord

pytestmark = pytest.mark.slow

MSE, UST = "embedding_approx_mse", "sonyc_ust"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "runs/sweep").mkdir(parents=True)
    records.write(tmp_path, RunRecord("sweep", "all", "local", 1.0, "ada", "login1", ["l3hpc"], {
        "combinations": [{"values": {"emb-dim": dim}, "steps": {"train": f"train-{dim}"}}
                         for dim in ("64", "128")]}, "submitted", [
        StepRecord(f"train-{dim}", "train", f"/store/{dim}", 1, []) for dim in ("64", "128")]))
    for dim in (64, 128):
        train(tmp_path, dim, epochs=3)
    journal = Journal(tmp_path / "ledger/journal", run="sweep", git_commit="abc",
                      labels={"run": "sweep"})
    journal.record(UST, {
        "output_dir": "/o", "exp_id": "sweep", "micro_auprc": 0.5, "pca": False, "split_path": "",
        "class_auprc": {"engine": 0.75, "dog": "NaN"}, "state": "finished"})
    return tmp_path


def train(workspace, dim, epochs, state="running", **values):
    journal = Journal(workspace / "ledger/journal", run="sweep", labels={
        "run": "sweep", "step": f"train-{dim}", "model_dir": f"/m/{dim}", "username": "ada",
        "note": "random-weight teacher"})
    for epoch in range(epochs):
        journal.record(MSE, {"state": state, "latest_validation_loss": 1 / (epoch + 1),
                             "latest_train_loss": "NaN", "learning_rate": 1e-3, **values},
                       epoch=epoch)


def runs(workspace, tab=MSE):
    found = Store(workspace).fold(history=True)
    views = view_tabs(found, workspace)
    return tracked_runs(found.rows_of(tab), views[tab])


def test_a_row_is_parameters_metrics_tags_and_links(workspace):
    [one, _] = runs(workspace)
    assert (one.name, one.experiment, one.state) == ("sweep/train-64", MSE, "running")
    assert one.parameters == {"username": "ada", "model_dir": "/m/64", "learning_rate": 1e-3,
                              "emb-dim": 64}
    points = one.metrics["validation_loss"]
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 0.5), (3, 1 / 3)]
    assert points[0].time >= one.started and one.metrics["best_validation_loss"][0].value == 1 / 3
    assert "train_loss" not in one.metrics  # NaN is no value
    assert one.tags["note"] == "random-weight teacher" and one.tags["step"] == "train-64"
    assert one.links == {"artifact": "/store/64"}
    folder = workspace / "runs/sweep"
    (folder / "steps/train-64/logs").mkdir(parents=True)
    (folder / "report.html").touch()
    assert runs(workspace)[0].links == {
        "artifact": "/store/64", "log": f"{folder}/steps/train-64/logs",
        "report": f"{folder}/report.html"}
    [score] = runs(workspace, UST)
    assert {name: points[0].value for name, points in score.metrics.items()} == {
        "micro_auprc": 0.5, "class_auprc/engine": 0.75}
    assert score.parameters == {"git_commit": "abc", "output_dir": "/o", "exp_id": "sweep",
                                "pca": False}
    assert score.identity != one.identity == runs(workspace)[0].identity


@pytest.mark.parametrize(("text", "uri"), [
    ("runs", "file://{here}/runs"), ("/a b", "file:///a%20b"), ("file:///x", "file:///x"),
    ("sqlite:///x.db", "sqlite:///x.db"), ("https://u:p@host/x", "https://u:p@host/x")])
def test_what_stands_for_a_store(text, uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mlflow_store.tracking_uri(text) == uri.format(here=tmp_path)


@pytest.mark.parametrize("text", ["", "runs.db", "ftp://ada:secret@host", "databricks://x",
                                  "http://ada:secret@[::bad/"])
def test_what_does_not(text):
    with pytest.raises(InputError, match="--mlflow") as error:
        mlflow_store.tracking_uri(text)
    assert "secret" not in str(error.value) and "sqlite:///" in error.value.allowed


def client(uri):
    import mlflow.tracking
    return mlflow.tracking.MlflowClient(tracking_uri=uri)


def stored(uri, name="sweep/train-64"):
    found = client(uri)
    number = found.get_experiment_by_name(MSE).experiment_id
    [run] = [run for run in found.search_runs([number]) if run.info.run_name == name]
    history = found.get_metric_history(run.info.run_id, "validation_loss")
    return run, [(point.step, point.value) for point in history]


def test_mlflow_gets_a_run_once_and_then_what_is_new(workspace):
    pytest.importorskip("mlflow", reason="the export to MLflow needs mlflow-skinny (extra mlflow)")
    uri = mlflow_store.tracking_uri("mlruns")
    assert mlflow_store.export(uri, runs(workspace)) == Exported(new=2)
    run, points = stored(uri)
    assert run.data.params == {"username": "ada", "model_dir": "/m/64", "learning_rate": "0.001",
                               "emb-dim": "64"}
    assert points == [(1, 1), (2, 0.5), (3, 1 / 3)] and run.info.status == "RUNNING"
    assert run.data.metrics["best_validation_loss"] == 1 / 3
    assert run.data.tags["l3hpc.artifact"] == "/store/64"
    assert "* artifact: [/store/64](file:///store/64)" in run.data.tags["mlflow.note.content"]
    assert mlflow_store.export(uri, runs(workspace)) == Exported(unchanged=2)
    client(uri).set_tag(run.info.run_id, "mlflow.note.content", "mine")
    train(workspace, 64, epochs=5, state="finished", learning_rate=1e-4)
    done = mlflow_store.export(uri, runs(workspace))
    assert (done.new, done.updated, done.unchanged) == (0, 1, 1)
    assert "learning_rate is 0.0001, but MLflow has 0.001" in done.notes[0]
    run, points = stored(uri)
    assert points == [(1, 1), (2, 0.5), (3, 1 / 3), (4, 0.25), (5, 0.2)]
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.note.content"] == "mine"
    assert mlflow_store.export(uri, runs(workspace)) == Exported(unchanged=2)
    client(uri).delete_experiment(client(uri).get_experiment_by_name(MSE).experiment_id)
    with pytest.raises(L3hpcError, match="was deleted") as error:
        mlflow_store.export(uri, runs(workspace))
    assert error.value.hint.startswith("mlflow experiments restore")


@pytest.fixture
def export(workspace, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["ledger", "export", *words, "--workspace", str(workspace)])
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err
    return call


def test_mlflow_in_sqlite_from_the_command_line(export):
    pytest.importorskip("mlflow", reason="the export to MLflow needs mlflow-skinny (extra mlflow)")
    code, out, err = export("--mlflow", "sqlite:///new/runs.db", "--where", "emb-dim=64", "--json")
    assert code == 0, err
    assert json.loads(out)["trackers"] == {"mlflow": {
        "new": 1, "updated": 0, "unchanged": 0, "notes": [], "where": "sqlite:///new/runs.db"}}
    run, points = stored("sqlite:///new/runs.db")
    assert len(points) == 3 and run.data.params["emb-dim"] == "64"


def test_a_server_that_does_not_respond(export, monkeypatch):
    pytest.importorskip("mlflow", reason="the export to MLflow needs mlflow-skinny (extra mlflow)")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, _, err = export("--mlflow", f"http://ada:secret@127.0.0.1:{free.getsockname()[1]}")
    assert code == 75 and "the MLflow server does not respond" in err
    assert "secret" not in err


def test_without_the_package(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = export("--mlflow", "mlruns")
    assert code == 2 and "MLflow is not installed" in err and "[mlflow]" in err


def test_without_what_a_database_needs(export, monkeypatch):
    """``mlflow-skinny`` alone writes folders only."""
    for name in ("mlflow", "mlflow.tracking", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mlflow.exceptions"].MlflowException = OSError
    sys.modules["mlflow.exceptions"].RestException = OSError
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    code, _, err = export("--mlflow", "sqlite:///runs.db")
    assert code == 2 and "for a database MLflow needs sqlalchemy" in err and "[mlflow]" in err


def test_offline_runs_of_weights_and_biases(workspace):
    pytest.importorskip("wandb", reason="offline runs need the package wandb (extra wandb)")
    from wandb.proto.wandb_internal_pb2 import Record

    def written():
        """The format of LevelDB's logs: checksum, length and kind before each (whole) record."""
        [path] = workspace.glob(f"out/wandb/offline-run-*/run-{one.identity}.wandb")
        content, place, found = path.read_bytes(), 7, []
        while place < len(content):
            _, length, kind = struct.unpack_from("<IHB", content, place)
            assert kind == 1 and len(content) < 32768
            found.append(Record.FromString(content[place + 7:place + 7 + length]))
            place += 7 + length
        return found

    [one, _] = runs(workspace)
    assert wandb_folder.export(workspace / "out", [one]) == Exported(new=1)
    found = written()
    [run] = [record.run for record in found if record.HasField("run")][:1]
    assert (run.project, run.display_name) == (MSE, "sweep/train-64")
    assert {item.key: item.value_json for item in run.config.update}["emb-dim"] == "64"
    steps = [{"/".join(item.nested_key) or item.key: json.loads(item.value_json)
              for item in record.history.item} for record in found if record.HasField("history")]
    assert [(step["_step"], step["validation_loss"]) for step in steps] == [
        (1, 1), (2, 0.5), (3, 1 / 3)]
    assert wandb_folder.export(workspace / "out", [one]) == Exported(unchanged=1)
    train(workspace, 64, epochs=4)
    assert wandb_folder.export(workspace / "out", runs(workspace)[:1]) == Exported(updated=1)
    assert sum(record.HasField("history") for record in written()) == 4
