"""The table of layers: shapes, parameters and multiply-adds, found without changing the model."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from inputs import refused

from xpcnn import models, nn
from xpcnn.backend import to_host

LENET5 = """\
for one image of shape (1, 28, 28)
layer      kind       output shape  parameters  multiply-adds
-------------------------------------------------------------
conv1      Conv2d     (6, 28, 28)          156        117,600
pool1      MaxPool2d  (6, 14, 14)            0              0
relu1      ReLU       (6, 14, 14)            0              0
conv2      Conv2d     (16, 10, 10)       2,416        240,000
pool2      MaxPool2d  (16, 5, 5)             0              0
relu2      ReLU       (16, 5, 5)             0              0
flatten    Flatten    (400,)                 0              0
fc1        Linear     (120,)            48,120         48,000
relu3      ReLU       (120,)                 0              0
fc2        Linear     (84,)             10,164         10,080
relu4      ReLU       (84,)                  0              0
fc3        Linear     (10,)                850            840
-------------------------------------------------------------
12 layers                               61,706        416,520"""


def test_lenet5_as_a_terminal_and_the_readme_show_it():
    assert str(models.lenet5().summary((1, 28, 28))) == LENET5
    readme = Path(__file__).parents[2] / "xpcnn/report/README.md"
    assert LENET5 in readme.read_text(encoding="utf-8")


def test_resnet20_has_the_published_number_of_multiply_adds():
    """40.55 million (He et al. 2016), and the two projections of its shortcuts: 16²·32·16 and 8²·64·32."""
    summary = models.resnet20().summary([3, 32, 32])
    # By hand: the first convolution, stages of 6, 5 and 5 full convolutions, a halving one before two of them, the end.
    plain = 32 * 32 * 16 * 27 + 16 * (32 * 32 * 16 * 16 * 9) + 2 * (16 * 16 * 32 * 16 * 9) + 64 * 10
    assert round(plain / 1e6, 2) == 40.55
    assert summary.multiply_adds == plain + 16 * 16 * 32 * 16 + 8 * 8 * 64 * 32
    assert summary.parameters == models.resnet20().count_parameters()
    shapes = {layer.name: layer.output_shape for layer in summary.layers}
    assert shapes["stage2.0.shortcut.conv"] == shapes["stage2.0.activation"] == (32, 16, 16)
    assert summary.unknown == 0


def taps(in_channels, out_channels, groups, kernel, positions):
    """Count what the definition multiplies at each position, one by one; padding and dilation do not matter."""
    inside = out_channels // groups, in_channels // groups
    return sum(1 for _ in product(range(groups), *map(range, inside), *map(range, kernel), *map(range, positions)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_dilated_and_transposed_convolutions_are_counted(groups, rng):
    convolution = nn.Conv2d(4, 8, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=groups, rng=rng)
    (row,) = convolution.summary((4, 9, 7)).layers
    assert (row.name, row.kind, row.output_shape) == ("Conv2d", "Conv2d", (8, 5, 4))
    assert row.multiply_adds == taps(4, 8, groups, (3, 2), (5, 4))
    transposed = nn.ConvTranspose2d(4, 8, (3, 2), stride=2, padding=1, groups=groups, rng=rng)
    (row,) = transposed.summary((4, 5, 3)).layers
    assert row.output_shape == (8, 9, 4)
    assert row.multiply_adds == taps(4, 8, groups, (3, 2), (5, 3))  # each filter, at each input


class Own(nn.Module):
    """A layer with parameters of its own, a layer used twice, and one never used."""

    def __init__(self, rng):
        super().__init__()
        self.inner, self.idle = nn.Linear(4, 4, rng=rng), nn.Linear(4, 2, rng=rng)
        self.mixing = nn.Parameter(np.ones((4, 4), np.float32))

    def forward(self, x):
        return self.inner(self.inner(x)) @ self.mixing.data


class Counted(Own):
    def multiply_adds(self, x, y):
        return 16


def test_layers_of_your_own_are_unknown_unless_they_say(rng):
    summary = nn.Sequential(own=Own(rng), last=nn.Sigmoid()).summary((4,))
    found = [(row.name, row.output_shape, row.parameters, row.multiply_adds) for row in summary.layers]
    assert found == [
        ("own", (4,), 16, None),
        ("own.inner", (4,), 20, 32),
        ("last", (4,), 0, 0),
        ("own.idle", None, 10, 0),
    ]
    assert (summary.parameters, summary.multiply_adds, summary.unknown) == (46, 32, 1)
    *_, total, note = str(summary).splitlines()
    assert total.split() == ["4", "layers", "46", "32"]
    assert note == "- : not known, 1 of the layers; the total leaves them out"
    assert Counted(rng).summary((4,)).multiply_adds == 48


def test_what_is_shared_counts_once(rng):
    first, second = (nn.Linear(4, 4, rng=rng) for _ in range(2))
    second.weight = first.weight
    summary = nn.Sequential(first, second, first).summary((4,))
    assert [(row.name, row.parameters, row.multiply_adds) for row in summary.layers] == [("0", 20, 32), ("1", 4, 16)]


def test_nothing_about_the_model_changes(device, rng):
    def network():
        layers = nn.Conv2d(2, 3, 3, rng=np.random.default_rng(1)), nn.BatchNorm2d(3), nn.Flatten()
        return nn.Sequential(*layers, nn.Dropout(rng=np.random.default_rng(2))).to(device)

    x = device.asarray(rng.standard_normal((2, 2, 4, 5)).astype(np.float32))
    plain, summarized = network(), network()
    summarized.summary((2, 4, 5))
    outputs = [model(x) for model in (plain, summarized)]
    summarized.summary((2, 4, 5))  # between a forward pass and its backward pass
    for model, y in zip((plain, summarized), outputs, strict=True):
        model.backward(y)
    outputs += [model(x) for model in (plain, summarized)]  # dropout's next mask
    for first, second in (outputs[:2], outputs[2:]):
        np.testing.assert_array_equal(to_host(first), to_host(second))
    for name, array in plain.state_dict().items():
        np.testing.assert_array_equal(to_host(array), to_host(summarized.state_dict()[name]), err_msg=name)
    for first, second in zip(plain.parameters(), summarized.parameters(), strict=True):
        np.testing.assert_array_equal(to_host(first.grad), to_host(second.grad))
    summarized[1].training = False  # one layer in another mode than the others
    summarized.summary((2, 4, 5))
    assert [module.training for _, module in summarized.named_modules()] == [True, True, False, True, True]
    assert all("forward" not in vars(module) for _, module in summarized.named_modules())


def test_a_wrong_shape_gives_the_layers_own_message():
    model = models.lenet5()
    with refused("conv1 (Conv2d): expected input (N, 1, H, W)", "got (1, 3, 28, 28)"):
        model.summary((3, 28, 28))
    assert model.training
    assert "forward" not in vars(model["conv1"])
    for shape in (28, (), (1, 0, 28), ("x",)):
        with refused("expected in_shape to be the sizes of one image"):
            model.summary(shape)
