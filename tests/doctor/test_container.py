"""The container of a profile, tried by the doctor. Most containers here are stand-ins: scripts that
run a command on this machine, and each says what it does otherwise than a container that works."""

import json
import shlex
import sys

import pytest

from l3hpc import __version__
from l3hpc.config import settings
from l3hpc.doctor import container, examine
from l3hpc.doctor.environment import Answer, ask
from l3hpc.findings import Finding

pytestmark = pytest.mark.slow

# TensorFlow takes seconds to start, and here it is not what is tested
NO_TENSORFLOW = "import sys; sys.modules['tensorflow'] = __import__('types').SimpleNamespace("  \
    "__version__='2.21.0', config=__import__('types').SimpleNamespace(" \
    "list_physical_devices=lambda kind: []))\n"


@pytest.fixture
def site(tmp_path):
    """Makes a configuration whose container is a stand-in: ``does`` is what it does in bash."""
    (tmp_path / "image.sif").write_text("stand-in for an image\n")
    (tmp_path / "python3").write_text(
        f"#!{sys.executable}\n# stand-in for the Python of an image, without TensorFlow\n"
        f"import sys\nargument = sys.argv.index('-c')\nsys.argv[:] = sys.argv[argument + 1:]\n"
        f"{NO_TENSORFLOW}exec(sys.argv[0])\n")
    (tmp_path / "python3").chmod(0o755)

    def make(does='exec "$@"', options="", executor="local", paths=None, **profile):
        program = tmp_path / "apptainer"
        program.write_text("#!/bin/bash\n# stand-in for apptainer: runs the command on this "
                           'machine\nwhile [[ "$1" != *.sif ]]; do shift; done\nshift\n' + does)
        program.chmod(0o755)
        entry = {"executor": executor, "container": f"{program} exec {options} "
                 f"{tmp_path}/image.sif", "python": str(tmp_path / "python3"), **profile}
        (tmp_path / "cluster.yaml").write_text(json.dumps({
            "cluster": "site", "paths": {"workspace": str(tmp_path / "work/space"),
                                         **(paths or {})},
            "clusters": {"site": entry}}))
        return settings.load(tmp_path / "cluster.yaml", environ={})

    return make


def found(config, asked=ask, probe=True):
    return list(container.container_lines(config, asked, probe))


def reds(lines):
    assert all(line.advice for line in lines if line.severity == "red")
    return [line.message for line in lines if line.severity == "red"]


def test_a_container_that_works(site, tmp_path):
    first, second = found(site())
    assert (first.subject, first.severity) == ("container", "green")
    assert first.message.startswith(f"starts here: Python 3.{sys.version_info[1]}.")
    assert f"l3hpc {__version__} in " in first.message
    assert second == Finding("TensorFlow", "green", "2.21.0 starts in the container here")
    assert not list(tmp_path.glob("**/.l3hpc-doctor*"))


def test_a_container_that_does_not_start(site):
    [line] = found(site('echo "FATAL: no setuid" >&2; exit 255'))
    assert line.severity == "red" and "does not start in it" in line.message
    assert line.message.endswith("on this machine: FATAL: no setuid")
    assert f"try it: {shlex.join(site().profile.container)}" in line.advice


def test_what_setup_lines_print_is_not_taken_for_the_trial(site):
    printed = ["echo l3hpc node", "echo l3hpc inside the job", "echo l3hpc setup failed"]
    [line] = found(site("exit 3", setup=printed))
    assert line.message.endswith("does not start in it on this machine: exit code 3")
    assert found(site(setup=printed))[0].severity == "green"


@pytest.mark.parametrize(("printed", "words"), [
    ("node n1", "the setup lines do not end on this machine: bash did not respond within 300 s"),
    ("setup", "python3 does not start in it on this machine: {} did not respond within 300 s")])
def test_what_does_not_respond_is_named(site, printed, words):
    config = site()

    def hanging(command, timeout):
        [token] = [word for word in command if "/.l3hpc-doctor-" in word]
        mark = token.rpartition("/.")[2]
        out = f"{mark} node n1\n" + (f"{mark} setup\n" if printed == "setup" else "")
        return Answer(None, out, "bash did not respond within 300 s")

    [line] = found(config, hanging)
    assert words.format(config.profile.container[0]) in line.message


