"""What a process finds out before it trains: who started it, which MPI and which GPU it has; and the group of one."""

import copy
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import ROOT, need_mpi, run

from xpcnn import nn
from xpcnn.backend import CPU, DeviceUnavailableError, lookup
from xpcnn.backend.nccl import Nccl
from xpcnn.distributed import ALONE, launch, mpi, processes_started, rank_started

TRAIN = [sys.executable, "-m", "xpcnn", "train", "--device", "cpu", "--epochs", "1"]


def test_a_group_of_one_changes_nothing():
    x = np.arange(3.0)
    ALONE.sum(x)
    ALONE.broadcast(x)
    assert (x == np.arange(3.0)).all()
    assert (ALONE.rank, ALONE.size, ALONE.part(5)) == (0, 1, slice(0, 5))
    assert ALONE.gather(x).shape == (1, 3)
    assert ALONE.texts("a") == ["a"]
    assert ALONE.device("cpu") is CPU
    assert list(ALONE.steps([(x,), (x,)], iter([False, True]).__next__)) == [(x,)]


def test_parts_cover_a_batch_and_the_first_has_the_most():
    for size in (1, 2, 3, 7):
        for length in range(10):
            groups = [SimpleNamespace(rank=rank, size=size) for rank in range(size)]
            parts = [range(length)[type(ALONE).part(group, length)] for group in groups]
            assert [i for part in parts for i in part] == list(range(length))
            assert len(parts[0]) == max(map(len, parts)) <= -(-length // size)


def test_importing_and_training_alone_needs_no_mpi():
    code = "import sys, xpcnn.cli; xpcnn.distributed.join(); assert not {'mpi4py', 'xpcnn.distributed.mpi'} & "
    code += "{*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", launch._VARIABLES)
def test_who_started_it(names, monkeypatch):
    for variables in launch._VARIABLES:
        for name in variables:
            monkeypatch.delenv(name, raising=False)
    assert (processes_started(), rank_started()) == (1, 0)
    for name, value in zip(names, ("4", "3"), strict=True):
        monkeypatch.setenv(name, value)
    assert (processes_started(), rank_started()) == (4, 3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ModuleNotFoundError('No module named mpi4py', name='mpi4py')", ""),
        ("raise RuntimeError('cannot load MPI library\\n  libmpi.so')", " (cannot load MPI library)"),
    ],
)
def test_a_missing_mpi_is_one_line_from_the_first_process(fault, said, tmp_path):
    (tmp_path / "mpi4py.py").write_text(fault)
    for rank in (0, 1):
        done = run(*TRAIN, PMI_SIZE="2", PMI_RANK=str(rank), PYTHONPATH=f"{tmp_path}:{ROOT}", PYTHONSAFEPATH="1")
        assert done.returncode == 2
        needed = f"training in 2 processes needs mpi4py and an MPI library: python -m pip install mpi4py mpich{said}\n"
        assert done.stderr == ("" if rank else f"xpcnn: error: {needed}")


