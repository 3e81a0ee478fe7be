"""Batch, group and layer normalisation against slow loops, numeric gradients and PyTorch, and far from 0."""

import copy

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close, to_device
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn import functional as F
from xpcnn.backend import CPU
from xpcnn.nn import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LayerNorm2d

EPS = 0.01  # large enough to be noticed where it is missing

# The kind of norm with its option, the shape of the input, and of weight and bias.
CASES = {
    "batch (N, C)": ("batch", None, (5, 3), (3,)),
    "batch (N, C, L)": ("batch", None, (2, 4, 5), (4,)),
    "batch (N, C, H, W)": ("batch", None, (3, 4, 2, 5), (4,)),
    "batch of one image": ("batch", None, (1, 3, 2, 2), (3,)),
    "two groups": ("group", 2, (3, 4, 2, 3), (4,)),
    "one group": ("group", 1, (2, 3, 2, 2), (3,)),
    "every channel": ("group", 3, (2, 3, 4), (3,)),
    "groups without positions": ("group", 2, (4, 6), (6,)),
    "layer, last axis": ("layer", (4,), (2, 3, 2, 4), (4,)),
    "layer, two axes": ("layer", (3, 4), (2, 2, 3, 4), (3, 4)),
    "layer, all axes": ("layer", (2, 3, 2), (3, 2, 3, 2), (2, 3, 2)),
    "layer of pixels": ("pixels", None, (3, 4, 3, 2), (4,)),
    "layer of many pixels": ("pixels", None, (7, 2, 3, 1), (2,)),
    "groups of many rows": ("group", 2, (2, 4, 3, 4), (4,)),
}


def forward(kind, option, x, weight=None, bias=None, eps=EPS):
    """Return y and the cache of any of them."""
    if kind == "batch":
        y, _, cache = F.batch_norm_forward(x, weight, bias, eps=eps)
        return y, cache
    if kind == "pixels":
        return F.layer_norm2d_forward(x, weight, bias, eps=eps)
    return {"group": F.group_norm_forward, "layer": F.layer_norm_forward}[kind](x, option, weight, bias, eps=eps)


BACKWARD = {
    "batch": F.batch_norm_backward,
    "group": F.group_norm_backward,
    "layer": F.layer_norm_backward,
    "pixels": F.layer_norm2d_backward,
}


def loops(kind, option, x, weight, bias):
    if kind == "batch":
        return reference_layers.batch_norm(x, weight, bias, EPS)[0]
    if kind == "group":
        return reference_layers.group_norm(x, option, weight, bias, EPS)
    if kind == "pixels":
        return reference_layers.layer_norm(x.transpose(0, 2, 3, 1), weight, bias, EPS).transpose(0, 3, 1, 2)
    return reference_layers.layer_norm(x, weight, bias, EPS)


