import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.config import settings, sources
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text):
    Path("cluster.yaml").write_text(text)


def load(cluster=None, environ=None, **overrides):
    return settings.load(cluster=cluster, environ=environ or {}, overrides=overrides)


def refusal(text, cluster=None):
    write(text)
    with pytest.raises(InputError) as error:
        load(cluster)
    return error.value


GREENE = """\
cluster: greene
paths:
  workspace: ws
  audio: ~/audio
clusters:
  greene:
    account: pr_42
    partition: gpu
    setup: [module purge, "echo 'two words' $HOME"]
    container: apptainer exec --nv "my image.sif"
    limits: {time: 7d, mem: 180GB, array: 1001}
    steps:
      train: {mem: 64GB, gpus: 2, partition: big}
"""


def test_without_a_file_the_delivered_one_holds():
    found = load()
    assert found.profile.name == "local" and found.profile.executor == "local"
    assert found.workspace == Path.cwd() / "workspace"
    assert found.origin("paths.workspace") == "default"
    assert found.profile.python == sys.executable


def test_a_profile_with_everything(monkeypatch):
    monkeypatch.setenv("HOME", "/home/you")
    write(GREENE)
    found = load()
    assert found.profile.name == "greene" and found.profile.executor == "slurm"
    assert found.profile.container == ("apptainer", "exec", "--nv", "my image.sif")
    assert found.profile.python == "python3"
    assert found.profile.limits.mem == 180 * 1024 and found.profile.limits.time == 7 * 1440
    assert found.profile.at("train").mem == 65536 and found.profile.at("fit").mem is None
    assert found.paths.audio == Path("/home/you/audio")
    assert found.workspace == Path.cwd() / "ws"
    assert found.origin("paths.workspace") == "cluster.yaml:3"
    assert found.origin("clusters.greene.account") == "cluster.yaml:7"
    assert found.origin("clusters.greene.qos") == "default"
    assert load("local").profile.executor == "local"


def test_every_value_is_listed_and_json_ready():
    import json

    write(GREENE)
    values = load().values()
    assert json.loads(json.dumps(values))["clusters.greene.partition"] == "gpu"


