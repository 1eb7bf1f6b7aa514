"""Which worker gets which test. Those that compute get whole files, and with a file what its
fixtures made. A test with a real Slurm mostly waits, so these go one by one to workers that come on
top of the cores, each with clusters of its own. These workers read the tests of Slurm alone, since
importing all test files takes ten seconds of a core in each worker.
"""

import os
import shutil
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

WAITING = 6
TESTS = Path(__file__).resolve().parent.parent
SLURM = "tests/cluster/"
FORKING = tuple(f"tests/{name}.py" for name in (  # they share the fixture ``forked``
    "models/test_training", "compression/test_retraining", "avc/test_training",
    "contract/test_json", "embedding/test_embed_files", "arrays/test_cores"))
WHOLE = ("test_clusters.py", "test_submit_limit.py")  # a second cluster or another configuration
# Of these files each takes over ten seconds: they start first, so that no worker is left with one.
LONGEST = (FORKING[0], *(f"tests/{name}.py" for name in (
    "cli/test_demo", "test_tutorials", "contract/test_workspace", "sheets/test_killed",
    "reduction/test_umap", "steps/test_avc", "schedulers/test_local",
    "fuzz/test_fuzz", "sampling/test_kdpp_exact", "sheets/test_races",
    "steps/test_compress_pipeline", "embedding/test_tflite", "models/test_tensorflow_log")))


def count():
    """Workers for ``-n auto``."""
    found = shutil.which("slurmctld", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return len(os.sched_getaffinity(0)) + 1 + (WAITING if found else 0)


def needs_slurm(nodeid):
    return nodeid.startswith(SLURM)


def unit(nodeid):
    """Tests of the same unit go to the same worker, one after the other."""
    path = nodeid.partition("::")[0]
    if path in FORKING:
        return FORKING[0]
    return nodeid if needs_slurm(nodeid) and not path.endswith(WHOLE) else path


def turn(nodeid, slow):
    """When it starts: the longest files first, then the others in which a test is ``slow``."""
    key = unit(nodeid)
    return LONGEST.index(key) if key in LONGEST else len(LONGEST) + (key not in slow)


def share(config, worker):
    """The tests that a worker (``gw0``) reads and runs: ``slurm``, ``others`` or None, all."""
    if config.getoption("dist") != "loadfile" or len(config.getoption("tx")) <= WAITING:
        return None
    number = int(worker.removeprefix("gw"))
    if number >= len(config.getoption("tx")):
        return None  # it replaces one that crashed
    return "slurm" if number < WAITING else "others"


def reads(path, of):
    """Whether a worker whose share is ``of`` reads this file or folder."""
    folder = TESTS / "cluster"
    within = path == folder or folder in path.parents
    return within or path in folder.parents if of == "slurm" else not (of == "others" and within)


class Scheduling(LoadFileScheduling):
    def __init__(self, config, log):
        super().__init__(config, log)
        config.option.loadscopereorder = False  # the order is that of the test files

    def _split_scope(self, nodeid):
        return unit(nodeid)

    def _check_nodes_have_same_collection(self):
        """Workers with the same share have the same tests."""
        everyone = self.registered_collections
        shares = {share(self.config, node.gateway.id) for node in everyone}
        same = True
        for one in shares:
            self.registered_collections = {node: tests for node, tests in everyone.items()
                                           if share(self.config, node.gateway.id) == one}
            same = super()._check_nodes_have_same_collection() and same
        self.registered_collections = everyone
        return same

    def add_node_collection(self, node, collection):
        self.registered_collections[node] = list(collection)

    def schedule(self):
        if self.collection is not None:
            for node in self.nodes:
                self._reschedule(node)
            return
        if not self._check_nodes_have_same_collection():
            return
        self.collection = list(dict.fromkeys(
            test for tests in self.registered_collections.values() for test in tests))
        self.config.pluginmanager.getplugin("session").testscollected = len(self.collection)
        for test in self.collection:
            self.workqueue.setdefault(unit(test), {})[test] = False
        # Twice: a worker is given a second unit at once where the first is a single test.
        for node in self.nodes * 2:
            self._reschedule(node)

    def _reschedule(self, node):
        """Give a worker its next unit, or let it go where none of its share is left."""
        if node.shutting_down or node not in self.registered_collections:
            return  # the latter: it replaces one that crashed, and still reads the test files
        of = share(self.config, node.gateway.id)
        own = next((key for key in self.workqueue
                    if of is None or needs_slurm(key) == (of == "slurm")), None)
        if own is None:
            node.shutdown()
            return
        self.workqueue.move_to_end(own, last=False)
        super()._reschedule(node)
