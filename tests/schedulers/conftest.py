import pytest
from scripted import Machine


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Runs rendered scripts as jobs, with a stand-in for Python that looks at what arrives."""
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def _no_kills_of_others(monkeypatch):
    """The kernel's count is that of the machine: another test may run out of memory meanwhile, and
    a job that a test kills would be taken for one that did, too."""
    monkeypatch.setattr("l3hpc.schedulers.local.runner.kernel_kills", lambda: 0)
