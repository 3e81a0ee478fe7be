"""The loader: which samples, which values, which memory, and a thread that always ends."""

import gc
import threading
import time
import traceback

import numpy as np
import pytest

from xpcnn.data import Dataset, Loader, RandomShift
from xpcnn.data import loader as loader_module


def a_dataset(count=23, channels=3):
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 5, 4), np.uint8)
    return Dataset(images, np.arange(count), mean=(0, 0, 0)[:channels], std=(1, 1, 1)[:channels], name="toy")


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("xpcnn-loader")]


def wait_until(true):
    limit = time.monotonic() + 10
    while not true() and time.monotonic() < limit:
        time.sleep(0.001)
    return true()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert wait_until(lambda: not loader_threads())


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b) for pair in zip(ours, theirs, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_labels_and_memory(dtype):
    dataset, mean, std = a_dataset(), (0.5, 0.4, 0.1), (0.2, 0.3, 0.25)
    loader = Loader(dataset, 10, mean=mean, std=std, dtype=dtype)
    assert [len(labels) for _, labels in loader] == [10, 10, 3]
    seen = 0
    for images, labels in loader:
        channels = np.array([mean, std])[..., None, None]
        expected = (dataset.images[labels] / 255 - channels[0]) / channels[1]
        np.testing.assert_allclose(images, expected, atol=2e-6 if dtype == np.float32 else 1e-12)
        assert (images.dtype, labels.dtype) == (dtype, np.int64)
        assert images.transpose(1, 2, 3, 0).flags.c_contiguous
        assert labels.tolist() == list(range(seen, seen + len(labels)))
        seen += len(labels)
    assert seen == 23


@pytest.mark.parametrize("white", [255, 1])
def test_bytes_are_divided_by_255_and_floats_are_not(white):
    pixels = a_dataset().images
    images = pixels if white == 255 else pixels.astype(np.float32)
    (found, _), *_ = Loader(Dataset(images, np.arange(23), mean=(0, 0, 0), std=(1, 1, 1)), 23)
    np.testing.assert_allclose(found, pixels / white, rtol=1e-6)
    (found, _), *_ = Loader(Dataset(images, np.arange(23)), 23)
    np.testing.assert_allclose(found.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 2, 3)), 1, rtol=1e-5)


def test_a_data_set_is_normalised_by_its_own_mean_and_std_unless_others_are_given():
    mean, std = (0.5, 0.4, 0.1), (0.2, 0.3, 0.25)
    plain = a_dataset()
    known = Dataset(plain.images, plain.labels, mean=mean, std=std)
    assert same(Loader(known, 10), Loader(plain, 10, mean=mean, std=std))
    assert same(Loader(known, 10, mean=(0, 0, 0)), Loader(plain, 10, std=std))
    assert same(Loader(known, 10, std=(1, 1, 1)), Loader(plain, 10, mean=mean))
    assert same(Loader(known.subset([3, 1]), 2), Loader(plain.subset([3, 1]), 2, mean=mean, std=std))


def test_a_strided_subset_loads_like_a_copy():
    dataset = a_dataset()
    assert same(Loader(dataset.subset(slice(20, 3, -2)), 4), Loader(dataset.subset(range(20, 3, -2)), 4))


