"""Every chain as CuPy's own fusion sees it, which needs no GPU: what a chain does is looked at, not computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from strict_xp import DEVICE, StrictArray, StrictDevice

from xpcnn import functional as F
from xpcnn import models, nn
from xpcnn.backend import CPU, array_namespace, chain, device_of, to_host
from xpcnn.backend.cuda import CudaDevice
from xpcnn.data import Dataset, Loader
from xpcnn.optim import SGD, Adam, AdamW, RMSprop


def train(model: nn.Module, optimizer: Callable[..., Any], *, loss: Any = None) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 1, 28, 28), np.uint8)
    dataset = Dataset(images, rng.integers(0, 10, 3), classes=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
    model.to(DEVICE)
    step = optimizer(model.named_parameters(), 0.01)
    loss = loss or nn.CrossEntropyLoss()
    for images, labels in Loader(dataset, 3, device=DEVICE):
        loss(model(images), labels)
        model.backward(loss.backward())
        step.step()
    model.eval()(images)


def activations() -> nn.Sequential:
    return nn.Sequential(
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.BatchNorm2d(1, momentum=None, affine=False),
        nn.GroupNorm(1, 1),
        nn.LayerNorm2d(1, bias=False),
        nn.Dropout(0.5),
        *(
            nn.ReLU6(),
            nn.LeakyReLU(),
            nn.LeakyReLU(-2),
            nn.ELU(),
            nn.ELU(2),
            nn.GELU(),
            nn.GELU("tanh"),
            nn.SiLU(),
            nn.Sigmoid(),
            nn.Tanh(),
        ),
        nn.Flatten(),
        nn.Linear(14 * 14, 10),
    )


RUNS: dict[str, Callable[[], None]] = {
    "LeNet-5, SGD": lambda: train(models.lenet5(), SGD),
    "LeNet-5, AdamW": lambda: train(models.lenet5(), AdamW),
    "ResNet-20, momentum": lambda: train(models.resnet20((1, 28, 28)), lambda p, lr: SGD(p, lr, momentum=0.9)),
    "activations, Nesterov": lambda: train(
        activations(), lambda p, lr: SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=0.1)
    ),
    "activations, Adam": lambda: train(activations(), lambda p, lr: Adam(p, lr, weight_decay=0.1)),
    "activations, RMSprop": lambda: train(
        activations(), lambda p, lr: RMSprop(p, lr, weight_decay=0.1, momentum=0.9), loss=nn.HingeLoss()
    ),
    "weighted loss, RMSprop": lambda: train(
        models.lenet5(), RMSprop, loss=nn.CrossEntropyLoss([1.0] * 10, label_smoothing=0.1)
    ),
}


@contextmanager
def called_chains() -> Iterator[list[tuple[Callable[..., Any], tuple[Any, ...]]]]:
    calls: list[Any] = []
    fused = StrictDevice.fused

    def note(self: StrictDevice, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*operands: Any) -> Any:
            if all(type(operand) is not StrictArray for operand in operands):
                return function(*operands)  # inside another chain
            calls.append((function, operands))
            return fused(self, function)(*operands)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StrictDevice, "fused", note)
        yield calls


def fuse(function: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    """Return what CuPy notes of a chain as it makes a kernel of it; nothing is compiled."""
    cupy = pytest.importorskip("cupy")
    fusion, thread_local = cupy._core.fusion, cupy._core._fusion_thread_local.thread_local
    memory = np.zeros(64, np.uint8)

    def on_gpu(operand: Any) -> Any:
        if not isinstance(operand, StrictArray):
            return operand
        unowned = cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0)
        return cupy.ndarray((1,) * operand.ndim, operand.dtype, memptr=cupy.cuda.MemoryPointer(unowned, 0))

    class Namespace:
        cuda = SimpleNamespace(Device=lambda index: SimpleNamespace(mem_info=(0, 8 << 30)))
        fuse = staticmethod(lambda kernel_name: lambda traced: traced)

        def __getattr__(self, name: str) -> Any:
            return getattr(cupy, name)

    traced = CudaDevice(Namespace(), 0).fused(function)
    history = fusion._FusionHistory()
    thread_local.history, thread_local.is_old_fusing = history, True
    try:
        history.get_fusion(traced, tuple(map(on_gpu, operands)), function.__name__)
    finally:
        thread_local.history, thread_local.is_old_fusing = None, False
    return history


def kind(operand: Any) -> tuple[Any, ...]:
    """Return what CuPy's kernel depends on."""
    return type(operand), getattr(operand, "dtype", None), getattr(operand, "ndim", None)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_cupy_fuses_every_chain(run: Callable[[], None]) -> None:
    with called_chains() as calls:
        run()
    assert len(calls) > 10
    distinct = {(function, *map(kind, operands)): (function, operands) for function, operands in calls}
    for function, operands in distinct.values():
        # In double precision by accident a chain would take up to 64 times as long on some GPUs.
        wide = {operand.dtype for operand in operands if isinstance(operand, StrictArray)}
        for op in fuse(function, operands).op_list:
            assert np.dtype(np.float64) in wide or np.dtype(np.float64) not in op.dtypes, (function.__name__, op)


def absolute(x, n):
    return abs(x)


def shape(x, n):
    return x.reshape(x.shape)


def part(x, n):
    return x[0]


def a_number_s_value(x, n):
    return x * float(n)


def a_number_s_truth(x, n):
    return x if n else -x


def a_sum_of_all(x, n):
    return x / array_namespace(x).sum(x)


@pytest.mark.parametrize("function", [absolute, shape, part, a_number_s_value, a_number_s_truth, a_sum_of_all])
def test_what_the_make_believe_device_refuses_cupy_does_too(function):
    operands = DEVICE.asarray(np.ones((3, 4), np.float32)), 2.0
    with pytest.raises(TypeError, match="chain"):
        chain(function)(*operands)
    with pytest.raises(
        Exception, match=r"bad operand|no attribute|not subscriptable|float|cast to bool|Shape mismatch"
    ):
        fuse(function, operands)


def test_a_chain_of_chains_is_one(rng):
    with called_chains() as calls:
        y = F.gelu(DEVICE.asarray(rng.normal(size=(3, 4)).astype(np.float32)))
    assert [function.__name__ for function, _ in calls] == ["gelu"]
    assert device_of(y) is DEVICE
    assert y.dtype == np.float32


def test_operands_may_be_named(device):
    x = device.asarray(np.array([-2.0, 3.0]))
    for y in (F.leaky_relu(x, 0.5), F.leaky_relu(x, negative_slope=0.5), F.leaky_relu(negative_slope=0.5, x=x)):
        np.testing.assert_array_equal(to_host(y), [-1, 3])
    with pytest.raises(TypeError, match="slope"):
        F.leaky_relu(x, slope=0.5)


def test_on_the_cpu_a_chain_is_called_as_it_is():
    def double(x, y):
        assert type(x) is np.ndarray
        y[...] = 2 * x

    x, y = np.arange(3.0), np.empty(3)
    chain(double)(x, y)
    np.testing.assert_array_equal(y, [0, 2, 4])
    assert CPU.fused(double) is double
