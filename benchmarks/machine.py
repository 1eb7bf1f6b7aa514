"""What every table of a benchmark says of the machine, and how the tables are printed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "h5py")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, Python and package versions."""
    processor = platform.processor()
    with open("/proc/cpuinfo") as stream:
        names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    if names:
        processor = names[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory, 1), "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table under its title, with one line about the machine."""
    about = machine()
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items()
                         if version)
    print(f"\n### {title}\n")
    print(f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB; "
          f"Python {about['python']}, {versions}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
