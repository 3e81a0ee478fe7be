"""What a user may get wrong with modules: told at once, and with an error of the type that was raised."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

from xpcnn import nn
from xpcnn.backend import CPU
from xpcnn.optim import SGD, AdamW


def ones(device, *shape, dtype=np.float32):
    return device.asarray(np.ones(shape, dtype))


LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    "Linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(5), (2, 4, 5, 5)),
    "LayerNorm2d": (lambda: nn.LayerNorm2d(4), (2, 4, 5, 5)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 4, 5, 5)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (2, 4, 5, 5)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), (2, 4, 5, 5)),
    "GlobalAvgPool2d": (lambda: nn.GlobalAvgPool2d(), (2, 4, 5, 5)),
    "ReLU": (lambda: nn.ReLU(), (2, 4)),
    "Tanh": (lambda: nn.Tanh(), (2, 4)),
    "Softmax": (lambda: nn.Softmax(1), (2, 4)),
    "Dropout": (lambda: nn.Dropout(0.5), (2, 4)),
    "Flatten": (lambda: nn.Flatten(), (2, 4, 5, 5)),
    "Identity": (lambda: nn.Identity(), (2, 4)),
    "PositionBias": (lambda: nn.PositionBias((4, 5, 5)), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("input_gradient", [True, False])
def test_a_gradient_that_does_not_fit_is_refused(name, input_gradient, device):
    make, shape = LAYERS[name]
    layer = make().to(device)
    model = nn.Sequential(nn.Identity(), layer)
    shape = model(ones(device, *shape)).shape
    for wrong in (ones(device, *shape[:-1], 20_000), ones(device, *shape, dtype=np.float64)):
        model(ones(device, *LAYERS[name][1]))
        with refused(f"1 ({name})", f"shape and dtype, {shape} float32", str(wrong.dtype)):
            model.backward(wrong)
        layer(ones(device, *LAYERS[name][1]))
        with refused("shape and dtype"):
            layer.backward(wrong, input_gradient=input_gradient)
        assert all(parameter.grad is None for parameter in layer.parameters())
    layer(ones(device, *LAYERS[name][1]))
    with refused("list", error=TypeError):
        layer.backward([1.0])


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_no_array_is_refused(name):
    layer = LAYERS[name][0]()
    for wrong in (None, [[1.0]], "x"):
        with refused("expected an array", type(wrong).__name__, error=TypeError):
            layer(wrong)


def test_a_wrong_gradient_of_much_work_is_refused_before_it_is_computed():
    """With two threads, the gradient w.r.t. the weight is computed in the background."""
    threads, CPU.threads = CPU.threads, 2
    try:
        model = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)))
        y = model(ones(CPU, 32, 16, 16, 16))
        with refused("1 (Conv2d)", "(32, 16, 16, 16)", "(32, 16, 16, 15)"):
            model.backward(y[..., :-1])
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        CPU.threads = threads


def test_a_layer_used_twice_says_so(device):
    layer = nn.ReLU()
    model = nn.Sequential(layer, nn.Linear(3, 3), layer).to(device)
    model(ones(device, 2, 3))
    with refused("0 (ReLU)", "used twice", "a ReLU for each use", error=RuntimeError):
        model.backward(ones(device, 2, 3))
    # Forward passes without a backward pass are allowed.
    for _ in range(2):
        layer(ones(device, 2, 3))
    layer.backward(ones(device, 2, 3))
    layer(ones(device, 2, 3))
    layer.backward(ones(device, 2, 3))
    with refused("needs a forward pass", error=RuntimeError):
        layer.backward(ones(device, 2, 3))


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if self.training:
            return x
        raise self.error

    def backward(self, dy, *, input_gradient=True):
        raise self.error


class TwoArgumentsError(ValueError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), TypeError("wrong"), RuntimeError("wrong"), KeyError("wrong"), MemoryError("wrong")]
)
def test_an_error_keeps_its_type_and_says_where(error):
    model = nn.Sequential(outer=nn.Sequential(inner=Raises(error)))
    model(ones(CPU, 2, 3))
    calls = [lambda: model.backward(ones(CPU, 2, 3)), lambda: model.eval()(ones(CPU, 2, 3))]
    for call in calls:
        with pytest.raises(type(error)) as info:
            call()
        assert type(info.value) is type(error)
        told = str(info.value) + "".join(getattr(info.value, "__notes__", []))
        assert "outer (Sequential)" in told
        assert "inner (Raises)" in told


def test_an_error_of_more_arguments_keeps_its_type():
    with pytest.raises(TwoArgumentsError, match="one and two") as info:
        nn.Sequential(a=Raises(TwoArgumentsError("one", "two"))).eval()(ones(CPU, 1, 1))
    assert info.value.__notes__ == ["in a (Raises)"]


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Sigmoid(), nn.Softmax(1)], ids=lambda m: type(m).__name__)
def test_an_output_that_is_kept_is_read_only_in_training(layer):
    y = layer(ones(CPU, 2, 3))
    with refused("read-only"):
        y += 1
    y = layer.eval()(ones(CPU, 2, 3))
    y += 1  # nothing was kept
    layer.train()


def test_a_norm_with_a_bias_alone_has_its_gradient(device, rng):
    for layer, shape in (
        (nn.BatchNorm2d(3), (4, 3, 2, 2)),
        (nn.GroupNorm(3, 3), (4, 3, 2, 2)),
        (nn.LayerNorm(3), (4, 3)),
        (nn.LayerNorm2d(3), (4, 3, 2, 2)),
    ):
        layer.weight = None
        layer.to(device)
        dy = rng.normal(size=shape).astype(np.float32)
        layer(device.asarray(rng.normal(size=shape).astype(np.float32)))
        layer.backward(device.asarray(dy))
        axes = tuple(axis for axis in range(dy.ndim) if axis != 1)
        assert_close(layer.bias.grad, dy.sum(axis=axes), 1e-5, 1e-5, device=device)


class Tied(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
        self[2].weight = self[0].weight


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: AdamW(p, 0.1)])
def test_a_tied_weight_is_counted_and_updated_once(make, device, rng):
    model = Tied().to(device, np.float64)
    assert model.count_parameters() == 9
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert set(model.state_dict()) == {"0.weight", "2.weight"}
    weight = nn.Parameter(device.asarray(device.to_host(model[0].weight.data).copy()))
    optimizer, single = make(model.named_parameters()), make([("0.weight", weight)])
    for _ in range(3):
        optimizer.zero_grad()
        model(device.asarray(rng.normal(size=(4, 3))))
        model.backward(device.asarray(rng.normal(size=(4, 3))))
        weight.grad = model[0].weight.grad.copy()
        optimizer.step()
        single.step()
    assert model[0].weight is model[2].weight
    assert_close(model[2].weight.data, device.to_host(weight.data), 1e-14, 0, device=device)
    penalty = nn.L2Penalty(nn.MSELoss(), model, 1.0)
    zeros = device.asarray(np.zeros((2, 3)))
    expected = 0.5 * (device.to_host(weight.data) ** 2).sum()
    assert_close(penalty(zeros, zeros), expected, 1e-12, device=device)


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_an_optimizer_refuses_parameters_that_steps_would_not_change(dtype, device):
    with refused("float32 or float64", "first", np.dtype(dtype).name):
        SGD([("first", nn.Parameter(device.asarray(np.ones(3, dtype))))], 0.1)
