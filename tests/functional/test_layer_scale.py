"""Layer scale against its formula."""

import numpy as np
import pytest
from helpers import assert_close, to_device
from inputs import MEMORY, in_memory, refused

from xpcnn import functional as F
from xpcnn.backend import CPU


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 70, 65, 64), (4, 6)])
def test_the_formula_and_its_gradients(shape, memory, device, rng):
    x, branch, dy = (rng.normal(size=shape) for _ in range(3))
    scale = rng.normal(size=(shape[1], *(1,) * (len(shape) - 2)))
    y, cache = F.layer_scale_forward(
        in_memory(device, x, memory), in_memory(device, branch, memory), *to_device(device, scale)
    )
    assert_close(y, x + scale * branch, 1e-14, 1e-14, device=device)
    dbranch, dscale = F.layer_scale_backward(in_memory(device, dy, memory), cache)
    assert_close(dbranch, scale * dy, 1e-14, 0, device=device)
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    assert_close(dscale, (dy * branch).sum(axes).reshape(scale.shape), 1e-10, 1e-10, device=device)


def test_the_same_bits_on_any_number_of_threads(rng):
    x, branch, scale = (rng.normal(size=shape) for shape in ((3, 70, 65, 64), (3, 70, 65, 64), (70, 1, 1)))
    threads, found = CPU.threads, []
    try:
        for CPU.threads in (1, 3):
            y, cache = F.layer_scale_forward(x, branch, scale)
            found.append((y, *F.layer_scale_backward(y, cache)))
    finally:
        CPU.threads = threads
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_shapes_that_do_not_fit_are_refused(device):
    x, other, scale, wrong = to_device(device, *(np.ones(shape) for shape in ((2, 3, 4), (2, 3, 5), (3, 1), (4, 1))))
    for arguments, words in (
        ((x, other, scale), "(2, 3, 5)"),
        ((x, x, wrong), "4 scales"),
        ((x, x.astype("f"), scale), "float32"),
    ):
        with refused("expected input and branch", words):
            F.layer_scale_forward(*arguments)
