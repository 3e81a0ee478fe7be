"""The slow, obvious version of further layers and losses: plain loops in float64, as in reference.py."""

from math import ceil, erf, exp, floor, log, log1p, pi, sqrt, tanh

import numpy as np
from reference import four_sides, output_size


def conv_transpose2d(
    x, weight, bias=None, *, stride=(1, 1), padding=0, output_padding=(0, 0), groups=1, dilation=(1, 1)
):
    """Paint every pixel's filter onto a sheet large enough, then cut the padding off."""
    left, right, top, bottom = four_sides(padding, weight.shape[2:], dilation)
    sheet = _painted(x, weight, stride, output_padding, groups, dilation)
    y = sheet[:, :, top : sheet.shape[2] - bottom, left : sheet.shape[3] - right]
    return y if bias is None else y + np.reshape(bias, (-1, 1, 1))


def _painted(x, weight, stride, output_padding, groups, dilation):
    N, C, H, W = x.shape
    _, O, KH, KW = weight.shape
    height = (H - 1) * stride[0] + (KH - 1) * dilation[0] + 1 + output_padding[0]
    width = (W - 1) * stride[1] + (KW - 1) * dilation[1] + 1 + output_padding[1]
    sheet = np.zeros((N, groups * O, height, width))
    for (n, c, h, w), value in np.ndenumerate(x):
        first = c // (C // groups) * O  # the first output channel of this input's group
        for o in range(O):
            for kh in range(KH):
                for kw in range(KW):
                    place = h * stride[0] + kh * dilation[0], w * stride[1] + kw * dilation[1]
                    sheet[n, first + o, *place] += value * weight[c, o, kh, kw]
    return sheet


def conv_transpose2d_backward(
    dy, x, weight, *, stride=(1, 1), padding=0, output_padding=(0, 0), groups=1, dilation=(1, 1)
):
    """Return dx, dweight, dbias."""
    left, _, top, _ = four_sides(padding, weight.shape[2:], dilation)
    dx, dweight = np.zeros(x.shape), np.zeros(weight.shape)
    for (n, c, h, w), value in np.ndenumerate(x):
        first = c // (x.shape[1] // groups) * weight.shape[1]
        for o in range(weight.shape[1]):
            for kh in range(weight.shape[2]):
                for kw in range(weight.shape[3]):
                    oh = h * stride[0] + kh * dilation[0] - top
                    ow = w * stride[1] + kw * dilation[1] - left
                    if 0 <= oh < dy.shape[2] and 0 <= ow < dy.shape[3]:
                        dx[n, c, h, w] += dy[n, first + o, oh, ow] * weight[c, o, kh, kw]
                        dweight[c, o, kh, kw] += dy[n, first + o, oh, ow] * value
    return dx, dweight, dy.sum(axis=(0, 2, 3))


def starts(size, kernel, stride, before, after, dilation=1, ceil_mode=False):
    """Return where the windows along one axis start, by PyTorch's rule.

    With ceil_mode a window may also start where the last of it, or all but its first pixel, is beyond the padding.
    """
    found = [i * stride - before for i in range(output_size(size, kernel, stride, before, after, dilation))]
    if ceil_mode:
        span = (kernel - 1) * dilation + 1
        found = found or [-before]
        # Another one as long as there are padded pixels no window has reached, and it starts before they begin.
        while found[-1] + span < size + after and found[-1] + stride < size:
            found.append(found[-1] + stride)
    return found


def max_pool2d(x, kernel, *, stride, padding=0, dilation=(1, 1), ceil_mode=False):
    """Return the maxima, and where each was first met: {(n, c, oh, ow): (n, c, h, w)}."""
    N, C, H, W = x.shape
    left, right, top, bottom = four_sides(padding, kernel, dilation)
    rows = starts(H, kernel[0], stride[0], top, bottom, dilation[0], ceil_mode)
    cols = starts(W, kernel[1], stride[1], left, right, dilation[1], ceil_mode)
    y, winners = np.full((N, C, len(rows), len(cols)), -np.inf), {}
    for index in np.ndindex(y.shape):
        n, c, oh, ow = index
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                h, w = rows[oh] + kh * dilation[0], cols[ow] + kw * dilation[1]
                if 0 <= h < H and 0 <= w < W and (index not in winners or x[n, c, h, w] > y[index]):
                    y[index], winners[index] = x[n, c, h, w], (n, c, h, w)
    return y, winners


def avg_pool2d_windows(H, W, kernel, *, stride, padding=0, ceil_mode=False, count_include_pad=True):
    """Yield for each position its pixels, and how many values its mean is over."""
    left, right, top, bottom = four_sides(padding, kernel, (1, 1))
    for oh, h0 in enumerate(starts(H, kernel[0], stride[0], top, bottom, 1, ceil_mode)):
        for ow, w0 in enumerate(starts(W, kernel[1], stride[1], left, right, 1, ceil_mode)):
            places = [(h0 + kh, w0 + kw) for kh in range(kernel[0]) for kw in range(kernel[1])]
            pixels = [(h, w) for h, w in places if 0 <= h < H and 0 <= w < W]
            padded = [(h, w) for h, w in places if h < H + bottom and w < W + right]
            yield (oh, ow), pixels, len(padded) if count_include_pad else len(pixels)


def adaptive_avg_pool2d_windows(H, W, OH, OW):
    for oh in range(OH):
        for ow in range(OW):
            rows = range(floor(oh * H / OH), ceil((oh + 1) * H / OH))
            cols = range(floor(ow * W / OW), ceil((ow + 1) * W / OW))
            yield (oh, ow), [(h, w) for h in rows for w in cols], len(rows) * len(cols)


