"""Arrays of other libraries, taken and passed on by DLPack: PyTorch's tensors, and arrays that have nothing else."""

import numpy as np
import pytest
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.backend import DeviceUnavailableError, imported
from xpcnn.models import lenet5
from xpcnn.nn import ReLU, Sigmoid
from xpcnn.optim import SGD
from xpcnn.training import Trainer, predict


class Foreign:
    """An array of a library that offers DLPack and nothing else, on some device."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_layers_networks_and_predictions_take_them(rng):
    x = rng.normal(size=(3, 1, 28, 28)).astype(np.float32)
    assert np.shares_memory(imported(Foreign(x)), x)
    model = lenet5((1, 28, 28), 4)
    np.testing.assert_array_equal(model(Foreign(x)), model(x))
    np.testing.assert_array_equal(ReLU()(Foreign(x)), np.maximum(x, 0))
    np.testing.assert_array_equal(predict(model, Foreign(x)), predict(model, x))
    assert imported(x) is x
    assert imported("text") == "text"


def test_state_dictionaries_and_training_take_pytorchs_tensors(rng):
    torch = single_threaded_torch()
    x, labels = rng.normal(size=(6, 1, 28, 28)).astype(np.float32), rng.integers(0, 4, 6)
    models = [lenet5((1, 28, 28), 4, seed=seed) for seed in (0, 1)]
    state = {name: torch.tensor(array) for name, array in models[0].state_dict().items()}
    models[1].load_state_dict(state)
    for model, batch in zip(models, ((x, labels), (torch.tensor(x), torch.tensor(labels))), strict=True):
        Trainer(model, SGD(model.parameters(), 0.1)).fit([batch], epochs=1, test=[batch])
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_ours_go_out_in_the_same_way(rng):
    """In training too, where outputs that a layer keeps are read-only."""
    torch = single_threaded_torch()
    x = rng.normal(size=(3, 4)).astype(np.float32)
    y = Sigmoid()(x)
    assert not y.flags.writeable
    tensor = torch.from_dlpack(y)
    assert tensor.data_ptr() == y.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), y)
    logits = lenet5((1, 28, 28), 4).eval()(np.zeros((2, 1, 28, 28), np.float32))
    np.testing.assert_array_equal(torch.from_dlpack(logits).numpy(), logits)


def test_what_cannot_be_taken_is_refused():
    torch = single_threaded_torch()
    with refused("Tensor", "gradient", error=TypeError):
        ReLU()(torch.zeros(2, requires_grad=True))
    with refused("Tensor", "dtype", error=TypeError):
        ReLU()(torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(DeviceUnavailableError):
        imported(Foreign(np.zeros(2), device=(2, 99)))
