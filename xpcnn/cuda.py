"""The device of a CUDA GPU. It is given CuPy, which `backend.py` alone imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backend import Array, Device, Function, Namespace, Shape, array_namespace, register

_TF32 = 7  # CuPy's COMPUTE_TYPE_TF32


def _row_dots(x: Array, y: Array) -> Array:
    return array_namespace(x).sum(x * y, axis=1)


class CudaDevice(Device):
    """CuPy on one CUDA GPU."""

    def __init__(self, xp: Namespace, index: int) -> None:
        self.name = f"cuda:{index}"
        self.xp = xp
        self._index = index
        self._fused: dict[Callable[..., Any], Any] = {}
        # A GPU of any size reads all of its memory about 35 times a second; Python starts an operation in 10 µs.
        _, memory = xp.cuda.Device(index).mem_info
        self.tile_bytes, self.launch_bytes = memory // 512, memory // 3000

    @property
    def description(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self._index)
        return f"{properties['name'].decode()}, CuPy {self.xp.__version__}"

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        with self.xp.cuda.Device(self._index):
            return super().asarray(x, dtype)

    def empty(self, shape: Shape, dtype: Any) -> Array:
        with self.xp.cuda.Device(self._index):
            return super().empty(shape, dtype)

    def fused(self, function: Function) -> Function:
        if function not in self._fused:

            def traced(*operands: Any) -> Any:
                # CuPy calls the function once, with objects that note what is done to them.
                for operand in operands:
                    if hasattr(operand, "ndim"):
                        register(type(operand), lambda stand_in: self)
                return function(*operands)

            # Under its own name `tanh` would clash with CUDA's.
            self._fused[function] = self.xp.fuse(kernel_name=f"xpcnn_{function.__name__}")(traced)
        return self._fused[function]  # type: ignore[no-any-return]

    def row_dots(self, x: Array, y: Array) -> Array:
        return self.fused(_row_dots)(x, y)[:, None]

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return self.xp.asnumpy(x)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        self.xp.cuda.Device(self._index).synchronize()

    @property
    def tf32(self) -> bool:
        kind: int = self.xp._core.get_compute_type(np.float32)
        return kind == _TF32

    @contextmanager
    def allow_tf32(self) -> Iterator[None]:
        with self.xp.cuda.Device(self._index):
            before = self.xp._core.get_compute_type(np.float32)
            # Asked for on an older GPU CuPy only warns, and computes in float32.
            if int(self.xp.cuda.Device().compute_capability) < 80:
                raise ValueError(f"TF32 was asked for, but {self.name} ({self.description}) does not have it")
            self.xp._core.set_compute_type(np.float32, _TF32)
        try:
            yield
        finally:
            self.xp._core.set_compute_type(np.float32, before)
