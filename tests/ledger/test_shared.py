"""One workspace of a group: a second person's records lie beside the first one's."""

import os
import shutil
import tempfile
import traceback
from pathlib import Path

import pytest

from l3hpc.ledger.journal.fold import fold_folders
from l3hpc.ledger.journal.records import Journal, package_versions
from l3hpc.ledger.store import Store
from l3hpc.workspace.sharing import prepare_ledger

TAB = "embedding_approx_mse"
GROUP, ADA, BOB = 54_321, 54_001, 54_002
root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two people")


@pytest.fixture
def workspace():
    """A folder of the group, with homes; not under pytest's, which is for its owner only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shared = folder / "ws"
    shared.mkdir()
    os.chown(shared, ADA, GROUP)
    shared.chmod(0o750)
    for name, user in (("ada", ADA), ("bob", BOB)):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, user, GROUP)
    yield shared
    shutil.rmtree(folder)


def as_person(user, umask, work):
    """Do ``work`` as another person, in a process of its own."""
    package_versions()  # root's Python may be unreadable to others: import before
    child = os.fork()
    if not child:
        try:
            os.setgroups([GROUP])
            os.setgid(GROUP)
            os.setuid(user)
            os.umask(umask)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def record(workspace, name):
    Journal(workspace / "ledger" / "journal", run=name, fallback=workspace.parent / name / "second",
            labels={"model_dir": f"/m/{name}"}, git_commit="").record(TAB, {"num_epochs": 1})


@root
@pytest.mark.parametrize("shared", [True, False])
def test_a_second_person_writes_the_same_journal_folder(workspace, shared, capfd):
    if shared:
        as_person(ADA, 0o027, lambda: prepare_ledger(workspace))
    as_person(ADA, 0o027, lambda: record(workspace, "ada"))
    as_person(BOB, 0o027, lambda: record(workspace, "bob"))
    keys = {key[0] for _, key in fold_folders([workspace / "ledger" / "journal"]).rows}
    assert keys == ({"/m/ada", "/m/bob"} if shared else {"/m/ada"})
    assert ("cannot write results" in capfd.readouterr().err) is not shared
    assert (workspace.parent / "bob" / "second").exists() is not shared
    if shared:
        journals = workspace / "ledger" / "journal"
        assert {path.stat().st_gid for path in journals.iterdir()} == {GROUP}
        as_person(ADA, 0o027, lambda: [path.read_bytes() for path in journals.iterdir()])


@root
def test_both_keep_the_state_of_the_sheet(workspace):
    as_person(ADA, 0o007, lambda: prepare_ledger(workspace))
    store = Store(workspace)

    def sync(moment):
        prepare_ledger(workspace)
        state = store.state("book-one")
        assert state.last_sync == moment - 1
        store.save(state, now=float(moment))

    as_person(ADA, 0o007, lambda: sync(1))
    as_person(BOB, 0o007, lambda: sync(2))
    as_person(ADA, 0o007, lambda: sync(3))
