"""The group of the processes that `mpiexec` started. No other file imports mpi4py."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from .. import backend
from ..backend import CPU, Array, Collectives, Device, HostArray, device_of
from ..backend.lookup import device_of_process
from ..extras import needed_for
from .ending import Ending
from .group import ALONE, STAND_INS, Group
from .launch import processes_started

_TEXT = 1000  # bytes of a text that processes exchange
_ENDED, _STOP = -1, -2  # in place of a number of samples: there are no more batches, or training is to stop


class MPIGroup(Group):
    """A group whose processes exchange arrays through MPI, or NCCL for those on a GPU.

    Args:
        mpi: mpi4py's module.
        comm: its communicator.
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self.rank, self.size = comm.rank, comm.size
        self._machine = comm.Split_type(mpi.COMM_TYPE_SHARED)
        self._failures = comm.Dup()  # on which only processes that have failed communicate
        self._cores = self._count_cores()
        crowded = np.array([self._cores < 1], np.int64)
        comm.Allreduce(mpi.IN_PLACE, crowded)  # on any machine: all processes have to wait in the same way
        self._host = _HostCollectives(mpi, comm, sleeps=bool(crowded[0]))
        self._of_device: dict[Device, Collectives] = {}
        self._ending: Ending | None = None

    @classmethod
    def world(cls) -> MPIGroup:
        """Return the group of all processes, after checking that it is the one that was started."""
        mpi = _import_mpi()
        library = " ".join(mpi.Get_library_version().split()[:3]).strip("\0, ").replace("Version: ", "")
        # MPICH would end the process, with a message of its own, if it were started by Open MPI's mpiexec.
        foreign = "OMPI_COMM_WORLD_SIZE" in os.environ and not library.startswith("Open MPI")
        if not (foreign or mpi.Is_initialized()):
            mpi.Init_thread(mpi.THREAD_FUNNELED)  # only the main thread communicates
        if foreign or mpi.COMM_WORLD.size != processes_started():
            raise ImportError(
                f"the {processes_started()} processes were started by the mpiexec of another MPI than mpi4py uses, "
                f"which is {library}: use that one's mpiexec"
            )
        comm = mpi.COMM_WORLD
        group = cls(mpi, comm)
        CPU.threads = max(1, min(CPU.threads, int(group._cores)))
        sys.excepthook = group._end_after(sys.excepthook)
        group._ending = Ending(mpi, comm)
        atexit.register(group._leave)  # before mpi4py ends MPI, which waits for all processes
        return group

    # -- Arrays --------------------------------------------------------------------------------------------------------

    def sum(self, *arrays: Array) -> None:
        for array in arrays:
            self._collectives(array).sum(array)

    def gather(self, x: Array) -> Array:
        device = device_of(x)
        gathered = device.empty((self.size, *x.shape), x.dtype)
        self._collectives(x).gather(device.xp.ascontiguousarray(x), gathered)
        return gathered

    def concatenate(self, x: Array) -> Array:
        device = device_of(x)
        lengths = self._numbers(len(x))
        padded = device.xp.zeros((max(lengths), *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        gathered = self.gather(padded)
        return device.xp.concatenate([gathered[rank, :length] for rank, length in enumerate(lengths)])

    def broadcast(self, *arrays: Array) -> None:
        for array in arrays:
            self._collectives(array).broadcast(array)

    def _begin(self) -> None:
        if self._ending is not None:
            self._ending.begin()

    def _collectives(self, array: Array) -> Collectives:
        self._begin()
        device = device_of(array)
        if device not in self._of_device:
            self._of_device[device] = device.collectives(self._host)
        return self._of_device[device]

    # -- Batches -------------------------------------------------------------------------------------------------------

    def steps(
        self, batches: Iterable[tuple[Any, ...]], stops: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Any, ...]]:
        iterator = iter(batches)
        while True:
            batch = next(iterator, None)
            said = self._numbers(_STOP if stops() else _ENDED if batch is None else len(batch[0]))
            if _STOP in said or (batch is None and set(said) == {_ENDED}):
                return
            if batch is None or _ENDED in said:
                raise RuntimeError(f"process {said.index(_ENDED)} has no more batches, and another one has")
            self.counts = tuple(said)
            yield batch if self.samples else tuple(map(_stand_in, batch))

    # -- Agreement -----------------------------------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        return any(self._numbers(flag))

    def _numbers(self, number: int) -> list[int]:
        numbers: list[int] = self.gather(np.array(number, np.int64)).tolist()
        return numbers

    def share(self, data: bytes) -> bytes:
        shared = np.zeros(self._numbers(len(data))[0], np.uint8)
        if not self.rank:
            shared[:] = np.frombuffer(data, np.uint8)
        self.broadcast(shared)
        return shared.tobytes()

    def texts(self, text: str) -> list[str]:
        own = np.zeros(_TEXT, np.uint8)
        encoded = np.frombuffer(text.encode("utf-8", "backslashreplace")[:_TEXT], np.uint8)
        own[: len(encoded)] = encoded
        return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in self.gather(own)]

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        if self._machine.rank:
            self._begin()
            self._machine.Barrier()
        yield
        if not self._machine.rank:
            self._begin()
            self._machine.Barrier()

    def subgroup(self, size: int) -> Group | None:
        if size == self.size:
            return self
        comm = self._comm.Split(0 if self.rank < size else self._mpi.UNDEFINED)
        if comm == self._mpi.COMM_NULL:
            return None
        return ALONE if size == 1 else MPIGroup(self._mpi, comm)

    # -- Places and ends -----------------------------------------------------------------------------------------------

    def device(self, name: Device | str = "auto") -> Device:
        if self.size == 1 or not isinstance(name, str):
            return backend.device(name)
        found = device_of_process(name, self._machine.rank)
        self.same("the kind of device", "the CPU" if found.on_host else "a GPU")
        places = self.texts(f"{socket.gethostname()} {found.identity}")
        if found.identity and places.count(places[self.rank]) > 1:
            sharing = places.count(places[self.rank])
            raise backend.DeviceUnavailableError(
                f"{self._machine.size} processes on {socket.gethostname()} need a GPU each, but {sharing} of them have "
                f"the same one, {found.description}: start fewer, or use --device cpu"
            )
        return found

    def _count_cores(self) -> float:
        """Return how many cores this process has, each divided by the processes that may use it."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        used = np.zeros(1 << 13, np.int64)
        used[list(cores)] = 1
        self._machine.Allreduce(self._mpi.IN_PLACE, used)
        return float((1 / used[list(cores)]).sum()) + 1e-6

    def all_fail(self, seconds: float = 0.5) -> bool:
        request, end = self._failures.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def _leave(self) -> None:
        """End all processes if this one ends while another one waits for it."""
        if self._ending is not None and (waiting := self._ending.wait()) is not None:
            text = f"process {self.rank} of {self.size} has ended, and process {waiting} waits for it"
            print(f"xpcnn: error: {text}: all processes have to end together", file=sys.stderr)
            self.abort()

    def abort(self, code: int = 1) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._ending = None  # MPI may end this process in the usual way, with what is registered for its end
        time.sleep(0.2)  # else mpiexec may end before it has passed on what was printed
        self._comm.Abort(code)
        raise SystemExit(code)  # not reached

    def _end_after(self, hook: Any) -> Any:
        """Return a hook for exceptions that nobody caught, which prints one and ends all processes."""

        def end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
            if self.size > 1:
                print(f"process {self.rank} of {self.size}:", file=sys.stderr)
            hook(kind, error, traceback)
            self.abort()

        return end


class _HostCollectives:
    """MPI on arrays in the host's memory.

    Args:
        mpi, comm: see `MPIGroup`.
        sleeps: whether to sleep while waiting, as where there are more processes than cores. MPI itself keeps the core
            busy, and the process that it waits for may be waiting for the core.
    """

    def __init__(self, mpi: Any, comm: Any, sleeps: bool) -> None:
        self._in_place, self._comm, self._sleeps = mpi.IN_PLACE, comm, sleeps
        self.rank, self.size = comm.rank, comm.size

    def sum(self, x: HostArray) -> None:
        self._do("allreduce", self._in_place, x)

    def gather(self, x: HostArray, gathered: HostArray) -> None:
        self._do("allgather", x, gathered)

    def broadcast(self, x: HostArray) -> None:
        self._do("bcast", x)

    def _do(self, operation: str, *operands: Any) -> None:
        if not self._sleeps:
            getattr(self._comm, operation.capitalize())(*operands)
            return
        request = getattr(self._comm, f"I{operation}")(*operands)
        while not request.Test():
            time.sleep(2e-5)


def _stand_in(array: Array) -> Array:
    return device_of(array).xp.zeros((STAND_INS, *array.shape[1:]), array.dtype)


def _import_mpi() -> Any:
    with needed_for(f"training in {processes_started()} processes"):
        try:
            import mpi4py

            mpi4py.rc(initialize=False, finalize=True)
            from mpi4py import MPI
        except RuntimeError as error:  # it is installed, and finds no library
            raise ImportError(str(error).splitlines()[0], name="mpi4py") from error
    return MPI