def test_an_mpi_that_did_not_start_the_processes_is_named():
    need_mpi()
    done = run(*TRAIN, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 2
    assert "2 processes were started by the mpiexec of another MPI than mpi4py uses, which is " in done.stderr
    assert done.stderr.count("\n") == 1


def test_commands_of_one_process_refuse_several():
    done = run(sys.executable, "-m", "xpcnn", "devices", PMI_SIZE="2", PMI_RANK="0")
    assert done.returncode == 2
    assert done.stderr == "xpcnn: error: xpcnn devices runs in one process: start it without mpiexec\n"


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    gpus = [SimpleNamespace(name=f"cuda:{i}", on_host=False, use=lambda: None) for i in range(2)]
    monkeypatch.setattr(lookup, "cuda_device", gpus.__getitem__)
    monkeypatch.setattr(lookup, "device_count", lambda: len(gpus))
    monkeypatch.setattr(lookup, "_first_device", lambda: gpus[0])
    for name in ("cuda", "auto"):
        assert [lookup.device_of_process(name, index) for index in (0, 1, 2)] == [gpus[0], gpus[1], gpus[0]]
    assert lookup.device_of_process("cpu", 1) is CPU
    with pytest.raises(ValueError, match=r"several processes take .* each a GPU of its own, got 'cuda:1'"):
        lookup.device_of_process("cuda:1", 0)
    monkeypatch.setattr(lookup, "_first_device", lambda: CPU)
    assert lookup.device_of_process("auto", 1) is CPU


def test_processes_that_share_a_gpu_are_told_so(monkeypatch):
    gpu = SimpleNamespace(on_host=False, identity="0000:01:00.0", description="a GPU")
    monkeypatch.setattr(mpi, "device_of_process", lambda name, index: gpu)
    texts = {"own": lambda text: ["other:0000:02:00.0", text], "shared": lambda text: [text, text]}
    group = {
        name: SimpleNamespace(
            rank=1, size=2, _machine=SimpleNamespace(rank=1, size=2), same=lambda *texts: None, texts=answer
        )
        for name, answer in texts.items()
    }
    assert mpi.MPIGroup.device(group["own"], "cuda") is gpu
    with pytest.raises(DeviceUnavailableError, match=r"2 processes on .* need a GPU each, but 2 of them have the same"):
        mpi.MPIGroup.device(group["shared"], "cuda")


def test_a_module_that_is_copied_stays_in_its_group_and_one_that_is_unpickled_is_alone():
    group = type("Other", (type(ALONE),), {"size": 2})()
    norm = nn.BatchNorm2d(3)
    norm.group = group
    assert copy.deepcopy(norm).group is group
    assert pickle.loads(pickle.dumps(norm)).group is ALONE


class FakeNccl(SimpleNamespace):
    """The names that are used of `cupy.cuda.nccl`; calls are recorded."""

    def __init__(self, available=True):
        kinds = {f"NCCL_{name}": number for number, name in enumerate(("UINT8", "INT64", "FLOAT32", "FLOAT64", "SUM"))}
        super().__init__(available=available, calls=[], **kinds)

    def get_unique_id(self):
        return tuple(range(-64, 64))

    def NcclCommunicator(self, *arguments):
        self.calls.append(("new", *arguments))
        return SimpleNamespace(
            **{
                name: lambda *a, name=name: self.calls.append((name, *a))
                for name in ("allReduce", "allGather", "broadcast")
            }
        )


class FakeArray(SimpleNamespace):
    def __init__(self, address, size, dtype):
        super().__init__(data=SimpleNamespace(ptr=address), size=size, dtype=np.dtype(dtype))


def collectives(nccl, rank=0):
    cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=77))
    received = np.arange(-64, 64)
    host = SimpleNamespace(rank=rank, size=2, broadcast=lambda array: np.copyto(array, received))
    return Nccl(SimpleNamespace(cuda=cuda), nccl, host)


@pytest.mark.parametrize("rank", [0, 1])
def test_nccl_is_given_addresses_on_the_current_stream(rank):
    nccl = FakeNccl()
    found = collectives(nccl, rank)
    found.sum(FakeArray(100, 5, "f4"))
    found.gather(FakeArray(100, 5, "f8"), FakeArray(200, 10, "f8"))
    found.broadcast(FakeArray(100, 3, "i8"))
    assert nccl.calls == [
        ("new", 2, tuple(range(-64, 64)), rank),
        ("allReduce", 100, 100, 5, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, 77),
        ("allGather", 100, 200, 5, nccl.NCCL_FLOAT64, 77),
        ("broadcast", 100, 100, 3, nccl.NCCL_INT64, 0, 77),
    ]


def test_a_missing_nccl_is_named():
    with pytest.raises(
        DeviceUnavailableError, match="training on several GPUs needs NCCL: pip install nvidia-nccl-cu12"
    ):
        collectives(FakeNccl(available=False))


def test_cupy_has_these_functions_of_nccl():
    """In the compiled file, as the module itself cannot be imported without NCCL's library."""
    if (found := find_spec("cupy_backends")) is None:
        pytest.skip("CuPy is not installed")
    folder = Path(found.origin).parent / "cuda" / "libs"
    (compiled,) = folder.glob("nccl*.so")
    content = compiled.read_bytes()
    for signature in (
        "allReduce(self, intptr_t sendbuf, intptr_t recvbuf, size_t count, int datatype, int op, intptr_t stream)",
        "allGather(self, intptr_t sendbuf, intptr_t recvbuf, size_t count, int datatype, intptr_t stream)",
        "broadcast(self, intptr_t sendbuff, intptr_t recvbuff, size_t count, int datatype, int root, intptr_t stream)",
        "get_unique_id",
    ):
        assert signature.encode() in content, signature
    for name in ("UINT8", "INT64", "FLOAT32", "FLOAT64", "SUM"):
        assert f"NCCL_{name}".encode() in content