def test_shuffled_epochs_hold_every_sample_once_in_an_order_of_their_own():
    loader = Loader(a_dataset(), 5, shuffle=True, seed=3)
    orders = [np.concatenate([labels for _, labels in loader.epoch(epoch)]).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    other = np.concatenate(Loader(a_dataset(), 5, shuffle=True, seed=4).indices(0)).tolist()
    assert len({*map(tuple, orders), tuple(range(23)), tuple(other)}) == 6
    again = Loader(a_dataset(), 5, shuffle=True, seed=3)
    assert np.concatenate([labels for _, labels in again.epoch(2)]).tolist() == orders[2]


@pytest.mark.parametrize("transform", [None, RandomShift(1)])
def test_each_iteration_is_the_next_epoch(transform):
    loader = Loader(a_dataset(), 5, shuffle=True, seed=3, transform=transform)
    first, _, second = list(loader), list(loader.epoch(7)), list(loader)
    assert not same(first, second)
    assert same(first, loader.epoch(0))
    assert same(second, loader.epoch(1))
    assert same(loader, loader.epoch(2))


def test_an_iteration_left_early_was_one():
    loader = Loader(a_dataset(), 5, shuffle=True)
    next(iter(loader))
    assert same(loader, loader.epoch(1))


def test_augmentation_changes_with_each_iteration_where_the_order_does_not():
    loader = Loader(a_dataset(), 23, transform=RandomShift(1))
    ((first, labels),), ((second, again),) = loader, loader
    assert not np.array_equal(first, second)
    assert labels.tolist() == again.tolist() == list(range(23))


def test_unshuffled_iterations_are_alike():
    loader = Loader(a_dataset(), 5)
    assert same(list(loader), list(loader))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 5, 5, 3]), (True, [5, 5, 5, 5])])
def test_indices_tell_the_samples_of_each_batch(shuffle, drop_last, sizes):
    loader = Loader(a_dataset(), 5, shuffle=shuffle, drop_last=drop_last)
    batches = list(loader.epoch(7))
    assert [len(labels) for _, labels in batches] == sizes
    assert len(loader) == len(sizes)
    indices = loader.indices(7)
    assert [rows.tolist() for rows in indices] == [labels.tolist() for _, labels in batches]


def test_an_exact_division_leaves_no_short_batch():
    for drop_last in (False, True):
        loader = Loader(a_dataset(20), 5, drop_last=drop_last)
        assert [len(labels) for _, labels in loader] == [5] * len(loader) == [5] * 4
        assert len(Loader(a_dataset(20), 20, drop_last=drop_last)) == 1


def test_an_epoch_resumes_at_any_batch_with_the_same_augmentation():
    loader = Loader(a_dataset(), 5, shuffle=True, seed=3, transform=RandomShift(1))
    whole = list(loader.epoch(2))
    for start in range(6):
        assert same(loader.epoch(2, start), whole[start:])


def test_augmentation_differs_between_batches_and_epochs_and_leaves_the_data_set_alone():
    image = np.random.default_rng(0).integers(1, 256, (1, 1, 5, 4), np.uint8).repeat(40, axis=0)
    dataset = Dataset(image, np.zeros(40, int))
    loader = Loader(dataset, 20, transform=RandomShift(2))
    batches = [images.tobytes() for epoch in range(2) for images, _ in loader.epoch(epoch)]
    assert len(set(batches)) == 4
    assert (dataset.images == image[:1]).all()


def test_a_transform_may_change_the_size_and_the_type_but_not_the_samples():
    dataset = a_dataset()
    (images, _), *_ = Loader(dataset, 23, transform=lambda images, _: images[..., :3, :2].astype(np.float64))
    np.testing.assert_allclose(images, dataset.images[..., :3, :2] / 255, rtol=1e-6)
    for wrong in (
        lambda images, _: images[:-1],
        lambda images, _: images[:, :1],
        lambda images, _: images.reshape(23, 3, 20),
    ):
        with pytest.raises(ValueError, match=r"expected the transform to keep N and C of \(23, 3, 5, 4\), got"):
            next(Loader(dataset, 23, transform=wrong).epoch(0))


def test_the_next_batches_are_prepared_meanwhile_in_another_thread_but_only_a_few():
    prepared = []

    def note(images, _):
        prepared.append(threading.current_thread())
        return images

    batches = Loader(a_dataset(), 1, transform=note).epoch(0)
    assert prepared == []
    next(batches)
    assert wait_until(lambda: len(prepared) == 3)
    time.sleep(0.02)
    assert len(prepared) == 3
    assert threading.current_thread() not in prepared
    assert len(set(prepared)) == 1


def failing(images, _):
    if images[0, 0, 0, 0] == FAILING_PIXEL:
        raise RuntimeError("this batch cannot be prepared")
    return images


