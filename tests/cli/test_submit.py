import json
import os
import re
import subprocess
import sys
import wave
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import l3hpc
from l3hpc import schedulers
from l3hpc.pipelines import plan as planning
from l3hpc.runs import submit as submission
from l3hpc.workspace.run_record import RunRecord, StepRecord

NAMED = ["--audio-dir", "audio", "--weights", "untrained"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("AUDIO_DIR", "OUTPUT_DIR", "L3_MODEL_PATH", "SONYC_UST_PATH", "EMBEDDING_DIR"):
        monkeypatch.delenv(name, raising=False)
    for number in range(2):
        path = Path("audio", "s1", f"{number}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000))
    Path("cluster.yaml").write_text(
        "clusters:\n  local: {slots: {cpus: 2, mem: 8GB}}\n"
        "  greene: {partition: gpu, account: pr_42, limits: {time: 7d}}\n")


@pytest.fixture
def submitted(monkeypatch):
    """Stand in for the scheduler: the plans that would have been submitted."""
    plans = []

    def submit(plan, *, test_only=False, detach=False, progress=None, on_submitted=None,
               scheduler=None, rendered=None):
        assert scheduler.capabilities.remote == plan.profile.capabilities.remote
        assert {*rendered.texts} == {step.name for step in plan.steps if step.missing}
        plans.append((plan, test_only, detach))
        steps = [StepRecord(name=step.name, kind=step.kind, artifact=str(step.artifact),
                            tasks=step.tasks, needs=list(step.needs), state="submitted",
                            job=str(8811 + number)) for number, step in enumerate(plan.steps)]
        record = RunRecord(plan.run, plan.pipeline, plan.profile.name, 0.0, "you", "h", [], {},
                           "submitted", steps, sync_job="8899")
        if on_submitted:
            on_submitted(record)
        return record

    monkeypatch.setattr(submission, "submit", submit)
    monkeypatch.setattr(submission, "succeeded", lambda workspace, record: True)
    return plans


def test_slurm_is_asked_for_its_limits_while_the_run_is_planned(say, monkeypatch):
    order, given, build, prepared = [], [], planning.build, schedulers.prepared
    monkeypatch.setattr(schedulers, "prepared", lambda *of: (
        order.append("asked"), given.append(prepared(*of)))[1] or given[-1])
    monkeypatch.setattr(planning, "build", lambda *of: (order.append("planned"), build(*of))[1])
    record = RunRecord("r", "p", "c", 0.0, "u", "h", [], {}, "submitted", [])
    monkeypatch.setattr(submission, "submit", lambda plan, *, scheduler, **rest: (
        order.append(scheduler), record)[1])
    assert say("submit", "upstream", *NAMED, "--cluster", "greene", "--yes")[0] == 0
    assert order == ["asked", "planned", given[0]]
    order.clear()
    l3hpc.submit("upstream", cluster="greene", yes=True, audio_dir="audio", weights="untrained")
    assert order == ["asked", "planned", given[1]]


def test_dry_run_shows_everything_and_writes_nothing(say, submitted):
    code, out, err = say("submit", "upstream", *NAMED, "--dry-run", "--cluster", "greene")
    assert (code, submitted) == (0, [])
    assert err.startswith("note: the limits of the partitions were not checked: sinfo")
    assert out.startswith("upstream on greene (partition gpu, account pr_42)    workspace ")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert rows["step"].split() == ["step", "tasks", "needs", "cpus", "mem", "gpus", "time",
                                    "state"]
    assert rows["reduce"].split() == ["reduce", "1", "extract", "fit", "2", "4", "GB", "–", "1",
                                      "h", "to", "run"]
    assert rows["train"].split()[4:] == ["4", "16", "GB", "1", "1", "d", "to", "run"]
    assert "sample:  dpp, 5,000 rows, by day, seed 20180216" in out
    assert "train:   student 128-d, 8000 Hz, 64 mels, hop 160, DFT 1024, 584,420 parameters" in out
    # 4 × 4 h + 2 × 1 h × 3 + 4 × 24 h cores; 4 h + 24 h GPUs
    assert "  limit: 118 core-hours and 28 GPU-hours\n" in out  # nothing like this has run yet
    assert out.endswith("nothing was submitted (--dry-run)\n")
    assert not Path("workspace").exists()


def test_the_chain_and_what_to_type_next(say, submitted):
    code, out, _ = say("submit", "upstream", *NAMED, "--cluster", "greene", "--yes")
    plan = submitted[0][0]
    assert code == 0
    assert (f"submitted {plan.run}: extract 8811 → sample 8812 → fit 8813 → reduce 8814 → "
            "train 8815\n") in out
    assert "follow it with   l3hpc status --watch" in out
    assert "results:         l3hpc ledger show --tab embedding_approx_mse" in out
    assert re.search(r"report:  +\S*/runs/upstream\S+/report.html, when the run has ended\n", out)


def test_arrows_are_only_between_jobs_that_wait_for_each_other():
    steps = [SimpleNamespace(name=name, job=job, needs=needs) for name, job, needs in [
        ("sample", None, ["extract"]), ("fit-6", "42_0", ["sample"]), ("fit-7", "42_1", ["sample"]),
        ("train-6", "43", ["fit-6"]), ("train-7", "44", ["fit-7"]), ("prune", "45", [])]]
    run = SimpleNamespace(steps=steps)
    assert submission.describe_jobs(run) == (
        "fit-6 42_0, fit-7 42_1, prune 45 → train-6 43, train-7 44")
    assert submission.describe_jobs(run, ["train-6", "train-7"]) == "train-6 43, train-7 44"
    assert submission.describe_jobs(run, []) == ""


def test_what_to_type_next_names_the_same_configuration_and_workspace(say, submitted):
    Path("other place.yaml").write_text(Path("cluster.yaml").read_text())
    code, out, _ = say("submit", "upstream", *NAMED, "--cluster", "greene", "--config",
                       "other place.yaml", "--workspace", "there")
    place = "--config 'other place.yaml' --workspace there"
    assert code == 0 and f"l3hpc status --watch {place}\n" in out
    assert f"l3hpc ledger show --tab embedding_approx_mse {place}\n" in out


def test_what_is_asked_for_and_not_given_is_said(say, submitted):
    asked = ("--set", "train.mem=64GB", "--set", "train.cpus=64", "--set", "train.gpus=2",
             "--set", "fit.mem=1GB", "--set", "fit.pack=4", "--set", "extract.files_per_task=1",
             "--set", "extract.pack=8", "--set", "reduce.pack=2", "--set", "sample.mem=0")
    notes = ["extract: pack 8 is more than the 2 tasks to run: one job",
             "fit: pack has no effect on a single task",
             "train: 64 cores, 64 GB, 2 GPUs requested; local has 2 cores, 8 GB, no GPU for it"]
    _, out, _ = say("submit", "upstream", *NAMED, "--dry-run", *asked)
    assert [line[8:] for line in out.splitlines() if line.startswith("  note: ")] == notes
    value = json.loads(say("submit", "upstream", *NAMED, "--json", *asked)[1])
    assert value["notes"] == notes
    # what the pipeline itself asks for is cut for every machine, and shown in the table
    assert "note: " not in say("submit", "upstream", *NAMED, "--dry-run")[1]
    swept = say("submit", "upstream", *NAMED, "--dry-run", "--grid", "emb-dim=2,4", *asked[:2])[1]
    assert "  note: train-2, train-4: 64 GB requested; local has 8 GB for it\n" in swept
    # on a cluster, only GPUs that the profile does not request
    assert "note: " not in say("submit", "upstream", *NAMED, "--dry-run", "--cluster", "greene",
                               *asked[:4], "--set", "fit.gpus=0")[1]


def test_test_only_submits_nothing(say, submitted):
    code, out, _ = say("submit", "upstream", *NAMED, "--cluster", "greene", "--test-only")
    assert code == 0 and submitted[0][1] is True
    assert out.endswith("greene would accept all 5 scripts; nothing was submitted (--test-only)\n")


def test_json(say, submitted):
    code, out, _ = say("submit", "upstream", *NAMED, "--cluster", "greene", "--json", "--yes")
    value = json.loads(out)
    assert code == 0 and value["schema"] == 1 and value["submitted"] is True
    assert value["jobs"]["train"] == "8815" and value["cluster"] == "greene"
    train = value["steps"][-1]
    assert train["params"]["asr"] == 8000 and train["resources"]["mem_mb"] == 16384
    assert value["cost"]["at_most"] == {"core_hours": 118.0, "gpu_hours": 28.0}
    code, out, _ = say("submit", "upstream", *NAMED, "--dry-run", "--json")
    assert json.loads(out)["submitted"] is False


def test_local_runs_here_and_tells_the_end(say, submitted, monkeypatch):
    code, out, _ = say("submit", "upstream", *NAMED)
    assert code == 0 and submitted[0][2] is False
    assert "is done. Results:   l3hpc ledger show " in out
    Path("jobs").mkdir()
    Path("jobs/mine.yaml").write_text("steps: {look: {kind: shell, command: 'true'}}\n")
    code, out, _ = say("submit", "mine")  # nothing of it is recorded
    plan = submitted.pop()[0]
    assert code == 0 and f"{plan.run} is done. Results:   l3hpc report {plan.run} " in out
    monkeypatch.setattr(submission, "succeeded", lambda workspace, record: False)
    code, out, err = say("submit", "upstream", *NAMED)
    assert code == 1 and f"l3hpc status {submitted[0][0].run}" in err
    code, _, _ = say("submit", "upstream", *NAMED, "--detach")
    assert code == 0 and submitted[2][2] is True


def test_ctrl_c_says_what_was_submitted(say, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "_submit_jobs", interrupted)
    code, _, err = say("submit", "upstream", *NAMED, "--name", "a")
    assert code == 130
    assert re.search(r"interrupted; to continue: l3hpc resume a-\d{8}-\w{4}\n$", err), err
    monkeypatch.setattr(submission, "submit", interrupted)
    assert say("submit", "upstream", *NAMED, "--name", "b")[2].endswith(
        "interrupted; nothing was submitted\n")


def test_what_costs_much_is_asked_for_on_a_terminal(say, submitted, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return "n\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    much = ["submit", "upstream", *NAMED, "--cluster", "greene", "--set", "train.time=7d", "--set",
            "train.cpus=64"]
    code, _, err = say(*much)
    assert code == 130 and submitted == [] and "submit it?" in err
    assert say(*much, "--yes")[0] == 0 and len(submitted) == 1
    assert say("submit", "upstream", *NAMED, "--cluster", "greene")[0] == 0  # 118 core-hours
    monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    code, _, err = say(*much)
    assert code == 2 and "core-hours" in err and len(submitted) == 2
    assert "if that is intended: --yes" in err


def test_every_option_arrives(say, submitted):
    say("submit", "upstream", *NAMED, "--approx", "pca", "--asr", "16000", "--mels", "32", "--dft",
        "2048", "--hop", "320", "--fmax", "7000", "--emb-dim", "64", "--head", "relu", "--sampling",
        "spl", "--samples", "900", "--timescale", "month", "--timezone", "UTC", "--epochs", "3",
        "--epoch-size", "7", "--batch-size", "16", "--learning-rate", "1e-5", "--patience", "4",
        "--seed", "5", "--filters", "8,8,16,16,32,32,64,64", "--name", "mine", "--workspace", "w")
    plan = submitted[0][0]
    params = {step.name: step.params for step in plan.steps}
    train = params["train"]
    assert {key: train[key] for key in ("asr", "mels", "dft", "hop", "fmax", "emb_dim", "head",
                                        "epochs", "epoch_size", "batch_size", "learning_rate",
                                        "patience", "seed")} == {
        "asr": 16000, "mels": 32, "dft": 2048, "hop": 320, "fmax": 7000.0, "emb_dim": 64,
        "head": "relu", "epochs": 3, "epoch_size": 7, "batch_size": 16, "learning_rate": 1e-5,
        "patience": 4, "seed": 5}
    assert tuple(train["filters"]) == (8, 8, 16, 16, 32, 32, 64, 64)
    sample = params["sample"]
    assert (sample["method"], sample["samples"], sample["timescale"], sample["seed"],
            sample["timezone"]) == ("spl", 900, "month", 5, "UTC")
    assert plan.run.startswith("mine-") and plan.workspace == Path.cwd() / "w"


def train_of(say, *words):
    """What ``submit upstream … --dry-run`` says of train: parameters, and the line for people."""
    command = ("submit", "upstream", *NAMED, *words, "--dry-run")
    code, out, err = say(*command, "--json")
    assert code == 0, err
    params = json.loads(out)["steps"][-1]["params"]
    lines = [line for line in say(*command)[1].splitlines() if line.startswith("  train:")]
    return params, lines[0]


RECIPE = ("head", "epochs", "epoch_size", "validation_epoch_size", "bn_momentum", "schedule")


def test_the_published_recipe_by_name(say):
    params, line = train_of(say, "--recipe", "published")
    assert [params[name] for name in RECIPE] == ["relu", 300, 4096, 1024, 0.99, "plateau"]
    assert line.endswith("published recipe: relu head, 300 epochs of 4,096 batches, "
                         "learning rate 0.0001")
    assert train_of(say, "--recipe", "published", "--approx", "none")[1].endswith("rate 1e-05")
    by_set = train_of(say, "--set", "train.recipe=published")[0]
    assert by_set == params
    default, line = train_of(say)
    assert [default[name] for name in RECIPE] == ["linear", 30, None, None, None, "plateau"]
    assert "recipe" not in line
    assert train_of(say, "--recipe", "default")[0] == default


def test_what_a_person_says_is_more_than_the_recipe(say):
    params, line = train_of(say, "--recipe", "published", "--epochs", "12", "--head", "linear",
                            "--learning-rate", "3e-3", "--set", "train.validation_epoch_size=9")
    assert [params[name] for name in RECIPE] == ["linear", 12, 4096, 9, 0.99, "plateau"]
    assert line.endswith("linear head, 12 epochs of 4,096 batches, learning rate 0.003")
    Path("jobs").mkdir()
    Path("jobs/mine.yaml").write_text(
        "include: upstream\nsteps: {train: {params: {epochs: 5}}}\n")
    code, out, _ = say("submit", "mine", *NAMED, "--recipe", "published", "--dry-run", "--json")
    params = json.loads(out)["steps"][-1]["params"]
    assert (code, params["epochs"], params["epoch_size"]) == (0, 5, 4096)


@pytest.mark.parametrize(("words", "said"), [
    (["--mels", "512"], ["--mels 512 leaves", "of 512 mel bands empty at 8000 Hz with a DFT of"]),
    (["--emb-dim", "1024"], ["--emb-dim 1024 is more than the teacher's 512 dimensions"]),
    (["--samples", "64"], ["--samples 64 is fewer than the 128 dimensions"]),
    (["--hop", "9000"], ["hop"]),
    (["--width", "0.25", "--filters", "8,8,8,8,8,8,8,8"], ["either width or filters"]),
    (["--filters", "1,two"], ["--filters", "list of whole numbers"]),
    (["--cluster", "gren"], ["there is no cluster 'gren'", "did you mean 'greene'?"]),
    (["--set", "train.mem=9"], ["'9' is not an amount of memory"]),
    (["--cluster", "greene", "--set", "train.time=8d"], ["train requests 8 d; greene allows 7 d"]),
    (["--name", "a/b"], ["is not a valid run name"]),
    (["--input", "fit"], ["is not STEP=PATH"]),
    (["--classifier", "mil"], ["pipeline 'upstream' has no option --classifier"]),
    (["--grid", "table=a,b"], ["pipeline 'upstream' has no option --table"]),
    (["--config", "none.yaml"], ["there is no such file"]),
    (["--embedding-dir", "x/train", "--embedding-valid-dir", "y/validate"],
     ["are not in the same folder"]),
    (["--weights", "no.h5"], ["no.h5"]),
    (["--audio-dir", "nowhere"], ["nowhere"]),
    (["--student", "latest"], ["--student has no effect", "remove --student"]),
    (["--input", "extract=audio"], ["--input extract has no effect"]),
    (["--embedding-dir", "audio"], ["--embedding-dir has no effect", "--from STEP"]),
    (["--workspace", "a\nb"], ["--workspace: paths.workspace", "control character"]),
    (["--workspace", "a%jb"], ["--workspace: paths.workspace", "contains '%j'"]),
    (["--workspace", "o'b"], ["--workspace: paths.workspace", "contains a quote"]),
    (["--grid", "emb-dim=64,128", "--workspace", "a%tb"], ["contains '%t'"]),
])
def test_refusals_end_with_nothing_was_submitted(say, submitted, words, said):
    code, out, err = say("submit", "upstream", *NAMED, *words)
    assert (code, out, submitted) == (2, "", [])
    assert err.startswith("error: ") and err.endswith("nothing was submitted\n")
    for part in said:
        assert part in err
    assert "Traceback" not in err and len(err.splitlines()) <= 6
    assert not Path("workspace").exists()


def test_paths_that_are_not_set_are_a_refusal_too(say, submitted):
    code, out, err = say("submit", "upstream", "--dry-run")
    assert (code, out, submitted) == (2, "", [])
    assert "paths.audio and paths.weights are not set" in err
    assert err.endswith("nothing was submitted\n")


def test_a_working_folder_whose_name_slurm_would_replace(say, submitted, monkeypatch):
    """The workspace lies below it where cluster.yaml does not say otherwise."""
    Path("run %j").mkdir()
    audio = Path("audio").absolute()
    monkeypatch.chdir("run %j")
    for words in (["submit", "upstream", *NAMED, "--audio-dir", str(audio)],
                  ["demo", "--quick", "-o", "here"]):
        code, _, err = say(*words)
        assert code == 2 and "contains '%j'" in err
    assert list(Path().iterdir()) == []


def test_an_input_whose_real_name_is_not_utf8_is_refused_before_anything_is_written(say):
    """config.json cannot hold it."""
    os.mkdir(b"emb\xff")
    with h5py.File(b"emb\xff/x.h5", "w") as file:
        file["l3_embedding"] = np.zeros((2, 128), np.float32)
    with h5py.File("audio/x.h5", "w") as file:
        file["audio"] = np.zeros((2, 8000), np.int16)
    os.symlink(b"emb\xff", b"plain")
    code, _, err = say("submit", "upstream", *NAMED, "--from", "train", "--input", "reduce=plain")
    assert code == 2 and "train.reduce: a name is not UTF-8" in err and r"emb\udcff" in err
    assert not Path("workspace").exists()


def test_published_folders_side_by_side(say, submitted):
    for name in ("train", "validate"):
        for folder, key, row in (("emb", "l3_embedding", 128), ("audio", "audio", 8000)):
            Path(folder, name).mkdir(parents=True)
            with h5py.File(Path(folder, name, "x.h5"), "w") as file:
                file[key] = np.zeros((2, row), np.float32)
    say("submit", "upstream", "--from", "train", "--audio-dir", "audio", "--embedding-dir",
        "emb/train", "--embedding-valid-dir", "emb/validate")
    train = submitted[0][0].steps[0]
    assert train.inputs == {"reduce": str(Path("emb").resolve())}


def test_an_unknown_option_of_a_grid_is_refused_with_those_of_the_pipeline(say, submitted):
    code, _, err = say("submit", "upstream", *NAMED, "--grid", "emb_dim=4,8")
    assert code == 2 and submitted == []
    assert "did you mean 'emb-dim'? valid: approx, asr, " in err and "table" not in err


def test_dry_run_loads_nothing_heavy():
    code = ("import sys\nfrom l3hpc.cli import main\n"
            "try:\n    main(['submit', 'upstream', '--audio-dir', 'audio', '--weights', "
            "'untrained', '--dry-run'])\nexcept SystemExit as end:\n    assert not end.code\n"
            "print([name for name in ('tensorflow', 'keras', 'pandas', 'sklearn', 'scipy', "
            "'submitit', 'rich') if name in sys.modules])\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_limit_within_the_warning_is_noted_before_it_is_submitted(say, submitted):
    """Slurm warns up to 150 s before the limit: the task would be requeued before it has begun."""
    asked = ("submit", "upstream", *NAMED, "--dry-run", "--set", "train.time=2m", "--set",
             "fit.time=2m", "--set", "sample.time=3m")
    note = ("fit, train: a time limit of 2 min is too short: a job is warned up to 150 s before "
            "its limit, and would be requeued as soon as it starts; at least 3 min")
    assert f"  note: {note}\n" in say(*asked, "--cluster", "greene")[1]
    assert json.loads(say(*asked, "--cluster", "greene", "--json")[1])["notes"] == [note]
    assert "note: " not in say(*asked)[1]  # on local, the warning is a quarter of a short limit
