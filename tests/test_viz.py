"""Pictures show what they are given: their contents are looked at, not their existence."""

import io

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="pictures need the viz extra")

from xpcnn import viz


def rendered(figure):
    """Draw the figure as it would be saved, which is where a bad layout or value fails."""
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")
    return figure


def test_curves_hold_each_record():
    records = [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 1 / e, "test_loss": 2 / e, "test_accuracy": 0.5}
        for e in (1, 2, 3)
    ]
    loss, accuracy = rendered(viz.curves(records)).axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(1, 1), (2, 1 / 2), (3, 1 / 3)])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [2, 1, 2 / 3])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.5] * 3)
    assert [line.get_label() for line in accuracy.lines] == ["train", "test"]

    validated = [{"epoch": 1, "train_loss": 1.0, "validation_loss": 3.0}, {"epoch": 2, "validation_loss": 2.0}]
    (loss,) = rendered(viz.curves(validated)).axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    np.testing.assert_allclose(loss.lines[1].get_xydata(), [(1, 3), (2, 2)])


def test_loss_curve_and_its_running_mean():
    losses = np.arange(10.0)
    (axes,) = rendered(viz.loss_curve(losses, smooth=4)).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), losses)
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [(i, i - 1.5) for i in range(3, 10)])


def test_predictions_mark_the_wrong_ones(device, rng):
    images = rng.integers(0, 256, (5, 3, 6, 6)).astype(np.uint8)
    probabilities = np.full((5, 2), 0.25)
    probabilities[np.arange(5), [0, 1, 0, 1, 0]] = 0.75
    labels = np.array([0, 1, 1, 1, 0])
    arrays = [device.asarray(array) for array in (images, labels, probabilities)]
    figure = rendered(viz.predictions(*arrays, ("cat", "dog"), columns=3))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat 75%", "dog 75%", "cat 75%\n(is dog)", "dog 75%", "cat 75%", ""]
    assert [axes.title.get_color() for axes in figure.axes[:3]] == ["black", "black", "red"]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), images[3].transpose(1, 2, 0))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filters_show_each_filter_over_its_own_range(rng, channels):
    weight = rng.standard_normal((5, channels, 4, 3))
    weight[4] = 7.0  # a constant filter has no range to scale by
    figure = rendered(viz.filters(weight))
    assert len(figure.axes) == 6
    for axes, values in zip(figure.axes, weight[:4], strict=False):
        shown = values.transpose(1, 2, 0) if channels == 3 else values[0]
        expected = (shown - shown.min()) / (shown.max() - shown.min())
        np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert not figure.axes[5].images


def test_filtered_images_stand_beside_what_filters_made_of_them(device, rng):
    images = rng.integers(0, 256, (2, 3, 6, 5)).astype(np.uint8)
    maps = rng.standard_normal((2, 2, 4, 3))
    figure = rendered(viz.filtered_images(device.asarray(images), device.asarray(maps), ("image", "grey", "edges")))
    assert [axes.get_title() for axes in figure.axes] == ["image", "grey", "edges", "", "", ""]
    for row in range(2):
        shown = [axes.images[0] for axes in figure.axes[3 * row : 3 * row + 3]]
        np.testing.assert_array_equal(shown[0].get_array(), images[row].transpose(1, 2, 0))
        for image, values in zip(shown[1:], maps[row], strict=True):
            np.testing.assert_array_equal(image.get_array(), values)
            assert image.get_clim() == (values.min(), values.max())
    with pytest.raises(ValueError, match="zip"):
        viz.filtered_images(images, maps, ("image", "grey"))


def test_confusion_matrix_counts_pairs():
    figure = rendered(viz.confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 2]), "abc"))
    (axes,) = figure.axes
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (2, 2): "2"}  # (column, row): predicted, true
