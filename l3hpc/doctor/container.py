"""The container of a profile: jobs must start in it, see the workspace, and get their variables.

There is one trial, made where the jobs run: on a node of the cluster, after the setup lines of the
profile, or on this machine for a profile that is ``local``. A script of bash starts the container,
and a few lines of Python in it print what they see.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from l3hpc._version import __version__
from l3hpc.config.profile import ClusterProfile
from l3hpc.config.settings import Config
from l3hpc.console.progress import doing
from l3hpc.doctor.environment import PYTHON_BELOW, PYTHON_FROM, Answer, Ask
from l3hpc.doctor.storage import nearest_folder, srun
from l3hpc.findings import Finding, Severity
from l3hpc.io.files import write_text
from l3hpc.workspace import sharing

SUBJECT = "container"
APPTAINER = ("apptainer", "singularity")
IMAGE_FILES = (".sif", ".simg", ".img", ".sqsh")
BIND = {"apptainer": "--bind", "singularity": "--bind", "docker": "--volume", "podman": "--volume"}
GPU_OPTIONS = ("--nv", "--nvccli", "--rocm")
GPU_VARIABLES = ("APPTAINER_NV", "APPTAINER_NVCCLI", "APPTAINER_ROCM", "SINGULARITY_NV",
                 "SINGULARITY_NVCCLI", "SINGULARITY_ROCM")
# an image that nobody has started yet is read from a shared disk, and TensorFlow in it
TIMEOUT_S = 300.0
MINUTES = 6
MEMORY_MB = 2048
# Each line says how far the trial came. Setup lines and programs can print anything beside it, so
# these lines begin with a word that is drawn for each trial.
_SCRIPT = """\
set -euo pipefail
printf '\\n{mark} node %s\\n' "${SLURMD_NODENAME:-$HOSTNAME}"
{exports}
set +u
{setup}
printf '\\n{mark} setup\\n'
image="$1"; shift
if ! command -v "$1" > /dev/null; then printf '{mark} program\\n'; exit 1; fi
if [ -n "$image" ] && [ ! -e "$image" ]; then printf '{mark} missing\\n'; exit 1; fi
if [ -n "$image" ] && [ ! -r "$image" ]; then printf '{mark} unreadable\\n'; exit 1; fi
export L3HPC_DOCTOR=1
exec "$@"
"""
# the working folder is left out, whose modules would take the place of those of Python
_INSIDE = """\
import sys; sys.path[:] = filter(None, sys.path)
import json, os
token, *places = sys.argv[1:]
seen = dict(python=list(sys.version_info[:3]), version='', folder='', error='', workspace='',
            owner=True, variables=os.environ.get('L3HPC_DOCTOR') == '1',
            unseen=[place for place in places if not os.path.exists(place)])
try:
    import l3hpc.worker.job_entry, submitit
    seen.update(version=l3hpc.__version__, folder=os.path.dirname(l3hpc.__file__))
except Exception as error:
    seen.update(error=f'{type(error).__name__}: {error}')
try:
    open(token).close()
    seen.update(owner=os.stat(token).st_uid == os.geteuid())
    open(token + '-inside', 'w').close()
except OSError as error:
    seen.update(workspace=error.strerror)
print('\\n{mark} inside ' + json.dumps(seen), flush=True)
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import tensorflow
print('\\n{mark} tensorflow ' + json.dumps([tensorflow.__version__,
      len(tensorflow.config.list_physical_devices('GPU'))]), flush=True)
