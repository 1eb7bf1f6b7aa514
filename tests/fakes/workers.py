"""Which worker gets which test. Those that compute get whole files, and with a file what its
fixtures made. A test with a real Slurm mostly waits, so these go one by one to workers that come on
top of the cores, each with clusters of its own. Who has nothing of its kind left helps the others.
"""

import os
import shutil

from xdist.scheduler import LoadFileScheduling

WAITING = 6
SLURM = "tests/cluster/"
WHOLE = ("test_clusters.py", "test_submit_limit.py")  # a second cluster or another configuration


def count():
    """Workers for ``-n auto``."""
    found = shutil.which("slurmctld", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return len(os.sched_getaffinity(0)) + (WAITING if found else 1)


def needs_slurm(nodeid):
    return nodeid.startswith(SLURM)


def unit(nodeid):
    """Tests of the same unit go to the same worker, one after the other."""
    path = nodeid.partition("::")[0]
    return nodeid if needs_slurm(nodeid) and not path.endswith(WHOLE) else path


class Scheduling(LoadFileScheduling):
    def __init__(self, config, log):
        super().__init__(config, log)
        config.option.loadscopereorder = False  # the order is that of the test files

    def _split_scope(self, nodeid):
        return unit(nodeid)

    def _assign_work_unit(self, node):
        waits = self.nodes.index(node) < WAITING
        own = next((key for key in self.workqueue if needs_slurm(key) == waits), None)
        if own is not None:
            self.workqueue.move_to_end(own, last=False)
        super()._assign_work_unit(node)
