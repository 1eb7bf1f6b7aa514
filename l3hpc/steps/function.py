"""python: a function of the user as a step.

The function is in a file, whose text is frozen with the pipeline, or in an installed module, whose
source must be the same in the job. Planning reads the source and imports neither.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.io.files import digest
from l3hpc.steps.base import PlanParams, Upstream
from l3hpc.steps.own import (
    OwnParams,
    OwnStep,
    check_outputs,
    code_folder,
    input_paths,
    read_code,
    variable,
)
from l3hpc.steps.task import Task, refuse_exit

FORM = "FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"


class PythonParams(OwnParams):
    """The function, and what it reads and writes."""

    function: str = Field(
        description="What is called: a function in a file, or in a module of an installed package.",
        json_schema_extra={"allowed": "FILE.py:FUNCTION, MODULE:FUNCTION"})
    source: str | None = Field(None, json_schema_extra={"allowed": ""}, description=(
        "digest of the source of MODULE, filled in when the pipeline is submitted"))


class Python(OwnStep[PythonParams]):
    """A function of the user."""

    name = "python"
    title = "what a Python function of your own writes"
    params_type = PythonParams
    declares = frozenset(PythonParams.model_fields)

    def parse(self, values: Mapping[str, Any]) -> PythonParams:
        """Freeze the text of the file, or the digest of the module."""
        params = super().parse(values)
        place, name = _split(params.function)
        if place.endswith(".py"):
            file = Path(place).expanduser()
            if file.name in params.code:
                text = params.code[file.name]
            else:
                text = read_code(file)
            _definition(text, name, str(file))
            return params.model_copy(update={
                "function": f"{file.name}:{name}", "code": {**params.code, file.name: text}})
        if params.source is not None:
            return params
        text, where = _module_source(place)
        _definition(text, name, where)
        return params.model_copy(update={"source": digest(text)})

    def check_names(self, params: PythonParams, upstream: Upstream) -> None:
        """Refuse inputs and parameters that the function does not take."""
        super().check_names(params, upstream)
        inputs = {variable(name) for name in (*params.inputs, *upstream)}
        if both := sorted(inputs & {*params.own}):
            raise InputError(f"{both[0]!r} is both an input and a parameter", where="params",
                             hint="Rename one of them.")
        place, name = _split(params.function)
        text, where = (params.code[place], place) if place in params.code \
            else _module_source(place)
        definition = _definition(text, name, where)
        # what a decorator makes of the arguments is not known
        if definition is not None and not definition.decorator_list:
            _check_arguments(definition, inputs | {*params.own}, where)

    def shown_params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters without the digest of the module."""
        shown = super().shown_params(params)
        return {name: value for name, value in shown.items() if name != "source"}

    def describe(self, params: PythonParams, plan: PlanParams) -> str:
        """Return the name of the function."""
        return params.function

    def run(self, params: PythonParams, task: Task) -> dict[str, Any]:
        """Call the function; what it returns is the result of the task."""
        inputs = {variable(name): path for name, path in input_paths(params, task).items()}
        with code_folder(params.code) as code, _function(params, code) as function:
            task.progress.start(f"running {params.function}")
            with refuse_exit(params.function):
                value = function(task, **inputs, **params.own)
        files = check_outputs(params, task.output)
        if value is None:
            return {"files": files}
        if not isinstance(value, dict):
            raise L3hpcError(f"{params.function} returned {value!r:.80}",
                             allowed="a dict of values that JSON has, or None")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise L3hpcError(f"{params.function} returned a value that JSON does not have: {error}",
                             allowed="text, finite numbers, true, false, null, lists and dicts"
                             ) from None
        return value


