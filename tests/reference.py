"""The slow, obvious version of everything: plain loops in float64, to check the fast ones against.

Arguments are those of the functions in `xpcnn`, with stride and dilation always given as pairs; the letters are those
of `xpcnn/functional/windows.py`.
"""

from math import exp, log

import numpy as np


def four_sides(padding, kernel, dilation):
    """Return any form of padding as (left, right, top, bottom)."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        height, width = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
        return width // 2, width - width // 2, height // 2, height - height // 2
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        return padding[1], padding[1], padding[0], padding[0]
    return padding


def output_size(size, kernel, stride, before, after, dilation):
    """Count the positions of a window along one axis by trying them out."""
    count, start = 0, -before
    while start + (kernel - 1) * dilation < size + after:
        count, start = count + 1, start + stride
    return count


def window_positions(H, W, kernel, stride, padding, dilation):
    """Yield each position of a window with what it sees: (oh, ow), [((kh, kw), (h, w)), ...], without the padding."""
    left, right, top, bottom = four_sides(padding, kernel, dilation)
    for oh in range(output_size(H, kernel[0], stride[0], top, bottom, dilation[0])):
        for ow in range(output_size(W, kernel[1], stride[1], left, right, dilation[1])):
            seen = []
            for kh in range(kernel[0]):
                for kw in range(kernel[1]):
                    h = oh * stride[0] - top + kh * dilation[0]
                    w = ow * stride[1] - left + kw * dilation[1]
                    if 0 <= h < H and 0 <= w < W:
                        seen.append(((kh, kw), (h, w)))
            yield (oh, ow), seen


def _output(x, channels, kernel, stride, padding, dilation, value):
    N, _, H, W = x.shape
    *_, ((oh, ow), _) = window_positions(H, W, kernel, stride, padding, dilation)
    return np.full((N, channels, oh + 1, ow + 1), value, np.float64)


def conv2d(x, weight, bias=None, *, stride=(1, 1), padding=0, dilation=(1, 1), groups=1):
    N, _, H, W = x.shape
    O, C, *kernel = weight.shape
    y = _output(x, O, kernel, stride, padding, dilation, 0)
    for n in range(N):
        for o in range(O):
            first = o // (O // groups) * C  # the first input channel of this output's group
            for (oh, ow), seen in window_positions(H, W, kernel, stride, padding, dilation):
                for c in range(C):
                    for (kh, kw), (h, w) in seen:
                        y[n, o, oh, ow] += x[n, first + c, h, w] * weight[o, c, kh, kw]
                if bias is not None:
                    y[n, o, oh, ow] += bias[o]
    return y


def conv2d_backward(dy, x, weight, *, stride=(1, 1), padding=0, dilation=(1, 1), groups=1):
    """Return dx, dweight, dbias."""
    N, _, H, W = x.shape
    O, C, *kernel = weight.shape
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(O)
    for n in range(N):
        for o in range(O):
            first = o // (O // groups) * C
            for (oh, ow), seen in window_positions(H, W, kernel, stride, padding, dilation):
                for c in range(C):
                    for (kh, kw), (h, w) in seen:
                        dx[n, first + c, h, w] += dy[n, o, oh, ow] * weight[o, c, kh, kw]
                        dweight[o, c, kh, kw] += dy[n, o, oh, ow] * x[n, first + c, h, w]
                dbias[o] += dy[n, o, oh, ow]
    return dx, dweight, dbias


def max_pool2d(x, kernel, *, stride, padding=0, dilation=(1, 1)):
    """Return the maxima, and where each was first met: {(n, c, oh, ow): (n, c, h, w)}."""
    N, C, H, W = x.shape
    y, winners = _output(x, C, kernel, stride, padding, dilation, -np.inf), {}
    for n in range(N):
        for c in range(C):
            for (oh, ow), seen in window_positions(H, W, kernel, stride, padding, dilation):
                for _, (h, w) in seen:
                    if (n, c, oh, ow) not in winners or x[n, c, h, w] > y[n, c, oh, ow]:
                        y[n, c, oh, ow] = x[n, c, h, w]
                        winners[n, c, oh, ow] = n, c, h, w
    return y, winners


def max_pool2d_backward(dy, x, winners):
    dx = np.zeros(x.shape)
    for position, pixel in winners.items():
        dx[pixel] += dy[position]
    return dx


def linear(x, weight, bias=None):
    y = np.zeros((len(x), len(weight)))
    for n in range(len(x)):
        for o in range(len(weight)):
            for i in range(x.shape[1]):
                y[n, o] += x[n, i] * weight[o, i]
            if bias is not None:
                y[n, o] += bias[o]
    return y


def linear_backward(dy, x, weight):
    """Return dx, dweight, dbias."""
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for n in range(len(x)):
        for o in range(len(weight)):
            for i in range(x.shape[1]):
                dx[n, i] += dy[n, o] * weight[o, i]
                dweight[o, i] += dy[n, o] * x[n, i]
            dbias[o] += dy[n, o]
    return dx, dweight, dbias


def relu(x):
    y = np.zeros(x.shape)
    for index, value in np.ndenumerate(x):
        if value > 0:
            y[index] = value
    return y


def relu_backward(dy, x):
    dx = np.zeros(x.shape)
    for index, value in np.ndenumerate(x):
        if value > 0:
            dx[index] = dy[index]
    return dx


def softmax(row):
    exponentials = [exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def cross_entropy(logits, labels):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        total += max(row) - row[label] + log(sum(exp(value - max(row)) for value in row))
    return total / len(logits)


def cross_entropy_backward(logits, labels):
    gradient = np.zeros(logits.shape)
    for n, (row, label) in enumerate(zip(logits, labels, strict=True)):
        for k, probability in enumerate(softmax(row)):
            gradient[n, k] = (probability - (k == label)) / len(logits)
    return gradient


def sgd(w, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0, decay=0.0):
    """Return w after one step for each gradient."""
    velocity = np.zeros(w.shape)
    for t, gradient in enumerate(gradients):
        g = gradient + weight_decay * w
        velocity = momentum * velocity + g
        step = g + momentum * velocity if nesterov else velocity
        w = w - lr / (1 + decay * t) * step
    return w


def adam(w, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """Return w after one step for each gradient; decoupled weight decay makes it AdamW."""
    m, v = np.zeros(w.shape), np.zeros(w.shape)
    for t, gradient in enumerate(gradients, 1):
        g = gradient if decoupled else gradient + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        shrunk = w * (1 - lr * weight_decay) if decoupled else w
        w = shrunk - lr * m_hat / (np.sqrt(v_hat) + eps)
    return w


def numeric_gradient(f, x, dy, eps=1e-4):
    """Return the gradient of `sum(f(x) * dy)` by central differences, one element of x after the other."""
    x = np.array(x, np.float64)
    gradient = np.zeros(x.shape)
    for index, value in np.ndenumerate(x):
        x[index] = value + eps
        above = np.sum(f(x) * dy)
        x[index] = value - eps
        below = np.sum(f(x) * dy)
        x[index] = value
        gradient[index] = (above - below) / (2 * eps)
    return gradient
