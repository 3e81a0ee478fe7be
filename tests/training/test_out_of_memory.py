"""Errors for lack of memory name the layer, the batch and the bytes."""

import numpy as np
import pytest

from xpcnn.backend import CPU
from xpcnn.nn import Flatten, Linear, ReLU, Residual, Sequential
from xpcnn.optim import SGD
from xpcnn.training import Trainer, evaluate, predict

BATCH = np.zeros((4, 1, 2, 2), "f"), np.zeros(4, int)


class Hungry(ReLU):
    """Asks for more memory than there is, on a thread of the pool."""

    def forward(self, x):
        return CPU.map(lambda task: np.empty((1 << 30, 1 << 30), "f"), [0, 1])[0]


def model(layer):
    return Sequential(Flatten(), Residual(Sequential(Linear(4, 4), layer)))


@pytest.mark.parametrize("use", ["train", "evaluate", "predict"])
def test_the_innermost_layer_is_named(use):
    network = model(Hungry())
    trainer = Trainer(network, SGD(network.named_parameters(), 0.1))
    uses = {
        "train": lambda: trainer.fit([BATCH], 1),
        "evaluate": lambda: evaluate(network, [BATCH]),
        "predict": lambda: predict(network, BATCH[0]),
    }
    with pytest.raises(MemoryError) as caught:
        uses[use]()
    start = "out of memory in layer 1.main.1 (Hungry) with a batch of 4: Unable to allocate 4.00 EiB"
    assert str(caught.value).startswith(start)


def test_without_a_layer_the_batch_is_named():
    network = Sequential(Flatten(), Linear(4, 2))

    def fail(optimizer):
        raise MemoryError

    trainer = Trainer(network, SGD(network.named_parameters(), 0.1), before_step=fail)
    with pytest.raises(MemoryError, match=r"^out of memory with a batch of 4$"):
        trainer.fit([BATCH], 1)
