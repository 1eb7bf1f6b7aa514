"""The arrows between packages are those of docs/architecture.md; starting loads nothing heavy."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import workers

PACKAGE = Path(__file__).resolve().parent.parent / "l3hpc"
# what every package may import, in this order: an arrow points to a later one
BENEATH_ALL = ("findings", "io", "installation", "errors", "parameter_names", "_version", "_lazy",
               "_search_path")
# every other package and each that it imports, from the person down: arrows point to later lines
ARROWS = {name: tuple(below.split()) for name, below in {
    "cli": "demo doctor report setup runs worker schedulers pipelines workspace config steps export"
           " datasets embedding teachers models audio ledger console",
    "demo": "report runs pipelines workspace config datasets console",
    "doctor": "notify schedulers pipelines workspace config steps teachers datasets ledger arrays"
              " console",
    "report": "runs workspace config ledger steps reduction models web",
    "setup": "schedulers pipelines config arrays",
    "runs": "notify worker schedulers pipelines workspace config ledger console",
    "notify": "",
    "worker": "schedulers pipelines workspace steps models ledger arrays console",
    "schedulers": "pipelines workspace config console",
    "pipelines": "workspace config steps teachers datasets console",
    "ledger": "workspace console web",
    "workspace": "config",
    "config": "steps arrays",
    "steps": "compression avc classification tagging reduction sampling teachers datasets models"
             " audio arrays console",
    "hear": "embedding models audio",
    "export": "embedding teachers datasets models audio console",
    "compression": "avc models audio arrays console",
    "avc": "datasets models audio arrays console",
    "classification": "datasets",
    "tagging": "reduction datasets arrays",
    "reduction": "datasets arrays console",
    "sampling": "datasets arrays console",
    "embedding": "teachers models audio arrays",
    "teachers": "datasets models audio arrays",
    "datasets": "models audio arrays console",
    "models": "audio arrays console",
    "audio": "arrays",
    "arrays": "",
    "console": "",
    "web": "",
}.items()}
# names that scripts and pickles of earlier versions hold; nothing imports them
STUBS = "workflow"
HEAVY = ("tensorflow", "keras", "pandas", "sklearn")
MODULES = {".".join(("l3hpc", *path.relative_to(PACKAGE).with_suffix("").parts))
           .removesuffix(".__init__"): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The modules of ours that a module imports: inside of functions, and for types, too."""
    found: set[str] = set()
    known = set(MODULES)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known
            found |= {node.module} if names - known else set()
    return frozenset(found & known)


def package(name: str) -> str:
    """``l3hpc.audio.files`` → ``audio``."""
    return name.split(".")[1] if "." in name else ""


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Every package and the packages that its modules import."""
    found: dict[str, set[str]] = {package(name): set() for name in MODULES}
    for name, path in MODULES.items():
        found[package(name)] |= {package(one) for one in imports(path)} - {package(name)}
    return found


def test_the_order_is_one_from_the_person_down():
    order = [*ARROWS, *BENEATH_ALL]
    wrong = [f"{above} -> {below}" for above, names in ARROWS.items() for below in names
             if order.index(below) <= order.index(above)]
    assert not wrong


@pytest.mark.parametrize("above", sorted({package(name) for name in MODULES}
                                         - {"", "__main__", STUBS}))
def test_a_package_imports_what_is_drawn_and_nothing_else(above):
    """A new arrow is drawn first; one that has gone is rubbed out."""
    found = arrows()[above]
    if above in BENEATH_ALL:
        assert found <= set(BENEATH_ALL[BENEATH_ALL.index(above) + 1:])
    else:
        assert found - set(BENEATH_ALL) == set(ARROWS[above])


def test_nothing_imports_what_is_kept_for_earlier_versions():
    assert not [above for above, below in arrows().items() if STUBS in below]


def test_no_module_imports_itself_through_others():
    """Imports inside functions count, and those for type checkers."""
    below = {name: imports(path) - {name} for name, path in MODULES.items()}

    def reached(name):
        found, next_ones = set(), set(below[name])
        while next_ones:
            found |= next_ones
            next_ones = set().union(*(below[one] for one in next_ones)) - found
        return found

    assert not {name for name in MODULES if name in reached(name)}


def test_every_module_says_what_it_is_for():
    silent = [name for name, path in MODULES.items()
              if not ast.get_docstring(tree(path))]
    assert not silent


def test_the_page_on_the_architecture_names_modules_that_exist():
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    named = {name for name in re.findall(r"`([a-z]+/[a-z_/]+)`", page)
             if name.partition("/")[0] in ARROWS}
    missing = [name for name in sorted(named)
               if not (PACKAGE / name).is_dir() and not (PACKAGE / f"{name}.py").is_file()]
    assert len(named) > 20 and not missing


def test_the_drawing_has_every_package_and_all_arrows_point_forward_in_it():
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    drawing = page.partition("## Packages\n\n```text\n")[2].partition("```")[0]
    # a floor is its name, its packages, and perhaps what they are for, two blanks apart or more
    drawn = [name for line in drawing.splitlines()
             for name in re.split(r"\s{2,}", line)[1:] if name in {*ARROWS, *BENEATH_ALL}]
    assert sorted(drawn) == sorted({*ARROWS, *(n for n in BENEATH_ALL if n[0] != "_")})
    assert [(name, below) for name, all_below in ARROWS.items() for below in all_below
            if drawn.index(below) < drawn.index(name)] == []


def test_the_page_on_the_architecture_names_nothing_that_is_gone():
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", page))
    used = {path.stem for path in MODULES.values()}.union(
        *(re.findall(r"\w+", path.read_text()) for path in MODULES.values()))
    assert len(named) > 50 and named <= used


def test_the_page_on_the_architecture_names_every_module():
    """In code words, so that a newcomer can search for it: in front of what it does."""
    page = re.sub(r"```.*?```", "", (PACKAGE.parent / "docs/architecture.md").read_text(),
                  flags=re.DOTALL)
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))
    unnamed = [name for name, path in MODULES.items()
               if path.stem not in words and path.stem[0] != "_" and f".{STUBS}." not in name]
    # a module per command, which ``l3hpc --help`` lists
    assert [name for name in unnamed if not name.startswith("l3hpc.cli.")] == []


@pytest.mark.parametrize("module", sorted({
    name for path in MODULES.values()
    for name in re.findall(r"-m\W{1,4}(l3hpc(?:\.\w+)+)", path.read_text())}))
def test_a_module_that_is_started_as_a_program_is_one(module):
    """Queued jobs hold these names: a module that moves leaves one in ``workflow``."""
    assert '__name__ == "__main__"' in MODULES[module].read_text()


UPPER = ("cli", "runs", "worker", "schedulers", "pipelines", "workspace", "config", "doctor",
         "steps", "embedding", "ledger")
# one process for all: what one import has loaded, no later one takes away
IMPORT_ALL = """
import importlib, sys
heavy, modules = (given.split(",") for given in sys.argv[1:])
for module in modules:
    importlib.import_module(module)
    loaded = [name for name in heavy if name in sys.modules]
    if loaded:
        sys.exit(f"importing {module} loads {', '.join(loaded)}")
