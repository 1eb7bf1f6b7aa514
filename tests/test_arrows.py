"""The arrows between rooms point down, and the command line starts without heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "l3hpc"
SCIENCE = {"audio", "models", "sampling", "reduction", "tagging", "classification", "datasets"}
ABOVE_SCIENCE = {"avc"}  # still a library for notebooks, built from the rooms of SCIENCE
ON_TOP = {"compression"}  # as well, built from both
CALLS = {"embedding", "audio", "models"}  # what a notebook calls, over the science it needs
BASE = {"ahead", "cores", "errors", "files", "hdf5", "installation", "npz", "plainyaml", "progress",
        "quiet", "tables", "terminal", "_version"}
MAY_IMPORT = {
    "cli": {"cli", "workflow", "ledger", "report", "steps", "export"} | CALLS | SCIENCE | BASE,
    "embedding": CALLS | BASE,
    "workflow": {"workflow", "steps", "ledger", "report"} | SCIENCE | BASE,
    "report": {"report", "ledger"} | SCIENCE | BASE,
    "steps": {"steps"} | ON_TOP | ABOVE_SCIENCE | SCIENCE | BASE,
    **{room: {room} | ABOVE_SCIENCE | SCIENCE | BASE for room in ON_TOP},
    **{room: {room} | SCIENCE | BASE for room in ABOVE_SCIENCE},
    "ledger": {"ledger"} | BASE,
    "export": {"export", "embedding", "audio", "models", "datasets"} | BASE,
    **dict.fromkeys(SCIENCE, SCIENCE | BASE),
}
HEAVY = ("tensorflow", "keras", "pandas", "sklearn")
# the worker runs what the executors start: to be cut, and never to be joined by another module
KNOWN_CIRCLE = {"l3hpc.workflow.executors", "l3hpc.workflow.executors.local",
                "l3hpc.workflow.executors.slurm", "l3hpc.workflow.worker"}


def imports(path: Path, for_types: bool = True) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text())
    left_out = {child for node in ast.walk(tree)
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                for child in ast.walk(node) if not for_types}
    for node in set(ast.walk(tree)) - left_out:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_rooms_below_it(room):
    wrong = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "l3hpc" and len(parts) > 1 and (PACKAGE / parts[1]).exists() \
                    and parts[1] not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_no_module_imports_itself_through_others():
    """Imports inside functions count; those for type checkers do not."""
    modules = {".".join(("l3hpc", *path.relative_to(PACKAGE).with_suffix("").parts))
               .removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
    below = {name: imports(path, for_types=False) & set(modules) - {name}
             for name, path in modules.items()}

    def reached(name):
        found, waiting = set(), set(below[name])
        while waiting:
            found |= waiting
            waiting = set().union(*(below[one] for one in waiting)) - found
        return found

    assert {name for name in modules if name in reached(name)} == KNOWN_CIRCLE


def test_every_module_says_what_the_room_is_for():
    silent = [str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py"))
              if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


@pytest.mark.parametrize("module", sorted(
    ".".join(("l3hpc", *path.relative_to(PACKAGE).with_suffix("").parts))
    for room in ("cli", "embedding", "ledger", "steps", "workflow")
    for path in (PACKAGE / room).rglob("*.py")
))
def test_importing_a_module_of_the_upper_rooms_loads_nothing_heavy(module):
    code = (f"import sys, importlib; importlib.import_module({module.removesuffix('.__init__')!r});"
            f"print([m for m in {HEAVY!r} if m in sys.modules])")
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
