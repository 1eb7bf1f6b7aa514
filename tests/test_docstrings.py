"""Docstrings have numpydoc sections that fit the signatures (test_examples runs the examples)."""

import ast
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

PACKAGES = ("io", "arrays", "audio", "embedding", "web", "console", "models", "models.training",
            "datasets", "avc", "compression", "export", "sampling", "reduction", "tagging",
            "classification", "teachers", "steps", "config", "workspace", "pipelines", "schedulers",
            "schedulers.slurm", "schedulers.local", "worker", "runs", "setup", "doctor", "ledger",
            "ledger.journal", "ledger.sheets", "ledger.views", "report")
ROOT = ("l3hpc.errors", "l3hpc.findings", "l3hpc.installation", "l3hpc.hear")


def modules(packages):
    return [*ROOT, *(found.name for package in packages for found in pkgutil.iter_modules(
        importlib.import_module(f"l3hpc.{package}").__path__, f"l3hpc.{package}."))]


def public_functions(module):
    """Public functions, and methods of public classes, of a module."""
    path = Path(importlib.util.find_spec(module).origin)
    pending = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                pending.append(node)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_") \
                    and "overload" not in map(ast.unparse, node.decorator_list):
                yield node


def arguments(node):
    plain = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in plain if one.arg not in ("self", "cls")]


def documented(docstring):
    """The names in the section Parameters; None without one."""
    found = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", docstring, re.M | re.S)
    if found is None:
        return None
    entries = [line for line in found[1].splitlines() if line[:1].strip()]
    return [name.strip().lstrip("*") for line in entries for name in line.split(":")[0].split(",")]


@pytest.mark.parametrize("name", modules(PACKAGES))
def test_documented_parameters_are_those_of_the_signature(name):
    for node in public_functions(name):
        names = documented(ast.get_docstring(node) or "")
        extra = [one.arg for one in (node.args.vararg, node.args.kwarg) if one is not None]
        if names is not None:
            assert set(arguments(node)) <= set(names) <= {*arguments(node), *extra}, node.name


@pytest.mark.parametrize("name", modules(PACKAGES))
def test_public_functions_have_docstrings_and_describe_their_parameters(name):
    for node in public_functions(name):
        if "self" in [one.arg for one in node.args.args]:
            continue
        docstring = ast.get_docstring(node)
        assert docstring, node.name
        if len(arguments(node)) > 2:
            assert documented(docstring) is not None, node.name
