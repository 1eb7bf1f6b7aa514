"""What every test gets: a cache of its own, so that nothing is remembered in the home folder, and
hypothesis with the same examples each time and no deadline (a busy machine is no failure).

Also how the suite is spread over workers with ``-n auto --dist loadfile`` (workers.py), and the
quick subset of ``make check`` (``--quick``), which is chosen by rules and so needs no list: no test
with a real Slurm, none marked slow, none that imports TensorFlow, and none that starts a Python
process, except those that hold the whole project together (tests/contract and the files beside this
one). Hypothesis then tries ten examples where a test does not ask for a number itself.
"""

import functools
import gc
import importlib.machinery
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent / "fakes"))

import chains as _chains  # noqa: E402
import workers  # noqa: E402
from fakeslurm import FakeSlurm  # noqa: E402
from forkserver import ForkServer  # noqa: E402

settings.register_profile("l3hpc", derandomize=True, deadline=None, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("l3hpc")

HERE = Path(__file__).resolve().parent
COLLECTED = pytest.StashKey()  # what reading the test files has imported and found
_LOADED_BEFORE = set(sys.modules)
_frozen = []  # what the garbage collector does not look at, besides the tests


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true",
                     help="only tests that need no Slurm, no TensorFlow and no new Python process")


def pytest_configure(config):
    if config.getoption("quick"):
        settings.register_profile("quick", settings.get_profile("l3hpc"), max_examples=10)
        settings.load_profile("quick")
        sys.meta_path.insert(0, _TensorFlowSkips())
    # Each look at all objects, which are millions once TensorFlow is loaded, takes 0.3 s: by
    # Python's own thresholds, a twelfth of the time of the tests that compute.
    gc.set_threshold(50_000, 20, 100)
    # A child that a test forks must not collect what earlier tests have left: a session of
    # onnxruntime would wait for ever for its threads, which the child does not have.
    os.register_at_fork(after_in_child=gc.freeze)
    if hasattr(config, "workerinput"):
        # Beside other workers a second thread for small matrices only spins: half the CPU time.
        import numpy  # noqa: F401  (what is not loaded yet is not limited)
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, "blas")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    if config.getoption("quick"):
        return None  # as many as xdist takes by itself
    return workers.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return workers.Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["share"] = workers.share(node.config, node.gateway.id)


def pytest_ignore_collect(collection_path, config):
    share = getattr(config, "workerinput", {}).get("share")
    if config.getoption("quick"):
        share = "others"
    return None if workers.reads(collection_path, share) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        left_out = [item for item in items if _slow(item)]
        items[:] = [item for item in items if not _slow(item)]
        config.hook.pytest_deselected(items=left_out)
    if hasattr(config, "workerinput"):
        slow = {workers.unit(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: workers.turn(item.nodeid, slow))


def pytest_collection_finish(session):
    session.config.stash[COLLECTED] = (set(sys.modules) - _LOADED_BEFORE,
                                       [item.nodeid for item in session.items])
    gc.freeze()


def pytest_runtest_logfinish():
    # The million objects of TensorFlow stay, too: a look at all of them takes 0.3 s, and pytest
    # looks five times when it ends.
    if "tensorflow" in sys.modules and not _frozen:
        gc.freeze()
        _frozen.append("tensorflow")


def _slow(item):
    return workers.needs_slurm(item.nodeid) or item.get_closest_marker("slow") is not None


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


@pytest.fixture(scope="session")
def _cache(tmp_path_factory):
    """One for all workers: what a job has measured on this machine need not be measured again."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture(scope="session")
def timed(_cache):
    """``timed(spec)``: no job starts TensorFlow to measure whether ncnn is faster for a network."""
    from l3hpc.models import engines
    from l3hpc.models.spec import openl3_spec

    def remember(spec):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(_cache))
            for threads in (None, 1, 2, 4):
                engines._add_to_cache(engines._key(spec, threads),
                                      {"ncnn": 2.0, "tensorflow": 1.0})

    remember(openl3_spec())
    return remember


@pytest.fixture(scope="session")
def tried(_cache):
    """``tried(path)``: a TFLite file that TensorFlow has just written is not first run in another
    process, which takes four seconds to start, to see whether it crashes."""
    from l3hpc.io.files import digest_file, read_json, write_json
    from l3hpc.models.tflite import CHECKED_FILES

    def remember(path):
        file = _cache / "l3hpc" / CHECKED_FILES
        known = read_json(file) if file.exists() else []
        write_json(file, [*known, digest_file(path)], durable=False)

    return remember


@pytest.fixture(scope="session")
def forked(request):
    """New processes (``ForkServer``) that need not import TensorFlow. All test files that use it
    are in ``workers.FORKING``, so that one worker starts it."""
    if request.config.getoption("quick"):
        pytest.skip("needs TensorFlow")
    with ForkServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _own_cache(_cache, timed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))


@pytest.fixture(scope="session", autouse=True)
def _parsed_once():
    """Most tests read the same pipelines and the same cluster.yaml, which in a new process is done
    once: here parsing them again would be a fifth of the time of the tests of plans and runs."""
    from l3hpc.io import yaml

    parse = yaml.parse_yaml

    @functools.lru_cache(maxsize=500)
    def parsed(text, name):
        return pickle.dumps(parse(text, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "parse_yaml", lambda text, name: pickle.loads(parsed(text, name)))
        yield


@pytest.fixture(autouse=True)
def _no_reader_left():
    """Whoever reads ahead ends the threads that read, also when it fails."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate()
            if thread not in before and thread.name.startswith("ahead")]
    assert not left, "an iterator of read_ahead was not closed"


@pytest.fixture(autouse=True)
def _no_progress():
    """What a command of an earlier test shows its activities on is not there any more."""
    from l3hpc.console import progress

    progress._current.set(None)


@pytest.fixture(autouse=True)
def _untimed_engines(monkeypatch):
    """An engine that is chosen in this process is chosen without two new processes that time it:
    which one is faster here, no test may depend on. tests/models/test_engines.py does time them."""
    monkeypatch.setattr("l3hpc.models.engines.seconds_per_frame",
                        lambda name, spec, threads: {"ncnn": 0.5}.get(name, 1.0))


@pytest.fixture
def collected(request):
    """The modules that reading the test files has imported, and the names of all tests."""
    return request.config.stash[COLLECTED]


@pytest.fixture
def chains(monkeypatch):
    """Plans of fake steps."""
    _chains.clean_environment(monkeypatch)
    return _chains


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs named as Slurm's that answer as they are told.

    A job that was submitted counts as live for as long as a test takes: most of these squeues list
    none of the new jobs, and on a busy machine a second passes between two sbatch calls.
    """
    from l3hpc.runs import dependencies

    monkeypatch.setattr(dependencies, "FRESH_S", 600.0)
    return FakeSlurm(tmp_path / "fake-slurm", monkeypatch)
