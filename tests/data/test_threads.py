"""Work done ahead."""

import threading
import time
from contextlib import closing

import pytest

from shoal.data.threads import map_in_threads


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_results_come_in_order(threads, ahead):
    def work(item):
        time.sleep((item % 3) / 1000)
        return -item

    assert list(map_in_threads(work, range(20), threads=threads, ahead=ahead)) == [-item for item in range(20)]
    assert list(map_in_threads(work, [], threads=threads, ahead=ahead)) == []


def test_so_many_are_begun_ahead_and_no_more():
    begun = []
    with closing(map_in_threads(begun.append, iter(range(10)), threads=1, ahead=2)) as results:
        for n in range(3, 6):
            next(results)
            until(lambda n=n: len(begun) == n)
            time.sleep(0.01)
            assert begun == list(range(n))


def until(true):
    """Wait for a thread."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_an_item_raises_comes_in_its_turn():
    def work(item):
        if item == 3:
            raise OSError("gone")
        return item

    results = map_in_threads(work, range(10), threads=1, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(results)


@pytest.mark.parametrize("how", ["closed", "raised", "to the end"])
def test_threads_end(how):
    def work(item):
        begun.append(item)
        if item:
            gate.wait()
        return item

    before = set(threading.enumerate())
    begun, gate = [], threading.Event()
    try:
        with closing(map_in_threads(work, range(10), threads=2, ahead=8)) as results:
            assert next(results) == 0
            assert set(threading.enumerate()) > before
            gate.set()
            if how == "raised":
                raise KeyboardInterrupt
            if how == "to the end":
                assert list(results) == list(range(1, 10))
    except KeyboardInterrupt:
        pass
    assert set(threading.enumerate()) == before
    assert len(begun) == 10 if how == "to the end" else len(begun) < 8  # what waits for a thread is dropped
