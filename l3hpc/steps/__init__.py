"""The kinds of work of which pipelines are made. Importing this loads no step."""

from l3hpc.steps.base import LEDGER_FOLDERS, Finding, Input, Output, Params, PlanParams, Step, Task
from l3hpc.steps.registry import (
    BUILT_IN,
    AnyStep,
    foreign,
    is_known,
    names,
    problems,
    step,
)

__all__ = ["BUILT_IN", "LEDGER_FOLDERS", "AnyStep", "Finding", "Input", "Output", "Params",
           "PlanParams", "Step", "Task", "foreign", "is_known", "names", "problems", "step"]
