"""Layers as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, prod, sqrt
from typing import Any

import numpy as np

from .. import nn
from ..backend import HostArray, Shape, to_host
from ..functional.windows import Window, ceil_mode_window, make_window, pair, pooling_window
from ..models.convnext import ConvNeXtBlock
from ..nn import Module
from ..nn.evaluation import FoldedConv2d, folds
from ..nn.linear import PointwiseLinear


class Graph:
    """The nodes and arrays of a graph that grows layer by layer.

    Args:
        fold: whether a batch norm after a convolution becomes part of it.

    Attributes:
        nodes, arrays: as the package onnx represents them.
    """

    def __init__(self, fold: bool) -> None:
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self._fold = fold

    def node(self, op: str, name: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output.

        Args:
            op: ONNX's name of the operation.
            name: of the layer, with which the node's name begins.
            inputs: names of other nodes' outputs, or arrays.
            output: a name for the output; "" to make one.
            attributes: of the operation.
        """
        from onnx import helper

        names = [x if isinstance(x, str) else self._array(f"{name}/{op}", x) for x in inputs]
        output = output or f"{name}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def _array(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{name}/array_{len(self.arrays)}"
        self.arrays.append(numpy_helper.from_array(np.ascontiguousarray(to_host(value)), name))
        return name

    def add(self, layer: Module, name: str, x: str, shape: Shape) -> tuple[str, Shape]:
        """Add the nodes of a layer.

        Args:
            layer: in evaluation mode.
            name: its dotted name.
            x: the name of its input.
            shape: of one input, without the axis N.

        Returns:
            the name of its output, and the shape of one.

        Raises:
            ValueError: if it cannot be written; the message names it and says why.
        """
        if type(layer) in (nn.Sequential, nn.ResidualSequential, nn.Residual, ConvNeXtBlock):
            return self._container(layer, name, x, shape)
        if type(layer) not in _LAYERS:
            own = (
                "a layer of your own"
                if not type(layer).__module__.startswith("xpcnn.")
                else "not known to the exporter"
            )
            raise ValueError(f"{_called(name, layer)} cannot be written as ONNX: {own}")
        try:
            y = layer(layer.device.xp.zeros((1, *shape), np.float32))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{_called(name, layer)}: {error}") from error
        return _LAYERS[type(layer)](self, layer, name, x, shape), tuple(y.shape[1:])

    def _container(self, layer: Any, name: str, x: str, shape: Shape) -> tuple[str, Shape]:
        def inside(child: str) -> str:
            return f"{name}.{child}" if name else child

        if type(layer) is nn.Residual:
            y, out_shape = self.add(layer.main, inside("main"), x, shape)
            shortcut, activation, other = layer.shortcut, layer.activation, inside("shortcut")
        elif type(layer) is ConvNeXtBlock:
            branch, out_shape = self.add(layer.block, inside("block"), x, shape)
            scaled = self.node("Mul", inside("layer_scale"), branch, layer.layer_scale.data)
            return self.node("Add", inside("add"), scaled, x), out_shape
        else:
            y, out_shape = self._sequence(dict(nn.Sequential.named_children(layer)), inside, x, shape)
            if type(layer) is nn.Sequential:
                return y, out_shape
            shortcut, activation, other = layer.downsample, layer.activation, inside("downsample")
        if shortcut is not None:
            x, _ = self.add(shortcut, other, x, shape)
        y = self.node("Add", inside("add"), y, x)
        return (y, out_shape) if activation is None else self.add(activation, inside("activation"), y, out_shape)

    def _sequence(
        self, layers: dict[str, Module], inside: Callable[[str], str], x: str, shape: Shape
    ) -> tuple[str, Shape]:
        steps = list(layers.items())
        i = 0
        while i < len(steps):
            name, layer = steps[i]
            after = steps[i + 1][1] if i + 1 < len(steps) else None
            i += 1
            if self._fold and isinstance(after, nn.BatchNorm2d) and folds(after, layer):
                assert isinstance(layer, nn.Conv2d)
                folded = FoldedConv2d(layer, after=after)
                shape = tuple(layer(layer.device.xp.zeros((1, *shape), np.float32)).shape[1:])
                x = _convolution(self, layer, inside(name), x, folded.array, folded.bias)
                i += 1
            else:
                x, shape = self.add(layer, inside(name), x, shape)
        return x, shape


def _called(name: str, layer: Module) -> str:
    return f"{name or 'the network'} ({type(layer).__name__})"


