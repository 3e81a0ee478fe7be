"""Metrics: averages over samples, and the batch at which a loss went wrong."""

import numpy as np
import pytest

from xpcnn.training.metrics import Metrics, NonFiniteLossError


def test_averages_weigh_batches_by_their_size(device, xp):
    metrics = Metrics()
    logits = device.asarray(np.array([[3.0, 1], [0, 2], [5, 1]]))
    metrics.update(xp.asarray(2.0), logits, device.asarray(np.array([0, 1, 1])))
    metrics.update(xp.asarray(6.0), logits[:1], device.asarray(np.array([0])))
    assert metrics.loss == pytest.approx((3 * 2 + 6) / 4)
    assert metrics.accuracy == pytest.approx(3 / 4)
    assert (metrics.samples, metrics.losses) == (4, [2.0, 6.0])


def test_no_samples_give_nan():
    assert np.isnan(Metrics().loss)
    assert np.isnan(Metrics().accuracy)


def test_the_first_bad_batch_is_named():
    metrics = Metrics()
    for loss in (1.0, 2.0, np.inf, np.nan):
        metrics.update(np.float32(loss), np.zeros((1, 2)), np.zeros(1, int))
    with pytest.raises(NonFiniteLossError, match="inf") as caught:
        metrics.read()
    assert caught.value.batch == 2