@pytest.mark.parametrize(("text", "where", "words"), [
    ("clusters:\n  greene:\n    partitoin: gpu\n", "cluster.yaml:3",
     ["unknown key 'partitoin'", "did you mean 'partition'?"]),
    ("path:\n  workspace: x\n", "cluster.yaml:1", ["unknown key 'path'", "did you mean 'paths'?"]),
    ("paths:\n  workspase: x\n", "cluster.yaml:2",
     ["unknown key 'workspase' in paths", "'workspace'"]),
    ("clusters:\n  g:\n    limits: {times: 4h}\n", "cluster.yaml:3",
     ["unknown key 'times' in limits", "'time'"]),
    ("clusters:\n  g:\n    steps:\n      train:\n        memory: 4GB\n", "cluster.yaml:5",
     ["unknown key 'memory' in steps.train", "mem"]),
    ("clusters:\n  g:\n    steps:\n      trian: {mem: 4GB}\n", "cluster.yaml:3",
     ["unknown step 'trian'", "did you mean 'train'?"]),
    ("clusters:\n  g:\n    limits:\n      mem: 16\n", "cluster.yaml:4",
     ["'16' is not an amount of memory", "16GB"]),
    ("clusters:\n  g:\n    limits:\n      time: 4:00\n", "cluster.yaml:4",
     ["'4:00' is not a time limit"]),
    *((f"clusters:\n  g:\n    steps:\n      extract:\n        pack: {value}\n", "cluster.yaml:5",
       [f"{said!r} is not a number of tasks", "a whole number from 1 to 10,000"])
      for value, said in ((0, "0"), (-8, "-8"), (2.5, "2.5"), (8.0, "8.0"), ("true", "True"),
                          (10001, "10001"), ("[8]", "[8]"), ("eight", "eight"))),
    *((f"clusters:\n  g:\n    {key}\n", "cluster.yaml:3", [f"less than or equal to {most}"])
      for key, most in (("limits: {array: 9223372036854775807}", "4000001"),
                        ("array_parallelism: 4000002", "4000001"),
                        ("slots: {cpus: 2147483648}", "4096"))),
    ("clusters:\n  g:\n    gpu_request: gers\n", "cluster.yaml:3", ["gres", "gpus-per-node"]),
    ("clusters:\n  g:\n    extra: [--nice=1, --mem=4G]\n", "cluster.yaml:3",
     ["--mem sets --mem, which l3hpc sets itself", "Use mem: or memory_request: of the profile"]),
    ("clusters:\n  g:\n    extra: [--arr=1-9]\n", "cluster.yaml:3", ["--arr sets --array"]),
    ("clusters:\n  g:\n    extra: --outp=/x\n", "cluster.yaml:3",
     ["--outp sets --output", "no key changes"]),
    *((f"clusters:\n  g:\n    gpu_request: {request}\n    extra: [{option}]\n", "cluster.yaml:4",
       [f"{option.partition('=')[0]} sets --", "which l3hpc sets itself", "Use gpus:"])
      for request, option in (("gpus-per-node", "--gres=gpu:1"), ("none", "--gres=gpu:1"),
                              ("gres", "--gpus-per-node=1"), ("gres", "--tres-per-task=cpu=1"))),
    ("clusters:\n  g:\n    gpu_request: gpus-per-node\n    steps:\n      train:\n"
     "        extra: [--gres=gpu:1]\n", "cluster.yaml:6", ["--gres sets --gres", "Use gpus:"]),
    ("clusters:\n  g:\n    extra: [--n]\n", "cluster.yaml:3", ["which l3hpc sets itself"]),
    ("clusters:\n  g:\n    extra: [--tasks-per-node=7]\n", "cluster.yaml:3",
     ["--tasks-per-node, which l3hpc sets itself"]),
    *((f"clusters:\n  g:\n    extra: [--{name}]\n", "cluster.yaml:3",
       [f"--{name.partition('=')[0]} sets --", "which cannot be set here", hint])
      for name, hint in (("uid=0", "user who submits"), ("gi=0", "group"), ("jobid=7", "numbers"),
                         ("hold", "scontrol hold"), ("export-file=x", "env:"))),
    ("clusters:\n  g:\n    steps:\n      train:\n        extra: [-p gpu]\n", "cluster.yaml:5",
     ["'-p gpu' is not an option of sbatch", "--name=value"]),
    ("clusters:\n  g:\n    extra: ['--comment=a\"b']\n", "cluster.yaml:3", ["without quotes"]),
    ("clusters:\n  g:\n    extra: [--nice=1, --nice=2]\n", "cluster.yaml:3", ["given twice"]),
    ("clusters:\n  g:\n    extra: [7]\n", "cluster.yaml:3", ["7 is not a string"]),
    ("clusters:\n  g:\n    extra: {a: b}\n", "cluster.yaml:3", ["not a list of sbatch options"]),
    ("clusters:\n  g:\n    limits: {mem: 0}\n", "cluster.yaml:3", ["not an amount of memory"]),
    ("clusters:\n  g:\n    scratch: /local/a b\n", "cluster.yaml:3", ["allowed: letters"]),
    ("clusters:\n  g:\n    account: false\n", "cluster.yaml:3", ["or leave the key out"]),
    ("clusters:\n  g:\n    account: 42\n", "cluster.yaml:3", ["42 is not a string", "quotes"]),
    ("clusters:\n  g:\n    setup:\n      - ok\n      - \"a\\nb\"\n", "cluster.yaml:5",
     ["control character"]),
    ("clusters:\n  g:\n    partition: \"a\\n#SBATCH --x\"\n", "cluster.yaml:3",
     ["control character"]),
    ("clusters:\n  g:\n    qos: -x\n", "cluster.yaml:3", ["leading dash"]),
    ("clusters:\n  g:\n    container: apptainer 'x\n", "cluster.yaml:3", ["no closing quotation"]),
    ("clusters:\n  g:\n    env: {a-b: x}\n", "cluster.yaml:3", ["'a-b' is not the name"]),
    ("clusters:\n  g:\n    env: {SLURM_JOB_ID: x}\n", "cluster.yaml:3", ["is reserved for Slurm"]),
    ("clusters:\n  g:\n    clusters: [a, b c]\n", "cluster.yaml:3", ["'b c'"]),
    ("clusters:\n  g:\n    clusters: a;b\n", "cluster.yaml:3", ["'a;b'"]),
    ("clusters:\n  g:\n    clusters: é\n", "cluster.yaml:3", ["is not a cluster name"]),
    ("clusters:\n  g:\n    clusters: {a: b}\n", "cluster.yaml:3", ["not a cluster name"]),
    ("clusters:\n  g:\n    clusters: 'a,'\n", "cluster.yaml:3", ["0 characters"]),
    ("clusters:\n  g:\n    name: x\n", "cluster.yaml:3", ["remove name:"]),
    ("cluster: gren\nclusters:\n  greene: {}\n", "cluster.yaml:1",
     ["there is no cluster 'gren'", "did you mean 'greene'?"]),
    ("ledger:\n  sheet_id: 'not an id!'\n", "cluster.yaml:2", ["not the id of a Google Sheet"]),
    ("paths:\n  audio: $NO_SUCH_VARIABLE/x\n", "cluster.yaml:2",
     ["NO_SUCH_VARIABLE is not set"]),
    ("clusters:\n  g:\n    qos: a\n    qos: b\n", "cluster.yaml:4:5", ["written twice"]),
    ("paths: 3\n", "cluster.yaml:1", ["paths"]),
    ("paths: {audio: ' '}\n", "cluster.yaml:1", ["paths.audio: the path is empty"]),
    ("- a\n- b\n", "cluster.yaml:1", ["not a mapping"]),
    ("clusters: &a [*a]\n", "cluster.yaml:1:11", ["that contains it"]),
    (f"paths: {'[' * 3000}{']' * 3000}\n", "cluster.yaml:1:57", ["50 deep"]),
    ("clusters:\n  g:\n    env: {A: true}\n", "cluster.yaml:3", ["True is not a string", "quotes"]),
    ("clusters:\n  g:\n    python: $NO_SUCH_VARIABLE/bin/python\n", "cluster.yaml:3",
     ["NO_SUCH_VARIABLE is not set"]),
    ("ledger: {sync: auto}\n", "cluster.yaml:1", ["unknown key 'sync'"]),
])
def test_refusals_name_the_place_and_the_valid(text, where, words):
    error = refusal(text)
    assert error.where == where
    for word in words:
        assert word in str(error)
    assert error.exit_code == 2


