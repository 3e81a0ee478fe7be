"""Layers with their parameters, under PyTorch's names."""

from . import init
from .activation import ELU, GELU, Activation, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from .blocks import conv_relu, conv_relu_pool
from .containers import Residual, Sequential
from .convolution import Conv2d, ConvTranspose2d
from .dropout import Dropout
from .linear import Flatten, Linear
from .loss import BCEWithLogitsLoss, CrossEntropyLoss, HingeLoss, L2Penalty, Loss, MSELoss
from .module import Buffer, Module, Parameter
from .normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "AdaptiveAvgPool2d",
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
    "GroupNorm",
    "HingeLoss",
    "Identity",
    "L2Penalty",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "conv_relu",
    "conv_relu_pool",
    "init",
]
