"""The end of a process that others still wait for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

_PAUSE = 0.02  # seconds


class Ending:
    """Notices that this process ends, by `sys.exit` or the end of its script, while another one waits for it.

    An operation of the group is complete once all processes have begun it. So each one counts those that it has begun,
    in memory that the others can read: one that has begun more than a process that has ended waits for ever.

    Args:
        mpi: mpi4py's module.
        comm: the communicator of all processes; each has to create this object.
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._shared_lock, self._size = mpi.LOCK_SHARED, comm.size
        self._window = mpi.Win.Allocate(16, 8, comm=comm)
        self._own = np.frombuffer(self._window.tomemory(), np.int64)  # operations begun; whether the process has ended
        self._own[:] = 0
        comm.Barrier()

    def begin(self) -> None:
        """Count an operation of the group."""
        self._own[0] += 1

    def wait(self) -> int | None:
        """Wait until all processes have ended, or return the number of one that waits for this one."""
        self._own[1] = 1
        while True:
            states = [self._state(rank) for rank in range(self._size)]
            if waiting := [rank for rank, (begun, _) in enumerate(states) if begun > self._own[0]]:
                return waiting[0]
            if all(ended for _, ended in states):
                self._window.Free()
                return None
            time.sleep(_PAUSE)

    def _state(self, rank: int) -> list[int]:
        state = np.empty(2, np.int64)
        self._window.Lock(rank, self._shared_lock)
        self._window.Get(state, rank)
        self._window.Unlock(rank)
        found: list[int] = state.tolist()
        return found
