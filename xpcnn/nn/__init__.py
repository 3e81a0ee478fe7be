"""Layers with their parameters, under PyTorch's names, and losses.

To write a layer, define `forward` and `backward`:

    class Scale(nn.Module):
        arithmetic = "elementwise"  # for the tolerance of `xpcnn.parity`

        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(np.ones((channels, 1, 1), np.float32))

        def forward(self, x):
            self.save_for_backward(x)
            return x * self.weight.data

        def backward(self, dy, *, input_gradient=True):
            self.weight.add_gradient((dy * self.saved()).sum(axis=(0, 2, 3))[:, None, None])
            return dy * self.weight.data

A layer keeps its input for the backward pass, and often its output, as they are and not as copies. So do not change
either in place before that, as `y += 1` does: write `y = y + 1`. On the CPU, an output in training mode that is also
kept is read-only, and NumPy raises ValueError; a GPU has no read-only arrays.

Functions such as `exp` come from `xp = xpcnn.backend.array_namespace(x)`, so that the layer also runs on a GPU. A loss
returns the mean over the batch:

    class AbsoluteLoss(nn.Loss):
        def forward(self, output, target):
            self.save_for_backward(output - target)
            return abs(output - target).mean()

        def backward(self):
            difference = self.saved()
            return array_namespace(difference).sign(difference) / difference.size
"""

from . import init
from .activation import ELU, GELU, Activation, Identity, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Softmax, Tanh
from .autocast import autocast
from .blocks import conv_relu, conv_relu_pool
from .containers import Residual, ResidualSequential, Sequential
from .convolution import Conv2d, ConvTranspose2d
from .distributed import GroupLoss, average_statistics, synchronize
from .dropout import Dropout
from .linear import Flatten, Linear
from .loss import BCEWithLogitsLoss, CrossEntropyLoss, HingeLoss, L2Penalty, Loss, MSELoss
from .module import Buffer, Module, Parameter, StateFit
from .normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LayerNorm2d
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .position_bias import PositionBias
from .summary import LayerSummary, Summary
from .views import AverageViews

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "AdaptiveAvgPool2d",
    "AverageViews",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupLoss",
    "GroupNorm",
    "HingeLoss",
    "Identity",
    "L2Penalty",
    "LayerNorm",
    "LayerNorm2d",
    "LayerSummary",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "PositionBias",
    "ReLU",
    "ReLU6",
    "Residual",
    "ResidualSequential",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "StateFit",
    "Summary",
    "Tanh",
    "autocast",
    "average_statistics",
    "conv_relu",
    "conv_relu_pool",
    "init",
    "synchronize",
]
