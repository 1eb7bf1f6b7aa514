"""What every test gets: a cache of its own, so that nothing is remembered in the home folder, and
hypothesis with the same examples each time and no deadline (a busy machine is no failure).

Also how the suite is spread over workers with ``-n auto --dist loadgroup``, and the
quick subset of ``make check`` (``--quick``), which is chosen by rules and so needs no list: no test
with a real Slurm, none marked slow, none that imports TensorFlow, and none that starts a Python
process, except those that hold the whole project together (tests/contract and the files beside this
one). Hypothesis then tries ten examples where a test does not ask for a number itself.
"""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent / "fakes"))

import chains as _chains  # noqa: E402
from fakeslurm import FakeSlurm  # noqa: E402

settings.register_profile("l3hpc", derandomize=True, deadline=None, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("l3hpc")

HERE = Path(__file__).resolve().parent
LOADED = pytest.StashKey()  # what reading the test files has imported, and should not
_LOADED_BEFORE = set(sys.modules)
# One worker per group: each starts a real Slurm of its own and mostly waits for it.
SLURM_GROUPS = {"accounting": 4, "plain": 2}
SLOW_WEIGHS = 4  # tests that are not marked slow


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true",
                     help="only tests that need no Slurm, no TensorFlow and no new Python process")


def pytest_configure(config):
    if config.getoption("quick"):
        settings.register_profile("quick", settings.get_profile("l3hpc"), max_examples=10)
        settings.load_profile("quick")
        sys.meta_path.insert(0, _TensorFlowSkips())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """The cores are for the tests that compute; those that wait for a real Slurm come on top."""
    if config.getoption("quick"):
        return None  # as many as xdist takes by itself
    cores = len(os.sched_getaffinity(0))
    return cores + (sum(SLURM_GROUPS.values()) if config.getoption("dist") == "loadgroup" else 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        left_out = [item for item in items if _slow(item)]
        items[:] = [item for item in items if not _slow(item)]
        config.hook.pytest_deselected(items=left_out)
    if not config.getoption("loadgroup", False):
        return
    of_slurm = _slurm_groups([item for item in items if _needs_slurm(item)])
    groups = {item: of_slurm.get(item) or _file(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    # What takes longest starts first, so that no worker is left with it at the end.
    slow = {groups[item] for item in items if _marked_slow(item)}
    items.sort(key=lambda item: (item not in of_slurm, groups[item] not in slow))


def pytest_collection_finish(session):
    session.config.stash[LOADED] = {"tensorflow", "keras"} & (set(sys.modules) - _LOADED_BEFORE)


def _slow(item):
    return _needs_slurm(item) or _marked_slow(item)


def _marked_slow(item):
    return item.get_closest_marker("slow") is not None


def _needs_slurm(item):
    return item.path.is_relative_to(HERE / "cluster")


def _file(item):
    """Tests of one file share a worker, and with it what their fixtures made."""
    return item.path.relative_to(HERE).with_suffix("").as_posix()


def _slurm_groups(items):
    """The group of every test with a real Slurm: each kind of Slurm has groups that take about as
    long; tests that share more than the Slurm with others of their file stay together."""
    together = {}
    for item in items:
        kind = ("plain" if "slurm_plain" in item.fixturenames or "[no accounting" in item.name
                else "accounting")
        shares = any(fixture[-1].scope == "module"
                     for fixture in item._fixtureinfo.name2fixturedefs.values())
        together.setdefault((kind, _file(item) if shares else item.nodeid), []).append(item)

    def weight(key):
        return sum(SLOW_WEIGHS if _marked_slow(item) else 1 for item in together[key])

    load = {kind: [0] * count for kind, count in SLURM_GROUPS.items()}
    found = {}
    for key in sorted(together, key=weight, reverse=True):
        kind = key[0]
        number = load[kind].index(min(load[kind]))
        load[kind][number] += weight(key)
        found |= dict.fromkeys(together[key], f"slurm-{kind}-{number}")
    return found


class _TensorFlowSkips:
    """Finder and loader of a TensorFlow that skips the test which imports it."""

    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        pytest.skip("needs TensorFlow", allow_module_level=True)

    def exec_module(self, module):
        raise AssertionError("never created")


@pytest.fixture(autouse=True)
def _no_new_python(request, monkeypatch):
    """With --quick, skip a test where it starts Python, unless the whole project depends on it."""
    folder = request.path.parent
    if not request.config.getoption("quick") or folder in (HERE, HERE / "contract"):
        return
    start = subprocess.Popen.__init__

    def skip(self, args, *rest, **options):
        if isinstance(args, (list, tuple)) and "python" in Path(os.fspath(args[0])).name:
            pytest.skip("starts a Python process")
        start(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", skip)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """One for all workers: what a job has measured on this machine need not be measured again."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))


@pytest.fixture(autouse=True)
def _untimed_engines(monkeypatch):
    """An engine that is chosen in this process is chosen without two new processes that time it:
    which one is faster here, no test may depend on. tests/models/test_engines.py does time them."""
    monkeypatch.setattr("l3hpc.models.engines.seconds_per_frame",
                        lambda name, spec, threads: {"ncnn": 0.5}.get(name, 1.0))


@pytest.fixture
def loaded_by_test_files(request):
    return request.config.stash[LOADED]


@pytest.fixture
def chains(monkeypatch):
    """Plans of fake steps."""
    _chains.clean_environment(monkeypatch)
    return _chains


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs named as Slurm's that answer as they are told."""
    return FakeSlurm(tmp_path / "fake-slurm", monkeypatch)
