"""shell: a command of the user as a step.

No value reaches the shell as text: a command line of bash finds files and parameters in environment
variables, and of a list of arguments each stays one argument, whatever it contains.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator

from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.io.processes import descendants
from l3hpc.io.values import log_text
from l3hpc.steps.base import PlanParams, Upstream
from l3hpc.steps.own import (
    OwnParams,
    OwnStep,
    check_outputs,
    code_folder,
    input_paths,
    variable,
)
from l3hpc.steps.task import Task

BASH = ("bash", "-euo", "pipefail", "-c")
OTHER = ("output", "scratch", "code", "task", "tasks", "cpus")
_PLACEHOLDER = re.compile(r"\{(?:(input|param)\.([A-Za-z][\w-]*)|(paths\.\w+)|"
                          rf"({'|'.join(OTHER)}))\}}")
TERMINATE_S = 10.0
PHASE = "running the command"
LOG_END, LONGEST_LINE = 4096, 200  # bytes of a log, characters of a message


class CommandKilledError(L3hpcError):
    """The command got SIGKILL, as if memory had run out; the exit code lets the job find out."""

    exit_code = 137


class ShellParams(OwnParams):
    """The command, and what it reads and writes."""

    command: str | tuple[str, ...] = Field(
        description="What is run: a text by bash, a list of arguments without a shell.",
        json_schema_extra={"allowed": "text, list of texts"})

    @field_validator("command", mode="before")
    @classmethod
    def _texts(cls, command: Any) -> Any:
        # YAML has made other values of them: 1.10 would become 1.1
        for word in command if isinstance(command, (list, tuple)) else [command]:
            if not isinstance(word, str):
                raise ValueError(f"{word!r} is not text: put it in quotes")
        return command


class Shell(OwnStep[ShellParams]):
    """A command of the user."""

    name = "shell"
    title = "what a command of your own writes"
    params_type = ShellParams
    declares = frozenset(ShellParams.model_fields)
    literal = frozenset({"command"})

    def check(self, params: ShellParams, plan: PlanParams) -> None:
        """Refuse parameters that are not single values, and placeholders of a command line."""
        super().check(params, plan)
        for name, value in params.own.items():
            if not isinstance(value, (str, int, float)) or "\0" in str(value):
                raise InputError(f"{name!r} is not a single value", where="params",
                                 allowed="text, a number, true or false")
        if not params.command or not params.command[0].strip():
            raise InputError("the command is empty", where="command")
        if isinstance(params.command, str) and (found := _PLACEHOLDER.search(params.command)):
            raise InputError(
                f"{found[0]} would be part of the text that bash reads", where="command",
                allowed=f'the variable "${_variable_of(found)}"' if not found[3]
                else 'a file under inputs: and its variable, such as "$L3_INPUT_AUDIO"',
                hint="Or write the command as a list, in which placeholders are replaced.")

    def check_names(self, params: ShellParams, upstream: Upstream) -> None:
        """Refuse placeholders that name nothing, and parameters that differ only in case."""
        super().check_names(params, upstream)
        names = [name.lower() for name in params.own]
        if len(set(names)) < len(names):
            raise InputError("two parameters differ only in upper and lower case", where="params")
        if isinstance(params.command, str):
            return
        for word in params.command:
            for found in _PLACEHOLDER.finditer(word):
                known = [*params.inputs, *upstream] if found[1] == "input" else list(params.own)
                if found[3] or found[1] and found[2] not in known:
                    raise InputError(f"{found[0]} names nothing that the step declares",
                                     where="command", allowed=nearest(found[2] or "", known)
                                     if known else "names under inputs: and params:")

    def describe(self, params: ShellParams, plan: PlanParams) -> str:
        """The command, cut to a line."""
        text = params.command if isinstance(params.command, str) else " ".join(params.command)
        line = " ".join(text.split())
        return line if len(line) <= 80 else f"{line[:79]}…"

    def run(self, params: ShellParams, task: Task) -> dict[str, Any]:
        """Run the command in the output folder of the task."""
        with code_folder(params.code) as code, _temporary_folder(task):
            values = variables(params, task, code)
            command = [*BASH, params.command] if isinstance(params.command, str) else [
                _PLACEHOLDER.sub(lambda found: values[_variable_of(found)], word)
                for word in params.command]
            task.progress.start(PHASE)
            run_command(command, task.output, {**os.environ, **values})
        return {"files": check_outputs(params, task.output)}


@contextlib.contextmanager
def _temporary_folder(task: Task) -> Iterator[None]:
    """Make the folder for temporary files, and remove it when the block ends."""
    if task.temporary is None or task.temporary == task.node_scratch:
        yield
        return
    # left by a killed attempt
    shutil.rmtree(task.temporary, ignore_errors=True)
    task.temporary.mkdir(exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(task.temporary, ignore_errors=True)


def variables(params: OwnParams, task: Task, code: Path) -> dict[str, str]:
    """The environment variables of a command.

    Parameters
    ----------
    params
        The parameters of the step.
    task
        The task.
    code
        The folder of its code.
    """
    values = {"L3_OUTPUT": str(task.output), "L3_SCRATCH": str(task.scratch),
              "L3_CODE": str(code), "L3_TASK": str(task.index), "L3_TASKS": str(task.tasks),
              "L3_CPUS": str(task.threads)}
    if task.temporary is not None:
        values["TMPDIR"] = str(task.temporary)
    for name, path in input_paths(params, task).items():
        values[f"L3_INPUT_{variable(name).upper()}"] = str(path)
    for name, value in params.own.items():
        values[f"L3_PARAM_{name.upper()}"] = _text(value)
    return values


def run_command(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command to its end; what it prints goes to the log.

    Parameters
    ----------
    command
        The program and its arguments.
    folder
        Its working folder.
    environment
        All its environment variables.

    Raises
    ------
    L3hpcError
        If it cannot be started, or ends with another exit code than 0; with the last line that
        it printed, if that went to a log.
    """
    start = _log_size()
    try:
        # standard output goes to that log, too: `l3hpc run --json` prints its result there
        process = subprocess.Popen(command, cwd=folder, env=dict(environment),
                                   stdin=subprocess.DEVNULL, stdout=2)
    except OSError as error:
        raise L3hpcError(f"{command[0]!r} cannot be started: {error.strerror}",
                         hint="Is the program installed on the node, and in setup: of the profile?"
                         ) from None
    try:
        code = process.wait()
    except BaseException:  # a signal: the job is about to be requeued or stopped
        _terminate(process)
        raise
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise CommandKilledError("the command was killed (SIGKILL); perhaps it ran out of memory")
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = _last_line(start)
        raise L3hpcError(f"the command ended with {how}" + (f": {said}" if said else ""),
                         hint="What it printed is in the log.")


