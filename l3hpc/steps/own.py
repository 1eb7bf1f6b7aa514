"""What steps have in common that a pipeline file defines itself: a command, or a function.

Such a step declares its files (``inputs``), its parameters, its tasks (``each``), the files that it
must write (``outputs``) and its code. All of it is frozen in ``config.json``, the code as text: a
job runs what was submitted, and a file that somebody changes or replaces afterwards has no effect.
``shell`` runs a command, ``function`` a Python function.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, JsonValue, field_validator

from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.io.files import RESULT, digest, digest_file, read_bounded
from l3hpc.steps.base import Params, PlanParams, Results, Shard, Step, Upstream
from l3hpc.steps.task import Task

MAX_TASKS = 100_000
MAX_CODE = 2**20  # bytes; it is kept in config.json
NAME_RULE = "a name of letters, digits and _, beginning with a letter"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class OwnParams(Params):
    """What a pipeline file declares of a step beside its own parameters."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    inputs: dict[str, Path] = Field(default_factory=dict, description=(
        "Files and folders that the step reads."),
        json_schema_extra={"allowed": "name → path"})
    outputs: tuple[str, ...] = Field((), description=(
        "Files that every task must write; the report copies them."),
        json_schema_extra={"allowed": "list of patterns"})
    each: int | str | None = Field(None, description=(
        "What the tasks of the job array are (none: there is a single task)."),
        json_schema_extra={"allowed": "number of tasks; STEP: one for each task of a needed step; "
                                      "INPUT/PATTERN: one for each file of an input"})
    code: dict[str, str] = Field(default_factory=dict, description=(
        "Files of code that the step uses, stored with the run when it is submitted."),
        json_schema_extra={"allowed": "list of paths"})

    @field_validator("inputs", mode="before")
    @classmethod
    def _paths(cls, inputs: Any) -> Any:
        if not isinstance(inputs, Mapping) or not all(
                isinstance(path, (str, Path)) and str(path) for path in inputs.values()):
            raise ValueError("write names with their paths, {audio: recordings}")
        return inputs

    @field_validator("inputs")
    @classmethod
    def _absolute(cls, inputs: dict[str, Path]) -> dict[str, Path]:
        # a job has another working folder
        return {name: Path(os.path.abspath(path.expanduser())) for name, path in inputs.items()}

    @field_validator("outputs", mode="before")
    @classmethod
    def _patterns(cls, outputs: Any) -> Any:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, (list, tuple)) or not all(
                isinstance(pattern, str) for pattern in outputs):
            raise ValueError("write a list of patterns, [table.csv, plots/*.png]")
        return outputs

    @field_validator("each", mode="before")
    @classmethod
    def _tasks(cls, each: Any) -> Any:
        if isinstance(each, int) and (isinstance(each, bool) or not 1 <= each <= MAX_TASKS):
            raise ValueError(f"a number of tasks is 1 to {MAX_TASKS:,}")
        if not isinstance(each, (int, str, type(None))):
            raise ValueError("write a number of tasks, a needed step, or INPUT/PATTERN")
        return each

    @field_validator("code", mode="before")
    @classmethod
    def _names(cls, code: Any) -> Any:
        if not isinstance(code, Mapping) or not all(
                str(name) == PurePosixPath(str(name)).name for name in code):
            raise ValueError("write a list of paths, [convert.py]")
        return code

    @property
    def own(self) -> dict[str, JsonValue]:
        """The parameters that the pipeline file declares."""
        return dict(self.__pydantic_extra__)


P = TypeVar("P", bound=OwnParams)


