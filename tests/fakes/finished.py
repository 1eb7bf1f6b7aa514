"""Local runs that are computed once and copied, for tests that start with a finished run."""

import contextlib
import json
import shutil
from pathlib import Path

from l3hpc.runs import submit


class Finished:
    """Copies stand where the run was computed (its records hold paths), so all tests that share
    this have one workspace, emptied for each of them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.workspace = self.folder / "ws"
        self._made = {}

    def empty(self):
        """Forget what the last test did."""
        for path in self.folder.iterdir():
            if path not in self._made.values():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def submit(self, plan):
        """As ``submit.submit``: the jobs run only where no test has submitted the same before."""
        key = json.dumps([plan.run, [[step.fingerprint, step.params, len(step.shards)]
                                     for step in plan.steps], plan.profile.model_dump(mode="json")])
        if key not in self._made:
            store = self.folder / f"made-{len(self._made)}"
            with self._aside():
                submit.submit(plan)
                self.workspace.rename(store)
            self._made[key] = store
        shutil.copytree(self._made[key], self.workspace, dirs_exist_ok=True, symlinks=True)

    @contextlib.contextmanager
    def _aside(self):
        other = self.folder / "aside"
        there = self.workspace.exists()
        if there:
            self.workspace.rename(other)
        yield
        if there:
            other.rename(self.workspace)
