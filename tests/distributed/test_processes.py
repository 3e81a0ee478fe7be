"""Real processes, started by `mpiexec`: the same training as one process, and one end for all when one fails."""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, need_mpi, run, start

from xpcnn.data import load_dataset
from xpcnn.training import Checkpoint, read_history

HERE = Path(__file__).parent
NET = f"{HERE / 'net.py'}:make"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some images: batches of 64 leave a last one of 3."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    train, test = load_dataset("mnist-mini"), load_dataset("mnist-mini", "test")
    parts = {"x_train": train.images[:451], "y_train": train.labels[:451]}
    np.savez(path, **parts, x_test=test.images[:101], y_test=test.labels[:101])
    return path


def train(count, *options, **variables):
    return start(count, "-m", "xpcnn", "train", "--device", "cpu", *options, **variables)


def new_run(data, folder):
    return (
        "--data",
        data,
        "--model",
        NET,
        "--epochs",
        "3",
        "--augment",
        "affine",
        "--optimizer",
        "sgd",
        "--output",
        folder,
    )


def close(run, other):
    """Assert that two runs came to the same: float32 rounds differently where sums are parted."""
    one, two = (Checkpoint.load(folder / "checkpoint.safetensors") for folder in (run, other))
    assert one.info["progress"]["step"] == two.info["progress"]["step"] == 24
    for name, array in one.model.items():
        np.testing.assert_allclose(array, two.model[name], 0, 2e-4 * max(0.01, abs(array).max()), err_msg=name)
    records = read_history(run / "history.jsonl"), read_history(other / "history.jsonl")
    for record, expected in zip(*records, strict=True):
        for key in record.keys() - {"seconds", "images_per_second"}:
            assert record[key] == pytest.approx(expected[key], rel=1e-3, abs=0.005), key


@pytest.mark.parametrize("count", [2, 3])
def test_the_same_training_as_one_process(count):
    done = start(count, HERE / "cases.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all the same\n")


def test_a_signal_to_one_process_saves_once_and_others_resume(data, tmp_path):
    done = train(3, *new_run(data, tmp_path / "run"), FAULT="SIGTERM")
    assert done.returncode in (130, 143), done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("xpcnn: "))
    assert re.search(r"interrupted.*step 3, 0 epochs complete.*--resume", line)
    assert "3 processes" in done.stdout

    resumed = train(2, "--resume", tmp_path / "run", "--model", NET)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("epoch  train loss") == resumed.stdout.count("saved in") == 1
    alone = train(1, *new_run(data, tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    close(tmp_path / "run", tmp_path / "alone")
    files = ({path.name for path in (tmp_path / name).iterdir()} for name in ("run", "alone"))
    assert next(files) == next(files)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["local_batch_norm"] is False


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("exception", 2, "xpcnn: error: process 1 of 2: a fault of the test"),
        ("memory", 3, "xpcnn: error: process 1 of 2: out of memory with a batch of 32: for 8 GB; there is no"),
        ("SIGKILL", None, ""),
        (
            "version",
            2,
            "xpcnn: error: the processes differ in the version of xpcnn: 0.1.0 on process 0, 0.0.9 on process 1",
        ),
        ("data", 2, "xpcnn: error: the processes differ in the data set: 451 images (1, 28, 28) "),
    ],
)
def test_where_one_process_fails_all_end(fault, code, message, data, tmp_path):
    started = time.monotonic()
    done = train(2, *new_run(data, tmp_path / "run"), FAULT=fault)
    assert time.monotonic() - started < 60
    assert done.returncode == code if code else done.returncode != 0, done.stderr
    assert message in done.stderr
    assert done.stderr.count("xpcnn: error") == bool(message)
    assert (tmp_path / "run").exists() == (fault not in ("version", "data"))