@pytest.mark.parametrize(("tile_bytes", "long_row"), [(1, 1), (1, 10**4), (100, 4), (800, 6), (1 << 20, 1024)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops_and_numeric_gradients(case, tile_bytes, long_row, device, rng, monkeypatch):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    monkeypatch.setattr(device, "long_row", long_row)
    kind, option, shape, parameters = CASES[case]
    x, dy = 3 + 2 * rng.normal(size=shape), rng.normal(size=shape)
    weight, bias = rng.normal(size=parameters), rng.normal(size=parameters)
    y, cache = forward(kind, option, *to_device(device, x, weight, bias))
    assert_close(y, loops(kind, option, x, weight, bias), 1e-10, 1e-13, device=device)
    gradients = BACKWARD[kind](device.asarray(dy), cache)
    for gradient, of, at in zip(
        gradients,
        (
            lambda x: loops(kind, option, x, weight, bias),
            lambda weight: loops(kind, option, x, weight, bias),
            lambda bias: loops(kind, option, x, weight, bias),
        ),
        (x, weight, bias),
        strict=True,
    ):
        assert_close(gradient, reference.numeric_gradient(of, at, dy, 1e-4), 1e-7, 1e-7, device=device)
    skipped = BACKWARD[kind](device.asarray(dy), cache, input_gradient=False)
    assert skipped[0] is None
    for one, other in zip(skipped[1:], gradients[1:], strict=True):
        assert_close(one, device.to_host(other), 0, 0, device=device)


@pytest.mark.parametrize("case", CASES)
def test_without_weight_and_bias(case, device, rng):
    kind, option, shape, parameters = CASES[case]
    x, dy = rng.normal(size=shape), rng.normal(size=shape)
    ones, zeros = np.ones(parameters), np.zeros(parameters)
    y, cache = forward(kind, option, device.asarray(x))
    expected, with_them = forward(kind, option, *to_device(device, x, ones, zeros))
    assert_close(y, device.to_host(expected), 1e-12, 1e-13, device=device)
    dx, dweight, dbias = BACKWARD[kind](device.asarray(dy), cache)
    assert dweight is None
    assert dbias is None
    expected = BACKWARD[kind](device.asarray(dy), with_them)[0]
    assert_close(dx, device.to_host(expected), 1e-12, 1e-13, device=device)


# -- The layers, with PyTorch's ---------------------------------------------------------------------------------------


def draw_layer(rng):
    """Return a layer's name and arguments in PyTorch, its input's shape, and how many values share a mean."""
    N, C = choose(rng, 2, 3, 33), choose(rng, 1, 2, 6)
    positions = [(), (int(rng.integers(1, 9)),), tuple(int(n) for n in rng.integers(1, 8, 2))]
    eps = choose(rng, 1e-5, 1e-2)
    name = choose(rng, "BatchNorm1d", "BatchNorm2d", "BatchNorm2d", "GroupNorm", "LayerNorm", "LayerNorm2d")
    if name == "BatchNorm1d":
        positions = positions[:2]
    elif name in ("BatchNorm2d", "LayerNorm2d"):
        positions = positions[2:]
    shape = (N, C, *positions[rng.integers(len(positions))])
    if name == "GroupNorm":
        groups = choose(rng, *(groups for groups in (1, 2, 3, 6) if C % groups == 0))
        if np.prod(shape[1:]) == groups:  # PyTorch refuses one value a group
            shape = (*shape, 2)
        options = {"eps": eps, "affine": bool(rng.random() < 0.7)}
        return name, (groups, C), options, shape, np.prod(shape[1:]) // groups
    affine = {"elementwise_affine": bool(rng.random() < 0.7), "bias": bool(rng.random() < 0.7)}
    if name == "LayerNorm2d":
        return name, (C,), {"eps": eps} | affine, shape, C
    if name == "LayerNorm":
        normalized = shape[rng.integers(1, len(shape)) :]
        return name, (normalized,), {"eps": eps} | affine, shape, np.prod(normalized)
    options = {"eps": eps, "momentum": choose(rng, 0.1, 0.7, None), "affine": bool(rng.random() < 0.7)}
    return name, (C,), options | {"track_running_stats": bool(rng.random() < 0.8)}, shape, np.prod(shape) // C


def pytorchs(torch, name):
    """Return PyTorch's class of a layer, and of the one that it lacks, torchvision's."""
    if name != "LayerNorm2d":
        return getattr(torch.nn, name)

    class LayerNorm2d(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return LayerNorm2d


LAYERS = {layer.__name__: layer for layer in (BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LayerNorm2d)}


def test_layers_equal_pytorchs(device, rng):
    """Outputs, gradients and running averages over several batches, then in evaluation."""
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(60)):
        name, arguments, options, shape, values = draw_layer(draw_rng)
        # The gradient by one of very few values almost cancels: in float32 that leaves nothing to compare.
        dtype = choose(draw_rng, np.float32, np.float64) if values > 4 else np.float64
        memory = choose(draw_rng, *MEMORY)
        with noted(draw=i, name=name, arguments=arguments, options=options, shape=shape, memory=memory, dtype=dtype):
            theirs = pytorchs(torch, name)(*arguments, **options).to(torch.tensor(np.zeros(1, dtype)).dtype)
            ours = LAYERS[name](*arguments, **options, dtype=dtype).to(device)
            fresh = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
            assert list(ours.state_dict()) == list(fresh)
            for key, array in ours.state_dict().items():
                assert_close(array, fresh[key], 0, 0, device=device)
            drawn = {key: draw_rng.normal(size=tensor.shape).astype(dtype) for key, tensor in theirs.named_parameters()}
            ours.load_state_dict(fresh | drawn)
            theirs.load_state_dict({key: torch.tensor(value) for key, value in (fresh | drawn).items()})
            rtol = 1e-10 if dtype == np.float64 else 2e-5
            for _ in range(3):
                x, dy = (draw_rng.normal(1, 2, shape).astype(dtype) for _ in range(2))
                tensor = torch.tensor(x, requires_grad=True)
                theirs.zero_grad()
                ours.zero_grad()
                expected = theirs(tensor)
                expected.backward(torch.tensor(dy))
                atol = rtol * max(1, tensor.grad.abs().max().item())
                assert_close(ours(in_memory(device, x, memory)), expected.detach().numpy(), rtol, rtol, device=device)
                dx = ours.backward(in_memory(device, dy, memory))
                assert_close(dx, tensor.grad.numpy(), rtol, atol, device=device)
                gradients = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
                for key, parameter in ours.named_parameters():
                    size = max(1, np.abs(gradients[key]).max())
                    assert_close(parameter.grad, gradients[key], rtol, rtol * size, device=device)
            state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
            for key, array in ours.state_dict().items():
                assert_close(array, state[key], rtol, rtol, device=device)
            x = draw_rng.normal(1, 2, (1, *shape[1:])).astype(dtype)
            if options.get("track_running_stats", True):
                expected = theirs.eval()(torch.tensor(x)).detach().numpy()
                assert_close(ours.eval()(in_memory(device, x, memory)), expected, rtol, 4 * rtol, device=device)


# -- Batch norm's edges -----------------------------------------------------------------------------------------------


def test_running_averages_by_hand(device):
    """The variance is the unbiased one: of -1, 0 and 4 it is 7, where the other is 14/3."""
    layer = BatchNorm1d(1, momentum=0.25, dtype=np.float64).to(device)
    layer(device.asarray(np.array([[-1.0], [0.0], [4.0]])))
    assert_close(layer.running_mean.data, np.array([0.25]), 1e-15, device=device)
    assert_close(layer.running_var.data, np.array([0.75 + 7 / 4]), 1e-15, device=device)
    assert_close(layer.num_batches_tracked.data, np.array(1), 0, 0, device=device)
    y = layer.eval()(device.asarray(np.array([[1.0]])))
    assert_close(y, np.array([[0.75 / np.sqrt(2.5 + 1e-5)]]), 1e-14, device=device)
    assert_close(layer.num_batches_tracked.data, np.array(1), 0, 0, device=device)


@pytest.mark.parametrize("kind", ["batch", "group", "layer", "pixels"])
def test_values_far_from_zero(kind, device, rng):
    """Around 1e4 float32 numbers are 0.001 apart, so a mean or variance taken carelessly is off by as much."""
    shape, option = (16, 8, 24, 24), {"batch": None, "group": 2, "layer": (8, 24, 24), "pixels": None}[kind]
    x, dy = (1e4 + rng.normal(size=shape)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    y, cache = forward(kind, option, device.asarray(x), eps=1e-5)
    exact, exact_cache = forward(kind, option, device.asarray(x, np.float64), eps=1e-5)
    expected, dx = device.to_host(exact), device.to_host(BACKWARD[kind](device.asarray(dy, np.float64), exact_cache)[0])
    assert abs(expected.mean()) < 1e-10
    assert abs(expected.std() - 1) < 1e-4
    assert_close(y, expected.astype(np.float32), 2e-6, 2e-6, device=device)
    assert_close(BACKWARD[kind](device.asarray(dy), cache)[0], dx.astype(np.float32), 2e-6, 4e-6, device=device)
    if kind == "batch":
        _, statistics, _ = F.batch_norm_forward(device.asarray(x))
        wide = x.astype(np.float64)
        assert np.abs(device.to_host(statistics.mean) - wide.mean((0, 2, 3))).max() < 0.0005  # half of those 0.001
        assert_close(statistics.variance, wide.var((0, 2, 3)).astype(np.float32), 1e-6, 0, device=device)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 3e7])
def test_a_constant_channel_survives(value, device, rng):
    x = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
    x[:, 1] = value
    layer = BatchNorm2d(2).to(device)
    y = device.to_host(layer(device.asarray(x)))
    assert np.abs(y[:, 1]).max() < 1e-3
    dx = device.to_host(layer.backward(device.asarray(rng.normal(size=x.shape).astype(np.float32))))
    assert np.isfinite(dx).all()
    assert np.isfinite(device.to_host(layer.running_var.data)).all()
    assert device.to_host(layer.running_var.data)[1] == pytest.approx(0.9)


@pytest.mark.parametrize(("length", "value"), [(88_443, 7.2265265e6), (62_191, 1.9929834e7), (3, 0.1)])
def test_a_constant_sample_survives(length, value, device):
    """In float32 the mean square of such numbers, less their squared mean, can come out below 0."""
    layer, x = LayerNorm(length).to(device), device.asarray(np.full((2, length), value, np.float32))
    assert_close(layer(x), np.zeros((2, length), np.float32), 0, 1e-3, device=device)
    dx = device.to_host(layer.backward(device.asarray(np.ones((2, length), np.float32))))
    assert np.isfinite(dx).all()


def test_one_value_per_channel(device):
    """Its variance is unknown, so training refuses it; evaluation does not need it."""
    layer, x = BatchNorm2d(3).to(device), device.asarray(np.full((1, 3, 1, 1), 2, np.float32))
    before = {name: device.to_host(array).copy() for name, array in layer.state_dict().items()}
    with refused("more than one value per channel", "(1, 3, 1, 1)"):
        layer(x)
    for name, array in layer.state_dict().items():
        assert_close(array, before[name], 0, 0, device=device)
    assert_close(layer.eval()(x), np.full((1, 3, 1, 1), 2 / np.sqrt(1 + 1e-5), np.float32), 1e-6, device=device)
    without_averages = BatchNorm1d(3, track_running_stats=False).to(device).eval()
    with refused("more than one value per channel", "(1, 3)"):
        without_averages(device.asarray(np.ones((1, 3), np.float32)))


@pytest.mark.parametrize(
    ("kind", "option", "shape"),
    [
        ("group", 8, (2, 16, 30, 4)),
        ("group", 1, (2, 3, 30, 4)),
        ("layer", (30, 4), (2, 6, 30, 4)),
        ("pixels", None, (9, 8, 30, 4)),
    ],
)
def test_the_same_bits_on_any_number_of_threads(kind, option, shape, rng, monkeypatch):
    monkeypatch.setattr(CPU, "part_work", 1 << 12)
    monkeypatch.setattr(CPU, "long_row", 16)
    x, dy = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    seen, before = [], CPU.threads
    try:
        for CPU.threads in (1, 2, 3, 16):
            y, cache = forward(kind, option, x)
            seen.append((y.tobytes(), BACKWARD[kind](dy, cache)[0].tobytes()))
    finally:
        CPU.threads = before
    assert len(set(seen)) == 1


def test_numpys_buffer_is_as_it_was_afterwards():
    before = np.getbufsize()
    with CPU.long_rows():
        assert np.getbufsize() < before
    assert np.getbufsize() == before


def test_order_of_memory_changes_no_bit(device, rng):
    x, dy, weight, bias = rng.normal(size=(33, 4, 5, 6)), rng.normal(size=(33, 4, 5, 6)), *rng.normal(size=(2, 4))
    for kind, option in (("batch", None), ("group", 2), ("pixels", None)):
        seen = []
        for order in MEMORY:
            y, cache = forward(kind, option, in_memory(device, x, order), *to_device(device, weight, bias))
            results = [y, *BACKWARD[kind](in_memory(device, dy, order), cache)]
            seen.append([device.to_host(result).tobytes() for result in results])
        assert seen[0] == seen[1] == seen[2]


def test_buffers_are_saved_moved_and_not_trained(device, rng):
    layer = BatchNorm2d(3).to(device)
    layer(device.asarray(rng.normal(size=(4, 3, 2, 2)).astype(np.float32)))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.count_parameters() == 6
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(layer.state_dict()) == names
    saved = {name: device.to_host(array).copy() for name, array in layer.state_dict().items()}
    other = BatchNorm2d(3).to(device)
    other.load_state_dict(saved)
    for name, array in other.state_dict().items():
        assert_close(array, saved[name], 0, 0, device=device)
    layer.to("cpu", np.float64)
    assert [array.dtype.name for array in layer.state_dict().values()] == ["float64"] * 4 + ["int64"]
    assert all(isinstance(array, np.ndarray) for array in layer.state_dict().values())
    assert layer.num_batches_tracked.data == 1
    twin = copy.deepcopy(layer)
    twin(rng.normal(size=(4, 3, 2, 2)))
    assert (layer.num_batches_tracked.data, twin.num_batches_tracked.data) == (1, 2)
    assert repr(layer.num_batches_tracked) == "Buffer(shape=(), dtype=int64, device='cpu')"
    assert BatchNorm2d(3, affine=False).to(device).device is device


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: BatchNorm2d(5)(x), ["(N, C, H, W) with C=5", "(2, 4, 3, 3)"]),
        (lambda x: BatchNorm2d(4)(x[0]), ["(N, C, H, W) with C=4", "(4, 3, 3)"]),
        (lambda x: BatchNorm1d(4)(x), ["(N, C) or (N, C, L)", "(2, 4, 3, 3)"]),
        (lambda x: GroupNorm(2, 6)(x), ["(N, 6, ...)", "(2, 4, 3, 3)"]),
        (lambda x: LayerNorm((4, 3))(x), ["(N, ..., 4, 3)", "(2, 4, 3, 3)"]),
        (lambda x: LayerNorm((2, 4, 3, 3))(x), ["(N, ..., 2, 4, 3, 3)", "(2, 4, 3, 3)"]),
        (lambda x: LayerNorm2d(5)(x), ["(N, C, H, W) with C=5", "(2, 4, 3, 3)"]),
        (lambda x: LayerNorm2d(4)(x[0]), ["(N, C, H, W) with C=4", "(4, 3, 3)"]),
        (lambda x: F.layer_norm2d_forward(x[0, 0, 0]), ["(N, C, ...)", "(3,)"]),
        (lambda x: BatchNorm2d(4, dtype=np.float64)(x), ["weight", "float32", "float64"]),
        (lambda x: BatchNorm2d(4, affine=False, dtype=np.float64).eval()(x), ["mean", "float32", "float64"]),
        (lambda x: GroupNorm(2, 4, dtype=np.float64)(x), ["weight", "float32", "float64"]),
        (lambda x: F.group_norm_forward(x, 3), ["3 groups", "(2, 4, 3, 3)"]),
        (lambda x: F.batch_norm_forward(x[0, 0, 0]), ["(N, C, ...)", "(3,)"]),
        (lambda x: BatchNorm2d(0), ["num_features", "0"]),
        (lambda x: GroupNorm(3, 4), ["num_groups", "3 for 4"]),
        (lambda x: GroupNorm(0, 4), ["num_groups", "0"]),
        (lambda x: LayerNorm(()), ["normalized_shape", "none"]),
        (lambda x: LayerNorm((3, 0)), ["normalized_shape", "3, 0"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(function, words):
    with refused(*words):
        function(np.ones((2, 4, 3, 3), np.float32))
