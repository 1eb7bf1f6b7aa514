"""What others see of a run while it is packed or unpacked: the same, whenever they look."""

import pytest
from meanwhile import before_access
from packedrun import ended_run, files, folder, seen

from l3hpc.runs import pack


@pytest.fixture
def case(chains, slurm, tmp_path):
    return ended_run(chains, slurm, tmp_path / "ws")


def meanwhile(case, other, look):
    """Call ``look`` with the other command before each of its accesses to files of one of the two
    steps, or to the archive; their number.
    """
    number = 1
    while True:
        pack.unpack(case.workspace, "demo")
        if other is pack.unpack:
            pack.pack(case.workspace, "demo")
        with before_access(number, lambda: other(case.workspace, "demo"),
                           "/steps/extract", "packed") as done:
            look()
        if not done:
            return number - 1
        assert files(case) == {} if other is pack.pack else not folder(case).packed.exists()
        number += 1


@pytest.mark.parametrize("other", [pack.pack, pack.unpack])
def test_who_reads_a_run_meanwhile_sees_all_of_it(case, other):
    shown = seen(case)

    def look():
        assert seen(case) == shown

    assert meanwhile(case, other, look) > 20


@pytest.mark.parametrize(("what", "other"), [(pack.pack, pack.pack), (pack.unpack, pack.unpack)])
def test_what_would_be_done_is_said_meanwhile(case, what, other):
    assert meanwhile(case, other, lambda: what(case.workspace, "demo", dry_run=True)) > 10