def test_local_batch_norm_is_another_training_which_the_configuration_names(data, tmp_path):
    for name, option in (("whole", []), ("local", ["--local-batch-norm"])):
        done = train(2, *new_run(data, tmp_path / name), "--epochs", "1", "--batch-size", "41", *option)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / name / "config.json").read_text())["local_batch_norm"] == bool(option)
    files = (tmp_path / name / "checkpoint.safetensors" for name in ("whole", "local"))
    whole, local = (Checkpoint.load(file).model for file in files)
    assert abs(whole["3.running_mean"] - local["3.running_mean"]).max() > 1e-4


def test_processes_divide_the_cores_of_a_machine():
    code = "from xpcnn.backend import CPU; from xpcnn.distributed import join; before = CPU.threads; join()"
    # In one write each, as two processes write to one pipe.
    done = start(2, "-c", f"{code}; import os; os.write(1, b'%d %d;' % (before, CPU.threads))")
    assert done.returncode == 0, done.stderr
    shares = [tuple(map(int, share.split())) for share in done.stdout.strip(";").split(";")]
    assert [(before, max(1, before // 2)) for before, _ in shares] == shares
    assert len(shares) == 2


def test_one_process_may_ask_for_mpi():
    code = "import numpy as np, sys; from xpcnn.distributed import join; group = join(always=True); x = np.arange(3.0)"
    code += "; group.sum(x); print(group.size, x, group.gather(x).shape, 'mpi4py' in sys.modules)"
    need_mpi()
    assert run(sys.executable, "-c", code).stdout == "1 [0. 1. 2.] (1, 3) True\n"


def test_an_uncaught_exception_in_a_script_ends_all():
    code = (
        "from xpcnn.distributed import join; group = join(); assert group.rank == 0, 'not the first'; group.any(True)"
    )
    done = start(2, "-c", code)
    assert done.returncode == 1
    assert "process 1 of 2:" in done.stderr
    assert "AssertionError: not the first" in done.stderr


@pytest.mark.parametrize("end", ["sys.exit(3)", "pass"])
def test_a_script_that_ends_on_one_process_ends_all(end):
    code = "import sys; from xpcnn.distributed import join; group = join()"
    done = start(2, "-c", f"{code}\nif group.rank: {end}\nelse: group.any(True)")
    assert done.returncode != 0
    assert "process 1 of 2 has ended, and process 0 waits for it" in done.stderr


@pytest.mark.parametrize(
    ("fault", "code", "verdict"),
    [
        ("", 0, "AGREE: cpu in 2 processes and cpu, 6 layers, 3 steps (every array of 3 of them)"),
        ("wrong", 1, "DIFFER: cpu in 2 processes and cpu, first in step 1, layer loss (loss), forward: "),
    ],
)
def test_parity_of_one_process_and_two(fault, code, verdict, data, tmp_path):
    need_mpi()
    command = [sys.executable, "-m", "xpcnn", "parity", "run", "--devices", "cpu", "--processes", "1,2", "--data", data]
    options = ["--model", NET, "--steps", "3", "--batch-size", "7", "--dtype", "float64", "--report", tmp_path / "page"]
    done = run(*map(str, command + options), FAULT=fault)
    assert done.returncode == code, done.stderr
    assert verdict in done.stdout
    assert done.stderr == f"report in {tmp_path / 'page'}\n"


def test_parity_says_what_it_cannot_compare(data):
    command = [sys.executable, "-m", "xpcnn", "parity", "run", "--devices", "cpu"]
    for options, message in (
        (["--processes", "2,1"], "expected numbers of processes from 1 to 2, the first of them 1, got 2, 1"),
        (["--processes", "1,x"], "--processes: expected whole numbers such as 1,2, got 1,x"),
        (["--processes", "1,2", "--mode", "eval"], "--mode eval compares one process: in evaluation each image is"),
        (["--processes", "1,2", "--batch-size", "1"], "2 processes cannot share a batch of 1: choose a larger --batch"),
    ):
        need_mpi()
        done = run(*command, *options)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr


def test_the_script_with_a_loop_of_its_own_prints_once():
    done = start(2, ROOT / "scripts" / "train_mnist_mpi.py", 1)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"epoch 1: training loss 0\.\d+, test accuracy 9\d\.\d+%\n", done.stdout)
