"""How data/workspace-0.tar.xz was made: by the code of commit 0aac662, once.

    python tests/contract/make_workspace_0.py tests/contract/data/workspace-0.tar.xz

It is kept to be read, not to be run: the archive stands for the workspaces that people have, and is
never made again. (A later format gets an archive of its own.) It needs a Slurm that can be started,
as tests/cluster does.

The archive is a working folder at ``PLACE``: cluster.yaml, jobs/, a city of a few tones, a teacher
of random weights, bin/ and workspace/ with these runs:

    done     pipeline all on this machine, from audio to ledger rows
    failed   its sample step found a damaged input, which has been repaired since
    empty    killed when its folder was written, before its first job
    half     killed between its first and its second job
    sweep    a grid of two, done
    cut      upstream, killed with all its processes in the middle of its training
    slurm    the pipeline reduction on Slurm, done
    queued   its chain waits in Slurm's queue, for a partition that is down
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fakes")]

from realslurm import RealSlurm  # noqa: E402
from workspaces import PLACE, PYTHON, bare_environment, long_path, move, sealed  # noqa: E402

L3HPC = str(Path(sys.executable).with_name("l3hpc"))
SMALL = ("--emb-dim", "4", "--samples", "12", "--filters", "4,4,4,4,4,4,4,4", "--batch-size", "4",
         "--set", "extract.files_per_task=2")
RATE = 16000
SECONDS = 3
REDUCTION = """
description: audio → embeddings → sample → reduction φ
options:
  sampling: sample.method
  seed: sample.seed
steps:
  extract:
    params: {audio: "{paths.audio}", weights: "{paths.weights}", hop: 0.5, files_per_task: 2}
    resources: {cpus: 1, mem: 2GB, time: 10m}
  sample: {needs: extract, params: {samples: 12}, resources: {cpus: 1, mem: 1GB, time: 10m}}
  fit: {needs: sample, params: {emb_dim: 4}, resources: {cpus: 1, mem: 1GB, time: 10m}}
  reduce: {needs: [extract, fit], resources: {cpus: 1, mem: 1GB, time: 10m}}
