"""Fake sbatch, squeue, sacct and scancel with answers that the test sets."""

import os
import stat
from pathlib import Path


class FakeSlurm:
    """Puts the programs into ``folder`` and in front of PATH. ``calls()``: what was called."""

    def __init__(self, folder, monkeypatch):
        self.folder = Path(folder)
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}:{os.environ['PATH']}")
        # two may run at once, and no id is given twice
        self.says("sbatch", f"""
exec 9> {self.folder}/lock; flock 9
n=$(cat {self.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {self.folder}/next
echo "$n"
""")
        for name in ("squeue", "sacct", "scancel"):
            self.says(name, "")
        self.says("sinfo", "echo 'cpu*|up|infinite|10000000|1000|gpu:100|3'")

    def says(self, name, script):
        """From now on the program ``name`` runs this shell text."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n'
                        f'env > {self.folder}/environment\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name=""):
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(name)]

    def environment(self):
        """Of the last call."""
        return dict(line.split("=", 1) for line in
                    (self.folder / "environment").read_text().splitlines() if "=" in line)


def queue_line(job, state, reason="None", used="0:00", start="N/A", restarts=0, limit="5:00",
               code="0", node="", cluster="", submitted="", name="", script="", output=""):
    """A line of squeue as ``l3hpc.schedulers.slurm.queue`` asks for it. What a real one would say
    of where the job comes from is left out where a test does not ask for it."""
    from l3hpc.schedulers.slurm.parsing import END, WIDTHS

    values = (job, state, reason, used, start, str(restarts), limit, code, node, cluster, submitted)
    return "".join(value.ljust(width) for value, width in zip(
        values, WIDTHS.values(), strict=True)) + "".join(
        f"{value}{END}" for value in (name, script, output))
