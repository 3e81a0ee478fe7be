"""Sums over the processes' GPUs, by NCCL through CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import Array, Collectives, DeviceUnavailableError, Namespace

_INSTALL = "pip install nvidia-nccl-cu12, or nvidia-nccl-cu13, matching CuPy"


class Nccl:
    """The operations of `Collectives` on the arrays of one GPU; each is queued on CuPy's current stream.

    Args:
        xp: CuPy, whose current device is this process's GPU.
        nccl: `cupy.cuda.nccl`.
        host: MPI, which hands NCCL's id round.

    Raises:
        DeviceUnavailableError: if CuPy finds no NCCL.
    """

    def __init__(self, xp: Namespace, nccl: Any, host: Collectives) -> None:
        self._cuda, self._nccl = xp.cuda, nccl
        self.rank, self.size = host.rank, host.size
        if not self._nccl.available:
            raise DeviceUnavailableError(f"training on several GPUs needs NCCL: {_INSTALL}")
        names = ("float32", "float64", "int64", "uint8")
        self._kinds = {np.dtype(name): getattr(self._nccl, f"NCCL_{name.upper()}") for name in names}
        # The id is a tuple of 128 C characters.
        own = self._nccl.get_unique_id() if self.rank == 0 else (0,) * 128
        shared = np.array(own, np.int64)
        host.broadcast(shared)
        self._comm: Any = self._nccl.NcclCommunicator(self.size, tuple(shared.tolist()), self.rank)

    def sum(self, x: Array) -> None:
        pointer, kind, stream = self._of(x)
        self._comm.allReduce(pointer, pointer, x.size, kind, self._nccl.NCCL_SUM, stream)

    def gather(self, x: Array, gathered: Array) -> None:
        pointer, kind, stream = self._of(x)
        self._comm.allGather(pointer, gathered.data.ptr, x.size, kind, stream)

    def broadcast(self, x: Array) -> None:
        pointer, kind, stream = self._of(x)
        self._comm.broadcast(pointer, pointer, x.size, kind, 0, stream)

    def _of(self, x: Array) -> tuple[int, int, int]:
        """Return an array's address, NCCL's name of its dtype, and the current stream."""
        return x.data.ptr, self._kinds[x.dtype], self._cuda.get_current_stream().ptr
