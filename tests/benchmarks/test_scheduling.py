"""The runs that the scheduling benchmark makes up are what it says of them."""

import sys
from pathlib import Path

import pytest

from benchmarks import scheduling

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

from fakeslurm import FakeSlurm  # noqa: E402


@pytest.mark.parametrize("forgetful", [True, False])
def test_the_made_up_runs_are_done_failed_and_lost(tmp_path, monkeypatch, forgetful):
    """Accounting may have forgotten them, or not answer."""
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    if not forgetful:
        slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    table = scheduling._listing(tmp_path / "work", 10, 1)  # asserts their states
    assert [row[0] for row in table.rows] == [
        "records, artifacts, markers, states", "waiting for squeue and sacct"]
