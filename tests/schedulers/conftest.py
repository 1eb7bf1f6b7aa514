import pytest
from scripted import Machine


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Runs rendered scripts as jobs, with a stand-in for Python that looks at what arrives."""
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path)
