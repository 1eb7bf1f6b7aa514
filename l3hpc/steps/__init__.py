"""The kinds of work of which pipelines consist. Importing this package imports no step.

``base.Step`` says what a step is, and ``registry`` finds one by name. Each step has a module of its
own, or shares that of a close relative (``reduction``: fit and reduce).
"""

from l3hpc.steps.base import (
    LEDGER_FOLDERS,
    Input,
    Output,
    Params,
    PlanParams,
    ReportItem,
    RunFile,
    Step,
)
from l3hpc.steps.registry import (
    BUILT_IN,
    VALID_NAME,
    AnyStep,
    foreign,
    is_known,
    is_valid_name,
    names,
    problems,
    step,
    summary_text,
)
from l3hpc.steps.task import Task

__all__ = ["BUILT_IN", "LEDGER_FOLDERS", "VALID_NAME", "AnyStep", "Input", "Output", "Params",
           "PlanParams", "ReportItem", "RunFile", "Step", "Task", "foreign", "is_known",
           "is_valid_name", "names", "problems", "step", "summary_text"]
