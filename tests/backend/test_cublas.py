"""Products by cuBLAS without CuPy, against NumPy's."""

from typing import Any

import numpy as np
import pytest

from xpcnn.backend import Device, array_namespace, to_host
from xpcnn.backend.cublas import Cublas
from xpcnn.testing.fixtures import answering

SHAPES = {
    "matrices": ((5, 7), (7, 4)),
    "a row": ((1, 7), (7, 4)),
    "a column": ((5, 7), (7, 1)),
    "one number": ((1, 1), (1, 1)),
    "a batch": ((3, 5, 7), (3, 7, 4)),
    "one of them for all": ((5, 7), (3, 7, 4)),
    "two axes of batches": ((2, 1, 5, 7), (3, 7, 4)),
    "nothing to sum": ((5, 0), (0, 4)),
    "no result": ((0, 7), (7, 4)),
}


def laid_out(x: Any, layout: str) -> Any:
    """Return an array of the same values that lies in memory in another way."""
    xp = array_namespace(x)
    if layout == "turned":
        return x.swapaxes(-1, -2).copy().swapaxes(-1, -2)
    if layout == "part":
        wide = xp.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
        wide[..., 1:-2] = x
        return wide[..., 1:-2]
    return xp.repeat(x, 2, axis=-1)[..., ::2] if layout == "every other" else x


@pytest.fixture
def gpu() -> Device:
    return answering("cuda")


@pytest.fixture
def cublas(gpu: Device) -> Cublas:
    found = Cublas(gpu.xp)
    found.use(gpu.xp.cuda.get_current_stream())
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["as it is", "turned", "part", "every other"])
@pytest.mark.parametrize("kind", ["f", "d", "e"])
def test_each_layout_in_memory(gpu: Device, cublas: Cublas, kind: str, layout: str, rng: np.random.Generator) -> None:
    for name, shapes in SHAPES.items():
        a, b = (rng.integers(-4, 5, size=shape).astype(kind) for shape in shapes)  # so that sums are exact
        expected = np.matmul(a.astype("d"), b.astype("d"))
        result = np.full(expected.shape, np.nan, "f" if kind == "e" else kind)
        left, right, out = (laid_out(gpu.asarray(x), layout) for x in (a, b, result))
        cublas.matmul(left, right, out, tf32=False)
        np.testing.assert_array_equal(to_host(out), expected, err_msg=name)


@pytest.mark.gpu
def test_tf32_rounds_the_operands(gpu: Device, cublas: Cublas) -> None:
    a, out = gpu.asarray(np.full((8, 8), 1 + 2**-20, np.float32)), gpu.empty((8, 8), np.float32)
    for tf32, expected in ((False, 8 * (1 + 2**-20) ** 2), (True, 8)):
        cublas.matmul(a, a, out, tf32=tf32)
        np.testing.assert_allclose(to_host(out), expected, rtol=1e-7)
