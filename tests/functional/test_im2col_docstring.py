"""The untiled convolution in the docstring of `im2col.py` is a correct one."""

from textwrap import dedent

import numpy as np
import pytest

from xpcnn.functional import conv2d_forward, im2col


def convolution_in_the_docstring():
    lines = im2col.__doc__.splitlines()
    code = dedent("\n".join(line for line in lines if line.startswith("    ")))
    assert code.startswith("def conv2d(x, weight):\n")
    scope = {"np": np}
    exec(code, scope)
    return scope["conv2d"]


@pytest.mark.parametrize(
    ("x_shape", "weight_shape"),
    [((2, 3, 7, 9), (4, 3, 3, 2)), ((5, 1, 4, 4), (1, 1, 4, 4)), ((1, 2, 6, 5), (3, 2, 1, 1))],
)
def test_it_equals_the_tiled_one(rng, x_shape, weight_shape):
    x, weight = rng.normal(size=x_shape), rng.normal(size=weight_shape)
    y, _ = conv2d_forward(x, weight)
    np.testing.assert_allclose(convolution_in_the_docstring()(x, weight), y, rtol=1e-12, atol=1e-13)
