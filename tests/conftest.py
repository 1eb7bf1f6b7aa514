"""What every test gets: a cache of its own, so that nothing is remembered in the home folder, and
hypothesis with the same examples each time and no deadline (a busy machine is no failure)."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("l3hpc", derandomize=True, deadline=None, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("l3hpc")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
