import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

import chains as _chains  # noqa: E402
from fakeslurm import FakeSlurm  # noqa: E402


@pytest.fixture
def chains(monkeypatch):
    """Plans of fake steps."""
    _chains.clean_environment(monkeypatch)
    return _chains


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs named as Slurm's that answer as they are told."""
    return FakeSlurm(tmp_path / "fake-slurm", monkeypatch)