"""
KILLED = """
import os, signal, sys
from l3hpc.workflow.executors import local
from l3hpc.cli import main
spool, left = local.spool, [int(sys.argv.pop(1))]
def killed(*words, **options):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return spool(*words, **options)
local.spool = killed
sys.argv[0] = "l3hpc"
main(sys.argv[1:])
"""


def call(*words, environment, killed_after=None):
    """``l3hpc WORDS`` in the working folder; killed_after: at the job behind so many."""
    program = [L3HPC] if killed_after is None else [sys.executable, "-c", KILLED, str(killed_after)]
    done = subprocess.run([*program, *words], env=environment, text=True, capture_output=True)
    print("$ l3hpc", *words, "→", done.returncode, flush=True)
    print(done.stdout, done.stderr, flush=True)
    return done


def tones(path, number):
    """A recording that packs well: half a second of each of six tones."""
    import numpy as np

    time_s = np.arange(RATE // 2) / RATE
    parts = [(0.1 + 0.1 * (each % 5)) * np.sin(2 * np.pi * RATE / 2 ** (3 + each % 4) * time_s)
             for each in range(number, number + 2 * SECONDS)]
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, RATE, 0, "NONE", ""))
        stream.writeframes((np.concatenate(parts) * 32767).astype("<i2").tobytes())
    os.utime(path, (1511200000, 1511200000))  # whole seconds, which the archive keeps exactly


def prepare(environment, slurm):
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weights import save

    call("data", "synth", "city", "--sensors", "2", "--recordings", "2", "--clips", "10",
         "--seconds", str(SECONDS), "--rate", str(RATE), "--days", "2", environment=environment)
    for number, path in enumerate(sorted(Path("city").rglob("*.wav"))):
        tones(path, number)
    spec = NetworkSpec(rate=RATE, n_mels=32, hop=320, n_dft=1024,
                       filters=(4, 4, 4, 4, 8, 8, 8, 8))
    save(untrained(spec, 1), Path("teacher.h5"), {"teacher": {"random_weights": True}})
    Path("bin").mkdir()
    Path("bin/python").write_text(PYTHON.format(sys.executable))
    Path("bin/python").chmod(0o755)
    Path("jobs").mkdir()
    Path("jobs/reduction.yaml").write_text(REDUCTION.lstrip())
    python = f"{Path.cwd()}/bin/python"
    small = {"cpus": 1, "mem": "1500MB", "gpus": 0, "time": "20m"}
    Path("cluster.yaml").write_text(json.dumps({
        "cluster": "local",
        "paths": {"workspace": "workspace", "audio": "city/audio", "sonyc_ust": "city/sonyc_ust",
                  "weights": "teacher.h5"},
        "clusters": {
            "local": {"python": python, "slots": {"cpus": 2, "mem": "4GB"}},
            "slurm": {**slurm.profile, "python": python, "steps": dict.fromkeys(
                ("extract", "sample", "fit", "reduce"), small)}}}, indent=1) + "\n")


def make(slurm):
    local = bare_environment()
    site = {**local, **slurm.env}
    prepare(local, slurm)
    reduction = ("submit", "reduction")
    assert call("submit", "all", *SMALL, "--name", "done", "--epochs", "2",
                "--classifier-epochs", "2", "--set", "embed.hop=0.5",
                environment=local).returncode == 0
    [damaged, *_] = sorted(Path("workspace/artifacts/extract").glob("*/0000/*.h5"))
    whole, before = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(b"no longer HDF5")
    assert call(*reduction, "--name", "failed", "--seed", "2", environment=local).returncode == 1
    damaged.write_bytes(whole)
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    for name, jobs, seed in ("empty", 0, "3"), ("half", 1, "4"):
        assert call(*reduction, "--name", name, "--seed", seed, environment=local,
                    killed_after=jobs).returncode < 0
    assert call(*reduction, "--name", "sweep", "--seed", "5", "--grid", "sampling=dpp,random",
                environment=local).returncode == 0
    cut_training(local)
    assert call(*reduction, "--name", "slurm", "--seed", "6", "--cluster", "slurm",
                environment=site).returncode == 0
    while slurm.jobs():
        time.sleep(0.5)
    call("status", "slurm", environment=site)
    slurm.command("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    assert call(*reduction, "--name", "queued", "--seed", "7", "--cluster", "slurm",
                environment=site).returncode == 0
    call("status", "--all", environment=site)
    call("ledger", "status", environment=local)


def cut_training(environment):
    assert call("submit", "upstream", *SMALL, "--name", "cut", "--epochs", "40", "--patience", "40",
                "--detach", environment=environment).returncode == 0
    [run] = Path("workspace/runs").glob("cut-*")
    train = Path(os.readlink(run / "artifacts/train"))
    epochs = 0
    while epochs < 5:
        time.sleep(0.02)
        epochs = sum(len(path.read_text().splitlines())
                     for path in train.glob(".work/**/history.csv"))
    [runner] = run.glob("runner.owner.*")
    jobs = json.loads((run / "local.json").read_text())["jobs"].values()
    [group] = {job["pid"] for job in jobs if job["state"] == "RUNNING"}
    os.kill(json.loads(runner.read_text())["pid"], signal.SIGKILL)
    os.killpg(group, signal.SIGKILL)
    assert epochs < 40
    call("status", "cut", environment=environment)


def main(archive):
    with tempfile.TemporaryDirectory() as place:
        folder = long_path(place)
        folder.mkdir()
        os.chdir(folder)
        slurm = RealSlurm(accounting=True).start()
        try:
            make(slurm)
            pack(folder, archive)  # while jobs wait in the queue
        finally:
            slurm.drain()
            slurm.stop()


def pack(folder, archive):
    move(folder, str(folder), PLACE)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            disguise(path)
    for path in folder.rglob("*.owner.*"):  # nobody waits for who may still be alive
        os.utime(path, (time.time() - 86400,) * 2)
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as tar:
        tar.add(folder, arcname=".", filter=anonymous)


def disguise(path):
    """Neither this machine's name nor its folders."""
    before, content = path.stat(), path.read_bytes()
    host = re.escape(socket.gethostname().encode())
    changed = re.sub(rb'("host": ?)"%b"' % host, rb'\1"login1"', content)
    changed = changed.replace(os.fsencode(HERE.parents[1]), b"/opt/l3hpc")
    if path.parent.name == "journal":
        changed = sealed(changed)
    if changed != content:
        assert path.suffix not in (".pkl", ".h5", ".npz"), path
        with open(path, "r+b") as stream:
            stream.write(changed)
            stream.truncate()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def anonymous(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
