"""A real Slurm for these tests: with accounting (``slurm_cluster``) and without (``slurm_plain``).

Where Slurm is not installed the tests are skipped by name; under CI, or with L3HPC_REQUIRE_SLURM,
that is a failure. Each test starts with an empty queue and gets SLURM_CONF in its environment.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

import chains as _chains  # noqa: E402
from realslurm import RealSlurm, memory_cgroups, missing  # noqa: E402

from l3hpc.doctor.environment import _PROBE, Answer, ask  # noqa: E402


def _start(accounting, **settings):
    absent = missing(accounting)
    if absent:
        why = f"not installed: {', '.join(absent)} (make slurm)"
        if os.environ.get("CI") or os.environ.get("L3HPC_REQUIRE_SLURM"):
            pytest.fail(why)
        pytest.skip(why)
    return RealSlurm(accounting, **settings).start()


@pytest.fixture(scope="session")
def _with_accounting():
    cluster = _start(True)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def _without_accounting():
    cluster = _start(False)
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm_cluster(_with_accounting, monkeypatch):
    """Three nodes with accounting: ``env``, ``partitions``, ``profile`` (for cluster.yaml)."""
    yield from _ready(_with_accounting, monkeypatch)


@pytest.fixture
def slurm_plain(_without_accounting, monkeypatch):
    """The same cluster without slurmdbd."""
    yield from _ready(_without_accounting, monkeypatch)


@pytest.fixture
def slurm_with_cgroups(monkeypatch):
    """A cluster with accounting whose kernel limits the memory of a job, as on most sites. A skip
    with the reason, also under CI, where this machine's kernel or container does not allow it."""
    plugin, why = memory_cgroups()
    if not plugin:
        pytest.skip(why)
    try:
        cluster = _start(True, cgroups=plugin)
    except RuntimeError as error:  # with the daemons' logs
        told = [line for line in str(error).splitlines() if "fatal" in line and "cgroup" in line]
        if not told:
            raise
        pytest.skip(f"Slurm cannot use the control groups of this machine: {told[-1]}")
    yield from _ready(cluster, monkeypatch)
    cluster.stop()


@pytest.fixture(params=["accounting", "no accounting"])
def any_slurm(request):
    """Both of them, one after the other."""
    name = "slurm_cluster" if request.param == "accounting" else "slurm_plain"
    return request.getfixturevalue(name)


def _ready(cluster, monkeypatch):
    _chains.clean_environment(monkeypatch)
    for key, value in cluster.env.items():
        monkeypatch.setenv(key, value)
    cluster.drain()
    yield cluster
    cluster.drain()


@pytest.fixture
def gate(tmp_path):
    """A file. The fake step that has it as ``gate`` goes on for as long as it is there: what a test
    does meanwhile may take as long as the machine needs."""
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def ask_all_but_tensorflow():
    """``ask`` of the doctor. Whether TensorFlow starts does not depend on Slurm, and takes longer
    than all other checks: tests/cluster/test_doctor.py has it started once."""
    return lambda words, *rest, **options: (
        Answer(0, '["2.21.0", 0]', "") if words[-1] == _PROBE else ask(words, *rest, **options))


@pytest.fixture
def chains():
    """Plans of fake steps."""
    return _chains
