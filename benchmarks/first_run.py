"""``make demo`` in a fresh clone: the installation, and each step of the demonstration.

    python -m benchmarks.first_run [--quick] [--json FILE]

The clone is of the last commit. It is installed twice, so that pip finds all packages in its cache
the second time, which is the one that counts. With ``--quick`` nothing is installed: the small
demonstration of this environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import Claim, Table, run

CHECKOUT = Path(__file__).resolve().parent.parent
TARGET_S = 120.0


def timed(command: Sequence[str | Path], folder: Path) -> float:
    """Seconds of a command that has to succeed. What it prints goes to stderr, as progress."""
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def steps(program: Sequence[str | Path], folder: Path) -> list[dict[str, Any]]:
    """What ``l3hpc status --json`` says of the steps of the demonstration."""
    done = subprocess.run([*map(str, program), "-C", str(folder / "demo"), "status", "--json"],
                          check=True, capture_output=True, text=True)
    [shown] = json.loads(done.stdout)["runs"]
    if shown["state"] != "done":
        raise RuntimeError(f"the demonstration is {shown['state']}")
    return list(shown["steps"])


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure the installation and the demonstration."""
    rows = []
    if quick:
        program: list[str | Path] = [sys.executable, "-m", "l3hpc"]
        whole = timed([*program, "demo", "--quick", "--yes"], work)
        clone = work
    else:
        for name in ("to-fill-the-cache", "clone"):
            clone = work / name
            timed(["git", "clone", "--quiet", CHECKOUT, clone], work)
            installed = timed(["make", ".venv/.core"], clone)
        rows.append(("installation, packages in pip's cache", f"{installed:.0f}"))
        demonstrated = timed(["make", "demo"], clone)
        program = [clone / ".venv/bin/l3hpc"]
        rows.append(("demonstration", f"{demonstrated:.0f}"))
        whole = installed + demonstrated
    rows += [(f"of that, {step['name']}: {step['detail']}", f"{step['elapsed_s'] or 0:.0f}")
             for step in steps(program, clone)]
    claims = [] if quick else [
        Claim("make demo, fresh clone, packages in pip's cache", "a target", whole, TARGET_S, "s",
              at_least=False, limit=f"{installed:.0f} s of it are pip")]
    return [Table("make demo in a fresh clone", ("part", "s"), rows, [
        "One run. What the steps do not account for is the start of Python and TensorFlow, the "
        "generation of the city, and the report."], claims)]


if __name__ == "__main__":
    run("first_run", __doc__, tables)
