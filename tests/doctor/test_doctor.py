"""Every check of the doctor, with programs that say what the test wants them to say."""

import getpass
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from l3hpc import steps
from l3hpc.config import settings as configuration
from l3hpc.config import sources
from l3hpc.config.profile import ClusterProfile
from l3hpc.doctor import environment, examine, slurm, storage
from l3hpc.doctor.environment import Answer, ask
from l3hpc.errors import HeaderDriftError, InputError, OfflineError
from l3hpc.findings import Finding, from_error
from l3hpc.installation import install_command
from l3hpc.schedulers.slurm import partitions, queue

SINFO = """\
cpu*|up|2-00:00:00|64000|16|(null)|3
gpu|up|7-00:00:00|128000+|32|gpu:rtx8000:4|2
gpu|up|7-00:00:00|256000|48|gpu:a100:2(S:0-1)|1
old|down|infinite|8000|4|(null)|1
"""


class Programs:
    """Answers by program name; remembers what was asked."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __call__(self, command):
        self.asked.append(list(command))
        return self.answers.get(Path(command[0]).name, Answer(None, "", f"{command[0]} is missing"))


def said(text):
    return Answer(0, text, "")


def profile(**values):
    return ClusterProfile.model_validate({"name": "greene", "executor": "slurm", **values})


def config_in(folder, text="", environ=None):
    folder.mkdir(exist_ok=True)
    (folder / "cluster.yaml").write_text(text or "cluster: local\n")
    return configuration.load(folder / "cluster.yaml", environ=environ or {})


def states(lines):
    return {line.subject: line.severity for line in lines}


# ---- machine ----

@pytest.mark.parametrize(("version", "state"), [
    ((3, 9, 19), "red"), ((3, 10, 0), "green"), ((3, 13, 9), "green"), ((3, 14, 0), "red")])
def test_python_bounds(version, state):
    line = environment.python_line(version)
    assert line.severity == state
    assert bool(line.advice) == (state == "red")


@pytest.mark.parametrize(("version", "bounds", "kept"), [
    ("1.26", ">=1.26", True), ("1.26.0", ">=1.26", True), ("1.25.9", ">=1.26", False),
    ("2.10.0", ">=2.9", True), ("3.0", ">=2,<3", False), ("2.9rc1", ">=2,<3", True),
    ("1.0", "!=1.0.0", False), ("1.1", "==1.1.0", True), ("5", "", True), ("2.0", ">2", False),
    ("1.9", "~=2.0", False), ("2.0", "~=2.0", True), ("2.9", "~=2.0", True),
    ("3.0", "~=2.0", False), ("2.2.0", "~=2.1.3", False), ("2.1.9", "~=2.1.3", True),
    ("1.5", ">=1,!=1.5.*", False), ("1.6", ">=1,!=1.5.*", True),
    ("3.0", "<3", False), ("3.0rc1", "<3", False), ("2.99", "<3", True), ("unknown", ">=1", False),
])
def test_version_bounds(version, bounds, kept):
    assert environment.meets(version, bounds) is kept


def test_requirements_are_split_into_core_and_extras():
    core, extras = environment.split([
        "numpy (>=1.26)", "tensorflow[and-cuda]>=2.18; extra == \"gpu\"", "tzdata",
        "pywin32>=300; sys_platform == 'win32'", "umap-learn>=0.5.6; extra == 'umap'",
        "ncnn>=1; extra == 'fast' and python_version < '3'"])
    assert [(one.name, str(one.specifier)) for one in core] == [("numpy", ">=1.26"), ("tzdata", "")]
    assert {name: [str(one.specifier) for one in extra] for name, extra in extras.items()} == {
        "umap": [">=0.5.6"]}


def test_packages_missing_and_too_old_are_red_with_the_command_that_helps():
    have = {"numpy": "1.25", "click": "8.1.7"}
    lines = list(environment.package_lines(["numpy>=1.26", "click>=8.1", "h5py>=3.11"], have.get))
    assert lines[0].message == "1 of 3 as needed"
    assert [(line.severity, line.advice) for line in lines[1:]] == [
        ("red", "pip install 'numpy>=1.26'"), ("red", "pip install 'h5py>=3.11'")]


def test_a_missing_extra_is_no_fault():
    lines = list(environment.package_lines(["umap-learn>=0.5; extra == 'umap'"], lambda name: None))
    assert [(line.subject, line.severity) for line in lines] == [
        ("packages", "green"), ("extra umap", "off")]
    assert lines[1].advice == install_command("umap")


def test_ncnn_is_an_extra_under_the_name_of_the_documentation():
    core, extras = environment.split(environment.requirements())
    assert "ncnn" not in {one.name for one in core}
    assert [name for name, extra in extras.items() if "ncnn" in {one.name for one in extra}] == [
        "fast"]


def test_the_real_packages_of_this_environment_are_as_needed():
    assert not [line for line in environment.package_lines() if line.severity == "red"]


def test_tensorflow_is_tried_in_the_profiles_python():
    programs = Programs(python9=said('noise\n["2.21.0", 2]\n'))
    line = environment.tensorflow_line(profile(python="/opt/python9"), programs)
    assert (line.severity, line.message) == ("green", "2.21.0 starts in /opt/python9, 2 GPUs here")
    broken = Programs(python9=Answer(1, "", "Traceback\nImportError: libcuda.so"))
    line = environment.tensorflow_line(profile(python="/opt/python9"), broken)
    assert line.severity == "red" and "ImportError: libcuda.so" in line.message


# ---- Slurm ----

def test_local_needs_no_slurm():
    programs = Programs()
    lines = list(slurm.slurm_lines(ClusterProfile(name="local"), programs))
    assert [(line.severity, line.message) for line in lines] == [
        ("off", "not needed for cluster local")]
    assert programs.asked == []


def test_slurm_that_does_not_answer_is_red():
    (line,) = slurm.slurm_lines(profile(), Programs())
    assert line.severity == "red" and "sbatch is missing" in line.message and line.advice


def test_slurm_with_everything_right():
    programs = Programs(
        sbatch=said("slurm-wlm 22.05.8\n"), sinfo=said(SINFO), squeue=said(""), sacct=said(""),
        sacctmgr=said("pr_42|normal,long\n"))
    lines = list(slurm.slurm_lines(profile(
        partition="cpu", account="pr_42", qos="long",
        steps={"train": {"partition": "gpu", "gpus": 2, "gpu_type": "a100", "mem": "200GB"}}),
        programs))
    assert states(lines) == {
        "Slurm": "yellow", "accounting": "green", "partition cpu": "green",
        "partition gpu": "green", "account": "green"}


def test_squeue_and_sacct_are_asked_as_status_asks_them():
    """With other words, a doctor says "sacct answers" where status never gets an answer."""
    programs = Programs(sbatch=said("slurm 24.11"), sinfo=said(SINFO),
                        squeue=Answer(1, "", "squeue: unrecognized option '--array'"),
                        sacct=Answer(1, "", "sacct: unrecognized option '--allocations'"))
    found = {line.subject: line for line in slurm.slurm_lines(profile(), programs)}
    assert found["queue"].severity == "red"
    assert "unrecognized option '--array'" in found["queue"].message
    assert found["accounting"].severity == "yellow"
    asked = {command[0]: command for command in programs.asked}
    assert asked["squeue"] == queue.squeue_command([getpass.getuser()])
    assert asked["sacct"] == queue.sacct_command(["1"])


def test_nodes_that_respond_are_counted():
    def programs(command):
        if "--responding" in command:
            return said("2\n1\n")
        return Programs(sbatch=said("slurm 24.11"), sinfo=said(SINFO), sacct=said(""))(command)

    line = next(iter(slurm.slurm_lines(profile(), programs)))
    assert line == Finding("Slurm", "green", "slurm 24.11, 3 partitions, 3 nodes in use or free")


@pytest.mark.parametrize(("clusters", "told", "message"), [
    (None, "sinfo: error: no controller", "sinfo: error: no controller"),
    ("c9", "sinfo: fatal: Could not get cluster information",  # Slurm 24.11
     "sinfo: fatal: Could not get cluster information (clusters: c9)"),
    ("c9", "sinfo: error: No cluster 'c9' known by database.",
     "sinfo: error: No cluster 'c9' known by database.")])
def test_a_cluster_that_slurm_does_not_know_is_named(clusters, told, message):
    programs = Programs(sbatch=said("slurm 24.11"), sinfo=Answer(1, "", told))
    [line] = slurm.slurm_lines(profile(clusters=clusters), programs)
    assert (line.severity, line.message) == ("red", f"does not respond: {message}")


def test_partitions_are_merged_and_read():
    found = partitions.parse_sinfo(SINFO)
    assert list(found) == ["cpu", "gpu", "old"]
    gpu = found["gpu"]
    assert (gpu.nodes, gpu.cpus, gpu.mem_mb, gpu.time_min) == (3, 48, 256000, 7 * 24 * 60)
    assert gpu.gres == "gpu:rtx8000:4,gpu:a100:2(S:0-1)"
    assert found["old"].time_min is None and not found["old"].up


@pytest.mark.parametrize(("values", "words"), [
    ({"partition": "gpus"}, "no such partition"),
    ({"partition": "old"}, "is down"),
    ({"partition": "cpu", "steps": {"train": {"gpus": 1}}}, "partition cpu has none"),
    ({"steps": {"train": {"partition": "gpu", "gpus": 1, "gpu_type": "h100"}}}, "type h100"),
    ({"partition": "cpu", "steps": {"train": {"time": "7d"}}}, "train requests 7 d"),
    ({"partition": "cpu", "steps": {"fit": {"mem": "500GB"}}}, "fit requests 500 GB"),
    ({"partition": "cpu", "steps": {"fit": {"cpus": 64}}}, "fit requests 64 cores"),
])
def test_partitions_that_do_not_fit_the_profile(values, words):
    lines = list(slurm.partition_lines(profile(**values), partitions.parse_sinfo(SINFO)))
    red = [line for line in lines if line.severity == "red"]
    assert len(red) == 1 and words in red[0].message and red[0].advice


def test_an_unknown_partition_names_the_nearest():
    (line,) = slurm.partition_lines(profile(partition="gpus"), partitions.parse_sinfo(SINFO))
    assert "did you mean 'gpu'?" in line.advice


def test_no_accounting_is_yellow_only():
    line = slurm.accounting_line(Programs(sacct=Answer(1, "", "accounting storage is disabled")))
    assert line.severity == "yellow" and "accounting storage is disabled" in line.message


@pytest.mark.parametrize(("answer", "state"), [
    (said("pr_42|normal\n"), "green"), (said("pr_43|normal\n"), "red"),
    (said("pr_42|long\n"), "red"), (said(""), "yellow"), (Answer(1, "", "no database"), "off")])
def test_account(answer, state):
    line = slurm.account_line(profile(account="pr_42", qos="normal"), Programs(sacctmgr=answer))
    assert line.severity == state


# ---- places ----

def test_workspace_writable_and_left_clean(tmp_path):
    config = config_in(tmp_path / "here")
    lines = list(storage.workspace_lines(config, Programs()))
    assert lines[0].severity in ("green", "yellow") and lines[1].severity == "off"
    assert lines[1].message == "not needed for cluster local"
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["cluster.yaml"]


def test_workspace_that_cannot_be_written():
    config = configuration.load(overrides={"paths.workspace": ("/proc/nothing", "--workspace")},
                                environ={})
    (line,) = storage.workspace_lines(config, Programs())
    assert line.severity == "red" and "/proc is not writable" in line.message


SLURM = "cluster: greene\nclusters: {greene: {partition: cpu, account: pr_42}}\n"


def test_a_node_looks_at_the_workspace(tmp_path):
    config = config_in(tmp_path, SLURM)

    def node(command):
        assert command[:2] == ["srun", "--immediate=10"] and "--partition=cpu" in command
        token = Path(command[-1])
        return said(token.read_text() + "n7\n")

    line = storage.shared_line(config, tmp_path, node)
    assert line.severity == "green" and line.message.startswith("node n7 can read it")


@pytest.mark.parametrize(("answer", "state"), [
    (Answer(1, "", "cat: /x: No such file or directory"), "red"),
    (Answer(1, "", "srun: error: Unable to allocate resources"), "yellow"),
    (Answer(None, "", "srun did not respond within 60 s"), "yellow")])
def test_a_node_that_does_not_see_the_workspace(tmp_path, answer, state):
    config = config_in(tmp_path, SLURM)
    line = storage.shared_line(config, tmp_path, Programs(srun=answer))
    assert line.severity == state and line.advice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml"]


@pytest.mark.parametrize(("setting", "state", "words"), [
    ("$DISK", "green", "GB free"), ("$DISK/none", "yellow", "none does not exist on node"),
    ("$UNSET_HERE", "yellow", "$UNSET_HERE is not set in a job"),
    ("/tmp/$EMPTY", "yellow", "$EMPTY is not set in a job"),
    ("/tmp/$UP", "yellow", "contains '..'")])
def test_a_node_looks_at_its_scratch(tmp_path, monkeypatch, setting, state, words):
    disk = tmp_path / "a $(touch here) disk"
    disk.mkdir()
    monkeypatch.setenv("DISK", str(disk))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("UP", "../tmp")
    monkeypatch.chdir(tmp_path)
    config = config_in(tmp_path, SLURM.replace("account: pr_42", f"scratch: {setting}"))

    def node(command):
        done = subprocess.run(command[command.index("sh"):], capture_output=True, text=True)
        # a site's prolog and epilog print, too
        return Answer(done.returncode, f"ok n1 99999999 /x\n{done.stdout}Goodbye\n", done.stderr)

    line = storage.scratch_line(config, node)
    assert line.severity == state and words in line.message and bool(line.advice) != (
        state == "green")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(("answer", "words"), [
    ("ok n1  /x", "/x of node n1: df does not say"), ("ok n1", "df does not say"),
    ("", "the check on a node printed nothing")])
def test_an_odd_answer_about_scratch(tmp_path, answer, words):
    config = config_in(tmp_path, SLURM.replace("account: pr_42", "scratch: $SLURM_TMPDIR"))

    def node(command):
        mark = command[command.index("sh", command.index("sh") + 1) + 1]
        return Answer(0, f"{mark} {answer}\n" if answer else "hello\n", "")

    line = storage.scratch_line(config, node)
    assert line.severity == "yellow" and words in line.message


def test_scratch_without_a_node_or_on_this_machine(tmp_path):
    config = config_in(tmp_path, SLURM.replace("account: pr_42", "scratch: $SLURM_TMPDIR"))
    line = storage.scratch_line(config, Programs(srun=Answer(1, "", "no node")))
    assert line.severity == "yellow" and "no node was free" in line.message
    assert storage.scratch_line(config, Programs(), probe=False).severity == "off"
    here = config_in(tmp_path / "here", f"clusters: {{local: {{scratch: {tmp_path}}}}}\n")
    assert storage.scratch_line(here, Programs()).severity == "green"
    here = config_in(tmp_path / "here", "clusters: {local: {scratch: /none/here}}\n")
    assert "does not exist" in storage.scratch_line(here, Programs()).message


def test_filesystem_is_that_of_the_longest_mount_point():
    mounts = ("overlay / overlay rw 0 0\nserver:/x /scratch nfs4 rw 0 0\n"
              "tmpfs /scratch/my\\040tmp tmpfs rw 0 0\n")
    assert storage.filesystem(Path("/scratch/you"), mounts) == "nfs4"
    assert storage.filesystem(Path("/scratch/my tmp/a"), mounts) == "tmpfs"
    assert storage.filesystem(Path("/scratchy"), mounts) == "overlay"


def test_audio_is_counted(tmp_path):
    for name in ("one/a_1500000000.wav", "two/b_1500000000.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"RIFF")
    line = storage.audio_line(tmp_path)
    assert (line.severity, line.message) == ("green", "2 recordings of 2 sensors, 0.00 GB")


def test_missing_places_are_red_and_unset_ones_are_not(tmp_path):
    assert storage.audio_line(None).severity == "off"
    assert storage.audio_line(tmp_path / "nowhere").severity == "red"
    assert storage.audio_line(tmp_path).severity == "red"
    assert storage.embeddings_line(None).severity == "off"
    assert storage.embeddings_line(tmp_path / "nowhere").severity == "red"
    assert storage.sonyc_line(None).severity == "off"


def test_untrained_weights_are_yellow(tmp_path):
    line = storage.weights_line(config_in(tmp_path, "paths: {weights: untrained}\n"))
    assert line.severity == "yellow" and "random weights" in line.message


def test_ready_embeddings_have_no_rate(tmp_path):
    np.savez(tmp_path / "a.npz", embedding=np.ones((1, 7)), timestamps=[0.0])
    line = storage.weights_line(config_in(tmp_path, f"paths: {{weights: {tmp_path}}}\n"))
    assert line.severity == "green"
    assert line.message == f"{tmp_path.name}: ready, windows of 1 s, 7 dimensions"


def test_weights_that_are_not_set_are_no_demonstration(tmp_path):
    """Without weights submit refuses; only 'untrained' draws random ones."""
    line = storage.weights_line(config_in(tmp_path))
    assert line.severity == "off" and "random" not in line.message
    assert "needed for submit upstream" in line.advice


def test_weights_that_are_not_there_are_red(tmp_path):
    line = storage.weights_line(config_in(tmp_path, "paths: {weights: nowhere.h5}\n"))
    assert line.severity == "red" and line.advice


# ---- the whole ----

def test_every_red_line_says_what_to_do():
    error = InputError("is broken", where="x.h5", allowed="a good one", hint="try again")
    line = from_error("weights", error)
    assert line == Finding("weights", "red", "x.h5: is broken", "a good one try again")
    assert from_error("weights", InputError("is broken")).advice


def test_examine_on_local_without_slurm(tmp_path):
    lines = list(examine(config_in(tmp_path), probe=False, ask=Programs(bash=said(""))))
    found = states(lines)
    assert found["Slurm"] == found["workspace is shared"] == "off"
    assert found["scripts"] == "green"
    assert not [line for line in lines if line.severity == "red"]
    assert all(json.dumps(vars(line)) for line in lines)


def test_examine_imports_no_tensorflow(tmp_path):
    code = ("import sys\nfrom l3hpc import doctor\nfrom l3hpc.config import settings\n"
            "list(doctor.examine(settings.load(environ={}), probe=False))\n"
            "print([m for m in ('tensorflow', 'pandas', 'sklearn') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_ask_never_raises():
    assert ask(["/nowhere/program"]).code is None
    assert ask([sys.executable, "-c", "import time; time.sleep(9)"], timeout=0.2).code is None
    answer = ask([sys.executable, "-c", "import sys; sys.exit('no')"])
    assert (answer.code, answer.reason) == (1, "no")


def test_what_a_program_has_started_ends_with_it(tmp_path):
    """A process in the background keeps the output open, and would be waited for."""
    started = tmp_path / "pid"
    for timeout in (1.0, 10.0, 100.0):  # bash may start slowly
        answer = ask(["bash", "-c", 'sleep 3600 & echo "$!" > "$0"; wait', str(started)], timeout)
        assert answer.code is None and f"did not respond within {timeout:g} s" in answer.err
        if started.is_file() and (pid := started.read_text().strip()):
            break
    end = time.monotonic() + 120
    while command_of(pid):  # a process that nobody has waited for yet has none
        assert time.monotonic() < end
        time.sleep(0.05)


def command_of(pid):
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# ---- scripts ----

def test_every_delivered_script_is_tried_once(tmp_path):
    seen = []

    def sbatch(command):
        assert command[:2] == ["sbatch", "--test-only"]
        seen.append(Path(command[2]).read_text())
        return Answer(0, "", "sbatch: Job 1 to start at 2026-11-20T12:00:00")

    (line,) = slurm.script_lines(config_in(tmp_path, SLURM), sbatch)
    assert line.severity == "green" and len(seen) == len(set(seen))
    kinds = {re.search(r"--job-name=l3-doctor-(\w+)", text)[1] for text in seen}
    # commands and functions are only in the pipelines that users write
    assert kinds == {name for name in steps.BUILT_IN if not steps.step(name).takes_any}
    assert all("--account=pr_42" in text for text in seen)


def refusing(*steps):
    def sbatch(command):
        text = Path(command[2]).read_text()
        refused = any(f"--job-name=l3-doctor-{step}\n" in text for step in steps)
        return Answer(1, "", "allocation failure: Invalid qos") if refused else said("")

    return sbatch


def test_a_pipeline_that_slurm_refuses_is_red_only_where_someone_asked_for_it(tmp_path):
    config = config_in(tmp_path, SLURM)
    lines = list(slurm.script_lines(config, refusing("avc_train", "avc_pairs")))
    assert [(line.severity, line.subject) for line in lines] == [
        ("yellow", "scripts"), ("yellow", "pipeline avc")]
    assert lines[1].message == "avc_pairs, avc_train: Invalid qos"
    assert "affects only l3hpc submit avc" in lines[1].advice
    lines = list(slurm.script_lines(config, refusing("avc_train"), ["avc", "upstream"]))
    assert [(line.severity, line.subject) for line in lines] == [
        ("yellow", "scripts"), ("red", "pipeline avc")]
    (line,) = slurm.script_lines(config, refusing("avc_train"), ["upstream"])
    assert line.severity == "green" and "1 pipelines" not in line.message
    with pytest.raises(InputError, match="no pipeline 'upstraem'"):
        next(examine(config, pipelines=["upstraem"]))


def test_a_cluster_that_refuses_every_pipeline_is_red(tmp_path):
    lines = list(slurm.script_lines(config_in(tmp_path, SLURM), refusing(*steps.BUILT_IN)))
    assert {line.severity for line in lines[1:]} == {"red"}
    assert len(lines) == 1 + len(sources.pipelines())


@pytest.mark.parametrize("pipelines", [(), ("upstream",)])
def test_without_a_controller_slurm_is_the_only_cross(tmp_path, pipelines):
    broken = Answer(1, "", "Unable to contact slurm controller")
    lines = list(examine(config_in(tmp_path, SLURM), probe=False, pipelines=pipelines,
                         ask=lambda command: broken if command[0] in ("sinfo", "sbatch", "squeue")
                         else said("")))
    red = [line.subject for line in lines
           if line.severity == "red" and line.subject.startswith(("Slurm", "scripts", "pipeline"))]
    assert red == ["Slurm"]
    [scripts] = [line for line in lines if line.subject == "scripts"]
    assert scripts.severity == "off" and "not checked" in scripts.message


def test_a_broken_pipeline_of_the_working_folder_is_red(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.yaml").write_text("steps:\n  trian:\n")
    config = config_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = list(slurm.script_lines(config, Programs(bash=said(""))))
    assert [line.subject for line in lines if line.severity == "red"] == ["pipeline mine"]
    assert "did you mean 'train'" in lines[-1].advice


# ---- results sheet ----

@pytest.mark.parametrize(("content", "mode", "words"), [
    (None, 0o600, "cannot read the key file"), ("{", 0o600, "not valid JSON"),
    ('{"type": "authorized_user"}', 0o600, "not a service account's key"),
    ('{"type": "service_account"}', 0o644, "can be read by others")])
def test_key_file_faults(tmp_path, content, mode, words):
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
        key.chmod(mode)
    text = f"ledger: {{sheet_id: abcdefgh, key_file: {key}}}\n"
    line = storage.results_line(config_in(tmp_path / "here", text), probe=False)
    assert line.severity == "red" and words in line.message and line.advice


def test_no_sheet_is_no_fault(tmp_path):
    assert storage.results_line(config_in(tmp_path)).severity == "off"


@pytest.mark.parametrize(("error", "state"), [
    (OfflineError("no answer"), "yellow"), (HeaderDriftError("AF1 changed"), "red"),
    (InputError("there is no spreadsheet with the id abcdefgh", hint="look again"), "red")])
def test_what_the_sheet_answers(tmp_path, monkeypatch, error, state):
    from l3hpc.ledger.sheets import client

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(client, "Sheets", refuse)
    line = storage.results_line(config_in(tmp_path, "ledger: {sheet_id: abcdefgh}\n"))
    assert line.severity == state and error.message in line.message and line.advice


def test_the_doctor_does_not_wait_long_for_google():
    wait = storage._LimitedSleep()
    wait(0.001)
    with pytest.raises(OfflineError):
        wait(storage.SHEET_TIMEOUT_S)