FAILING_PIXEL = a_dataset().images[2, 0, 0, 0]


def test_an_error_in_the_thread_arrives_at_its_batch_with_its_traceback():
    batches = Loader(a_dataset(), 1, transform=failing).epoch(0)
    assert [next(batches)[1].item(), next(batches)[1].item()] == [0, 1]
    with pytest.raises(RuntimeError, match="cannot be prepared") as caught:
        next(batches)
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert wait_until(lambda: not loader_threads())
    assert list(batches) == []


@pytest.mark.parametrize("transform", [None, RandomShift(1)])
def test_small_batches_are_made_at_once(transform, monkeypatch):
    """They are ready before another thread would be awake; a transform of the user's may take its time."""
    data = a_dataset()
    for loader, expected in (
        (Loader(data, 4, transform=transform), False),
        (Loader(data, 4, transform=lambda images, generator: images), True),
    ):
        batches = iter(loader)
        next(batches)
        assert bool(loader_threads()) == expected
        batches.close()
        assert wait_until(lambda: not loader_threads())
    monkeypatch.setattr(loader_module, "_SMALL_BATCH", 4 * data.images[0].nbytes - 1)
    expected = [images.tobytes() for images, _ in Loader(data, 4, transform=transform)]
    batches = iter(Loader(data, 4, transform=transform))
    found = [next(batches)[0].tobytes()]
    assert loader_threads()
    assert found + [images.tobytes() for images, _ in batches] == expected


def test_the_thread_ends_when_the_loop_is_left(monkeypatch):
    monkeypatch.setattr(loader_module, "_SMALL_BATCH", 0)
    loader = Loader(a_dataset(), 1)
    for _ in loader:
        assert loader_threads()
        break
    assert wait_until(lambda: not loader_threads())

    def train():
        for _ in loader:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert wait_until(lambda: not loader_threads())
    loader.epoch(0)  # never asked for a batch
    assert not loader_threads()


def test_leaving_the_loop_gives_up_the_batches_not_yet_begun():
    calls, left = [], threading.Event()

    def hold(images, _):
        calls.append(None)
        assert len(calls) == 1 or left.wait(10)
        return images

    batches = Loader(a_dataset(), 1, transform=hold).epoch(0)
    next(batches)
    assert wait_until(lambda: len(calls) == 2)
    batches.close()
    left.set()
    assert wait_until(lambda: not loader_threads())
    assert len(calls) == 2


def test_the_thread_ends_when_it_collects_its_own_iterator_as_garbage():
    calls, dropped, collected = [], threading.Event(), []

    def collect(images, _):
        calls.append(None)
        if len(calls) > 1 and dropped.wait(10):
            collected.append(gc.collect())
        return images

    gc.disable()
    try:
        cycle = [Loader(a_dataset(), 1, transform=collect).epoch(0)]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        dropped.set()
        assert wait_until(lambda: not loader_threads())
    finally:
        gc.enable()
    assert collected[0] > 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"batch_size": 0}, "expected batch_size of 1 or more, got 0"),
        ({"dataset": a_dataset(0)}, r"at least one sample, got the empty data set toy"),
        ({"batch_size": 24, "drop_last": True}, "drop_last leaves no batch: batch_size=24, got 23 samples"),
        ({"dtype": np.float16}, "dtype float32 or float64, got float16"),
        ({"seed": -1}, "non-negative"),
        ({"mean": (0.5,)}, r"expected 3 finite values of mean"),
        ({"std": (1, 1)}, r"expected 3 finite values of std, got \(1, 1\)"),
        ({"std": (1, 0, 1)}, r"expected positive values of std, got \(1, 0, 1\)"),
    ],
)
def test_impossible_options_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        Loader(**({"dataset": a_dataset(), "batch_size": 5} | options))


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 6)])
def test_impossible_epochs_are_refused_at_once(epoch, start):
    with pytest.raises(ValueError, match="expected epoch >= 0 and start from 0 to 5, got"):
        Loader(a_dataset(), 5).epoch(epoch, start)
