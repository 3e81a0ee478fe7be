"""A group whose processes are threads of one, for arrays of any device."""

import threading
from concurrent.futures import ThreadPoolExecutor

from xpcnn.backend import array_namespace
from xpcnn.distributed import Group


class ThreadGroup(Group):
    def __init__(self, rank, size, slots, barrier):
        self.rank, self.size, self._slots, self._barrier = rank, size, slots, barrier

    def _exchange(self, value):
        self._slots[self.rank] = value
        self._barrier.wait(30)
        values = list(self._slots)
        self._barrier.wait(30)
        return values

    def sum(self, *arrays):
        for array in arrays:
            array[...] = array_namespace(array).stack(self._exchange(array.copy())).sum(axis=0)

    def gather(self, x):
        return array_namespace(x).stack(self._exchange(x))

    def broadcast(self, *arrays):
        for array in arrays:
            array[...] = self._exchange(array.copy())[0]

    def any(self, flag):
        return any(self._exchange(flag))

    def steps(self, batches, stops=lambda: False):
        for batch in batches:
            self.counts = tuple(self._exchange(len(batch[0])))
            yield batch


def in_threads(size, function):
    """Return `function(group)` of each thread of a group."""
    slots, barrier = [None] * size, threading.Barrier(size)

    def run(rank):
        try:
            return function(ThreadGroup(rank, size, slots, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        failed = [future.exception() for future in futures if future.exception() is not None]
        for error in failed:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]
