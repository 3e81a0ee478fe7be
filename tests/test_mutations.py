"""Leaks planted into copies of the real kernels: each is caught by the make-believe device, though NumPy lets it pass.

A mutant is a module of `xpcnn.functional` with one piece of its text replaced, run under another name. It is caught if
the device refuses it, if it reads something back to the host, or if what it computes is not what the kernel computes.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from strict_xp import DEVICE, HostReadError, forbid_host_reads

from xpcnn import functional, models
from xpcnn.backend import CPU, Device, device_or_none, to_host
from xpcnn.functional.windows import make_window
from xpcnn.nn import CrossEntropyLoss
from xpcnn.optim import SGD, AdamW
from xpcnn.testing.assertions import worst_difference

FOLDER = Path(functional.__file__).parent


def load(name: str, old: str = "", new: str = "", **substitutes: ModuleType) -> ModuleType:
    """Return a copy of `xpcnn.functional.<name>` with a piece of its text replaced.

    Args:
        substitutes: modules that its imports are to find in the place of others of the same name.
    """
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert old in source, f"functional/{name}.py has no {old!r} any more: plant this leak elsewhere"
    future = "from __future__ import annotations\n"
    source = source.replace(old, new, 1).replace(future, future + "import numpy as np\n", 1)
    module = ModuleType(f"xpcnn.functional.mutant_{name}")
    module.__package__ = "xpcnn.functional"
    with pytest.MonkeyPatch.context() as patch:
        for other, substitute in substitutes.items():
            patch.setitem(sys.modules, f"xpcnn.functional.{other}", substitute)
        exec(compile(source, f"mutant of {name}.py", "exec"), module.__dict__)
    return module


# -- What is run: each program takes a module and a device and returns arrays ------------------------------------------


def arrays(device: Device, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [device.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def relu(module: ModuleType, device: Device) -> list[Any]:
    x, dy = arrays(device, (3, 4, 5, 5), (3, 4, 5, 5))
    y, cache = module.relu_forward(x)
    return [y, module.relu_backward(dy, cache)]


def softmax(module: ModuleType, device: Device) -> list[Any]:
    x, dy = arrays(device, (6, 5), (6, 5))
    y, cache = module.softmax_forward(x, 1)
    return [y, module.softmax_backward(dy, cache)]


def linear(module: ModuleType, device: Device) -> list[Any]:
    x, weight, bias, dy = arrays(device, (6, 5), (4, 5), (4,), (6, 4))
    y, cache = module.linear_forward(x, weight, bias)
    return [y, *module.linear_backward(dy, cache)]


def cross_entropy(module: ModuleType, device: Device) -> list[Any]:
    (logits,) = arrays(device, (6, 5))
    loss, cache = module.cross_entropy_forward(logits, device.asarray(np.array([0, 4, 2, 1, 1, 3])))
    return [loss, module.cross_entropy_backward(cache)]


def squared_error(module: ModuleType, device: Device) -> list[Any]:
    loss, cache = module.mean_squared_error_forward(*arrays(device, (6, 5), (6, 5)))
    return [loss, module.mean_squared_error_backward(cache)]


def dropout(module: ModuleType, device: Device) -> list[Any]:
    x, dy = arrays(device, (3, 4, 5, 5), (3, 4, 5, 5))
    y, cache = module.dropout_forward(x, 0.3, (1, 2))
    return [y, module.dropout_backward(dy, cache)]


def batch_norm(module: ModuleType, device: Device) -> list[Any]:
    x, weight, bias, dy = arrays(device, (3, 4, 5, 5), (4,), (4,), (3, 4, 5, 5))
    y, statistics, cache = module.batch_norm_forward(x, weight, bias)
    fixed = module.batch_norm_fixed(x, *statistics, weight, bias)
    dx = module.batch_norm_fixed_backward(dy, x.shape, statistics[1], weight)
    return [y, *statistics, *module.batch_norm_backward(dy, cache), fixed, dx]


def batch_statistics(module: ModuleType, device: Device) -> list[Any]:
    variance, residual, *results = (x * x for x in arrays(device, *[(4, 1)] * 5))
    module.write_factors(variance, residual, 1e-5, None, None, *results)
    return results


def max_pool(module: ModuleType, device: Device) -> list[Any]:
    x, dy = arrays(device, (3, 4, 7, 7), (3, 4, 3, 3))  # no window reaches the last row and column
    y, cache = module.max_pool2d_forward(x, 2)
    return [y, module.max_pool2d_backward(dy, cache)]


def convolution(module: ModuleType, device: Device) -> list[Any]:
    x, weight, bias, dy = arrays(device, (5, 3, 9, 9), (4, 3, 3, 3), (4,), (5, 4, 9, 9))
    y, cache = module.conv2d_forward(x, weight, bias, padding=1)
    return [y, *module.conv2d_backward(dy, cache)]


def im2col(module: ModuleType, device: Device) -> list[Any]:
    x, weight, bias, dy = arrays(device, (3, 9, 9, 5), (4, 3, 3, 3), (4,), (4, 9, 9, 5))
    window = make_window(3, padding=1)
    return [
        module.correlate(x, weight, bias, window, 1, device),
        module.weight_gradient(x, dy, window, 1, device),
        module.input_gradient(dy, weight, window, 1, (9, 9), device),
    ]


def mec(module: ModuleType, device: Device) -> list[Any]:
    x, weight, bias, dy = arrays(device, (3, 9, 9, 17), (4, 3, 3, 3), (4,), (4, 9, 9, 17))
    window = make_window(3, padding=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "small_product", 10**5)  # which is 0 on some processors
        return [module.correlate(x, weight, bias, window, device), module.weight_gradient(x, dy, window, device)]


def windows(module: ModuleType, device: Device) -> list[Any]:
    return im2col(load("im2col", windows=module), device)


def addition(module: ModuleType, device: Device) -> list[Any]:
    return [module.add(*arrays(device, (3, 4, 5), (3, 4, 5)))]


class Leak(NamedTuple):
    """One mutation. NumPy lets it pass, unless its result is another on every device."""

    module: str
    program: Callable[[ModuleType, Device], list[Any]]
    old: str
    new: str
    passes_on_numpy: bool = True


LEAKS = {
    "numpy ufunc": Leak("activation", relu, "xp.clip(x, 0, xp.inf, out=y)", "np.clip(x, 0, np.inf, out=y)"),
    "numpy reduction": Leak("linear", linear, "dy.sum(axis=1)", "np.sum(dy, axis=1)"),
    "numpy result memory": Leak("linear", linear, "device.empty((M, N), ", "np.empty((M, N), "),
    "numpy product": Leak("linear", linear, "device.matmul(", "np.matmul("),
    "numpy operand": Leak(
        "softmax",
        softmax,
        "y /= y.sum(axis=1, keepdims=True)",
        "y[...] = y / np.array(1.0, y.dtype) / y.sum(axis=1, keepdims=True)",
    ),
    "numpy constant in a comparison": Leak(
        "loss",
        cross_entropy,
        "device.xp.arange(classes)",
        "np.arange(classes)",
    ),
    "implicit conversion": Leak("activation", relu, "_relu, x,", "_relu, np.asarray(x),"),
    "conversion to a Python number": Leak(
        "loss",
        squared_error,
        "device.summed(_square, difference) / x.size",
        "difference.dtype.type(float(device.summed(_square, difference) / x.size))",
    ),
    "a look at a value": Leak(
        "activation",
        relu,
        '    return _forward("relu_forward"',
        '    if (x > 1e30).any():\n        raise OverflowError\n    return _forward("relu_forward"',
    ),
    "an assertion on a value": Leak(
        "elementwise",
        addition,
        "x, y = batch_last(x), batch_last(y)",
        "x, y = batch_last(x), batch_last(y)\n    assert x.max() < 1e30",
    ),
    "item()": Leak(
        "loss", squared_error, "cache, 2 / cache.size, dx", "cache, 2 / cache.size + 0 * cache.sum().item(), dx"
    ),
    "boolean mask": Leak(
        "softmax", softmax, "return batch_first(y), (y, axis)", "y[y < 0] = 0\n    return batch_first(y), (y, axis)"
    ),
    "nonzero": Leak(
        "softmax",
        softmax,
        "return batch_first(y), (y, axis)",
        "(y < 0).nonzero()\n    return batch_first(y), (y, axis)",
    ),
    "iteration": Leak("linear", linear, "dy.sum(axis=1)", "device_of(dy).xp.stack([row.sum() for row in dy])"),
    "list of arrays": Leak(
        "linear", linear, "dy.sum(axis=1)", "device_of(dy).xp.asarray([dy[i].sum() for i in range(len(dy))])"
    ),
    "list as index": Leak("linear", linear, "dy.sum(axis=1)", "dy[[*range(len(dy))]].sum(axis=1)"),
    "host index array": Leak("linear", linear, "dy.sum(axis=1)", "dy[np.arange(len(dy))].sum(axis=1)"),
    "ufunc method": Leak(
        "softmax",
        softmax,
        "x.max(axis=1, keepdims=True)",
        "device.xp.maximum.reduce(x, axis=1, keepdims=True)",
    ),
    "keyword where": Leak("linear", linear, "dy.sum(axis=1)", "device_of(dy).xp.sum(dy, axis=1, where=True)"),
    "keyword initial": Leak(
        "softmax", softmax, "x.max(axis=1, keepdims=True)", "x.max(axis=1, keepdims=True, initial=-1e30)"
    ),
    "errstate": Leak(
        "softmax",
        softmax,
        "y /= y.sum(axis=1, keepdims=True)",
        'with device.xp.errstate(all="ignore"):\n            y /= y.sum(axis=1, keepdims=True)',
    ),
    "read-only view": Leak(
        "im2col",
        im2col,
        "    columns[...] = patches",
        "    patches.flags.writeable = False\n    columns[...] = patches",
    ),
    "attribute on an array": Leak(
        "linear",
        linear,
        "y = _product(weight, x, device)",
        "y = _product(weight, x, device)\n    y.setflags(write=True)",
    ),
    "array as a key": Leak(
        "activation", relu, "return batch_first(y), y\n", "{bytes(y): y}\n    return batch_first(y), y\n"
    ),
    "scalar in the place of a 0-d array": Leak(
        "loss",
        squared_error,
        "device.summed(_square, difference) / x.size",
        "(device.summed(_square, difference) / x.size).astype(difference.dtype, casting='safe')",
    ),
    "absolute value in a chain": Leak(
        "batch_statistics", batch_statistics, ".sqrt(variance + eps)", ".sqrt(abs(variance) + eps)"
    ),
    "a shape in a chain": Leak("activation", relu, "dx *= dy", "dx *= dy.reshape(dx.shape)"),
    "a number's value in a chain": Leak(
        "batch_statistics", batch_statistics, ".sqrt(variance + eps)", ".sqrt(variance + variance.dtype.type(eps))"
    ),
    "a sum in a chain": Leak("loss", cross_entropy, "(target_sum * xp.log", "((0 * total.sum() + target_sum) * xp.log"),
    "a chain that writes to a column": Leak(
        "batch_norm", batch_norm, "    y += shift\n", "    y += shift\n    shift += 0\n"
    ),
    "a chain without a name": Leak(
        "activation",
        relu,
        "_relu_gradient, dy, cache)",
        "chain(lambda *arrays: _relu_gradient(*arrays)), dy, cache)",
    ),
    "a result of the shape of a column": Leak(
        "loss",
        cross_entropy,
        "    return gradient.T\n",
        "    def one(x, total):\n        return 1 / total\n\n"
        "    return (gradient * (chain(one)(exponentials, total).ndim == 1)).T\n",
    ),
    "wider type": Leak(
        "dropout",
        dropout,
        "return batch_first(dy * cache)",
        "return batch_first(dy * cache * np.float64(1))",
        passes_on_numpy=False,
    ),
    "memory never written": Leak(
        "max_pool", max_pool, "        dx[...] = 0\n", "        pass\n", passes_on_numpy=False
    ),
    "scratch in use": Leak(
        "im2col",
        im2col,
        'total.shape, dtype, "product")',
        'total.shape, dtype, "columns")',
        passes_on_numpy=False,
    ),
    "scratch in use by a view": Leak("mec", mec, 'x.dtype, "product")', 'x.dtype, "columns")', passes_on_numpy=False),
    "tasks that count on their order": Leak(
        "linear",
        linear,
        "        device.matmul(a, b, out=result)\n",
        "        done = [0]\n\n        def multiply(rows):\n"
        "            part = result[done[0] : done[0] + rows.stop - rows.start]\n"
        "            device.matmul(a[rows], b, out=part)\n            done[0] += rows.stop - rows.start\n\n"
        "        device.map(multiply, blocks(M, min(M, 3)))\n",
        passes_on_numpy=False,  # with several threads it is wrong there, too, now and then
    ),
    "overlapping copy": Leak(
        "softmax",
        softmax,
        "return batch_first(y), (y, axis)",
        "y[1:] = y[:-1]\n    return batch_first(y), (y, axis)",
        passes_on_numpy=False,
    ),
}
PROGRAMS = {
    "activation": [relu],
    "softmax": [softmax],
    "linear": [linear],
    "loss": [cross_entropy, squared_error],
    "dropout": [dropout],
    "max_pool": [max_pool],
    "convolution": [convolution],
    "im2col": [im2col],
    "mec": [mec],
    "windows": [windows],
    "elementwise": [addition],
    "batch_norm": [batch_norm],
    "batch_statistics": [batch_statistics],
}


def host(results: list[Any]) -> list[Any]:
    return [to_host(array).copy() for array in results]


def caught(leak: Leak, device: Device) -> str | None:
    """Return how a leak shows on a device, or None if it does not."""
    expected = host(leak.program(importlib.import_module(f"xpcnn.functional.{leak.module}"), CPU))
    reading = forbid_host_reads() if device is DEVICE else nothing()
    try:
        module = load(leak.module, leak.old, leak.new)
        with reading:
            results = leak.program(module, device)
    except (HostReadError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    for got, want in zip(results, expected, strict=True):
        if device_or_none(got) is not device or got.dtype != want.dtype or got.shape != want.shape:
            return f"{got!r:.60}"
        if worst_difference(got, want, 1e-5, 1e-5):  # devices compute in different ways, with other rounding errors
            return "wrong values"
    return None


@contextmanager
def nothing():
    yield


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_in_a_real_kernel_is_caught(leak: Leak) -> None:
    how = caught(leak, DEVICE)
    print(how)
    assert how is not None


@pytest.mark.parametrize(
    "leak",
    [leak for leak in LEAKS.values() if leak.passes_on_numpy],
    ids=[name for name, leak in LEAKS.items() if leak.passes_on_numpy],
)
def test_numpy_alone_would_not_have_caught_it(leak: Leak) -> None:
    assert caught(leak, CPU) is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_copy_without_a_leak_is_not_caught(name: str) -> None:
    for program in PROGRAMS[name]:
        assert caught(Leak(name, program, "", ""), DEVICE) is None


@pytest.mark.parametrize(
    ("name", "shape", "N", "optimizer"),
    [
        ("lenet5", (1, 28, 28), 4, SGD),
        ("lenet5", (1, 28, 28), 4, AdamW),
        ("resnet20", (3, 32, 32), 2, SGD),
        ("vgg", (3, 32, 32), 2, SGD),
    ],
)
def test_a_whole_training_step_reads_nothing_back(name, shape, N, optimizer, monkeypatch):
    monkeypatch.setattr(DEVICE, "tile_bytes", 1 << 20)
    model = models.MODELS[name](shape).to(DEVICE)
    step = optimizer(model.named_parameters(), 0.01)
    loss = CrossEntropyLoss()
    (images,) = arrays(DEVICE, (N, *shape))
    labels = DEVICE.asarray(np.arange(N))
    before = to_host(next(model.parameters()).data).copy()
    with forbid_host_reads():
        for _ in range(2):
            value = loss(model(images), labels)
            step.zero_grad()
            model.backward(loss.backward(), input_gradient=False)
            step.step()
    assert np.isfinite(to_host(value))
    assert np.abs(to_host(next(model.parameters()).data) - before).max() > 0
