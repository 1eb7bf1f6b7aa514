"""The checks of Python, packages and Slurm, with programs that say what the test wants."""

import getpass

import pytest
from asked import SINFO, Programs, profile, said, states

from l3hpc.config.profile import ClusterProfile
from l3hpc.doctor import environment, slurm
from l3hpc.doctor.environment import Answer
from l3hpc.findings import Finding
from l3hpc.installation import install_command
from l3hpc.schedulers.slurm import partitions, queue

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


@pytest.mark.parametrize(("have", "state"), [("3.1", "green"), ("2.9", "off"), (None, "off")])
def test_an_extra_is_there_if_all_its_packages_are_new_enough(have, state):
    needed = ['umap-learn>=3; extra == "umap"']
    lines = {line.subject: line for line in environment.package_lines(needed, lambda name: have)}
    assert lines["extra umap"].severity == state
    assert bool(lines["extra umap"].advice) == (state == "off")
    assert lines["packages"].severity == "green"


def test_a_missing_package_makes_the_summary_yellow():
    lines = list(environment.package_lines(["numpy>=1.26"], lambda name: None))
    assert [line.severity for line in lines] == ["yellow", "red"]
    assert lines[0].message == "0 of 1 as needed" and lines[0].advice


@pytest.mark.parametrize(("mb", "state"), [(environment.LEAST_MEMORY_MB - 1, "yellow"),
                                           (environment.LEAST_MEMORY_MB, "green")])
def test_a_machine_with_little_memory_is_yellow(monkeypatch, mb, state):
    monkeypatch.setattr(environment, "machine_memory_mb", lambda: mb)
    line = environment.hardware_line()
    assert (line.severity, bool(line.advice)) == (state, state == "yellow")


def test_only_a_program_that_was_ended_was_late():
    late = environment.ask(["sleep", "600"], timeout=0.1)
    assert late.is_late and late.code is None
    assert not environment.Answer(1, "", late.err).is_late
    assert not environment.ask(["l3hpc-no-such-program"]).is_late


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


def test_a_tensorflow_that_starts_slowly_is_not_said_to_be_broken():
    """Its 2 GB on a network file system, read for the first time."""
    late = environment.ask(["sleep", "60"], timeout=0.1)
    line = environment.tensorflow_line(profile(python="/opt/python9"), Programs(python9=late))
    assert (line.severity, line.message) == (
        "yellow", "/opt/python9 did not start it within 60 s")
    assert "reinstall" not in line.advice and "repeat" in line.advice
    absent = environment.ask(["/opt/python9"])
    line = environment.tensorflow_line(profile(python="/opt/python9"), Programs(python9=absent))
    assert line.severity == "red" and "is not installed here" in line.message


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