def test_a_program_that_does_not_respond_has_printed_what_it_has_printed():
    for timeout in (0.5, 8.0, 120.0):  # a busy machine may start bash late
        answer = ask(["bash", "-c", "echo here; sleep 1000"], timeout=timeout)
        if answer.out:
            break
    assert (answer.code, answer.out) == (None, "here\n")
    assert answer.reason == f"bash did not respond within {timeout:g} s"


@pytest.mark.parametrize(("error", "reason"), [
    ("\x1b[33mWARNING: old\x1b[0m\nINFO   :   apptainer-suid, or compile\n"
     "\x1b[91mERROR  : Failed to create user namespace\n\x1b[0m",
     "ERROR  : Failed to create user namespace"),
    ("error: there is no command 'python3'\n       valid: cancel, compare\n",
     "error: there is no command 'python3'"),
    ("Traceback\nImportError: libcuda.so\nsrun: error: n1: task 0: Exited with exit code 1\n",
     "ImportError: libcuda.so"),
    ("srun: error: n1: task 0: Exited\n", "srun: error: n1: task 0: Exited"), ("", "exit code 9")])
def test_the_line_that_says_why(error, reason):
    assert container._reason(Answer(9, "l3hpc node n1", error)) == reason


def test_everything_that_would_make_jobs_fail_in_it_is_named(site, tmp_path):
    """Another Python, l3hpc and user, no variables, and neither workspace nor data inside."""
    old = "import os, sys; sys.version_info = (3, 9, 2); import l3hpc; l3hpc.__version__ = '0.0.9'"
    (tmp_path / "audio").mkdir()
    config = site(f'args=("$@"); args[2]="{old}\n${{args[2]}}"; args[3]=/proc/nowhere/token\n'
                  'args[4]=/proc/nowhere/audio; exec env -i "${args[@]}"',
                  paths={"audio": str(tmp_path / "audio")})
    lines = found(config)
    assert [(line.subject, line.severity) for line in lines] == [
        *[("container", "red")] * 5, ("TensorFlow", "green")]
    for line, message, advice in zip(lines, (
        "is Python 3.9.2, outside 3.10 to 3.13", "it has l3hpc 0.0.9", "cannot read and write",
        "the variables of the job do not reach it", "/proc/nowhere/audio does not exist inside"), (
        "clusters.site.python", f"build the image from l3hpc {__version__}",
        f"add --bind {tmp_path}:{tmp_path}, in clusters.site.container", "--cleanenv",
        "add --bind /proc/nowhere/audio:/proc/nowhere/audio"), strict=False):
        assert message in line.message and advice in line.advice, line


def test_without_l3hpc_and_under_another_user(site):
    lines = found(site('args=("$@"); args[2]="import os, sys; os.geteuid = lambda: 4242; '
                       "sys.modules['submitit'] = None\n${args[2]}\"; exec \"${args[@]}\""))
    assert ["l3hpc does not start in it" in reds(lines)[0],
            "belong to another user" in reds(lines)[1], len(reds(lines))] == [True, True, 2]
    assert f"install l3hpc {__version__} into the image" in lines[0].advice


def test_an_image_that_is_unpacked_for_every_job_is_named(site):
    lines = found(site('echo "INFO:    Converting SIF file to temporary sandbox..." >&2\n'
                       'exec "$@"'))
    assert [line.severity for line in lines] == ["green", "yellow", "green"]
    assert "squashfuse" in lines[1].message and "--sandbox" in lines[1].advice


def test_tensorflow_that_does_not_start_in_it(site):
    lines = found(site('args=("$@"); args[2]="import sys; sys.modules[\'tensorflow\'] = None\n'
                       '${args[2]}"; exec "${args[@]}"'))
    assert [(line.subject, line.severity) for line in lines] == [
        ("container", "green"), ("TensorFlow", "red")]
    assert "import of tensorflow halted" in lines[1].message