def place_of(error: BaseException) -> str | None:
    """Where an exception was raised in a function of the user.

    Parameters
    ----------
    error
        Any exception that a step has raised.

    Returns
    -------
    str or None
        ``measure.py:11 in peak: SOURCE``, the innermost line in the files beside the function; None
        if the exception does not come from a function of the user.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith("<")]  # of the import system
    calls = [index for index, frame in enumerate(frames) if frame.filename == __file__]
    inner = frames[calls[-1] + 1:] if calls else []
    if not inner:
        return None
    folder = Path(inner[0].filename).parent
    last = [frame for frame in inner if Path(frame.filename).parent == folder][-1]
    place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
    return f"{place}: {last.line}" if last.line else place


def _split(function: str) -> tuple[str, str]:
    place, _, name = function.rpartition(":")
    if not place or not name.isidentifier():
        raise InputError(f"{function!r} names no function", where="function", allowed=FORM)
    return place, name


def _module_source(module: str) -> tuple[str, str]:
    """The source of an installed module, and its file."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"{module!r} is not the name of a module", where="function", allowed=FORM)
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # importing the packages above it may raise anything
        raise InputError(f"the module {module!r} cannot be found: {type(error).__name__}: {error}",
                         where="function") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"there is no Python source of a module {module!r}", where="function",
                         allowed=FORM, hint="Install its package, or name its file.")
    return read_code(Path(spec.origin)), spec.origin


def _definition(text: str, name: str, where: str) -> ast.FunctionDef | None:
    """The definition of a function at the top of a module; None if it is bound in another way."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise InputError(f"is not valid Python: {getattr(error, 'msg', error)}",
                         where=f"{where}:{line}") from None
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    if name in functions:
        return functions[name]
    # what is imported or assigned cannot be checked without running the module
    bound = {alias.asname or alias.name for node in body
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    bound |= {target.id for node in body if isinstance(node, ast.Assign)
              for target in node.targets if isinstance(target, ast.Name)}
    if name not in bound:
        raise InputError(f"there is no function {name!r}", where=where,
                         allowed=nearest(name, functions) if functions else "it has no functions")
    return None


def _check_arguments(definition: ast.FunctionDef, given: Collection[str], where: str) -> None:
    """Refuse names that a function does not take, and arguments without a value."""
    place, arguments = f"{where}:{definition.lineno}", definition.args
    plain = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    if not plain and not arguments.vararg:
        raise InputError(f"{definition.name} takes no argument", where=place,
                         hint="Its first argument is the task: def NAME(task, …).")
    named = [one.arg for one in (*arguments.args, *arguments.kwonlyargs)]
    # the first argument is the task, which ours gives it
    named = [name for name in named if name not in plain[:1]]
    unknown = sorted({*given} - {*named})
    if unknown and not arguments.kwarg:
        raise InputError(f"{definition.name} has no argument {unknown[0]!r}", where=place,
                         allowed=nearest(unknown[0], named) if named else "it takes the task alone")
    optional = {*plain[len(plain) - len(arguments.defaults):]} if arguments.defaults else set()
    optional |= {one.arg for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults,
                                                 strict=True) if default is not None}
    missing = [name for name in named if name not in given and name not in optional]
    if missing:
        raise InputError(f"{definition.name} needs {missing[0]!r}, which the step does not give it",
                         where=place, hint=f"Add {missing[0]} to inputs: or params: of the step.")


@contextlib.contextmanager
def _function(params: PythonParams, code: Path) -> Iterator[Callable[..., Any]]:
    """The function; its file and the other files of code can be imported during the block."""
    place, name = _split(params.function)
    before = {*sys.modules}
    sys.path.insert(0, str(code))
    try:
        module = _load(code / place) if place in params.code else _import(place, params.source)
        function = getattr(module, name, None)
        if not callable(function):
            raise L3hpcError(f"{params.function} is not a function")
        yield function
    finally:
        sys.path.remove(str(code))
        for loaded in {*sys.modules} - before:
            if str(getattr(sys.modules[loaded], "__file__", "")).startswith(f"{code}/"):
                del sys.modules[loaded]


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"l3hpc_step_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    spec.loader.exec_module(module)
    return module


def _import(name: str, source: str | None) -> ModuleType:
    text, where = _module_source(name)
    if source is not None and digest(text) != source:
        raise L3hpcError("has changed since the pipeline was submitted", where=where,
                         hint="Submit the pipeline again: the step then has a new fingerprint.")
    return importlib.import_module(name)
