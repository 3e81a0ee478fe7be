"""Layers, losses and metrics on parts of a batch, in threads: together what they are on the whole batch."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import assert_close
from thread_group import ThreadGroup, in_threads

from xpcnn import Dataset, Loader, Trainer, nn, optim
from xpcnn import functional as F
from xpcnn.backend import to_host
from xpcnn.data import make_transform
from xpcnn.random import counter_bits

CUTS = {"halves": (0, 3, 6), "uneven": (0, 1, 5, 6)}


def parts_of(cuts, *arrays):
    return [[array[first:last] for array in arrays] for first, last in pairwise(cuts)]


def begin_step(group, x):
    """Tell the others how many samples this part has; return it."""
    return next(group.steps([(x,)]))[0]


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(("dtype", "centre", "spread"), [(np.float64, 3, 2), (np.float32, 1000, 0.01)])
def test_batch_norm_of_parts_is_that_of_the_whole(cuts, dtype, centre, spread, device, rng):
    x = (centre + spread * rng.normal(size=(6, 3, 4, 5))).astype(dtype)
    dy, weight, bias = (rng.normal(size=shape).astype(dtype) for shape in (x.shape, 3, 3))
    wide = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    y, statistics, cache = F.batch_norm_forward(*wide[:3])
    gradients = F.batch_norm_backward(wide[3], cache)

    def compute(group):
        part_of_x, part_of_dy = parts_of(cuts, x, dy)[group.rank]
        part = begin_step(group, device.asarray(part_of_x))
        found, moments, cache = F.batch_norm_forward(part, *map(device.asarray, (weight, bias)), group=group)
        return found, moments, F.batch_norm_backward(device.asarray(part_of_dy), cache)

    results = in_threads(len(cuts) - 1, compute)
    # float32 values near 1000 are rounded to 6e-5, half a percent of their standard deviation, in `x` already.
    rtol, atol = (1e-10, 1e-12) if dtype == np.float64 else (1e-3, 2e-3)
    found = np.concatenate([to_host(part) for part, _, _ in results])
    np.testing.assert_allclose(found, y, rtol, atol)
    dx = np.concatenate([to_host(gradients[0]) for _, _, gradients in results])
    np.testing.assert_allclose(dx, gradients[0], rtol, atol * abs(gradients[0]).max())
    for i in (1, 2):
        total = sum(to_host(result[2][i]).astype(np.float64) for result in results)
        np.testing.assert_allclose(total, gradients[i], rtol, atol * 10)
    for _, (mean, variance), _ in results:
        assert_close(mean, statistics.mean.astype(dtype), 1e-6, 0, device=device)
        assert_close(variance, statistics.variance.astype(dtype), 1e-5, 0, device=device)


def test_batch_norm_needs_two_values_in_all_parts_together():
    def compute(group):
        part = begin_step(group, np.full((1, 2), group.rank, float))
        return F.batch_norm_forward(part, group=group)[1]

    assert [to_host(found.mean).tolist() for found in in_threads(2, compute)] == [[0.5, 0.5]] * 2
    with pytest.raises(RuntimeError, match=r"iterate over group\.steps"):
        in_threads(2, lambda group: F.batch_norm_forward(np.ones((2, 2)), group=group))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_dropout_of_parts_has_the_mask_of_the_whole(cuts, device, rng):
    x = rng.normal(size=(6, 3, 4, 5)).astype(np.float32)
    y, _ = F.dropout_forward(x, 0.4, (7, 8))

    def compute(group):
        part = begin_step(group, device.asarray(parts_of(cuts, x)[group.rank][0]))
        return F.dropout_forward(part, 0.4, (7, 8), group=group)[0]

    found = in_threads(len(cuts) - 1, compute)
    assert_close(np.concatenate([to_host(part) for part in found]), y, 0, 0)


def test_random_numbers_of_columns_are_those_of_the_whole_matrix(device):
    whole = counter_bits(np, 7 * 10, (3, 4)).reshape(7, 10)
    part = counter_bits(device.xp, 7 * 4, (3, 4), (5, 4, 10))
    assert_close(part, whole[:, 5:9].reshape(-1), 0, 0, device=device)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("transform", ["none", "flip,crop,affine,colour,cutout", "own"])
def test_parts_of_a_loader_are_the_batches_of_one(transform, resident, device, rng, monkeypatch):
    if not resident:
        monkeypatch.setattr(type(device), "dataset_bytes", property(lambda self: 0))

    def own(images, generator):  # needs the whole batch, on the host
        return images[:, :, ::-1] if generator.random() < 0.5 else images[::-1].copy()

    data = Dataset(rng.integers(0, 256, (10, 3, 9, 8), np.uint8), np.arange(10) % 3, classes=list("abc"))
    changes = own if transform == "own" else make_transform(transform, data.shape)
    options = {"shuffle": True, "transform": changes, "device": device}
    loaders = [Loader(data, 4, **options, group=ThreadGroup(rank, 3, [], None)) for rank in range(3)]
    for i, (images, labels) in enumerate(Loader(data, 4, **options).epoch(1, 1)):
        parts = [list(loader.epoch(1, 1))[i] for loader in loaders]
        assert [len(part) for _, part in parts] == [[2, 1, 1], [1, 1, 0]][i]
        assert (np.concatenate([to_host(part) for part, _ in parts]) == to_host(images)).all()
        assert (np.concatenate([to_host(part) for _, part in parts]) == to_host(labels)).all()


def test_a_trainer_makes_the_steps_of_one_on_every_device(device, rng):
    images, labels = rng.normal(size=(5, 2, 6, 6)), np.array([0, 1, 2, 0, 1])

    def train(*group):
        layers = np.random.default_rng(0)
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False, rng=layers),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Dropout(0.3, rng=layers),
            nn.Flatten(),
            nn.Linear(48, 3, rng=layers),
        )
        net.to(device, np.float64)
        options = {"group": group[0]} if group else {}
        loss = nn.CrossEntropyLoss(np.array([0.5, 1, 2]))
        trainer = Trainer(net, optim.SGD(net.named_parameters(), 0.1), loss, **options)
        trainer.fit([(images, labels)] * 2, 2)
        return {name: to_host(array) for name, array in net.state_dict().items()}, trainer.records

    expected, records = train()
    for state, found in in_threads(2, train):
        for name, array in expected.items():
            np.testing.assert_allclose(state[name], array, 1e-11, 1e-13, err_msg=name)
        assert [record["train_accuracy"] for record in found] == [record["train_accuracy"] for record in records]
        assert found[-1]["train_loss"] == pytest.approx(records[-1]["train_loss"], rel=1e-12)
