"""This machine: Python, the packages with their bounds, TensorFlow, cores and memory.

``ask`` runs other programs, with their output in English; it never raises.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from l3hpc import steps
from l3hpc.arrays.threads import allocated_cores
from l3hpc.config.profile import ClusterProfile, machine_memory_mb
from l3hpc.console.progress import doing
from l3hpc.findings import Finding, from_error
from l3hpc.installation import install_command
from l3hpc.schedulers.slurm.commands import slurm_environment

PYTHON_FROM, PYTHON_BELOW = (3, 10), (3, 14)
ALTERNATIVES = {"tensorflow": ("tensorflow-cpu", "tensorflow-macos", "tf-nightly")}
SHOWN_VERSIONS = ("numpy", "h5py", "tensorflow", "scikit-learn", "submitit")
# extras that the user may need; the machine cannot tell whether the others are needed
EXTRAS = {"umap": "needed for --approx umap only",
          "fast": "embeds faster on CPUs",
          "reduced": "needed for precision int8 only",
          "notify": "needed for notify: of a profile only"}
LEAST_MEMORY_MB = 6 * 1024
TIMEOUT_S = 60.0
GRACE_S = 5.0
_LATE = "did not respond within"
# without the working folder, whose modules would take the place of those of Python
_PROBE = ("import sys; sys.path[:] = filter(None, sys.path); "
          "import json, os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'; import tensorflow as tf; "
          "print(json.dumps([tf.__version__, len(tf.config.list_physical_devices('GPU'))]))")


@dataclass(frozen=True)
class Answer:
    """The output of a program.

    Attributes
    ----------
    code : int or None
        Exit code; None if it could not be started, or did not respond.
    out, err : str
        Standard output and standard error; of a program that did not respond, ``err`` says so.
    """

    code: int | None
    out: str
    err: str

    @property
    def is_late(self) -> bool:
        """Whether the program was ended at its time limit."""
        return self.code is None and _LATE in self.err

    @property
    def reason(self) -> str:
        """The last line of its error."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"


class Ask(Protocol):
    """Runs a program, as ``ask`` does."""

    def __call__(self, command: Sequence[str], timeout: float = TIMEOUT_S) -> Answer:
        """Return its output."""


