"""What every test gets: a cache of its own, so that nothing is remembered in the home folder, and
hypothesis with the same examples each time and no deadline (a busy machine is no failure)."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent / "fakes"))

import chains as _chains  # noqa: E402
from fakeslurm import FakeSlurm  # noqa: E402

settings.register_profile("l3hpc", derandomize=True, deadline=None, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("l3hpc")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def chains(monkeypatch):
    """Plans of fake steps."""
    _chains.clean_environment(monkeypatch)
    return _chains


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs named as Slurm's that answer as they are told."""
    return FakeSlurm(tmp_path / "fake-slurm", monkeypatch)
