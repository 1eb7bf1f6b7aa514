"""One workspace of a group: a second person's records lie beside the first one's."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from people import ADA, BOB, GROUP, as_person, root, types

from l3hpc.ledger.journal.fold import fold_folders
from l3hpc.ledger.journal.records import Journal, package_versions
from l3hpc.ledger.store import Store
from l3hpc.workspace.sharing import prepare_ledger

TAB = "embedding_approx_mse"


@pytest.fixture
def workspace():
    """A folder of the group, with homes; not under pytest's, which is for its owner only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shared = folder / "ws"
    shared.mkdir()
    os.chown(shared, ADA, GROUP)
    shared.chmod(0o750)
    package_versions()  # root's Python may be unreadable to others: import before
    for name, user in (("ada", ADA), ("bob", BOB)):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, user, GROUP)
    yield shared
    shutil.rmtree(folder)


def record(workspace, name):
    Journal(workspace / "ledger" / "journal", run=name, fallback=workspace.parent / name / "second",
            labels={"model_dir": f"/m/{name}"}, git_commit="").record(TAB, {"num_epochs": 1})


@root
@pytest.mark.parametrize("shared", [True, False])
def test_a_second_person_writes_the_same_journal_folder(workspace, shared, capfd):
    if shared:
        as_person(ADA, lambda: prepare_ledger(workspace), umask=0o027)
    as_person(ADA, lambda: record(workspace, "ada"), umask=0o027)
    as_person(BOB, lambda: record(workspace, "bob"), umask=0o027)
    keys = {key[0] for _, key in fold_folders([workspace / "ledger" / "journal"]).rows}
    assert keys == ({"/m/ada", "/m/bob"} if shared else {"/m/ada"})
    assert ("cannot write results" in capfd.readouterr().err) is not shared
    assert (workspace.parent / "bob" / "second").exists() is not shared
    if shared:
        journals = workspace / "ledger" / "journal"
        assert {path.stat().st_gid for path in journals.iterdir()} == {GROUP}
        as_person(ADA, lambda: [path.read_bytes() for path in journals.iterdir()], umask=0o027)


@root
def test_results_that_may_not_be_read_are_not_missing(workspace):
    as_person(ADA, lambda: record(workspace, "ada"), umask=0o077)
    assert types(ADA, "ledger", "show", "--workspace", workspace)[1].startswith(TAB)
    for folder in (workspace / "ledger", workspace / "ledger" / "journal"):
        for command in ("show", "export"):
            code, out, err = types(BOB, "ledger", command, "--workspace", workspace)
            assert (code, out) == (2, "") and "cannot be read: Permission denied" in err
            assert f"{folder} belongs to user {ADA} (drwx------)" in err
        folder.chmod(0o755)


@root
def test_both_keep_the_state_of_the_sheet(workspace):
    as_person(ADA, lambda: prepare_ledger(workspace), umask=0o007)
    store = Store(workspace)

    def sync(moment):
        prepare_ledger(workspace)
        state = store.state("book-one")
        assert state.last_sync == moment - 1
        store.save(state, now=float(moment))

    as_person(ADA, lambda: sync(1), umask=0o007)
    as_person(BOB, lambda: sync(2), umask=0o007)
    as_person(ADA, lambda: sync(3), umask=0o007)
