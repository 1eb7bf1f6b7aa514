"""From a plan to a run, and what one does with runs: submit, watch, resume, cancel, usage.

In a notebook ``l3hpc.runs()`` lists the runs of a workspace. As the package has that name too, it
can be called.
"""

import sys
import types
from typing import Any


class _Package(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from l3hpc.runs.notebook import runs

        return runs(*arguments, **options)


sys.modules[__name__].__class__ = _Package