def ask(command: Sequence[str], timeout: float = TIMEOUT_S) -> Answer:
    """Run a program with an English locale and no inherited Slurm options; never raises.

    Parameters
    ----------
    command
        The command and its arguments.
    timeout
        Time limit, seconds.
    """
    try:
        with doing(f"waiting for {Path(command[0]).name}", alone=True), subprocess.Popen(
                list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                errors="replace", stdin=subprocess.DEVNULL, start_new_session=True,
                # the replies are parsed, so they have to be English
                env={**slurm_environment(), "LC_ALL": "C"}) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                _end(process)
                raise
    except FileNotFoundError:
        return Answer(None, "", f"{command[0]} is not installed here")
    except OSError as error:
        return Answer(None, "", f"{command[0]} cannot be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, _printed(process), f"{command[0]} {_LATE} {timeout:g} s")
    return Answer(process.returncode, out, err)


def _printed(process: subprocess.Popen[str]) -> str:
    """What a program that has been ended printed before: how far it came."""
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
        return process.communicate(timeout=GRACE_S)[0] or ""
    return ""  # something that has left the group of processes keeps its output open


def _end(process: subprocess.Popen[str]) -> None:
    """End a program and what it has started, which would keep its output open."""
    # srun, podman and others end on TERM what they have started elsewhere
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def python_line(version: tuple[int, ...] | None = None) -> Finding:
    """Check the interpreter that runs this command.

    Parameters
    ----------
    version
        Its version; None: that of this process.
    """
    found = tuple(version or sys.version_info[:3])
    words = f"{'.'.join(map(str, found))} ({sys.executable})"
    if PYTHON_FROM <= found[:2] < PYTHON_BELOW:
        return Finding("Python", "green", words)
    return Finding("Python", "red", f"{words} is outside 3.10 to 3.13",
                   "install l3hpc into an environment with Python 3.10 to 3.13")


def meets(version: str, bounds: SpecifierSet | str) -> bool:
    """Whether a version is within all bounds.

    Parameters
    ----------
    version
        As the package states it; a pre-release counts, because somebody chose to install it.
    bounds
        ``>=1.26,<3``, ``~=2.1``; empty: any version.

    Examples
    --------
    >>> meets("2.4.1", "~=2.1"), meets("3.0", "~=2.1")
    (True, False)
    """
    try:
        return SpecifierSet(str(bounds)).contains(version, prereleases=True)
    except InvalidVersion:  # not a version that any bound could be compared with
        return False


def requirements() -> list[str]:
    """Return the requirements of the installed l3hpc."""
    return importlib.metadata.requires("l3hpc") or []


def installed(name: str) -> str | None:
    """Return the installed version of a package, or of one that replaces it.

    Parameters
    ----------
    name
        Name of the package.

    Returns
    -------
    str or None
        None if it is not installed.
    """
    for candidate in (name, *ALTERNATIVES.get(name, ())):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def package_lines(
    needed: Iterable[str] | None = None, version: Callable[[str], str | None] = installed
) -> Iterator[Finding]:
    """Check the packages.

    Parameters
    ----------
    needed
        Requirements as in the metadata of a package; None: those of the installed l3hpc.
    version
        Returns the installed version of a package, or None.

    Yields
    ------
    Finding
        One if all is right, and one more for each package that is missing or out of bounds.
    """
    core, extras = split(needed if needed is not None else requirements())
    good: dict[str, str] = {}
    bad = []
    for package in core:
        have = version(package.name)
        if have is not None and meets(have, package.specifier):
            good[package.name] = have
            continue
        wrong = (f"{package.name} {have} does not satisfy {package.specifier}" if have else
                 f"{package.name} is not installed (needs {package.specifier or 'any'})")
        bad.append(Finding("packages", "red", wrong,
                           f"pip install '{package.name}{package.specifier}'"))
    shown = ", ".join(f"{name} {have}" for name, have in good.items() if name in SHOWN_VERSIONS)
    yield Finding("packages", "green" if not bad else "yellow",
                  f"{len(good)} of {len(core)} as needed" + (f", {shown}" if shown else ""),
                  "" if not bad else "see the red lines below")
    yield from bad
    for extra, packages in extras.items():
        missing = [f"{package.name}{package.specifier}" for package in packages
                   if not (have := version(package.name)) or not meets(have, package.specifier)]
        if missing:
            yield Finding(f"extra {extra}", "off", f"{', '.join(missing)} not installed; "
                          f"{EXTRAS[extra]}", install_command(extra))
        else:
            yield Finding(f"extra {extra}", "green",
                          ", ".join(package.name for package in packages))


def split(needed: Iterable[str]) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Select the requirements that apply to this machine.

    Parameters
    ----------
    needed
        Requirements as in the metadata of a package.

    Returns
    -------
    tuple
        Those of the core, and those of each of ``EXTRAS``.
    """
    core: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for package in map(Requirement, needed):
        if package.marker is None or package.marker.evaluate({"extra": ""}):
            core.append(package)
            continue
        for extra in EXTRAS:
            if package.marker.evaluate({"extra": extra}):
                extras.setdefault(extra, []).append(package)
    return core, extras


def tensorflow_line(profile: ClusterProfile, ask: Ask) -> Finding:
    """Check that TensorFlow starts in the Python of the jobs.

    Parameters
    ----------
    profile
        The cluster profile.
    ask
        Runs a program.
    """
    python = profile.python
    with doing("starting TensorFlow"):
        answer = ask([python, "-c", _PROBE])
    if answer.is_late:
        return Finding("TensorFlow", "yellow", f"{python} did not start it within {TIMEOUT_S:g} s",
                       "on a network file system the first start may take minutes: repeat the "
                       "command; jobs start faster from a container, which is one file")
    if answer.code != 0:
        return Finding("TensorFlow", "red", f"does not start in {python}: {answer.reason}",
                       f"test it: {shlex.quote(python)} -c 'import tensorflow'; "
                       "then pip install --force-reinstall tensorflow")
    version, gpus = json.loads(answer.out.strip().splitlines()[-1])
    words = f"{version} starts in {python}, {gpus or 'no'} GPU{'s' if gpus > 1 else ''} here"
    return Finding("TensorFlow", "green", words)


def step_lines() -> Iterator[Finding]:
    """Check the steps of other packages; yields nothing if there are none."""
    found, problems = steps.foreign(), steps.problems()
    if found:
        yield Finding("steps of packages", "yellow" if problems else "green",
                      ", ".join(f"{name} ({package})" for name, package in sorted(found.items())),
                      "see the red lines below" if problems else "")
    for problem in problems:
        yield from_error("steps of packages", problem, "repair or uninstall the package")


def hardware_line() -> Finding:
    """Check the cores and memory of this machine."""
    memory = machine_memory_mb()
    words = f"{allocated_cores()} cores, {memory / 1024:.1f} GB of memory"
    if memory < LEAST_MEMORY_MB:
        return Finding("machine", "yellow", f"{words}; the pipelines need up to 6 GB",
                       "run the steps on a larger machine, or with smaller batches "
                       "(--set extract.batch_size=4)")
    return Finding("machine", "green", words)
