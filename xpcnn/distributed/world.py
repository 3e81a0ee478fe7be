"""The group of all processes that were started together."""

from __future__ import annotations

from functools import cache

from .group import ALONE, Group
from .launch import processes_started


@cache
def join(*, always: bool = False) -> Group:
    """Return the group of the processes that `mpiexec` started; without it, the group of this process alone.

    With several processes, the CPU's threads become the cores divided by the processes on this machine, and an
    exception that is not caught ends all processes.

    Args:
        always: use MPI for one process, too.

    Raises:
        ImportError: if `mpiexec` started several processes and mpi4py, or its MPI library, is not installed, or is of
            another MPI than `mpiexec`.
    """
    if processes_started() == 1 and not always:
        return ALONE
    from .mpi import MPIGroup

    return MPIGroup.world()