def test_program_image_and_setup_lines(site, tmp_path):
    assert reds(found(site(setup=["false"]))) == [
        "the setup lines fail on this machine: exit code 1"]
    assert reds(found(site(env={"GREETING": "it's here"}, setup=[
        '[ "$GREETING$UNSET" = "it\'s here" ]']))) == []
    assert reds(found(site(container="nowhere/apptainer exec x.sif"))) == [
        "nowhere/apptainer is not on this machine"]
    (tmp_path / "image.sif").unlink()
    for probe in (True, False):
        [red] = reds(found(site(), probe=probe))
        assert red == f"there is no image {tmp_path}/image.sif on this machine"


def test_without_a_trial_nothing_starts(site):
    [line] = found(site("touch started; exit 1"), asked=None, probe=False)
    assert line.severity == "green" and line.message.endswith("image.sif, not started (--quick)")


def test_what_this_machine_lacks_can_be_on_the_nodes(site):
    lines = found(site(container="nowhere/apptainer exec --nv x.sif", executor="slurm"),
                  probe=False)
    assert [(line.severity, line.message) for line in lines] == [
        ("yellow", "nowhere/apptainer is not on this machine")]


@pytest.mark.parametrize(("profile", "options", "missing"), [
    ({"executor": "slurm"}, "", True), ({"executor": "slurm"}, "--nv", False),
    ({"executor": "slurm", "gpu_request": "none"}, "", False),
    ({"executor": "slurm", "env": {"APPTAINER_NV": "1"}}, "", False), ({}, "", False)])
def test_gpus_that_stay_outside_are_named(site, profile, options, missing):
    lines = found(site(options=options, **profile), probe=False)
    assert [line.severity for line in lines if line.subject == "container GPUs"] == (
        ["yellow"] if missing else [])


def test_on_slurm_a_node_starts_it(site):
    asked = []

    def node(command, timeout):
        asked.append(command)
        rest = command[command.index("bash"):]
        answer = ask(["env", "SLURMD_NODENAME=n7", *rest], timeout=timeout)
        return Answer(answer.code, answer.out, f"{answer.err}\nsrun: error: n7: task 0: Exited")

    lines = found(site(executor="slurm", options="--nv", partition="cpu"), node)
    assert [line.severity for line in lines] == ["green", "green"]
    assert lines[0].message.startswith("starts on node n7: ")
    assert asked[0][:2] == ["srun", "--immediate=10"] and "--partition=cpu" in asked[0]
    assert "--mem=2048M" in asked[0] and "--time=6" in asked[0]
    [red] = reds(found(site('echo "FATAL: no image" >&2; exit 255', executor="slurm",
                            options="--nv"), node))
    assert "does not start in it on node n7: FATAL: no image" in red


def test_no_node_to_start_it_is_no_fault_of_the_container(site):
    lines = found(site(executor="slurm", options="--nv"), lambda command, timeout: Answer(
        1, "", "srun: Unable to allocate resources"))
    assert [(line.severity, line.message) for line in lines] == [
        ("yellow", "was not started: srun: Unable to allocate resources")]
    assert lines[0].advice.startswith("try it on a node: ")


@pytest.mark.parametrize(("words", "image"), [
    ("apptainer exec --nv /i/l3hpc.sif", "/i/l3hpc.sif"),
    ("apptainer exec --bind /a:/b /i/folder", "/i/folder"),
    ("apptainer exec --overlay o.img l3hpc.sif env A=1", "l3hpc.sif"),
    ("apptainer exec docker://python:3.12", ""), ("apptainer exec instance://one", ""),
    ("docker run --rm l3hpc", ""), ("/opt/in-container", "")])
def test_the_image_that_a_prefix_names(words, image):
    assert container.image_of(words.split()) == image


def test_the_doctor_tries_the_container_instead_of_tensorflow_here(site):
    config = site(does="exit 3")
    subjects = {}
    for line in examine(config, ask=lambda command, timeout=60.0: Answer(0, "", "")):
        subjects.setdefault(line.subject, line)
    assert subjects["container"].severity == "red" and "TensorFlow" not in subjects
