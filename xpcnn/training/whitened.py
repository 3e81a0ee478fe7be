"""How a `whitened_cnn` is trained: Jordan's recipe for CIFAR-10 (arXiv 2404.00498), its Muon version."""

from __future__ import annotations

from ..nn import Module
from ..optim import SGD, Combined, LinearSchedule, Muon
from .callbacks import Callback

WHITENED, MUON = ("whitened_cnn", "whitened_cnn_small"), "muon"  # the names of the networks and of their optimizer
MUON_LR, DECAY = 0.24, 0.004
WHITENING_IMAGES = 5000
BIAS_EPOCHS = 3

# Rates of SGD, where Muon's is 0.24. In the recipe they are 0.053 and 0.67 for the sum of the losses of a batch of
# 2,000, where ours is their mean; and its last layer multiplies by weight / 256, ours by weight.
_BIAS_LR, _LAST_LR = 0.053 * 2000, 0.67 * 2000 / 256**2


def make_optimizer(model: Module, epochs: int, steps: int, lr: float = MUON_LR, decay: float = DECAY) -> Combined:
    """Return the optimizer of a `whitened_cnn`: Muon for the filters, SGD for the biases and the last layer.

    The weights of the first layer are left as they are, and its bias learns for three epochs; the weights of batch norm
    stay at 1. All learning rates fall along a line to 0.

    Args:
        model: the network.
        epochs: how many there will be.
        steps: how many there will be in all of them together.
        lr: Muon's highest learning rate, which is relative to the norm of a filter; those of SGD are in proportion.
        decay: which part of a parameter that SGD trains is taken off in a step, at the highest learning rate.
    """
    parameters = dict(model.named_parameters())
    filters = [(name, p) for name, p in parameters.items() if name.startswith("conv")]
    biases = [(name, p) for name, p in parameters.items() if name.startswith("bn") and name.endswith("bias")]
    first, last = ([(name, parameters[name])] for name in ("whiten.bias", "fc.weight"))
    bias_lr, last_lr = (rate * lr / MUON_LR for rate in (_BIAS_LR, _LAST_LR))
    first_steps = -(-steps * min(BIAS_EPOCHS, epochs) // epochs)
    groups = [
        {"params": params, "lr": LinearSchedule(rate, length), "weight_decay": decay / rate}
        for params, rate, length in ((first, bias_lr, first_steps), (biases, bias_lr, steps), (last, last_lr, steps))
    ]
    return Combined(
        Muon(filters, LinearSchedule(lr, steps), momentum=0.6, normalize=True, ns_steps=3),
        SGD(groups, 0.0, momentum=0.85, nesterov=True),
    )


class FreezeFirstLayer(Callback):
    """Freezes the first layer when its bias has learnt for three epochs: then no gradient reaches below `conv1_1`.

    Args:
        model: the network, which is trained with the optimizer of `make_optimizer`.
    """

    def __init__(self, model: Module) -> None:
        self.model = model

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        if epoch > BIAS_EPOCHS:
            dict(self.model.named_children())["whiten"].freeze()
