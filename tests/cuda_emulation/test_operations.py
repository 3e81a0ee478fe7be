"""How many operations a training step gives a GPU to do: on small networks their start bounds its time."""

from __future__ import annotations

import numpy as np
import pytest

from cuda_emulation import Emulation
from xpcnn import models
from xpcnn.backend import device as device_named
from xpcnn.nn import CrossEntropyLoss
from xpcnn.optim import SGD

OPERATIONS = ("launches", "products", "host_to_device", "device_to_device", "device_to_host", "fills")


@pytest.mark.parametrize(("name", "shape", "most"), [("lenet5", (1, 28, 28), 45), ("resnet20", (3, 32, 32), 400)])
def test_a_step_is_few_operations_and_waits_for_none(
    emulation: Emulation, name: str, shape: tuple[int, int, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_named("cuda")
    memory = 80 << 30  # bytes, of a large GPU
    monkeypatch.setattr(device, "tile_bytes", memory // 64)
    monkeypatch.setattr(device, "launch_bytes", memory // 3000)
    model, loss = models.MODELS[name](shape).to(device), CrossEntropyLoss()
    optimizer = SGD(model.named_parameters(), 0.01, momentum=0.9)
    images = device.asarray(np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)).transpose(3, 0, 1, 2)
    labels = device.asarray(np.arange(2))

    def step() -> dict[str, int]:
        before = emulation.counts()
        optimizer.zero_grad()
        loss(model(images), labels)
        model.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        return {kind: number - before[kind] for kind, number in emulation.counts().items()}

    step()  # which compiles the kernels, and makes the optimizer's arrays
    counts = step()
    assert sum(counts[kind] for kind in OPERATIONS) <= most
    assert counts["synchronisations"] == counts["host_to_device"] == 0
