"""Arrays in, arrays out: every forward function beside its backward, pure and without a branch on the device.

A forward function returns its result and a cache; the backward function takes the gradient of the result and that
cache, and returns the gradients of the forward function's array arguments.
"""

from .activation import relu_backward, relu_forward
from .convolution import conv2d_backward, conv2d_forward
from .dropout import dropout_backward, dropout_forward
from .linear import linear_backward, linear_forward
from .loss import cross_entropy_backward, cross_entropy_forward
from .pooling import max_pool2d_backward, max_pool2d_forward

__all__ = [
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "linear_backward",
    "linear_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "relu_backward",
    "relu_forward",
]
