"""Windows has no fork, affinity, SIGHUP or `fcntl`; NumPy's BLAS on macOS is one that threadpoolctl does not know."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xpcnn import functional as F
from xpcnn.backend import CPU

PROGRAM = """
import os, signal, subprocess, sys, types

for name in ("fork", "register_at_fork", "sched_getaffinity", "O_NONBLOCK", "mkfifo"):
    vars(os).pop(name, None)
vars(signal).pop("SIGHUP", None)
locked = []
sys.modules["fcntl"] = sys.modules["resource"] = None  # importing them raises ImportError
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *args: locked.append(args))
open_file = os.open


def windows_open(path, flags, *args, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return open_file(path, flags, *args, **options)


os.open = windows_open
import threadpoolctl

threadpoolctl.ThreadpoolController = lambda: types.SimpleNamespace(lib_controllers=[])
from xpcnn.backend import CPU
from xpcnn.cli import main

assert CPU.threads == os.cpu_count(), CPU.threads
assert CPU.small_product == 0
options = ["--epochs", "1", "--model", "numpy_cnn", "--threads", "2", "--data", sys.argv[1], "--output", sys.argv[2]]
code = main(["train", *options])
assert locked, "the run's folder is not locked"
raise SystemExit(code)
"""


def test_training_runs_without_what_they_lack(tmp_path, rng):
    data = tmp_path / "digits.npz"
    np.savez(data, x=rng.integers(0, 256, (200, 28, 28), dtype=np.uint8), y=np.arange(200) % 10)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # as its threads and ours would wait for each other
    command = [sys.executable, "-c", PROGRAM, str(data), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("threads", [1, 3])
def test_layers_run_where_blas_cannot_be_held_to_one_thread(threads, monkeypatch, rng):
    x, weight = rng.normal(size=(64, 16, 24, 24)), rng.normal(size=(32, 16, 3, 3))
    expected = F.conv2d(x, weight, padding=1)
    monkeypatch.setattr(CPU._workers, "_blas", [])
    monkeypatch.setattr(CPU._workers, "_threads", threads)
    np.testing.assert_allclose(F.conv2d(x, weight, padding=1), expected, 1e-10, 1e-10)