class OwnStep(Step[P]):
    """A step that a pipeline file defines. Subclasses say what is run."""

    version = 1
    not_in_fingerprint = frozenset({"inputs"})
    takes_any = True
    executes_config = True

    def parse(self, values: Mapping[str, Any]) -> P:
        """Read the files of code into the parameters, where they are named by their paths."""
        code = values.get("code")
        if isinstance(code, (str, list, tuple)):
            files = [code] if isinstance(code, str) else code
            values = {**values, "code": _read_code(files)}
        params = super().parse(values)
        for what, names in (("input", params.inputs), ("parameter", params.own)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise InputError(f"{name!r} cannot be the name of an {what}"
                                     if what == "input" else
                                     f"{name!r} cannot be the name of a {what}", allowed=NAME_RULE)
        return params

    def check(self, params: P, plan: PlanParams) -> None:
        """Refuse inputs that do not exist, and outputs that l3hpc writes itself."""
        for name, path in params.inputs.items():
            if not path.exists():
                raise InputError(f"input {name!r}: no such file or folder", where=str(path))
            # a pipe waits for a writer, and a device has no end
            if not path.is_file() and not path.is_dir():
                raise InputError(f"input {name!r}: neither a regular file nor a folder",
                                 where=str(path))
        for pattern in params.outputs:
            parts = PurePosixPath(pattern).parts
            if not parts or pattern.startswith("/") or ".." in parts:
                raise InputError(f"{pattern!r} in outputs is not a pattern of files",
                                 allowed="relative to the output of a task: table.csv, plots/*.png")
            if parts == (RESULT,):
                raise InputError(f"{RESULT} is written by l3hpc itself", where="outputs",
                                 hint="Give the file another name.")

    def shards(self, params: P, upstream: Upstream) -> list[Shard]:
        """The tasks that ``each`` defines."""
        self.check_names(params, upstream)
        if params.each is None:
            return [{}]
        if isinstance(params.each, int):
            return [{"number": number} for number in range(params.each)]
        name, _, pattern = params.each.partition("/")
        if name in upstream and not pattern:
            if not upstream[name]:
                raise InputError(f"each: {name} names published files, which have no tasks",
                                 where="each", hint="List files of an input: INPUT/PATTERN.")
            return [{"input": name, "task": index} for index in range(len(upstream[name]))]
        if name not in params.inputs:
            raise InputError(f"{params.each!r} in each is neither an input nor a needed step",
                             where="each", allowed=nearest(name, [*params.inputs, *upstream]))
        files = _matches(params.inputs[name], pattern or "*")
        if not files:
            raise InputError(f"no file matches {pattern or '*'!r}", where=str(params.inputs[name]))
        return [{"input": name, "file": file} for file in files]

    def check_names(self, params: P, upstream: Upstream) -> None:
        """Refuse two inputs of one name, and subclasses whatever does not fit the names."""
        taken: dict[str, str] = {}
        for name in (*params.inputs, *upstream):
            if variable(name) in taken:
                raise InputError(f"the inputs {taken[variable(name)]!r} and {name!r} have the same "
                                 "name", where="inputs", hint="Rename the one under inputs.")
            taken[variable(name)] = name

    def digests(self, params: P) -> dict[str, Any]:
        """Files by their bytes, folders by names, sizes and times of their files."""
        found: dict[str, Any] = {}
        each, _, pattern = str(params.each or "").partition("/")
        for name, path in params.inputs.items():
            if path.is_dir():
                listed = _matches(path, (pattern or "*") if name == each else "**/*")
                states = [(file, (path / file).stat()) for file in listed]
                found[name] = digest([[file, state.st_size, state.st_mtime_ns]
                                      for file, state in states])
            else:
                found[name] = digest_file(path)
        return found

    def shown_params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters with the names of the files of code in place of their text."""
        code = ", ".join(params.get("code", ()))
        return {name: value for name, value in {**params, "code": code}.items()
                if value or name not in self.declares}

    def files_to_keep(self, params: Mapping[str, Any]) -> Sequence[str]:
        """The files that the pipeline declares as outputs."""
        return list(params.get("outputs", ()))

    def summary(self, results: Results) -> str:
        """The values that the tasks returned; their range where there are several tasks."""
        if len(results) == 1:
            return ", ".join(_named(key, _short(value)) for key, value in results[0].items()
                             if isinstance(value, (str, int, float)))
        parts = [f"{len(results)} tasks"]
        for key in results[0] if results else ():
            values = [result.get(key) for result in results]
            numbers = [value for value in values
                       if isinstance(value, (int, float)) and not isinstance(value, bool)]
            if len(numbers) == len(values):
                least, most = _short(min(numbers)), _short(max(numbers))
                each = " each" if key == "files" else ""
                parts.append(_named(key, least if most == least else f"{least} to {most}") + each)
        return ", ".join(parts)


def variable(name: str) -> str:
    """The name of an input as a variable: a step may be called ``train-wide``."""
    return name.replace("-", "_").lower()


def input_paths(params: OwnParams, task: Task) -> dict[str, Path]:
    """Input → the file or folder that one task reads.

    Parameters
    ----------
    params
        The parameters of the step.
    task
        The task; of the input that ``each`` names, it gets its own file or folder.
    """
    paths = {**params.inputs, **task.inputs}
    own = task.shard.get("input")
    if own is not None:
        part = task.shard.get("file")
        paths[own] = paths[own] / (f"{task.shard['task']:04d}" if part is None else part)
    return paths


@contextlib.contextmanager
def code_folder(code: Mapping[str, str]) -> Iterator[Path]:
    """Write the frozen files of code into a temporary folder of this user.

    Parameters
    ----------
    code
        File name → text.

    Yields
    ------
    Path
        The folder, which exists during the block.
    """
    with tempfile.TemporaryDirectory(prefix="l3hpc-code-") as folder:
        for name, text in code.items():
            path = Path(folder, name)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o700)
            # for tracebacks after the folder is gone; with None, the file is not looked for again
            linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True),
                                          str(path))
        yield Path(folder)


def check_outputs(params: OwnParams, output: Path) -> int:
    """Check that a task has written what the pipeline declares; return the number of its files.

    Parameters
    ----------
    params
        The parameters of the step.
    output
        The folder of the task.

    Raises
    ------
    L3hpcError
        If a declared file is missing, or a file has the name of the result.
    """
    files = _matches(output, "**/*")
    for pattern in params.outputs:
        if not _matches(output, pattern):
            raise L3hpcError(f"the output {pattern!r} was not written",
                             allowed=f"written: {', '.join(files[:8]) or 'nothing'}",
                             hint="Write it into the output folder of the task, or correct outputs:"
                                  " of the step.")
    if RESULT in files:
        raise L3hpcError(f"the task wrote {RESULT}, which l3hpc writes itself",
                         hint="Give the file another name.")
    return len(files)


def _matches(folder: Path, pattern: str) -> list[str]:
    """The files of a folder that match a pattern, relative to it and without hidden ones."""
    if not folder.is_dir():
        raise InputError("not a folder, so that no pattern applies", where=str(folder))
    try:
        found = [path.relative_to(folder) for path in folder.glob(pattern) if path.is_file()]
    except (ValueError, IndexError, NotImplementedError):
        raise InputError(f"{pattern!r} is not a pattern of files", where="each",
                         allowed="relative to the input: *.wav, **/*.wav") from None
    return sorted(path.as_posix() for path in found
                  if ".." not in path.parts and not any(part[0] == "." for part in path.parts))


def _read_code(files: list[Any] | tuple[Any, ...]) -> dict[str, str]:
    code: dict[str, str] = {}
    for file in files:
        path = Path(str(file)).expanduser()
        if path.name in code:
            raise InputError(f"two files are called {path.name}", where="code")
        code[path.name] = read_code(path)
    return code


def read_code(path: Path) -> str:
    """The text of a file of code.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        If it cannot be read, is not UTF-8, or is larger than 1 MiB.
    """
    try:
        return read_bounded(path, MAX_CODE).decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8", where=str(path),
                         hint="Name files of data under inputs:, not under code:.") from None


def _named(key: str, value: str) -> str:
    if key == "files":  # what a step without values of its own returns: how many outputs there are
        return f"{value} {'file' if value == '1' else 'files'}"
    return f"{key} {value}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:60]
