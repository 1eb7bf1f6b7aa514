"""Old working folders on a new machine: unpacked, and moved to where the test is.

Absolute paths stand in records, scripts, pickles and HDF5 files. All of these can be moved by
replacing bytes as long as the new path is as long as the old one: hence ``long_path``.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from inprocess import call, there

HERE = Path(__file__).resolve().parent
LENGTH = 100
PLACE = "/old/place".ljust(LENGTH, "-")  # where the folder of an archive lies
SLURM = {  # a site that has forgotten every job; srun starts what it is given
    "sbatch": "echo 'sbatch: error: invalid account' >&2; exit 1", "scontrol": "exit 1",
    "scancel": "", "squeue": "", "sacct": "", "sinfo": "",
    "srun": 'while case "$1" in -*) ;; *) false ;; esac; do shift; done; exec "$@"'}
PYTHON = '#!/bin/sh\nexec {} "$@"\n'  # bin/python of such a folder


def long_path(folder):
    """A path below ``folder`` with as many bytes as ``PLACE``."""
    start = f"{folder}/"
    assert len(os.fsencode(start)) < LENGTH, f"too long: {start}"
    return Path(start + "-" * (LENGTH - len(os.fsencode(start))))


def bare_environment():
    """Nothing set that l3hpc or Slurm look at."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "L3HPC_", "L3_"))}
    for name in ("AUDIO_DIR", "EMBEDDING_DIR", "OUTPUT_DIR", "SONYC_UST_PATH", "US8K_PATH",
                 "ESC50_PATH", "GSHEET_ID", "GOOGLE_APPLICATION_CREDENTIALS"):
        kept.pop(name, None)
    return {**kept, "COLUMNS": "100"}


def move(folder, old, new):
    """Replace a path by another one, of the same length, in every file and link below ``folder``;
    times and hard links stay."""
    old, new = os.fsencode(old), os.fsencode(new)
    assert len(old) == len(new)
    for path in sorted(Path(folder).rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            target = os.fsencode(os.readlink(path))
            if old in target:
                path.unlink()
                path.symlink_to(os.fsdecode(target.replace(old, new)))
        elif path.is_file() and old in (content := path.read_bytes()):
            changed = content.replace(old, new)
            with open(path, "r+b") as stream:
                stream.write(sealed(changed) if path.parent.name == "journal" else changed)
        else:
            continue
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def sealed(content):
    """The lines of a journal, each with the check of its record as it is now."""
    lines = []
    for line in content.splitlines():
        record = line.partition(b',"record":')[2].removesuffix(b"}")
        check = hashlib.blake2b(record, digest_size=8).hexdigest().encode()
        lines.append(b'{"check":"%b","record":%b}\n' % (check, record))
    return b"".join(lines)


def unpack(archive, folder):
    """The working folder of an archive, below ``folder``, with this Python as its own."""
    place = long_path(folder)
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="tar")
    move(place, PLACE, str(place))
    python = place / "bin/python"
    python.write_text(PYTHON.format(sys.executable))
    return place


class Workspace:
    """A copy of an archive and what is typed there. ``run("half")``: the folder of the run."""

    def __init__(self, archive, folder):
        self.place = unpack(archive, folder)
        programs = Path(folder) / "slurm"
        programs.mkdir()
        for name, text in SLURM.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {**bare_environment(), "HOME": f"{folder}/home", "TZ": "UTC",
                            "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, name):
        [found] = self.place.glob(f"workspace/runs/{name}-*")
        return found

    def call(self, *words, code=0, **variables):
        """``l3hpc WORDS`` there. code: the exit code that it must have, or several of them."""
        with there(self.place, {**self.environment, **variables}):
            done = call(*words)
        assert done.code in (code if isinstance(code, tuple) else [code]), done.out + done.err
        return done

    def __call__(self, *words, **options):
        """What it prints on standard output; of a failure, all that it prints."""
        done = self.call(*words, **options)
        return done.out + (done.err if done.code else "")

    def json(self, *words, **options):
        return json.loads(self.call(*words, "--json", **options).out)

    def execute(self, *words, **variables):
        """Another program there, in a process of its own."""
        return subprocess.run([str(word) for word in words], cwd=self.place, text=True,
                              env={**self.environment, **variables}, capture_output=True,
                              stdin=subprocess.DEVNULL)

    def states(self, run):
        """Step → state."""
        [found] = self.json("status", run)["runs"]
        return {step["name"]: step["state"] for step in found["steps"]}
