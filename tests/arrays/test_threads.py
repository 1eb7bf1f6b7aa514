"""Work on several threads comes back in order, takes no more than it needs, and fails loudly."""

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from l3hpc.arrays.threads import (
    InOrder,
    available_threads,
    blas_threads,
    compute_batches,
    map_in_order,
    pull_in_order,
)

BOTH = pytest.mark.parametrize("map_in_order", [map_in_order, pull_in_order])


@BOTH
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads, map_in_order):
    def work(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(map_in_order(work, range(40), threads)) == [item * item for item in range(40)]
    assert list(map_in_order(work, [], threads)) == []


@pytest.mark.parametrize(("map_in_order", "beyond"), [(map_in_order, 1), (pull_in_order, 0)])
@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_items_are_under_way_than_callers_have_buffers(threads, map_in_order, beyond):
    """They are used in turn."""
    taken, most = 0, 0

    def items():
        nonlocal taken
        for item in range(30):
            taken += 1
            yield item

    for done in map_in_order(lambda item: item, items(), threads):
        most = max(most, taken - done)  # items from this result on
    assert most == threads + beyond


@BOTH
def test_items_are_worked_on_at_the_same_time(map_in_order):
    together = threading.Barrier(3, timeout=120)
    assert len(list(map_in_order(lambda item: together.wait(), range(3), 3))) == 3


@BOTH
def test_the_first_error_ends_all(map_in_order):
    worked = []

    def work(item):
        worked.append(item)
        if item == 2:
            raise ValueError("item 2")
        return item

    found = []
    with pytest.raises(ValueError, match="item 2"):
        for result in map_in_order(work, range(1000), 2):
            found.append(result)
    assert found == [0, 1]
    assert len(worked) < 10


@BOTH
def test_an_error_of_the_items_is_raised_too(map_in_order):
    def items():
        yield 1
        raise KeyError("broken file")

    with pytest.raises(KeyError, match="broken file"):
        list(map_in_order(lambda item: item, items(), 2))


def test_items_are_pulled_by_the_threads_that_compute_and_by_one_at_a_time():
    inside, takers = threading.Lock(), set()

    def items():
        for item in range(200):
            assert inside.acquire(blocking=False)
            takers.add(threading.get_ident())
            time.sleep(0.0001)
            inside.release()
            yield item

    assert list(pull_in_order(lambda item: item, items(), 3)) == list(range(200))
    assert threading.get_ident() not in takers


def test_items_are_pulled_in_the_context_of_the_caller():
    notes: ContextVar[list[int] | None] = ContextVar("notes", default=None)

    def items():
        for item in range(9):
            notes.get().append(item)
            yield item

    token = notes.set([])
    assert list(pull_in_order(lambda item: item, items(), 3)) == notes.get() == list(range(9))
    notes.reset(token)


def test_items_that_threads_take_in_another_order_than_they_start_come_in_their_own(monkeypatch):
    class Backwards:
        """Starts the first calls in the opposite order."""

        def __init__(self, threads):
            self.waiting, self.together = [], threads

        def submit(self, call):
            self.waiting.append((Future(), call))
            submitted = self.waiting[-1][0]
            if len(self.waiting) == self.together:
                for future, one in reversed(self.waiting):
                    future.set_result(one())
                self.waiting, self.together = [], 1
            return submitted

        def shutdown(self, **_):
            pass

    monkeypatch.setattr("l3hpc.arrays.threads.ThreadPoolExecutor", Backwards)
    assert list(pull_in_order(lambda item: -item, range(7), 3)) == [0, -1, -2, -3, -4, -5, -6]


def test_a_batch_starts_before_the_last_item_of_the_one_before_has_ended():
    started = threading.Event()

    def work(item):
        if item == 3:
            started.set()
        # The last item of the first batch lasts until the second batch has started.
        return item != 2 or started.wait(120)

    with ThreadPoolExecutor(2) as pool:
        assert list(compute_batches(work, [[1, 2], [3, 4], [], [5]], pool)) == [
            [True, True], [True, True], [], [True]]


def test_the_first_error_of_a_batch_ends_all_batches():
    taken = []

    def batches():
        for number in range(1000):
            taken.append(number)
            yield [number, number + 0.5]

    def work(item):
        if item == 2.5:
            raise ValueError("item 2.5")
        return item

    found = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match=r"item 2\.5"):
        for results in compute_batches(work, batches(), pool):
            found.append(results)
    assert found == [[0, 0.5], [1, 1.5]]
    assert len(taken) == 4  # one batch beyond the one that failed


def test_threads_of_a_product_are_limited_and_given_back():
    np.ones((2, 2)) @ np.ones((2, 2))

    def counts():
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

    before = counts()
    with blas_threads(1):
        assert counts() == {1}
    assert counts() == before


def test_threads_are_what_is_asked_for_or_what_there_is(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert (available_threads(3), available_threads(0), available_threads()) == (3, 1, 7)


def test_results_of_added_items_come_in_order_and_the_oldest_is_waited_for():
    go = [threading.Event() for _ in range(5)]

    def work(number):
        assert go[number].wait(120)
        return number * number

    for event in go[1:]:
        event.set()  # all but the first are finished at once
    with InOrder(work, 2) as results:
        assert results.add(0) is None and results.add(1) is None
        go[0].set()
        assert results.add(2) == (0, 0)
        assert results.add(3) == (1, 1)
        told = []
        results.run(lambda: told.append(threading.current_thread()))
        assert told[0] in threading.enumerate() and told[0] is not threading.current_thread()
        assert list(results.rest()) == [(2, 4), (3, 9)] and not list(results.rest())
    assert not told[0].is_alive()


def test_an_error_comes_in_the_place_of_its_result():
    def work(number):
        if number == 1:
            raise OSError("number 1")
        return number

    with pytest.raises(OSError, match="number 1"), InOrder(work, 1) as results:
        assert results.add(0) is None
        assert results.add(1) == (0, 0)
        results.add(2)
        pytest.fail("the error was lost")


def test_work_that_looks_ends_when_the_block_is_left_by_an_error():
    begun, ended = threading.Event(), []

    def work(number):
        try:
            while True:
                results.check()
                begun.set()
                time.sleep(0.001)
        except CancelledError:
            ended.append(number)
            raise

    with pytest.raises(KeyboardInterrupt), InOrder(work, 1) as results:
        results.add(0)
        assert begun.wait(120)
        raise KeyboardInterrupt
    assert ended == [0]
