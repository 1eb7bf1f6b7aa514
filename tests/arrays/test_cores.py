"""Cores follow the Slurm allocation, and libraries follow the cores."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import l3hpc
from l3hpc.arrays import threads

SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CPUS_ON_NODE")


def no_limits() -> dict[str, str]:
    return {name: value for name, value in os.environ.items()
            if name not in (*threads.POOLS, threads.BETWEEN_OPERATIONS, *SLURM)}


def python(code: str, **environment: str) -> object:
    """What the code prints as JSON, in a process of its own that no pool limit reaches."""
    done = subprocess.run([sys.executable, "-c", code], env={**no_limits(), **environment},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("variables", "found"), [
    ({}, 64),
    ({"SLURM_CPUS_PER_TASK": "4"}, 4),
    ({"SLURM_CPUS_PER_TASK": "128"}, 64),  # bound to fewer
    ({"SLURM_CPUS_PER_TASK": "0"}, 64),
    ({"SLURM_CPUS_PER_TASK": "many"}, 64),
    ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3"}, 3),  # salloc without --cpus-per-task
    ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS": "16"}, 1),
    ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS": "4",
      "SLURM_CPUS_PER_TASK": "4"}, 4),
    ({"SLURM_JOB_ID": "7"}, 64),
    ({"SLURM_CPUS_ON_NODE": "3"}, 64),  # left over, no job
])
def test_cores_are_those_of_the_allocation(monkeypatch, variables, found):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.allocated_cores() == found


def test_nothing_else_asks_the_node():
    asking = re.compile(r"sched_getaffinity|cpu_count")
    package = Path(l3hpc.__file__).parent
    assert {path.relative_to(package).as_posix() for path in package.rglob("*.py")
            if asking.search(path.read_text())} == {"arrays/threads.py"}


def test_a_bound_process_has_no_more_cores_than_it_is_bound_to():
    code = ("import json, os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
            "from l3hpc.steps.task import Task; print(Task('o', 's', {}).threads)")
    assert python(code, SLURM_CPUS_PER_TASK="2") == 1


def test_pools_are_limited_and_smaller_wishes_kept():
    code = ("import json, os; from l3hpc.arrays import threads; threads.limit_pools(4);"
            "print(json.dumps({name: os.environ[name] for name in (*threads.POOLS,"
            " threads.BETWEEN_OPERATIONS)}))")
    found = python(code, OMP_NUM_THREADS="2", MKL_NUM_THREADS="64", BLIS_NUM_THREADS="no",
                   TF_NUM_INTEROP_THREADS="8")
    assert found == {**dict.fromkeys(threads.POOLS, "4"), "OMP_NUM_THREADS": "2",
                     "TF_NUM_INTEROP_THREADS": "2"}


STEP = """
import json, tempfile
from pathlib import Path
from l3hpc.steps.base import Params, Step
from l3hpc.steps.task import NoRecorder
from l3hpc.console.progress import Progress
from l3hpc.worker.execute import run_step

class Counting(Step):
    name, title, params_type = "step", "counts threads", Params

    def run(self, params, task):
        import os
        import numpy, scipy.linalg, sklearn.cluster
        from threadpoolctl import threadpool_info
        pools = {pool["num_threads"] for pool in threadpool_info()}
        return {"pools": sorted(pools), "threads": task.threads,
                "tensorflow": [os.environ[f"TF_NUM_INT{name}OP_THREADS"] for name in ("RA", "ER")]}

with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    (folder / "out").mkdir()
    print(json.dumps(run_step(Counting(), {}, {}, folder / "out", scratch=folder / "scratch",
                              progress=Progress(), recorder=NoRecorder())["summary"]))
"""


def test_a_step_has_no_more_threads_than_its_allocation_without_any_job_script():
    found = python(STEP, SLURM_CPUS_PER_TASK="1")
    assert found == {"pools": [1], "threads": 1, "tensorflow": ["1", "1"]}


TRAIN = """
import json, tempfile
from pathlib import Path
import h5py, numpy as np
from l3hpc.steps import step
from l3hpc.steps.task import Task

with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    rng = np.random.default_rng(0)
    for split in ("train", "validate"):
        (folder / split).mkdir()
        with h5py.File(folder / split / "a.h5", "w") as file:
            file["audio"] = rng.uniform(-1, 1, (4, 2000)).astype("f4")
            file["l3_embedding"] = rng.standard_normal((4, 4)).astype("f4")
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    train = step("train")
    params = train.params_type(asr=2000, mels=16, dft=128, hop=100, emb_dim=4, epochs=1,
                               filters=(2,) * 7 + (4,))
    train.run(params, Task(folder / "output", folder / "scratch", {"extract": folder}, threads=1))
    import tensorflow as tf
    print(json.dumps([tf.config.threading.get_intra_op_parallelism_threads(),
                      tf.config.threading.get_inter_op_parallelism_threads()]))
"""


def test_training_limits_tensorflow_before_it_starts(forked, tmp_path):
    assert forked.run(TRAIN, env=no_limits(), out=tmp_path / "out") == 0, forked.errors()
    assert json.loads((tmp_path / "out").read_text().splitlines()[-1]) == [1, 1]
