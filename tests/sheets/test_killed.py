"""A syncer gets SIGKILL at each step of a pass; the next pass finds everything and ends it."""

import os
import signal
import time

import pytest

from l3hpc.ledger.schema import TABS

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
MOMENTS = ("arrived", "applied", "answered")
# sign-in, structure, values, batch, anchored rows, their new values, the look at the result
REQUESTS, BATCH, WRITE = 7, 3, 5


def epochs(world, name, count, first=0):
    for epoch in range(first, first + count):
        world.record(name, epoch, latest_train_loss=len(name) + 1 / (epoch + 1),
                     latest_validation_loss=ord(name[0]) / (epoch + 2))


@pytest.fixture
def busy(world):
    """A sheet with six rows, one to be brought up to date and one to be added."""
    world.init()
    for number, name in enumerate("abcdef"):
        world.record(name, num_epochs=number)
        epochs(world, name, 2)
    world.sync()
    epochs(world, "a", 3, 2)
    epochs(world, "new", 1)
    world.server.seen = 0
    return world


def forked(work):
    """A process of its own that does ``work``."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def ended(child):
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def right_again(world):
    assert world.sync().problems == []
    world.assert_equal_to_fold()
    assert len(world.rows()) == 7 and world.row("a")["Latest Epoch"] == 4
    assert world.sync().requests == 2
    assert not list(world.store.folder.glob("sync/**/intent-*"))


def reverse(book):
    """A person sorts the rows."""
    sheet = book.named(MSE)
    book.reorder(sheet, [row for row in sheet["grid"][1:]
                         if any(value is not None for value in row)][::-1])


@pytest.mark.parametrize(("number", "moment", "sorted_meanwhile"), [
    (number, moment, again) for number in range(REQUESTS) for moment in MOMENTS
    for again in ((False, True) if number in (BATCH, WRITE, WRITE + 1) else (False,))])
def test_kill_9_at_every_request(busy, number, moment, sorted_meanwhile):
    """Sorted meanwhile: where anchors do not follow, so that cells land in another row."""
    server, child = busy.server, []

    def watch(now, count):
        if (now, count) == (moment, number):
            while not child:
                time.sleep(0.001)
            os.kill(child[0], signal.SIGKILL)
            time.sleep(0.005)

    server.watch = watch
    if sorted_meanwhile:
        server.book.follows_sort = False
        hook = "before_batch" if number == BATCH else "before_write"

        def sort(book):
            setattr(server, hook, None)
            reverse(book)
        setattr(server, hook, sort)
    child.append(forked(busy.sync))
    killed = ended(child[0])
    assert killed == signal.SIGKILL or (number, moment) == (REQUESTS - 1, "answered")
    server.watch = lambda now, count: None
    server.before_batch = server.before_write = None
    landed_elsewhere = sorted_meanwhile and number >= WRITE  # once arrived it is applied
    kinds = [item["kind"] for item in busy.sync().problems]
    assert kinds == ["moved"] * landed_elsewhere
    right_again(busy)


def test_kill_9_at_every_file(busy):
    """The intent and the state are written by renaming; an intent is removed when it is done."""
    stop, survived = 0, False
    while not survived:
        left = [stop]

        def counted(function, left=left):
            def call(*words, **options):
                for moment in range(2):
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    if not moment:
                        answer = function(*words, **options)
                return answer
            return call

        def work(counted=counted):
            for name in ("replace", "unlink", "fsync"):
                setattr(os, name, counted(getattr(os, name)))
            busy.sync()

        epochs(busy, "b", 1, 2 + stop)
        epochs(busy, "x" + "y" * stop, 1)

        def sort(book):
            busy.server.before_batch = None
            reverse(book)

        busy.server.before_batch = sort
        survived = not ended(forked(work))
        busy.server.before_batch = None
        assert busy.sync().problems == []
        busy.assert_equal_to_fold()
        assert busy.sync().requests == 2
        assert not list(busy.store.folder.glob("sync/**/intent-*"))
        stop += 1
    assert stop > 8


def test_four_killed_at_random_and_jobs_that_go_on(world):
    """Syncers die all the time while jobs record; the last one finds nothing lost or doubled."""
    import random

    chance = random.Random(5)
    world.init()
    for turn in range(8):
        for name in "abc":
            epochs(world, name, 2, 2 * turn)
        children = [forked(world.sync) for _ in range(2)]
        for child in children:
            time.sleep(chance.random() * 0.2)
            os.kill(child, signal.SIGKILL)
            ended(child)
    assert world.sync().problems == []
    world.assert_equal_to_fold()
    assert [row["Latest Epoch"] for row in world.rows()] == [15, 15, 15]
    assert world.server.book.named(MSE)["grid"][0] == TABS[MSE].titles
