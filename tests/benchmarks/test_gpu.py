"""benchmarks.gpu without a GPU: it reports nothing that looks like a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine torch needs PyTorch (extra torch)")

from benchmarks import gpu_device  # noqa: E402
from benchmarks.tables import Claim, Table  # noqa: E402

pytestmark = pytest.mark.skipif(gpu_device.GPU, reason="there is a GPU")


def test_a_dry_run_shows_no_figures() -> None:
    rows = [("conv 1", "float32", "3.62e-5 TFLOP/s", "2e-06"), ("conv 2", "float32", "", "0e+00"),
            ("conv 3", "float32", "RuntimeError: no kernel", "–")]
    claim = Claim("conv", "the matrix rate", 91.88, 0.5)
    found = gpu_device.without_figures(Table("Parts", "abcd", rows, claims=[claim]), (2,))
    assert [row[2] for row in found.rows] == ["not measured", "", "RuntimeError: no kernel"]
    assert [(*row[:2], row[3]) for row in found.rows] == [(*row[:2], row[3]) for row in rows]
    assert not found.claims


def test_the_limits_of_a_cpu_are_not_measured() -> None:
    limits: dict[str, float] = {}
    table = gpu_device.limits_of_the_device(True, limits)
    assert set(limits) == {*gpu_device.PRECISIONS, "copy"} and min(limits.values()) > 0
    assert {row[1] for row in gpu_device.without_figures(table, (1,)).rows} == {"not measured"}


def test_a_dry_run_writes_no_results(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--json", str(file)],
                          capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1 and not file.exists()
    assert done.stderr == ("no GPU here: a dry run measures nothing and writes no results. "
                           "Leave out --json.\n")