def test_an_unknown_cluster_on_the_command_line():
    with pytest.raises(InputError) as error:
        load("grene")
    assert error.value.where == "--cluster" and "valid: local" in str(error.value)


def test_environment_of_the_published_jobs_is_the_fallback():
    environ = {"AUDIO_DIR": "a", "EMBEDDING_DIR": "/e", "OUTPUT_DIR": "/o", "L3_MODEL_PATH": "w.h5",
               "SONYC_UST_PATH": "/s", "GSHEET_ID": "1AbCdEf"}
    found = load(environ=environ)
    assert found.paths.audio == Path.cwd() / "a"
    assert found.paths.embeddings == Path("/e") and found.workspace == Path("/o")
    assert found.paths.weights == str(Path.cwd() / "w.h5")
    assert found.ledger.sheet_id == "1AbCdEf"
    assert found.origin("paths.audio") == "environment variable AUDIO_DIR"
    write("paths: {audio: /from/file}\n")
    found = load(environ=environ)
    assert found.paths.audio == Path("/from/file") and found.origin("paths.audio") \
        == "cluster.yaml:1"
    found = load(environ=environ, **{"paths.audio": ("mine", "--audio-dir")})
    assert found.paths.audio == Path.cwd() / "mine" and found.origin("paths.audio") \
        == "--audio-dir"


def test_a_path_of_the_command_line_is_checked_too():
    for value in ("a\nb", "\udcff", ""):
        with pytest.raises(InputError) as error:
            settings.load(overrides={"paths.workspace": (value, "--workspace")}, environ={})
        assert error.value.where == "--workspace"


def test_programs_are_found_from_home_and_variables(monkeypatch):
    monkeypatch.setenv("HOME", "/home/you")
    monkeypatch.setenv("IMAGES", "/images")
    Path("cluster.yaml").write_text(
        "cluster: g\nclusters:\n  g: {python: ~/venv/bin/python, "
        "container: apptainer exec $IMAGES/a.sif}\n")
    profile = load().profile
    assert profile.python == "/home/you/venv/bin/python"
    assert profile.container == ("apptainer", "exec", "/images/a.sif")


def test_weights_may_be_a_name():
    assert load(environ={"L3_MODEL_PATH": "untrained:7"}).paths.weights == "untrained:7"


def test_a_sheet_may_be_given_by_its_address():
    write("ledger: {sheet_id: 'https://docs.google.com/spreadsheets/d/1AbC-_9xyz/edit#gid=0'}\n")
    assert load().ledger.sheet_id == "1AbC-_9xyz"


def test_relative_paths_count_from_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "my.yaml"
    file.write_text("paths: {workspace: here}\n")
    assert settings.load(file, environ={}).workspace == tmp_path / "sub" / "here"


def test_an_empty_section_counts_as_absent():
    write("paths:\nledger:\nclusters:\n  local:\n")
    assert load().workspace == Path.cwd() / "workspace"


def test_limits_refuse_more():
    write(GREENE)
    profile = load().profile
    with pytest.raises(InputError, match=r"train requests 200 GB of memory; greene allows 180 GB"):
        profile.granted("train", "train", Resources(1, 200 * 1024, 0, 60))
    with pytest.raises(InputError, match="train requests 8 d"):
        profile.granted("train", "train", Resources(1, 1024, 0, 8 * 1440))


