"""Modules of the working folder do not take the place of those of Python."""

import subprocess
import sys

import pytest

from l3hpc import _search_path

SHADOW = "import sys\nsys.exit('shadowed')\n"


@pytest.mark.parametrize(("program", "code"), [
    ("l3hpc", 0), ("l3hpc.worker.job_entry", 1), ("l3hpc.worker.requeue", 1),
    ("l3hpc.schedulers.local.runner", 1), ("l3hpc.schedulers.slurm.requeue", 1)])
def test_a_module_of_the_working_folder_is_not_imported(tmp_path, program, code):
    for name in ("typing", "re", "json", "random", "dataclasses", "pathlib", "numpy"):
        (tmp_path / f"{name}.py").write_text(SHADOW)
    words = ["--version"] if program == "l3hpc" else []
    done = subprocess.run([sys.executable, "-m", program, *words], cwd=tmp_path,
                          capture_output=True, text=True)
    assert "shadowed" not in done.stderr and done.returncode == code
    assert code == 0 or "IndexError" in done.stderr  # they began, and lack their arguments


@pytest.mark.parametrize(("argv", "first", "left"), [
    (["-m"], "{here}", 1), (["notebook.py"], "{here}", 2), (["-m"], "/elsewhere", 2),
    (["-m"], "{package}", 2)])
def test_what_is_left_out(tmp_path, monkeypatch, argv, first, left):
    package = _search_path.__file__.rpartition("/l3hpc/")[0]
    monkeypatch.chdir(package if first == "{package}" else tmp_path)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "path", [first.format(here=tmp_path, package=package), "/lib"])
    _search_path.leave_out_working_folder()
    assert len(sys.path) == left


def test_a_working_folder_that_was_removed(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "path", ["/lib"])
    _search_path.leave_out_working_folder()
    assert sys.path == ["/lib"]
