"""What a process can know of the program that started it, without MPI: how many processes, and which one it is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

# (number of processes, own number): MPICH, Intel MPI and MS-MPI, then Open MPI, then Slurm's srun with either.
_VARIABLES = [("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_NTASKS", "PMIX_RANK")]


def processes_started() -> int:
    """Return how many processes `mpiexec` started together with this one; 1 without `mpiexec`."""
    return _started()[0]


def rank_started() -> int:
    """Return this process's number among them, from 0."""
    return _started()[1]


def _started() -> tuple[int, int]:
    for size, rank in _VARIABLES:
        if (count := os.environ.get(size, "")).isdecimal() and (number := os.environ.get(rank, "")).isdecimal():
            return max(1, int(count)), int(number)
    return 1, 0


def mpiexec() -> str:
    """Return the path of `mpiexec`: the one beside this Python, else the first on the search path.

    Raises:
        FileNotFoundError: if there is none.
    """
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (found := shutil.which("mpiexec", path=beside)) is None:
        raise FileNotFoundError("mpiexec was not found: python -m pip install mpi4py mpich")
    return found
