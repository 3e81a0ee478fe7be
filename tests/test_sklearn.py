"""The classifier as scikit-learn uses it: its own checks, pipelines, searches in processes, pickles; and the errors."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="CNNClassifier needs the sklearn extra")

from inputs import refused
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from xpcnn import models
from xpcnn.data import RandomShift
from xpcnn.nn import Flatten, Linear, Sequential
from xpcnn.random import stream
from xpcnn.sklearn import CNNClassifier

FAST = {"epochs": 2, "device": "cpu", "random_state": 0}


@parametrize_with_checks([CNNClassifier(epochs=15, device="cpu")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def two_kinds(rng, N=60, shape=(6, 6)):
    """Return images, light on the left or on the right, and their labels."""
    labels = np.array(["left", "right"])[np.arange(N) % 2]
    images = rng.integers(0, 100, (N, *shape), np.uint8)
    images[labels == "left", ..., :3] += 100
    images[labels == "right", ..., 3:] += 100
    return images, labels


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def test_digits_in_a_pipeline(digits):
    X, X_test, y, y_test = train_test_split(*digits, test_size=0.25, random_state=0)
    pipeline = make_pipeline(MinMaxScaler(), CNNClassifier(image_shape=(8, 8), device="cpu", random_state=0))
    assert pipeline.fit(X, y).score(X_test, y_test) >= 0.97


def test_images_and_rows_are_the_same_samples(rng):
    images, y = two_kinds(rng)
    forms = images, images[:, None], images.reshape(60, 36)
    given = CNNClassifier(image_shape=(6, 6), **FAST), CNNClassifier(image_shape=(1, 6, 6), **FAST)
    fitted = [classifier.fit(X, y) for classifier in given for X in forms]
    fitted += [CNNClassifier(**FAST).fit(X, y) for X in forms[:2]]
    expected = fitted[0].predict_proba(forms[0])
    for classifier in fitted:
        assert (classifier.n_features_in_, classifier.spec_.shape) == (36, (1, 6, 6))
        assert type(classifier.model_[0]).__name__ == "Conv2d"
        for X in forms:
            np.testing.assert_array_equal(classifier.predict_proba(X), expected)
    # Without image_shape, rows are a table, and a column may be a byte in one part and an integer in another.
    table = CNNClassifier(**FAST).fit(forms[2], y)
    assert [type(layer).__name__ for layer in table.model_] == ["Flatten", "Linear", "ReLU", "Linear"]
    np.testing.assert_array_equal(table.predict_proba(forms[2]), table.predict_proba(forms[2].astype(int)))


def test_probabilities_labels_and_history(rng, capsys):
    images, y = two_kinds(rng)
    classifier = CNNClassifier(**FAST | {"epochs": 8}, verbose=True).fit(images, y)
    found = classifier.predict_proba(images)
    assert (found.shape, found.dtype) == ((60, 2), np.float64)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_array_equal(classifier.classes_, ["left", "right"])
    np.testing.assert_array_equal(classifier.predict(images), classifier.classes_[found.argmax(axis=1)])
    assert classifier.score(images, y) == 1
    assert [record["epoch"] for record in classifier.history_] == [*range(1, 9)]
    assert classifier.history_[-1]["train_loss"] < classifier.history_[0]["train_loss"]
    assert len(capsys.readouterr().out.splitlines()) == 9  # a heading and a line for each epoch


def test_the_samples_beside_it_change_no_probability(digits):
    X, y = digits[0][:200], digits[1][:200]
    classifier = CNNClassifier(image_shape=(8, 8), **FAST).fit(X, y)
    expected = classifier.predict_proba(X)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(classifier.predict_proba(X[order]), expected[order], rtol=1e-7, atol=1e-9)
    for part in (slice(1), slice(7, 8), slice(150, 199)):
        np.testing.assert_allclose(classifier.predict_proba(X[part]), expected[part], rtol=1e-7, atol=1e-9)


def test_floats_are_standardised_by_what_fit_saw(rng):
    images, y = two_kinds(rng)
    scaled = (images * 2.5 - 70).astype(np.float32)
    one, other = CNNClassifier(**FAST).fit(images / 255, y), CNNClassifier(**FAST).fit(scaled, y)
    np.testing.assert_allclose(one.predict_proba(images / 255), other.predict_proba(scaled), atol=1e-3)
    mean, std = one.spec_.mean, one.spec_.std
    np.testing.assert_allclose((*mean, *std), ((images / 255).mean(), (images / 255).std()), rtol=1e-6)
    one.predict_proba(images[:5] / 255 + 3)
    assert (one.spec_.mean, one.spec_.std) == (mean, std)
    # In a table each column for itself.
    table = np.column_stack([rng.normal(size=80), 1e6 * rng.normal(size=80) + 1e7, np.full(80, 0.1)])
    classifier = CNNClassifier(**FAST | {"epochs": 60}).fit(table, table[:, 1] > 1e7)
    assert classifier.score(table, table[:, 1] > 1e7) > 0.95
    np.testing.assert_allclose(classifier.spec_.std[1:], (table[:, 1].std(), 1), rtol=1e-5)


@pytest.mark.parametrize("state", [3, None, np.random.RandomState(3)])
def test_random_state(rng, state):
    X, y = two_kinds(rng)
    classifier = CNNClassifier(**FAST | {"random_state": state})
    one, other = (clone(classifier).fit(X, y).predict_proba(X) for _ in range(2))
    # A clone copies the state of a RandomState.
    assert np.array_equal(one, other) == (state is not None)
    if isinstance(state, np.random.RandomState):  # while fitting changes it
        assert not np.array_equal(classifier.fit(X, y).predict_proba(X), classifier.fit(X, y).predict_proba(X))


def test_class_weights_move_the_border(rng):
    X = rng.normal(size=(400, 2))
    y = rng.random(400) < 0.1  # of nothing that X shows
    plain, balanced, given = (
        CNNClassifier(**FAST | {"epochs": 5}, class_weight=weight).fit(X, y).predict_proba(X)[:, 1].mean()
        for weight in (None, "balanced", {False: 1.0, True: 9.0})
    )
    assert plain < 0.2
    assert 0.35 < balanced < 0.65
    assert 0.35 < given < 0.65


def test_augmentation_changes_the_training_images_alone(rng):
    X, y = two_kinds(rng)
    plain, shifted = CNNClassifier(**FAST).fit(X, y), CNNClassifier(**FAST, augment=RandomShift(1)).fit(X, y)
    assert plain.history_[0]["train_loss"] != shifted.history_[0]["train_loss"]
    assert plain.spec_ == shifted.spec_
    np.testing.assert_array_equal(shifted.predict_proba(X), shifted.predict_proba(X))


def linear(in_shape, num_classes, *, seed=0):
    return Sequential(Flatten(), Linear(int(np.prod(in_shape)), num_classes, rng=stream(seed, "init")))


def test_a_search_in_two_processes(digits):
    X, y = digits[0][:400] / 16, digits[1][:400]
    pipeline = make_pipeline(StandardScaler(), CNNClassifier(image_shape=(8, 8), **FAST))
    grid = {"cnnclassifier__model": ["mlp", linear], "cnnclassifier__lr": [1e-6, 3e-3]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(X, y)
    assert search.best_params_["cnnclassifier__lr"] == 3e-3
    same = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], same.cv_results_["mean_test_score"])
    best = cross_val_score(search.best_estimator_, X, y, cv=2, error_score="raise")
    assert best.mean() == search.best_score_


def test_copies(rng, device):
    """A pickle has its arrays on the host, whichever device they were on, and no gradients."""
    X, y = two_kinds(rng)
    classifier = CNNClassifier(**FAST | {"device": device}, model=models.three_layer_net).fit(X, y)
    assert classifier.model_.device is device
    expected = classifier.predict_proba(X)
    data = pickle.dumps(classifier.set_params(device="cpu"))
    assert len(data) < 1.2 * sum(p.data.nbytes for p in classifier.model_.parameters())
    assert classifier.model_.device is device
    copy = pickle.loads(data)
    assert copy.model_.device.on_host
    np.testing.assert_allclose(copy.predict_proba(X), expected, rtol=1e-4, atol=1e-6)
    assert copy.spec_ == classifier.spec_
    assert not hasattr(clone(classifier), "model_")
    if device.on_host:
        np.testing.assert_array_equal(copy.predict_proba(X), expected)


def fit(change=lambda X, y: (X, y), **options):
    return CNNClassifier(**FAST | options).fit(*change(*two_kinds(np.random.default_rng(0))))


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: fit(lambda X, y: (X, y[:-1])), ["inconsistent numbers of samples: [60, 59]"]),
        (lambda: fit(lambda X, y: (X, np.full(60, "left"))), ["at least two classes, got one class: left"]),
        (lambda: fit(lambda X, y: (np.where(X > 150, np.nan, X), y)), ["Input X contains NaN"]),
        (lambda: fit(lambda X, y: (X[None, None], y)), ["expected images", "(1, 1, 60, 6, 6)"]),
        (lambda: fit(lambda X, y: (X[..., None].repeat(3, 3), y)), ["look like (N, H, W, C)", "transpose(0, 3, 1, 2)"]),
        (lambda: fit(image_shape=(7, 6)), ["image_shape is (7, 6)", "(1, 6, 6)"]),
        (lambda: fit(lambda X, y: (X.reshape(60, 36), y), image_shape=(1, 7, 6)), ["42 values", "36"]),
        (lambda: fit(image_shape=(36,)), ["image_shape must be (C, H, W) or (H, W), got (36,)"]),
        (lambda: fit(image_shape=(-6, -6)), ["image_shape must be", "(-6, -6)"]),
        (lambda: fit(epochs=0), ["epochs must be an integer of at least 1, got 0"]),
        (lambda: fit(epochs=1.5), ["epochs must be", "1.5"]),
        (lambda: fit(optimizer="adan"), ["unknown optimizer 'adan'", "adamw"]),
        (lambda: fit(model="lenet"), ["unknown model 'lenet'", "lenet5"]),
        (lambda: fit(model="lenet5"), ["at least 12×12 pixels, got 6×6"]),
        (lambda: fit(lambda X, y: (X.reshape(60, 36), y), model="lenet5"), ["12×12", "need image_shape=(C, H, W)"]),
        (lambda: fit(lambda X, y: (X.reshape(60, 36), y), augment=RandomShift(1)), ["augment", "image_shape"]),
        (lambda: fit(model=lambda shape, classes, seed: None), ["<lambda> returned NoneType"]),
        (lambda: fit(model=lambda shape, classes, seed: linear(shape, 3)), ["outputs (N, 3), expected (N, 2)"]),
        (lambda: fit(class_weight={"left": 1, "right": 0}), ["expected positive weights", "'right': 0"]),
        (lambda: fit().predict(np.zeros((2, 7, 6), np.uint8)), ["expected images (C, H, W) = (1, 6, 6), as in fit"]),
        (lambda: fit().predict(np.zeros((2, 6, 6))), ["of uint8, as in training, got (2, 1, 6, 6) float32"]),
        (lambda: fit().predict(np.zeros((2, 35), np.uint8)), ["X has 35 features", "36 features"]),
    ],
)
def test_what_does_not_fit_is_one_clear_line(attempt, words):
    with refused(*words):
        attempt()


def test_scikit_learn_is_imported_by_this_module_alone_and_named_where_it_is_missing():
    code = (
        "import sys, xpcnn; [getattr(xpcnn, name) for name in xpcnn.__all__]; assert 'sklearn' not in sys.modules\n"
        "sys.modules['sklearn'] = None; import xpcnn.sklearn"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = 'ImportError: xpcnn.sklearn needs scikit-learn: python -m pip install "scikit-learn>=1.6"'
    assert found.stderr.splitlines()[-1] == last