"""


class Seen(TypedDict):
    """What Python sees in the container.

    Attributes
    ----------
    python : list of int
        Its version.
    version, folder : str
        Of l3hpc; '' if it cannot be imported.
    error : str
        Why it cannot.
    workspace : str
        Why no file can be read or written in the workspace; '' if it can.
    owner : bool
        Whether a file of this user belongs to the user of the process.
    variables : bool
        Whether a variable of the script reaches the process.
    unseen : list of str
        Which paths of the configuration do not exist.
    """

    python: list[int]
    version: str
    folder: str
    error: str
    workspace: str
    owner: bool
    variables: bool
    unseen: list[str]


def container_lines(config: Config, ask: Ask, probe: bool = True) -> Iterator[Finding]:
    """Check that the jobs of the profile can run in its container.

    Parameters
    ----------
    config
        The configuration; its profile has a container.
    ask
        Runs a program.
    probe
        Whether to start it; otherwise only program and image are looked for, on this machine.

    Yields
    ------
    Finding
        One if all is right, or one for each thing that is wrong; and one about TensorFlow.
    """
    profile = config.profile
    if probe:
        yield from _trial_lines(config, ask)
    else:
        yield _here_line(profile)
    if line := _gpu_line(profile, os.environ):
        yield line


def image_of(words: Sequence[str]) -> str:
    """Return the image file (or folder) that a container prefix names.

    Parameters
    ----------
    words
        The prefix.

    Returns
    -------
    str
        '' if it names none: images of Docker, and of registries, are no files.

    Examples
    --------
    >>> image_of(["apptainer", "exec", "--overlay", "a.img", "l3hpc.sif"])
    'l3hpc.sif'
    >>> image_of(["podman", "run", "--rm", "l3hpc"])
    ''
    """
    for word in reversed(words):
        if word.endswith(IMAGE_FILES) and not word.startswith("-") and "://" not in word:
            return word
    runs_folder = any(Path(word).name in APPTAINER for word in words) and len(words) > 2
    last = words[-1]
    return last if runs_folder and not last.startswith("-") and "://" not in last else ""


def _here_line(profile: ClusterProfile) -> Finding:
    """Look for program and image on this machine. Nodes can have what it has not."""
    severity: Severity = "yellow" if profile.capabilities.remote else "red"
    program, image = profile.container[0], image_of(profile.container)
    key = f"clusters.{profile.name}.container"
    # setup lines may load the module that has the program
    if not profile.setup and not shutil.which(program):
        return Finding(SUBJECT, severity, f"{program} is not on this machine", _no_program(profile))
    if image and not os.path.exists(image):
        return Finding(SUBJECT, severity, f"there is no image {image} on this machine",
                       f"build it (docs/containers.md), or correct {key}")
    if image and not os.access(image, os.R_OK):
        return Finding(SUBJECT, severity, f"{image} is not readable",
                       f"chmod a+r {shlex.quote(image)}, or correct {key}")
    return Finding(SUBJECT, "green", f"{image or shlex.join(profile.container)}, not started "
                   "(--quick)")


def _trial_lines(config: Config, ask: Ask) -> Iterator[Finding]:
    try:
        with _token(config.workspace) as token, doing("starting the container"):
            answer = ask(_command(config, token), timeout=TIMEOUT_S)
    except OSError as error:
        yield Finding(SUBJECT, "off", f"not started, because {config.workspace} is not writable: "
                      f"{error.strerror}")
        return
    steps = {words[0]: words[1:] for line in answer.out.splitlines()
             if line.startswith(f"{_mark(token)} ") and (words := line.split(" ", 2)[1:])}
    if "inside" not in steps:
        yield _not_started(config.profile, answer, steps)
        return
    seen: Seen = json.loads(steps["inside"][0])
    place = f"on node {steps['node'][0]}" if config.profile.capabilities.remote else "here"
    faults = list(_faults(config, seen))
    if not faults:
        python = ".".join(map(str, seen["python"]))
        yield Finding(SUBJECT, "green", f"starts {place}: Python {python}, l3hpc {seen['version']} "
                      f"in {seen['folder']}; it can write into the workspace")
    yield from faults
    # Apptainer says so in its messages, and every job would wait for it
    if "to temporary sandbox" in answer.err:
        yield Finding("container image", "yellow", f"it is unpacked again at every start {place}, "
                      "which takes minutes: squashfuse is not installed there",
                      "unpack it once: apptainer build --sandbox FOLDER IMAGE, and name the folder "
                      f"in clusters.{config.profile.name}.container")
    if "tensorflow" in steps:
        version, gpus = json.loads(steps["tensorflow"][0])
        count = f", {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
        yield Finding("TensorFlow", "green", f"{version} starts in the container {place}{count}")
    else:
        yield Finding("TensorFlow", "red", f"does not start in the container: {_reason(answer)}",
                      f"try it: {_try(config.profile, '-c', 'import tensorflow')}")


@contextmanager
def _token(workspace: Path) -> Iterator[Path]:
    """A new file where submissions write, or in the nearest folder above it that exists."""
    folder = nearest_folder(sharing.written_folders(workspace)[0])
    token = folder / f".l3hpc-doctor-{uuid.uuid4().hex[:8]}"
    write_text(token, "ok\n")
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)
        token.with_name(f"{token.name}-inside").unlink(missing_ok=True)


def _mark(token: Path) -> str:
    """The first word of the lines of the trial with this token."""
    return token.name.removeprefix(".")


def _command(config: Config, token: Path) -> list[str]:
    """The trial, as one command."""
    profile = config.profile
    exports = "\n".join(f"export {name}={shlex.quote(value)}"
                        for name, value in profile.env.items())
    script = _SCRIPT.replace("{mark}", _mark(token)).replace("{exports}", exports).replace(
        "{setup}", "\n".join(profile.setup))
    start = srun(config, MEMORY_MB, MINUTES) if profile.capabilities.remote else []
    return [*start, "bash", "-c", script, "bash", image_of(profile.container), *profile.container,
            profile.python, "-c", _INSIDE.replace("{mark}", _mark(token)), str(token),
            *_places(config)]


def _places(config: Config) -> list[str]:
    """The paths of the configuration that exist on this machine, other than the workspace."""
    paths = (getattr(config.paths, name) for name in
             ("audio", "embeddings", "sonyc_ust", "us8k", "esc50", "weights"))
    # weights can be a name, such as untrained
    return [str(path) for path in paths if path is not None and os.path.exists(path)]


def _not_started(profile: ClusterProfile, answer: Answer, steps: Mapping[str, Sequence[str]]
                 ) -> Finding:
    """Why there is no word from inside."""
    key = f"clusters.{profile.name}"
    image, program = image_of(profile.container), profile.container[0]
    if "node" not in steps:
        # srun has found no node, or no time was left: nothing is known about the container
        severity: Severity = "yellow" if profile.capabilities.remote else "red"
        return Finding(SUBJECT, severity, f"was not started: {_reason(answer)}",
                       f"try it on a node: {_try(profile, '--version')}"
                       if profile.capabilities.remote else f"try it: {_try(profile, '--version')}")
    node = f"node {steps['node'][0]}" if profile.capabilities.remote else "this machine"
    if "setup" not in steps:
        verb = "fail" if answer.code is not None else "do not end"
        return Finding(SUBJECT, "red", f"the setup lines {verb} on {node}: {_reason(answer)}",
                       f"correct {key}.setup")
    if "program" in steps:
        return Finding(SUBJECT, "red", f"{program} is not on {node}", _no_program(profile))
    if "missing" in steps:
        return Finding(SUBJECT, "red", f"there is no image {image} on {node}",
                       f"build it (docs/containers.md), copy it to a folder that the nodes share, "
                       f"or correct {key}.container")
    if "unreadable" in steps:
        return Finding(SUBJECT, "red", f"{image} is not readable on {node}",
                       f"chmod a+r {shlex.quote(image)}, or correct {key}.container")
    # a runtime that does not respond was started by bash, or by srun
    reason = _reason(answer) if answer.code is not None else (
        f"{program} did not respond within {TIMEOUT_S:g} s")
    return Finding(SUBJECT, "red", f"{profile.python} does not start in it on {node}: "
                   f"{reason}", f"try it: {_try(profile, '--version')}; correct "
                   f"{key}.container, or name the Python of the image in {key}.python")


def _faults(config: Config, seen: Seen) -> Iterator[Finding]:
    """What would make jobs fail although the container starts."""
    profile, ours = config.profile, __version__
    key = f"clusters.{profile.name}.container"
    version = ".".join(map(str, seen["python"]))
    if not PYTHON_FROM <= tuple(seen["python"][:2]) < PYTHON_BELOW:
        yield Finding(SUBJECT, "red",
                      f"{profile.python} in it is Python {version}, outside 3.10 to 3.13",
                      f"name another Python of the image: clusters.{profile.name}.python")
    if seen["error"]:
        yield Finding(SUBJECT, "red", f"l3hpc does not start in it: {seen['error']}",
                      f"install l3hpc {ours} into the image (docs/containers.md), or name the "
                      f"Python that has it: clusters.{profile.name}.python")
    elif seen["version"] != ours:
        yield Finding(SUBJECT, "red", f"it has l3hpc {seen['version']} (in {seen['folder']}), and "
                      f"{ours} would submit the jobs",
                      f"build the image from l3hpc {ours}, or install l3hpc {seen['version']} here")
    folder = nearest_folder(config.workspace)
    if seen["workspace"]:
        yield Finding(SUBJECT, "red", f"it cannot read and write {folder}: {seen['workspace']}",
                      f"{_bind(profile, folder)}, in {key}")
    elif not seen["owner"]:
        yield Finding(SUBJECT, "red", "files of yours belong to another user inside, and a job "
                      "runs only files of its own user",
                      f"start the container as yourself (docker: --user $(id -u):$(id -g)), in "
                      f"{key}")
    if not seen["variables"]:
        yield Finding(SUBJECT, "red", "the variables of the job do not reach it: SLURM_JOB_ID, "
                      "SUBMITIT_EXECUTOR and others",
                      f"remove --cleanenv and --containall from {key}, or have it pass the "
                      "environment (docs/containers.md)")
    for place in seen["unseen"]:
        yield Finding(SUBJECT, "red", f"{place} does not exist inside",
                      f"{_bind(profile, Path(place))}, in {key}")


def _gpu_line(profile: ClusterProfile, environment: Mapping[str, str]) -> Finding | None:
    """GPUs that are requested and not passed on stay idle, and nothing else shows it."""
    words = [Path(word).name for word in profile.container]
    passed = any(word in GPU_OPTIONS for word in words) or any(
        name in profile.env or name in environment for name in GPU_VARIABLES)
    if profile.gpu_request == "none" or passed or not set(words) & set(APPTAINER):
        return None
    return Finding("container GPUs", "yellow", "the profile requests GPUs, but the container is "
                   "started without --nv, so that no step can use them",
                   f"add --nv (NVIDIA) or --rocm (AMD) to clusters.{profile.name}.container, or "
                   "set gpu_request: none")


def _no_program(profile: ClusterProfile) -> str:
    return (f"load it in clusters.{profile.name}.setup (module load {profile.container[0]}), or "
            f"correct clusters.{profile.name}.container")


def _bind(profile: ClusterProfile, folder: Path) -> str:
    option = next((BIND[name] for word in profile.container if (name := Path(word).name) in BIND),
                  None)
    path = shlex.quote(str(folder))
    return f"add {option} {path}:{path}" if option else f"make {path} visible inside"


def _try(profile: ClusterProfile, *arguments: str) -> str:
    return shlex.join([*profile.container, profile.python, *arguments])


def _reason(answer: Answer) -> str:
    """The line that says what failed: an error, or else the last one. srun's own say only that a
    task has failed.
    """
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "\n", answer.err).splitlines()
             if line.strip() and "srun: error:" not in line and "slurmstepd" not in line]
    errors = [line for line in lines if re.match(r"(FATAL|ERROR|error)\s*:", line)]
    return (errors or lines or [Answer(answer.code, "", answer.err).reason])[-1]