"""


def import_all(modules):
    return subprocess.run([sys.executable, "-c", IMPORT_ALL, ",".join(HEAVY), ",".join(modules)],
                          capture_output=True, text=True)


def test_importing_a_module_of_the_upper_packages_loads_nothing_heavy():
    modules = sorted(name for name in MODULES if package(name) in UPPER)
    assert {package(name) for name in modules} == set(UPPER)
    done = import_all([*modules, "l3hpc.reduction.phi"])  # which every task of reduce imports
    assert done.returncode == 0, done.stderr


def test_a_module_that_loads_something_heavy_is_named():
    done = import_all(["l3hpc.errors", "l3hpc.reduction.pca", "l3hpc.io"])
    assert done.returncode and done.stderr.startswith("importing l3hpc.reduction.pca loads")


def test_reading_the_test_files_loads_no_tensorflow(collected):
    """Every worker reads all of them. tests/fakes/lazymodule.py names a module for later use."""
    assert not {"tensorflow", "keras"} & collected[0]


def test_tests_have_the_same_name_in_every_process(collected):
    """Workers that find other names than each other run nothing: no address, no time in a name."""
    assert not [name for name in collected[1] if re.search("0x[0-9a-f]{8,}", name)]


@functools.cache
def defined(path: Path) -> set[str]:
    """Every name that a module binds anywhere, and the modules of a package."""
    names = {each.stem for each in path.parent.iterdir()} if path.stem == "__init__" else set()
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # those that _lazy loads, or __all__ lists
    return names


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_what_is_imported_within_a_function_exists(folder):
    """A benchmark is run now and then: until then nobody would notice that a name is gone."""
    gone = []
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("l3hpc"):
                place = PACKAGE.parent.joinpath(*node.module.split("."))
                module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                known = defined(module) if module.is_file() else set()
                gone += [f"{path}:{node.lineno}: {node.module}.{alias.name}"
                         for alias in node.names if alias.name not in known]
    assert not gone


def test_every_test_file_is_read_by_one_kind_of_worker():
    """Between them, the workers with a real Slurm and the others leave nothing out."""
    for path in sorted(workers.TESTS.rglob("test_*.py")):
        shares = [share for share in ("slurm", "others")
                  if all(workers.reads(part, share) for part in (path, *path.parents[:-1]))]
        assert shares == ["slurm" if path.parent.name == "cluster" else "others"], path


def test_the_files_whose_turn_is_stated_are_there():
    assert not [path for path in {*workers.LONGEST, *workers.FORKING}
                if not (workers.TESTS.parent / path).is_file()]
