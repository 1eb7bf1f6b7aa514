"""The combinations of a sweep: what each varies, how far it is, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l3hpc.console.formatting import table_lines
from l3hpc.errors import command_line
from l3hpc.workspace.states import StepState

if TYPE_CHECKING:
    from l3hpc.runs.status import RunStatus
    from l3hpc.runs.step_status import StepStatus

# of several steps that are not done, the state that tells most about their combination
_ORDER = (StepState.FAILED, StepState.LOST, StepState.CANCELLED, StepState.BLOCKED,
          StepState.RUNNING, StepState.REQUEUED, StepState.QUEUED, StepState.SUBMITTING,
          StepState.WAITING)


@dataclass
class CombinationStatus:
    """One combination of a sweep.

    Attributes
    ----------
    values : dict of str to str
        Option → its value in this combination.
    steps : dict of str to str
        Name of a step in the pipeline → its name in the run.
    state : StepState
        ``done`` if all its steps are; otherwise that of the step that holds it up.
    result : str
        The summary of its last step; empty until all its steps are done.
    """

    values: dict[str, str]
    steps: dict[str, str]
    state: StepState
    result: str = ""


def collect(combinations: Sequence[Mapping[str, Any]], steps: Sequence[StepStatus],
            ) -> list[CombinationStatus]:
    """Determine the state and the result of each combination.

    Parameters
    ----------
    combinations
        What the record of the run holds: ``values`` and ``steps`` of each.
    steps
        The steps of the run.
    """
    by_name = {step.name: step for step in steps}
    found = []
    for each in combinations:
        own = [by_name[name] for name in each["steps"].values()]
        unfinished = [step.state for step in own if not step.state.is_done]
        state = next((one for one in _ORDER if one in unfinished),
                     unfinished[0] if unfinished else StepState.DONE)
        result = own[-1].detail if own and not unfinished else ""
        found.append(CombinationStatus(each["values"], each["steps"], state, result))
    return found


def table(run: RunStatus, most: int | None = None) -> list[str]:
    """Lay out the combinations of a sweep: their values, their states and their results.

    Parameters
    ----------
    run
        The status of the sweep.
    most
        Number of combinations to show; None for all.

    Returns
    -------
    list of str
        The number of combinations that are done, a header, and a line for each; nothing if the
        run is no sweep.
    """
    if not run.combinations:
        return []
    done = sum(each.state.is_done for each in run.combinations)
    shown = run.combinations[:most]
    options = list(shown[0].values)
    rows = [(*options, "state", "result")]
    rows += [(*(str(each.values[name]) for name in options), str(each.state), each.result or "–")
             for each in shown]
    lines = [f"  {done} of {len(run.combinations)} combinations done", *table_lines(rows)]
    if len(shown) < len(run.combinations):
        lines.append(f"  and {len(run.combinations) - len(shown)} more: "
                     f"{command_line('status', run.run)}")
    return lines
