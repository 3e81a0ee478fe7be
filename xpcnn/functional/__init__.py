"""Layers and losses as pure functions of arrays, the same code on every device.

A forward function returns its result and a cache. The backward function takes the gradient w.r.t. that result, and the
cache, and returns the gradients w.r.t. the forward function's array arguments.

Arrays are of float32 or float64; a gradient has the dtype of the output. Integers are refused with ValueError. float16
is taken where the result is right to its last digits: by `conv2d_forward`, linear layers, max pooling, adaptive and
global average pooling, dropout, `add` and activations other than softmax, with their backward functions except
`conv2d_backward`. Everything else sums many rounded numbers or leaves float16's range, and refuses it: normalization,
losses, softmax, average pooling under a window, transposed convolution, and optimizers.

A cache refers to the input, and often to the output, rather than to copies: do not change either in place before the
backward call.
"""

from .activation import (
    clip_in_place,
    leaky_relu,
    leaky_relu_backward,
    leaky_relu_forward,
    relu6_backward,
    relu6_forward,
    relu_backward,
    relu_forward,
    sigmoid,
    sigmoid_backward,
    sigmoid_forward,
    tanh,
    tanh_backward,
    tanh_forward,
)
from .avg_pool import (
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    avg_pool2d_backward,
    avg_pool2d_forward,
    global_avg_pool2d_backward,
    global_avg_pool2d_forward,
)
from .batch_norm import batch_norm_backward, batch_norm_fixed, batch_norm_fixed_backward, batch_norm_forward
from .conv_transpose import (
    conv_transpose2d_backward,
    conv_transpose2d_forward,
    conv_transpose2d_input_gradient,
    conv_transpose2d_parameter_gradients,
)
from .convolution import conv2d, conv2d_backward, conv2d_forward, conv2d_input_gradient, conv2d_parameter_gradients
from .dropout import dropout_backward, dropout_forward
from .elementwise import add, elementwise_backward, elementwise_forward
from .group_norm import (
    group_norm_backward,
    group_norm_forward,
    layer_norm2d_backward,
    layer_norm2d_forward,
    layer_norm_backward,
    layer_norm_forward,
)
from .layer_norm2d import layer_norm2d
from .layer_scale import layer_scale_backward, layer_scale_forward
from .linear import linear, linear_backward, linear_forward, linear_input_gradient, linear_parameter_gradients
from .loss import (
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    check_labels,
    cross_entropy_backward,
    cross_entropy_forward,
    hinge_backward,
    hinge_forward,
    mean_squared_error_backward,
    mean_squared_error_forward,
)
from .max_pool import max_pool2d_backward, max_pool2d_forward
from .reflection import pad_reflect
from .smooth_activation import (
    elu,
    elu_backward,
    elu_forward,
    gelu,
    gelu_backward,
    gelu_forward,
    gelu_tanh,
    silu,
    silu_backward,
    silu_forward,
)
from .softmax import softmax_backward, softmax_forward

__all__ = [
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "add",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_fixed",
    "batch_norm_fixed_backward",
    "batch_norm_forward",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "check_labels",
    "clip_in_place",
    "conv2d",
    "conv2d_backward",
    "conv2d_forward",
    "conv2d_input_gradient",
    "conv2d_parameter_gradients",
    "conv_transpose2d_backward",
    "conv_transpose2d_forward",
    "conv_transpose2d_input_gradient",
    "conv_transpose2d_parameter_gradients",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "elementwise_backward",
    "elementwise_forward",
    "elu",
    "elu_backward",
    "elu_forward",
    "gelu",
    "gelu_backward",
    "gelu_forward",
    "gelu_tanh",
    "global_avg_pool2d_backward",
    "global_avg_pool2d_forward",
    "group_norm_backward",
    "group_norm_forward",
    "hinge_backward",
    "hinge_forward",
    "layer_norm2d",
    "layer_norm2d_backward",
    "layer_norm2d_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "layer_scale_backward",
    "layer_scale_forward",
    "leaky_relu",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "linear",
    "linear_backward",
    "linear_forward",
    "linear_input_gradient",
    "linear_parameter_gradients",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "pad_reflect",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "tanh",
    "tanh_backward",
    "tanh_forward",
]
