"""What a GPU does by one operation, where others take several: the same results on every device."""

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3, 128, 300])
def test_arrays_are_joined(count, dtype, device, rng):
    arrays = [rng.normal(size=size).astype(dtype) for size in rng.integers(0, 9, count)]
    whole = np.concatenate([np.full(1, 7), *arrays, np.full(1, 7)]).astype(dtype)
    out = device.asarray(np.full(len(whole), 7), dtype)
    device.concatenate([device.asarray(array) for array in arrays], out[1:-1])
    np.testing.assert_array_equal(device.to_host(out), whole)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (40, 300), (2, 1 << 17)])
def test_sums_and_dot_products_of_rows(shape, device, rng):
    x, y = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    sums, dots = device.row_sums_and_dots(device.asarray(x), device.asarray(y))
    products = x.astype(np.float64) * y
    for found, terms in ((sums, x.astype(np.float64)), (dots, products)):
        assert found.shape == (shape[0], 1)
        error = abs(device.to_host(found) - terms.sum(axis=1, keepdims=True)).max()
        assert error <= 1e-6 * abs(terms).sum(axis=1).max()