def _log_size() -> int | None:
    """The length of the log so far; None where standard error is a terminal or a pipe."""
    state = os.fstat(2)
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def _last_line(start: int | None) -> str:
    """What the log ends with since it had ``start`` bytes: mostly why a command has failed."""
    if start is None:
        return ""
    with contextlib.suppress(OSError), open("/proc/self/fd/2", "rb") as stream:
        stream.seek(max(start, os.fstat(2).st_size - LOG_END))
        lines = log_text(stream.read(LOG_END).decode("utf-8", "replace")).splitlines()
        # the progress of this process is in the same log
        own = [text for line in lines if (text := line.strip()) and not text.startswith(PHASE)]
        return own[-1][:LONGEST_LINE] if own else ""
    return ""


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """End a command with everything that it has started."""
    # It has no process group of its own: the runner and Slurm signal that of the job.
    family = [process.pid, *descendants(process.pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATE_S)
            # a child that ignored the signal outlives its shell
            if number is signal.SIGTERM and not any(map(_exists, family[1:])):
                return


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _variable_of(found: re.Match[str]) -> str:
    """The variable that a placeholder stands for."""
    if found[1]:
        return f"L3_{found[1]}_{variable(found[2])}".upper()
    return f"L3_{found[4]}".upper()


def _text(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
