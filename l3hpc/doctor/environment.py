"""This machine: Python, the packages with their bounds, TensorFlow, cores and memory."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator

from l3hpc.arrays.cores import allocated_cores
from l3hpc.config.profile import ClusterProfile, machine_memory_mb
from l3hpc.doctor.finding import Ask, Line
from l3hpc.installation import install_command

PYTHON_FROM, PYTHON_BELOW = (3, 10), (3, 14)
TWINS = {"tensorflow": ("tensorflow-cpu", "tensorflow-macos", "tf-nightly")}
TOLD = ("numpy", "h5py", "tensorflow", "scikit-learn", "submitit")
EXTRAS = {"umap": "needed for --approx umap only", "edge": "needed for edge exports only",
          "reduced": "needed for precision int8 only",
          "gpu": "needed on machines with an NVIDIA GPU only"}
LEAST_MEMORY_MB = 6 * 1024
_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?P<bounds>[^;]*)"
                          r"(?:;\s*(?P<marker>.*))?")
_BOUND = re.compile(r"(>=|>|<=|<|==|!=|~=)\s*([0-9][^,\s]*)")
_PROBE = ("import json, os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'; import tensorflow as tf; "
          "print(json.dumps([tf.__version__, len(tf.config.list_physical_devices('GPU'))]))")


def python_line(version: tuple[int, ...] | None = None) -> Line:
    """The interpreter that runs this command."""
    found = tuple(version or sys.version_info[:3])
    words = f"{'.'.join(map(str, found))} ({sys.executable})"
    if PYTHON_FROM <= found[:2] < PYTHON_BELOW:
        return Line("Python", "green", words)
    return Line("Python", "red", f"{words} is outside 3.10 to 3.13",
                "install l3hpc into an environment with Python 3.10 to 3.13")


def release(version: str) -> tuple[int, ...]:
    """``2.21.0rc1`` → (2, 21, 0); trailing zeros do not count in ``meets``."""
    match = re.match(r"\d+(?:\.\d+)*", version.strip().lstrip("v"))
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def meets(version: str, bounds: str) -> bool:
    """Whether a version keeps all bounds (``>=1.26, <3``)."""
    def compare(bound: str) -> int:
        left, right = release(version), release(bound)
        size = max(len(left), len(right))
        a, b = (side + (0,) * (size - len(side)) for side in (left, right))
        return (a > b) - (a < b)

    rules: dict[str, Callable[[int], bool]] = {
        ">=": lambda order: order >= 0, ">": lambda order: order > 0,
        "<=": lambda order: order <= 0, "<": lambda order: order < 0,
        "==": lambda order: order == 0, "!=": lambda order: order != 0,
        "~=": lambda order: order >= 0,
    }
    return all(rules[sign](compare(bound)) for sign, bound in _BOUND.findall(bounds))


def requirements() -> list[str]:
    """What the installed l3hpc says it needs."""
    return importlib.metadata.requires("l3hpc") or []


def installed(name: str) -> str | None:
    """The installed version of a package (or of a package that stands in for it)."""
    for candidate in (name, *TWINS.get(name, ())):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def package_lines(
    needed: Iterable[str] | None = None, version: Callable[[str], str | None] = installed
) -> Iterator[Line]:
    """One line when all is right, one more for each package that is missing or too old."""
    core, extras = split(needed if needed is not None else requirements())
    good: dict[str, str] = {}
    bad = []
    for name, bounds in core:
        have = version(name)
        if have is None:
            bad.append(Line("packages", "red", f"{name} is not installed (needs {bounds or 'any'})",
                            f"pip install '{name}{bounds}'"))
        elif not meets(have, bounds):
            bad.append(Line("packages", "red", f"{name} {have} does not keep {bounds}",
                            f"pip install '{name}{bounds}'"))
        else:
            good[name] = have
    told = ", ".join(f"{name} {have}" for name, have in good.items() if name in TOLD)
    yield Line("packages", "green" if not bad else "yellow",
               f"{len(good)} of {len(core)} as needed" + (f", {told}" if told else ""),
               "" if not bad else "see the red lines below")
    yield from bad
    for extra, packages in extras.items():
        if extra not in EXTRAS or extra == "gpu":
            continue
        missing = [f"{name}{bounds}" for name, bounds in packages
                   if not (have := version(name)) or not meets(have, bounds)]
        if missing:
            yield Line(f"extra {extra}", "off", f"{', '.join(missing)} not installed; "
                       f"{EXTRAS[extra]}", install_command(extra))
        else:
            yield Line(f"extra {extra}", "green", ", ".join(name for name, _ in packages))


def split(
    needed: Iterable[str]
) -> tuple[list[tuple[str, str]], dict[str, list[tuple[str, str]]]]:
    """Requirements as (name, bounds): those of the core, and those of each extra."""
    core: list[tuple[str, str]] = []
    extras: dict[str, list[tuple[str, str]]] = {}
    for text in needed:
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            continue
        entry = (match["name"], match["bounds"].strip())
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", match["marker"] or "")
        if extra:
            extras.setdefault(extra[1], []).append(entry)
        else:
            core.append(entry)
    return core, extras


def tensorflow_line(profile: ClusterProfile, ask: Ask) -> Line:
    """TensorFlow really starts in the Python that jobs use (for a container: in this one)."""
    python = sys.executable if profile.container else profile.python
    answer = ask([python, "-c", _PROBE])
    if answer.code != 0:
        return Line("TensorFlow", "red", f"does not start in {python}: {answer.reason}",
                    f"try it: {shlex.quote(python)} -c 'import tensorflow'; "
                    "then pip install --force-reinstall tensorflow")
    version, gpus = json.loads(answer.out.strip().splitlines()[-1])
    words = f"{version} starts in {python}, {gpus or 'no'} GPU{'s' if gpus > 1 else ''} here"
    if profile.container:
        words += "; the container's own was not tried"
    return Line("TensorFlow", "green", words)


def hardware_line() -> Line:
    """Cores and memory of this machine."""
    memory = machine_memory_mb()
    words = f"{allocated_cores()} cores, {memory / 1024:.1f} GB of memory"
    if memory < LEAST_MEMORY_MB:
        return Line("machine", "yellow", f"{words}; the chain needs up to 6 GB",
                    "run the steps on a larger machine, or with smaller batches "
                    "(--set extract.batch_size=4)")
    return Line("machine", "green", words)
