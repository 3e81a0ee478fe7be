"""Class weights."""

import numpy as np
import pytest

from xpcnn.data import Dataset, class_weights


def test_weights_are_those_of_scikit_learn():
    labels = [0, 0, 0, 1, 2, 2]
    expected = [6 / (3 * 3), 6 / (3 * 1), 6 / (3 * 2)]  # compute_class_weight("balanced", ...)
    for given in (labels, np.array(labels, np.uint8)):
        np.testing.assert_array_equal(class_weights(given), expected)
    images = np.zeros((6, 1, 2, 2), np.uint8)
    for names in (labels, [7, 7, 7, 8, 9, 9], list("aaabcc")):
        np.testing.assert_array_equal(class_weights(Dataset(images, names)), expected)


def test_every_class_has_the_same_weight_in_all():
    labels = np.random.default_rng(0).integers(0, 7, 100)
    weights = class_weights(labels, 7)
    np.testing.assert_allclose(np.bincount(labels, weights[labels]), 100 / 7)


@pytest.mark.parametrize(
    ("labels", "options", "fault"),
    [
        (Dataset(np.zeros((2, 1, 1), "u1"), [0, 2], classes=list("abcd")), {}, "no samples of class b, d$"),
        ([0, 2], {}, "no samples of class 1$"),
        ([0, 1], {"num_classes": 9}, "no samples of class 2, 3, 4, 5, 6, …"),
        ([0, 1], {"num_classes": 1}, "labels from 0 to 0, got 0 to 1"),
        ([0, -1], {}, "got -1 to 0"),
        ([], {}, "at least one, got float64"),
        ([0.5], {}, "expected integers"),
        ([[0, 1]], {}, r"got int64 \(1, 2\)"),
    ],
)
def test_impossible_labels_are_refused(labels, options, fault):
    with pytest.raises(ValueError, match=fault):
        class_weights(labels, **options)