def test_all_memory_of_the_node_is_all_of_the_slots_on_local():
    write("clusters: {local: {slots: {cpus: 2, mem: 4GB}, steps: {train: {mem: 0}}}}\n")
    profile = load().profile
    assert profile.at("train").over(Resources()).mem_mb == 0
    assert profile.granted("train", "train", Resources(mem_mb=0)).mem_mb == 4096


def test_a_step_may_request_gpus_where_the_profile_does_not():
    write("clusters: {local: {steps: {train: {gpu_request: gres}}}}\n")
    profile = load().profile
    assert profile.granted("train", "train", Resources(gpus=2)).gpus == 2
    assert profile.granted("fit", "fit", Resources(gpus=2)).gpus == 0


def test_local_gives_no_more_than_its_slots_and_no_gpu():
    write("clusters: {local: {slots: {cpus: 2, mem: 4GB}}}\n")
    granted = load().profile.granted("train", "train", Resources(8, 65536, 2, 60))
    assert granted == Resources(2, 4096, 0, 60)


def test_the_commented_profile_of_the_delivered_file_is_valid():
    text = (sources.defaults_folder() / "cluster.yaml").read_text()
    lines = [line.replace("  # ", "  ", 1) if line.startswith("  # ") else line
             for line in text.splitlines()]
    write("\n".join(lines).replace("1AbC…", "1AbCdef"))
    found = load("greene", environ={})
    assert found.profile.gpu_type == "rtx8000" and found.profile.at("train").gpus == 2
    assert found.profile.setup[0] == "module purge"


@pytest.mark.parametrize("name", ["loop", "loop/below", "nowhere", "nowhere/below"])
def test_a_workspace_behind_a_link_that_leads_nowhere_is_refused(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("purged")
    with pytest.raises(InputError, match="is a link to (loop|purged), which does not exist"):
        settings.check_workspace(tmp_path / name, "--workspace")
    (tmp_path / "purged").mkdir()
    settings.check_workspace(tmp_path / "nowhere/below", "--workspace")


@pytest.mark.parametrize(("name", "said"), [
    *[(f"runs{pattern}", repr(pattern)) for pattern in (
        "%j", "%t", "%A", "%a", "%x", "%u", "%N", "%J", "%n", "%s", "%b", "%%", "%4j", "%012A")],
    ("it's", "a quote"), ('a"b', "a quote"), ("a\\b", "a backslash"),
    ("a\nb", "control character"), ("a\tb", "control character"),
    ("a\x1b[31m", "control character"), ("a\udcff", "not UTF-8")])
def test_a_workspace_that_cannot_stand_in_scripts_is_refused_by_name(tmp_path, name, said):
    for place in (tmp_path / name, tmp_path / name / "workspace"):  # itself, or the folder above
        with pytest.raises(InputError) as caught:
            settings.check_workspace(place, "cluster.yaml:2")
        assert caught.value.where == "cluster.yaml:2" and "symbolic link" in caught.value.hint
        assert caught.value.message.startswith("paths.workspace: ") and said in caught.value.message


@given(st.lists(st.sampled_from(["%", "j", "t", "A", "a", "x", "4", "/", " ", "#", "$", "é", "\"",
                                 "'", "\\", "~", ";", "-", "!"]), min_size=1, max_size=8)
       .map("".join))
def test_what_is_accepted_means_itself_to_submitit_and_to_sbatch(text):
    from submitit.core.utils import JobPaths

    from l3hpc.schedulers.scripts import directive

    workspace = Path("/ws") / text.strip("/")
    try:
        settings.check_workspace(workspace, "default")
    except InputError:
        return
    logs = workspace / "runs/r/steps/s/logs"
    assert JobPaths(logs, job_id="12_3", task_id=4).folder == logs
    written = str(logs).replace("%", "%%")
    assert directive("output", written).removeprefix("#SBATCH --output=").strip('"') == written


def test_a_percent_sign_that_stands_for_nothing_may_stay(tmp_path):
    assert settings.check_workspace(tmp_path / "100%" / "50 %", "x") == tmp_path / "100%" / "50 %"


@pytest.mark.parametrize(("text", "wanted"), [
    ("a", "a"), ("a,b", "a,b"), ("[a, b-2]", "a,b-2"), ("' a, b '", "a,b"), ("all", "all")])
def test_slurms_clusters_of_the_profile_win_over_the_environment(text, wanted, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    write(f"clusters:\n  g:\n    clusters: {text}\n  h: {{}}\n")
    assert load("g").profile.slurm_clusters == wanted
    assert load("h").profile.slurm_clusters == "elsewhere"
    assert load("local").profile.slurm_clusters == ""
    monkeypatch.setenv("SBATCH_CLUSTERS", "first")
    assert load("h").profile.slurm_clusters == "first"
