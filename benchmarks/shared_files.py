"""What a task asks of an NFS server, with and without ``scratch:`` on the disk of the node.

    python -m benchmarks.shared_files --work /mnt/nfs/somewhere [--quick] [--json FILE]

Needs root, who may empty the caches of the kernel, and a folder on NFS. Where there is none:

    VM_MEMORY=2G tools/test-slurm --nfs --run 'TMPDIR=/var/tmp python -m benchmarks.shared_files \
        --work /mnt/nfs/work --json benchmarks/results/shared_files.json' trixie

makes a server and its client in a virtual machine; the file is then in ``opt/l3hpc`` of its root.
Requests are those that the kernel counts for the mount (``/proc/self/mountstats``). Each task
starts with empty caches, and its requests count until everything is on the server. The folder on
the node is in ``TMPDIR``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import alone, worker
from benchmarks.tables import Table, figure, run

CASES = ("extract", "reduce", "train", "classify")
ROWS = {"extract": 256, "reduce": 65_536, "train": 2048, "classify": 1157}
OF = {"extract": "windows", "reduce": "rows", "train": "windows", "classify": "clips"}
QUICK = 8  # by which a quick run divides them
KINDS = ("READ", "WRITE", "COMMIT", "OPEN", "LOOKUP", "GETATTR")


def tables(quick: bool, work: Path) -> list[Table]:
    """Run every task with and without a folder on the node, and count."""
    mount = mount_of(work)
    cells = []
    for step in CASES:
        rows = ROWS[step] // (QUICK if quick else 1)
        for on_node in (False, True):
            print(f"  {step}, {'scratch' if on_node else 'workspace'}", file=sys.stderr, flush=True)
            counted = _task(step, rows, work / "place", mount, on_node)
            cells.append([
                f"{step}, {rows:,} {OF[step]}", "on the node" if on_node else "in the workspace",
                *(f"{counted.get(kind, 0):,}" for kind in KINDS),
                f"{sum(count for kind, count in counted.items() if kind.isupper()):,}",
                figure(counted["read"] / 1e6), figure(counted["written"] / 1e6)])
    return [Table(
        "Requests to an NFS server, by one task",
        ("task", "works", *KINDS, "all requests", "read, MB", "written, MB"), cells, [
            "NFS 4.2, 1 MB in each READ and WRITE at most; caches of the client were empty.",
            "Markers and logs of a job are not included: they stay in the workspace."])]


def mount_of(folder: Path) -> str:
    """Return where the NFS that holds a folder is mounted; end with a message if it is not on NFS.

    Parameters
    ----------
    folder
        The folder.
    """
    if os.geteuid():
        sys.exit("error: only root can empty the caches of the kernel")
    with open("/proc/self/mountinfo") as stream:
        mounts = [line.split() for line in stream]
    where, kind = max(((words[4], words[words.index("-") + 1]) for words in mounts
                       if folder.resolve().is_relative_to(words[4])), key=lambda each: len(each[0]))
    if not kind.startswith("nfs"):
        sys.exit(f"error: {folder} is on {kind}, not on NFS; give a folder on NFS with --work")
    return where


def requests(mountstats: str, mount: str) -> dict[str, int]:
    """Return how often each operation was requested, and ``read`` and ``written``: bytes.

    Parameters
    ----------
    mountstats
        The text of ``/proc/self/mountstats``.
    mount
        Where the file system is mounted.

    Examples
    --------
    >>> requests('''device host:/a mounted on /a with fstype nfs4 statvers=1.1
    ... bytes: 1 2 0 0 5 6 0 0
    ... per-op statistics
    ...   NULL: 1 1 0 44 24 0 0 0 0
    ...   READ: 2 2 0 400 6000 0 1 1 0
    ... ''', "/a")
    {'read': 5, 'written': 6, 'READ': 2}
    """
    found, here = dict[str, int](), False
    for line in mountstats.splitlines():
        words = line.split()
        if words[:1] == ["device"]:
            here = words[4] == mount and words[7].startswith("nfs")
        elif here and words[:1] == ["bytes:"]:
            found |= {"read": int(words[5]), "written": int(words[6])}
        elif here and len(words) > 8 and words[0][:-1].isupper() and int(words[1]):
            found[words[0][:-1]] = int(words[1])
    found.pop("NULL", None)
    return found


def _task(step: str, rows: int, place: Path, mount: str, on_node: bool) -> dict[str, int]:
    """Make the input of a task, run it in a process of its own, and count its requests."""
    from benchmarks import scaling

    shutil.rmtree(place, ignore_errors=True)
    number = next(index for index, case in enumerate(scaling.CASES) if case.step == step)
    config = alone(worker("scaling", "make", number, rows, place)).values["config"]
    with tempfile.TemporaryDirectory() as disk:
        _empty_caches()
        before = _counted(mount)
        alone(worker("shared_files", config, disk if on_node else ""),
              {"SLURM_CPUS_PER_TASK": "1"})
        os.sync()
        after = _counted(mount)
    shutil.rmtree(place)
    return {kind: count - before.get(kind, 0) for kind, count in after.items()}


def _empty_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _counted(mount: str) -> Mapping[str, int]:
    return requests(Path("/proc/self/mountstats").read_text(), mount)


def main(words: Sequence[str]) -> None:
    """Run one task as a job does: the folder on the node is the last word, '' for none."""
    from l3hpc.console.progress import Progress
    from l3hpc.worker import execute, node_scratch

    class Notes(Progress):
        def note(self, text: str) -> None:
            print(text, file=sys.stderr)
            used.append(text.startswith("working in "))

    config, disk = words
    used: list[bool] = []
    node_scratch.use(disk)
    result: dict[str, Any] = execute.run_task(Path(config), 0, progress=Notes())
    if disk and not any(used):
        sys.exit(f"error: {disk} was not used; another TMPDIR may have more room")
    print(json.dumps({"seconds": result["elapsed_s"]}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(sys.argv[2:])
    else:
        run("shared_files", __doc__, tables)
