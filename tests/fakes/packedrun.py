"""A run that has ended, for tests of packing: its files, and what the reading commands show."""

import os

from submitted import Case

from l3hpc.report import timeline
from l3hpc.runs import logs, status, usage
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import StepFolder, Workspace

TASKS = 3


def ended_run(chains, slurm, workspace):
    """Task 1 of ``extract`` failed, so ``sample`` is blocked; each task has left its files."""
    case = Case(chains, slurm, workspace, names=("extract", "sample"),
                tasks={"extract": TASKS})
    step = case.made.step_folder("extract")
    for task in range(TASKS):
        case.mark("extract", f"{task}.begin",
                  {"job": f"100_{task}", "time": str(1000 + task), "restarts": 1})
        case.mark("extract", f"{task}.exit",
                  {"code": int(task == 1), "time": str(1010 + task), "job": f"100_{task}"})
        step.log(f"100_{task}").write_text(f"error: of task {task}\n")
        os.utime(step.log(f"100_{task}"), ns=(10**18 + task, 10**18 + 1234567 + task))
        step.log(f"100_{task}", "out").write_bytes(b"")
        if task != 1:
            case.finish("extract", task, elapsed_s=9.0, run="demo")
    step.log("100_0").chmod(0o640)
    case.queue()
    case.sacct("100_1|FAILED|1:0|60|n1", "101|CANCELLED|0:0|0|")
    return case


def folder(case):
    return Workspace(case.workspace).run("demo")


def files(case):
    """Everything in the folders that are packed: content, time and permissions."""
    run = folder(case)
    return {str(path.relative_to(run.path)): (path.read_bytes(), path.stat().st_mtime_ns,
                                              path.stat().st_mode)
            for path in sorted(run.steps.glob("*/[!.]*/*")) if path.is_file()}


def seen(case):
    """What the reading commands show."""
    record = records.read(case.workspace, "demo")
    [found] = status.collect(case.workspace, ["demo"])
    shown = found.to_json()
    for step in shown["steps"]:
        step.pop("log")  # a path
    step = record.steps[0]
    texts = {}
    for task in range(TASKS):
        path = logs.find_log(case.workspace, record, step, task=task)
        texts[task] = "".join(logs.pieces(path)), logs.log_size(path), logs.tail(path)
    return (shown, texts, usage.collect(case.workspace, "demo"),
            timeline.collect(case.workspace, record, {}),
            markers.read(StepFolder(case.made.step_folder("extract")).markers))
