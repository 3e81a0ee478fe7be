"""Numeric gradients and the measure of error that the source documents print."""

import numpy as np


def relative_error(actual, expected):
    """Return the largest |a - b| / (|a| + |b|), the measure CS231n prints."""
    return np.max(np.abs(actual - expected) / np.maximum(1e-8, np.abs(actual) + np.abs(expected)))


def gradient_errors(device, rng, forward, backward, arrays, dy, eps=1e-5, sample=150):
    """Return the relative errors of a backward pass against numeric gradients, one for each array.

    Args:
        forward: from arrays on the device to the result.
        backward: from the gradient of the result to those of the arrays, after a call of `forward`.
        sample: how many elements of an array to look at.
    """
    on_device = [device.asarray(array) for array in arrays]
    forward(*on_device)
    gradients = [device.to_host(gradient) for gradient in backward(device.asarray(dy))]
    errors = []
    for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        assert gradient.shape == array.shape
        places = rng.permutation(array.size)[:sample]
        numeric = np.zeros(len(places))
        for k, place in enumerate(places):
            results = []
            for sign in (1, -1):
                moved = np.array(array)
                moved.flat[place] += sign * eps
                values = [*on_device[:i], device.asarray(moved), *on_device[i + 1 :]]
                results.append(device.to_host(forward(*values)))
            numeric[k] = ((results[0] - results[1]) * dy).sum() / (2 * eps)
        errors.append(relative_error(gradient.flat[places], numeric))
    return errors


def module_gradient_errors(device, rng, module, x, dy, eps=1e-5):
    """Return the relative errors of a module's gradients: of its input, then of each parameter."""
    parameters = list(module.parameters())

    def forward(x, *values):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        return module(x)

    def backward(dy):
        module.zero_grad()
        return [module.backward(dy), *(parameter.grad for parameter in parameters)]

    values = [device.to_host(parameter.data).copy() for parameter in parameters]
    return gradient_errors(device, rng, forward, backward, [x, *values], dy, eps)