def average(x, windows):
    """Return the means of `x (N, C, H, W)` over windows."""
    windows = list(windows)
    OH, OW = np.add(windows[-1][0], 1)
    y = np.zeros((*x.shape[:2], OH, OW))
    for (oh, ow), pixels, count in windows:
        for h, w in pixels:
            y[:, :, oh, ow] += x[:, :, h, w] / count
    return y


def average_backward(dy, x, windows):
    dx = np.zeros(x.shape)
    for (oh, ow), pixels, count in windows:
        for h, w in pixels:
            dx[:, :, h, w] += dy[:, :, oh, ow] / count
    return dx


def standardize(values, eps):
    """Return a list's values less their mean, over their standard deviation; also mean and variance."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / sqrt(variance + eps) for value in values], mean, variance


def batch_norm(x, weight, bias, eps):
    """Return y, and each channel's mean and unbiased variance."""
    y, means, variances = np.zeros(x.shape), [], []
    for c in range(x.shape[1]):
        values, mean, variance = standardize(x[:, c].ravel().tolist(), eps)
        y[:, c] = np.reshape(values, x[:, c].shape) * weight[c] + bias[c]
        means.append(mean)
        variances.append(variance * len(values) / (len(values) - 1))
    return y, np.array(means), np.array(variances)


def group_norm(x, groups, weight, bias, eps):
    y = np.zeros(x.shape)
    size = x.shape[1] // groups
    for n in range(len(x)):
        for g in range(groups):
            part = x[n, g * size : (g + 1) * size]
            y[n, g * size : (g + 1) * size] = np.reshape(standardize(part.ravel().tolist(), eps)[0], part.shape)
        for c in range(x.shape[1]):
            y[n, c] = y[n, c] * weight[c] + bias[c]
    return y


def layer_norm(x, weight, bias, eps):
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape[: x.ndim - weight.ndim]):
        values = np.reshape(standardize(x[index].ravel().tolist(), eps)[0], weight.shape)
        y[index] = values * weight + bias
    return y


def _sigmoid(x):
    return 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))


# By name: the function of one number, and its derivative.
ACTIVATIONS = {
    "LeakyReLU(0.2)": (lambda x: x if x > 0 else 0.2 * x, lambda x: 1 if x > 0 else 0.2),
    "ReLU6()": (lambda x: min(max(x, 0), 6), lambda x: 1 if 0 < x < 6 else 0),
    "LeakyReLU(-0.5)": (lambda x: x if x > 0 else -0.5 * x, lambda x: 1 if x > 0 else -0.5),
    "ELU()": (lambda x: x if x > 0 else exp(x) - 1, lambda x: 1 if x > 0 else exp(x)),
    "LeakyReLU(1.5)": (lambda x: x if x > 0 else 1.5 * x, lambda x: 1 if x > 0 else 1.5),
    "ELU(1.7)": (lambda x: x if x > 0 else 1.7 * (exp(x) - 1), lambda x: 1 if x > 0 else 1.7 * exp(x)),
    "GELU()": (
        lambda x: x * (1 + erf(x / sqrt(2))) / 2,
        lambda x: (1 + erf(x / sqrt(2))) / 2 + x * exp(-x * x / 2) / sqrt(2 * pi),
    ),
    "GELU('tanh')": (
        lambda x: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2,
        lambda x: (
            (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
            + x * (1 - tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)) ** 2) * sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2) / 2
        ),
    ),
    "SiLU()": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x))),
    "Sigmoid()": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "Tanh()": (tanh, lambda x: 1 - tanh(x) ** 2),
}


def softmax(x, dim):
    y = np.zeros(x.shape)
    for index in np.ndindex(tuple(np.delete(x.shape, dim))):
        place = (*index[: dim % x.ndim], slice(None), *index[dim % x.ndim :])
        exponentials = [exp(value - max(x[place])) for value in x[place]]
        y[place] = [value / sum(exponentials) for value in exponentials]
    return y


def cross_entropy(logits, labels, weight=None, label_smoothing=0.0):
    classes = logits.shape[1]
    weight = np.ones(classes) if weight is None else weight
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        surprise = [max(row) - value + log(sum(exp(other - max(row)) for other in row)) for value in row]
        total += (1 - label_smoothing) * weight[label] * surprise[label]
        total += label_smoothing / classes * sum(w * s for w, s in zip(weight, surprise, strict=True))
    return total / sum(weight[label] for label in labels)


def hinge(scores, labels, margin):
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        total += sum(max(0, score - row[label] + margin) for j, score in enumerate(row) if j != label)
    return total / len(scores)


def mean_squared_error(x, target):
    return sum((a - b) ** 2 for a, b in zip(x.ravel(), target.ravel(), strict=True)) / x.size


def binary_cross_entropy(logits, target):
    total = 0.0
    for x, t in zip(logits.ravel(), target.ravel(), strict=True):
        total += max(x, 0) - x * t + log1p(exp(-abs(x)))
    return total / logits.size


def rmsprop(w, gradients, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0):
    """Return w after one step for each gradient."""
    square, velocity = np.zeros(w.shape), np.zeros(w.shape)
    for gradient in gradients:
        g = gradient + weight_decay * w
        square = alpha * square + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (np.sqrt(square) + eps)
        w = w - lr * velocity
    return w
