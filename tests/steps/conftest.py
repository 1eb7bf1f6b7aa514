"""A tiny city, a tiny teacher, and a way to run a step as the worker does."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from l3hpc import steps
from l3hpc.io.files import write_json
from l3hpc.steps.task import Preemption, Task


class Records:
    """Keeps what a step records for the ledger."""

    def __init__(self):
        self.rows = []

    def record(self, tab, values, *, epoch=None):
        self.rows.append((tab, dict(values), epoch))


@pytest.fixture(scope="session")
def city(tmp_path_factory):
    """A generated city with SONYC-UST clips."""
    from l3hpc.datasets.synth import City, make_city

    folder = tmp_path_factory.mktemp("city") / "city"
    make_city(folder, City(sensors=2, recordings_per_sensor=6, ust_clips=36, seconds=3.0, seed=7))
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A small network with random weights, as a file in our own format."""
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weights import save

    path = tmp_path_factory.mktemp("teacher") / "teacher.h5"
    save(untrained(NetworkSpec(rate=16000, n_mels=32, hop=320, n_dft=1024,
                               filters=(4, 4, 8, 8, 16, 16, 24, 24)), 1), path,
         {"teacher": {"random_weights": True}})
    return path


class Runner:
    """Runs steps one after another into artifact folders, without any scheduler."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards = {}
        self.records = Records()
        self.results = {}

    def artifact(self, name):
        return self.folder / "artifacts" / name

    def run(self, name, params=None, inputs=None, shards=None, artifact=None, **labels):
        """All tasks of a step; returns the results of its tasks."""
        artifact = artifact or name
        module = steps.step(name)
        typed = module.params_type(**(params or {}))
        module.check(typed, {name: typed})
        inputs = {kind: Path(path) for kind, path in (
            inputs if inputs is not None else
            {kind: self.artifact(kind) for kind in module.inputs
             if self.artifact(kind).is_dir()}).items()}
        module.digests(typed)
        todo = shards if shards is not None else module.shards(
            typed, {kind: self.shards.get(kind, []) for kind in inputs})
        self.shards[name] = todo
        self.results[name] = []
        for index, shard in enumerate(todo):
            output = self.artifact(artifact) / f"{index:04d}"
            output.mkdir(parents=True)
            task = Task(output=output, scratch=self.folder / "scratch" / f"{artifact}-{index}",
                        inputs=inputs, index=index, shard=shard, threads=2,
                        labels={"model_dir": "model", "output_dir": "out", "exp_id": "exp",
                                "username": "tester", **labels},
                        recorder=self.records, preemption=Preemption())
            task.scratch.mkdir(parents=True, exist_ok=True)
            summary = module.run(typed, task)
            write_json(output / "result.json", {"summary": summary})
            self.results[name].append(summary)
        return SimpleNamespace(folder=self.artifact(artifact), results=self.results[name],
                               text=module.summary(self.results[name]))


@pytest.fixture
def eager():
    """Small batches are done long before their graph would be traced."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def runner(tmp_path):
    """A fresh runner."""
    return Runner(tmp_path)


@pytest.fixture
def new_runner(tmp_path):
    """Makes more runners, by name."""
    return lambda name: Runner(tmp_path / name)


@pytest.fixture(scope="session")
def session_runner(tmp_path_factory):
    """Makes runners for results that several tests share, by name."""
    return lambda name: Runner(tmp_path_factory.mktemp(name))


# each with its own output folder; what is loaded is printed after each
RUN_STEPS = """
import json, sys
from pathlib import Path
from l3hpc.worker.standalone import run_standalone
for step, settings, inputs, output in json.loads(sys.argv[2]):
    run_standalone(step, settings, {name: Path(path) for name, path in inputs.items()},
                   Path(output))
    heavy = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
    print(step, *heavy)
"""


@pytest.fixture
def loaded_by():
    """Runs steps by hand, one after the other in one new process: what each has loaded, in lines.

    Called with (step, settings, inputs, output) tuples; heavy: names of packages and modules.
    """
    def run(*calls, heavy=("sklearn", "pandas", "tensorflow")):
        done = subprocess.run([sys.executable, "-c", RUN_STEPS, json.dumps(heavy),
                               json.dumps(calls, default=str)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run
