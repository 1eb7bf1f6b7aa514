"""A step that does what its parameters say: sleep, fail, copy its inputs. For any step name."""

import errno
import os
import time

from l3hpc.errors import L3hpcError
from l3hpc.steps.base import Params, Step


class FakeParams(Params):
    text: str = ""
    seconds: float = 0.0
    gate: str = ""  # a file: as long as it is there the step goes on
    gate_task: int = -1  # only this task
    fail: str = ""
    fail_task: int = -1
    error_task: int = -1  # fails whatever ``fail`` says
    memory_mb: int = 0
    memory_task: int = -1
    memory_s: float = 5.0
    show: str = ""
    seed: int = 7


def run(params, task):
    task.progress.start("working", total=10, unit="parts")
    for _ in range(10):
        time.sleep(params.seconds / 10)
        task.progress.advance(1, loss=0.5)
    if params.memory_mb and params.memory_task in (-1, task.index):
        ballast = bytearray(params.memory_mb * 2**20)
        allowed = int(os.environ.get("SLURM_MEM_PER_NODE", 0))
        # Slurm looks every second, or when the machine lets it: what is too much waits for that.
        time.sleep(params.memory_s if not allowed else 600 if params.memory_mb > allowed else 0)
        del ballast
    while params.gate_task in (-1, task.index) and params.gate and os.path.exists(params.gate):
        time.sleep(0.1)
    if params.error_task == task.index:
        raise L3hpcError("this task always fails")
    if params.fail_task in (-1, task.index):
        if params.fail == "full" and task.node_scratch is not None:
            (task.scratch / "checkpoint").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if params.fail == "error":
            raise L3hpcError("the fake was told to fail", where="fake:1", hint="Do not ask it to.")
        if params.fail == "crash":
            raise RuntimeError("an unforeseen crash")
        if params.fail == "kill":
            os.kill(os.getpid(), 9)
        mark = task.scratch / "killed"
        if params.fail == "kill once" and not mark.exists():
            (task.output / "half.txt").write_text("half")
            mark.write_text("")
            os.kill(os.getpid(), 9)
        if params.fail == "scratch":  # fails the first time only
            mark = task.scratch / "tried"
            if not mark.exists():
                mark.write_text("")
                raise L3hpcError("first attempt fails")
    parts = [os.environ[params.show] if params.show else params.text or f"{task.index}"]
    for name in sorted(task.inputs):
        folder = task.inputs[name]
        parts += [path.read_text() for path in sorted(folder.glob("[0-9]*/out.txt"))]
    (task.output / "out.txt").write_text("(" + " ".join(parts) + ")")
    return {"rows": task.index + 1}


def summary(results):
    return f"{sum(result['rows'] for result in results)} rows"


class Fake(Step[FakeParams]):
    title = "fake"
    params_type = FakeParams

    def __init__(self, name):
        self.name = name

    def run(self, params, task):
        return run(params, task)

    def summary(self, results):
        return summary(results)


def named(name):
    return Fake(name)
