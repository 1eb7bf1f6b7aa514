"""From a plan to a run, and everything about runs: submit, status, resume, cancel, usage.

``submit`` and ``submit_jobs`` submit, ``status`` finds out what happened (of one step
``step_status``, of one task ``task_state``), ``resume_plan`` and ``resume`` continue.

In a notebook ``l3hpc.runs()`` lists the runs of a workspace. The package has the same name, and
replaces that function once one of its modules is imported, so it can be called as well.
"""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l3hpc.runs.notebook import Runs


class _CallablePackage(types.ModuleType):
    def __call__(self, workspace: str | os.PathLike[str] | None = None) -> Runs:
        from l3hpc.runs import notebook

        return notebook.runs(workspace)


sys.modules[__name__].__class__ = _CallablePackage
