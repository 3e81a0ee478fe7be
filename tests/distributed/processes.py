"""Starts real processes by `mpiexec`, never for longer than a time limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xpcnn.distributed import mpiexec

ROOT = Path(__file__).parents[2]
OPEN_MPI = {  # it would refuse to run as root, as in a container, and to run more processes than there are cores
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def need_mpi():
    """Skip the test, with the reason, where there is no MPI."""
    pytest.importorskip("mpi4py", reason="several processes need the extra mpi: python -m pip install mpi4py mpich")
    try:
        mpiexec()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def start(count, *command, **variables):
    """Run Python with some arguments in several processes; return what has ended, with its output as text."""
    need_mpi()
    return run(mpiexec(), "-n", str(count), sys.executable, *map(str, command), **variables)


def run(*command, **variables):
    """Run a command, and kill it after two minutes."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | OPEN_MPI | {"PYTHONPATH": path} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
