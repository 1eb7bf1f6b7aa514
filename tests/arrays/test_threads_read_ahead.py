"""Results come in order, ahead of time, and the threads end with their user."""

import threading
import time
from concurrent.futures import Future

import pytest

from l3hpc.arrays.threads import DEPTH, read_ahead, take_ahead


def test_everything_comes_in_order():
    assert list(read_ahead(lambda key: key * key, range(50))) == [key * key for key in range(50)]
    assert list(read_ahead(str, [])) == []


def test_depth_batches_are_loaded_while_one_is_used():
    loaded, several = [], threading.Event()

    def load(key):
        loaded.append((key, threading.current_thread()))
        if len(loaded) == 4:
            several.set()
        return key

    batches = read_ahead(load, range(20), depth=3)
    assert next(batches) == 0
    assert several.wait(120)  # without asking for another
    time.sleep(0.05)
    assert [key for key, _ in loaded] == [0, 1, 2, 3]
    readers = {thread for _, thread in loaded}
    assert len(readers) == 1 and threading.current_thread() not in readers
    assert list(batches) == list(range(1, 20))


def test_an_error_comes_in_its_place():
    def load(key):
        if key == 3:
            raise OSError("no such row")
        return key

    batches = read_ahead(load, range(9))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no such row"):
        next(batches)


def test_closing_ends_the_reader_without_loading_more(monkeypatch):
    loaded, go, refused, cancel = [], threading.Event(), [], Future.cancel

    def load(key):
        loaded.append(key)
        if key:
            assert go.wait(120)
        return key

    def cancelled(future):
        refused.append(not cancel(future))
        if len(refused) == DEPTH:  # those that wait, after the one that runs
            go.set()

    monkeypatch.setattr(Future, "cancel", cancelled)
    before = set(threading.enumerate())
    batches = read_ahead(load, range(100))
    next(batches)
    while len(loaded) < 2:
        time.sleep(0.001)
    [reader] = set(threading.enumerate()) - before
    batches.close()
    assert loaded == [0, 1] and refused == [True] + [False] * (DEPTH - 1)
    assert not reader.is_alive()


def test_several_threads_work_at_once_and_order_stays():
    together = threading.Barrier(3)

    def load(key):
        together.wait(120)  # nobody comes through alone
        return key

    assert list(read_ahead(load, range(9), depth=3, threads=3)) == list(range(9))


def test_an_iterator_is_one_item_ahead_on_a_thread_of_its_own():
    taken, second = [], threading.Event()

    def items():
        for number in range(5):
            taken.append((number, threading.current_thread()))
            if number == 1:
                second.set()
            yield number

    before = set(threading.enumerate())
    ahead = take_ahead(items())
    assert next(ahead) == 0
    assert second.wait(120)  # without asking for it
    time.sleep(0.05)
    assert [number for number, _ in taken] == [0, 1]
    [taker] = {thread for _, thread in taken}
    assert taker is not threading.current_thread()
    ahead.close()
    assert not taker.is_alive() and not set(threading.enumerate()) - before
    assert list(take_ahead(range(50))) == list(range(50))
    assert list(take_ahead([])) == []


def test_an_error_of_an_iterator_comes_in_its_place():
    def items():
        yield from range(3)
        raise OSError("no such row")

    ahead = take_ahead(items())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no such row"):
        next(ahead)