def _window_attributes(window: Window) -> dict[str, Any]:
    top, bottom, left, right = window.padding
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "pads": [top, left, bottom, right],
        "dilations": list(window.dilation),
    }


def _convolution(graph: Graph, layer: Any, name: str, x: str, weight: Any, bias: Any) -> str:
    window = make_window(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    inputs = [weight] if bias is None else [weight, bias]
    return graph.node("Conv", name, x, *inputs, group=layer.groups, **_window_attributes(window))


def _conv(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    return _convolution(graph, layer, name, x, layer.weight.data, _data(layer.bias))


def _conv_transpose(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    options = _window_attributes(make_window(layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    options |= {"group": layer.groups, "output_padding": list(pair(layer.output_padding, "output_padding", 0))}
    inputs = [layer.weight.data] if layer.bias is None else [layer.weight.data, layer.bias.data]
    return graph.node("ConvTranspose", name, x, *inputs, **options)


def _linear(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    inputs = [layer.weight.data] if layer.bias is None else [layer.weight.data, layer.bias.data]
    return graph.node("Gemm", name, x, *inputs, transB=1)


def _pointwise(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    inputs = [layer.weight.data[:, :, None, None], *([] if layer.bias is None else [layer.bias.data])]
    return graph.node("Conv", name, x, *inputs, kernel_shape=[1, 1])


def _batch_norm(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    if not layer.track_running_stats:
        raise ValueError(
            f"{_called(name, layer)} cannot be written as ONNX: without running averages an image's output depends on "
            "the other images of its batch"
        )
    weight, bias = _affine(layer, layer.num_features)
    averages = layer.running_mean.data, layer.running_var.data
    return graph.node("BatchNormalization", name, x, weight, bias, *averages, epsilon=layer.eps)


def _group_norm(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    groups = layer.num_groups
    x = graph.node("Reshape", name, x, np.array([0, groups, -1]))
    x = graph.node("InstanceNormalization", name, x, *_ones_and_zeros(groups), epsilon=layer.eps)
    x = graph.node("Reshape", name, x, np.array([0, *shape]))
    for op, parameter in (("Mul", layer.weight), ("Add", layer.bias)):
        if parameter is not None:
            x = graph.node(op, name, x, parameter.data.reshape(-1, *[1] * (len(shape) - 1)))
    return x


def _layer_norm(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    weight, bias = (
        array if parameter is None else parameter.data
        for parameter, array in zip((layer.weight, layer.bias), _ones_and_zeros(layer.normalized_shape), strict=True)
    )
    axis = -len(layer.normalized_shape)
    return graph.node("LayerNormalization", name, x, weight, bias, axis=axis, epsilon=layer.eps)


def _layer_norm2d(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    x = graph.node("Transpose", name, x, perm=[0, 2, 3, 1])
    affine = _affine(layer, layer.num_channels)
    x = graph.node("LayerNormalization", name, x, *affine, axis=-1, epsilon=layer.eps)
    return graph.node("Transpose", name, x, perm=[0, 3, 1, 2])


def _max_pool(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    # The image's size is known, so rounding up is padding, without the differences between programs in `ceil_mode`.
    window = pooling_window(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if layer.ceil_mode:
        window = ceil_mode_window(window, *shape[1:])
    attributes = _window_attributes(window)
    if any(pad >= size for pad, size in zip(attributes["pads"], window.kernel * 2, strict=True)):
        # Only with dilation; onnxruntime refuses it as an attribute.
        top, left, bottom, right = attributes["pads"]
        pads = np.array([0, 0, top, left, 0, 0, bottom, right])
        x = graph.node("Pad", name, x, pads, np.array(-np.inf, np.float32))
        attributes["pads"] = [0, 0, 0, 0]
    return graph.node("MaxPool", name, x, **attributes)


def _avg_pool(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    """Add the mean over whole windows, and where fewer elements count, a factor for each position."""
    usual = pooling_window(layer.kernel_size, layer.stride, layer.padding, 1)
    window = ceil_mode_window(usual, *shape[1:]) if layer.ceil_mode else usual
    attributes = _window_attributes(window)
    del attributes["dilations"]
    y = graph.node("AveragePool", name, x, count_include_pad=1, **attributes)
    padding = usual.padding if layer.count_include_pad else (0, 0, 0, 0)
    rows = _counted(shape[1], window, 0, padding[:2])
    columns = _counted(shape[2], window, 1, padding[2:])
    factor = prod(window.kernel) / (rows[:, None] * columns).astype(np.float32)
    return y if (factor == 1).all() else graph.node("Mul", name, y, factor.astype(np.float32))


def _counted(size: int, window: Window, axis: int, padding: Sequence[int]) -> HostArray:
    """Return how many rows (axis 0) or columns (axis 1) count as values at each position of a pooling window."""
    kernel, stride = window.kernel[axis], window.stride[axis]
    before, after = window.padding[2 * axis : 2 * axis + 2]
    starts = np.arange(0, size + before + after - kernel + 1, stride) - before
    return np.minimum(starts + kernel, size + padding[1]) - np.maximum(starts, -padding[0])


def _adaptive_pool(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    rows, columns = (_means(size, length) for size, length in zip(shape[1:], layer.output_size, strict=True))
    return graph.node("MatMul", name, graph.node("MatMul", name, rows, x), columns.T)


def _means(size: int, length: int) -> HostArray:
    """Return the matrix `(length, size)` of means over `length` parts that cover `size` elements."""
    matrix = np.zeros((length, size), np.float32)
    for i in range(length):
        part = slice(i * size // length, -(-(i + 1) * size // length))
        matrix[i, part] = 1 / (part.stop - part.start)
    return matrix


def _global_pool(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    return graph.node("Flatten", name, graph.node("GlobalAveragePool", name, x))


def _gelu(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    def number(value: float) -> HostArray:
        return np.array(value, np.float32)

    if layer.approximate == "tanh":
        cube = graph.node("Mul", name, graph.node("Mul", name, x, x), x)
        inner = graph.node("Add", name, x, graph.node("Mul", name, cube, number(0.044715)))
        bell = graph.node("Tanh", name, graph.node("Mul", name, inner, number(sqrt(2 / pi))))
    else:
        bell = graph.node("Erf", name, graph.node("Mul", name, x, number(sqrt(0.5))))
    half = graph.node("Mul", name, x, number(0.5))
    return graph.node("Mul", name, half, graph.node("Add", name, bell, number(1)))


def _softmax(graph: Graph, layer: Any, name: str, x: str, shape: Shape) -> str:
    if layer.dim % (len(shape) + 1) == 0:
        raise ValueError(
            f"{_called(name, layer)} cannot be written as ONNX: it normalises over the batch, so an image's output "
            "depends on the others"
        )
    return graph.node("Softmax", name, x, axis=layer.dim)


def _data(parameter: Any) -> Any:
    return None if parameter is None else parameter.data


def _ones_and_zeros(shape: Any) -> tuple[HostArray, HostArray]:
    return np.ones(shape, np.float32), np.zeros(shape, np.float32)


def _affine(layer: Any, channels: int) -> tuple[Any, Any]:
    ones, zeros = _ones_and_zeros(channels)
    return ones if layer.weight is None else layer.weight.data, zeros if layer.bias is None else layer.bias.data


Add = Callable[[Graph, Any, str, str, Shape], str]

# A subclass may compute something else, so that types have to be equal.
_LAYERS: dict[type[Module], Add] = {
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.AvgPool2d: _avg_pool,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.Dropout: lambda graph, layer, name, x, shape: x,
    nn.ELU: lambda graph, layer, name, x, shape: graph.node("Elu", name, x, alpha=float(layer.alpha)),
    nn.Flatten: lambda graph, layer, name, x, shape: graph.node("Flatten", name, x),
    nn.GELU: _gelu,
    nn.GlobalAvgPool2d: _global_pool,
    nn.GroupNorm: _group_norm,
    nn.Identity: lambda graph, layer, name, x, shape: x,
    nn.LayerNorm: _layer_norm,
    nn.LayerNorm2d: _layer_norm2d,
    nn.LeakyReLU: lambda graph, layer, name, x, shape: graph.node(
        "LeakyRelu", name, x, alpha=float(layer.negative_slope)
    ),
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    PointwiseLinear: _pointwise,
    nn.PositionBias: lambda graph, layer, name, x, shape: graph.node("Add", name, x, layer.bias.data),
    nn.ReLU: lambda graph, layer, name, x, shape: graph.node("Relu", name, x),
    nn.ReLU6: lambda graph, layer, name, x, shape: graph.node(
        "Clip", name, x, *(np.array(v, np.float32) for v in (0, 6))
    ),
    nn.SiLU: lambda graph, layer, name, x, shape: graph.node("Mul", name, x, graph.node("Sigmoid", name, x)),
    nn.Sigmoid: lambda graph, layer, name, x, shape: graph.node("Sigmoid", name, x),
    nn.Softmax: _softmax,
    nn.Tanh: lambda graph, layer, name, x, shape: graph.node("Tanh", name, x),
}
