"""Run by `mpiexec`: each process trains alone and in the group, and asserts that both are the same training.

mpiexec -n 2 python tests/distributed/cases.py
"""

import sys
from hashlib import sha256

import numpy as np

from xpcnn import Dataset, Loader, Trainer, distributed, models, nn, optim
from xpcnn.data import AlternatingFlip, Compose, RandomShift, make_transform
from xpcnn.distributed import ALONE
from xpcnn.training import Callback

GROUP = distributed.join()


class FirstGradients(Callback):
    """Keeps the gradients of the first step."""

    def __init__(self, optimizer):
        self.optimizer, self.found = optimizer, {}

    def on_step(self, metrics):
        if not self.found:
            self.found = {name: p.grad.copy() for name, p in self.optimizer.parameters.items()}


def train(make_model, images, labels, batch, steps, group, *, transform=None, loss=None, rule=optim.SGD, **options):
    """Return the trainer after some steps, and the gradients of the first one."""
    data = Dataset(images, labels, classes=[str(i) for i in range(10)])
    loader = Loader(data, batch, shuffle=True, transform=transform, dtype=np.float64, group=group)
    model = make_model().to(dtype=np.float64)
    optimizer = rule(model.named_parameters(), 0.05)
    first = FirstGradients(optimizer)
    trainer = Trainer(model, optimizer, loss and loss(model), [first], group=group, **options)
    trainer.fit(loader, -(-steps // len(loader)), Loader(data, 7, dtype=np.float64, group=group))
    return trainer, first.found


def difference(found, expected):
    """Return the largest difference, relative to each array's largest number."""
    assert found.keys() == expected.keys()
    return max(abs(found[k] - v).max() / max(abs(v).max(), 1e-300) for k, v in expected.items() if v.dtype.kind == "f")


def check(name, *args, gradients=1e-12, weights=1e-10, **options):
    alone, first_alone = train(*args, ALONE, **options)
    together, first = train(*args, GROUP, **options)
    of_gradients = difference(first, first_alone)
    of_weights = difference(together.model.state_dict(), alone.model.state_dict())
    if GROUP.rank == 0:
        print(f"{name}: first gradients {of_gradients:.1e}, weights {of_weights:.1e}", flush=True)
        assert of_gradients <= gradients, (name, of_gradients)
    assert of_weights <= weights, (name, of_weights)
    for one, other in zip(alone.records, together.records, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "images_per_second"}:
            np.testing.assert_allclose(other[key], one[key], 1e-9, err_msg=f"{name}: {key}")
        assert [one[key] for key in ("train_accuracy", "test_accuracy")] == [
            other[key] for key in ("train_accuracy", "test_accuracy")
        ], name
    same_bits(together)


def same_bits(trainer):
    state = trainer.model.state_dict().items()
    digest = sha256(b"".join(array.tobytes() for _, array in state)).hexdigest()
    GROUP.same("the weights", digest)


def dropout_net(norm=nn.BatchNorm1d):
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False, rng=rng),
        nn.BatchNorm2d(4, momentum=None),
        nn.ReLU(),
        nn.Dropout(0.3, rng=rng),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 16, bias=False, rng=rng),
        norm(16),
        nn.Dropout(0.4, rng=rng),
        nn.Linear(16, 10, rng=rng),
    )


def small_batches(rng):
    """Batches whose last one leaves a process without images, everything random, and losses that are weighted means."""
    images, labels = rng.integers(0, 256, (23, 3, 8, 8), np.uint8), rng.integers(0, 10, 23)
    labels[:10] = np.arange(10)
    arguments = dropout_net, images, labels, 7, 12
    everything = make_transform("flip,crop,affine,colour,cutout", (3, 8, 8))
    check("augmentation, dropout, batch norm", *arguments, transform=everything)

    def muon(parameters, lr):
        parameters = list(parameters)
        filters, others = (
            [item for item in parameters if (item[1].data.ndim > 1) is wanted] for wanted in (True, False)
        )
        return optim.Combined(optim.Muon(filters, lr, ns_steps=3), optim.SGD(others, lr))

    alternating = Compose([AlternatingFlip(), RandomShift(1, "reflect")])
    check("Muon, alternating flips", *arguments, transform=alternating, rule=muon)

    def backwards(images, generator):  # not told of parts, and not of any device
        assert len(images) in (7, 2)
        return images[:, :, ::-1] if generator.random() < 0.5 else images

    weight = np.linspace(0.5, 2, 10)
    check("own transform, class weights", *arguments, transform=backwards, loss=lambda _: nn.CrossEntropyLoss(weight))
    penalised = lambda model: nn.L2Penalty(nn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.1), model, 0.1)  # noqa: E731
    check("ignored label, L2 penalty", *arguments, loss=penalised)

    def every_other_step(optimizer):
        every_other_step.calls += 1
        if every_other_step.calls % 2:
            return False
        optim.clip_grad_norm(optimizer.parameters.values(), 0.5)
        return None

    every_other_step.calls = 0
    check("gradients of two batches, clipped", *arguments, before_step=every_other_step)

    check("averaged weights", *arguments, ema=0.8)

    one_left = lambda: dropout_net(nn.LayerNorm)  # noqa: E731
    check("a last batch of one image", one_left, images[:22], labels[:22], 7, 12, transform=everything)


def local_batch_norm(rng):
    images, labels = rng.integers(0, 256, (22, 3, 8, 8), np.uint8), np.arange(22) % 10
    arguments = lambda: dropout_net(nn.LayerNorm), images, labels, 7, 8
    trainer, _ = train(*arguments, GROUP, local_batch_norm=True)
    alone, _ = train(*arguments, ALONE)
    same_bits(trainer)
    apart = difference(trainer.model.state_dict(), alone.model.state_dict())
    assert (1e-6 < apart < 2) == (GROUP.size > 1), apart


def mixed_precision(rng):
    """An overflow on one process: all skip the step, halve the scale, and go on alike."""

    def make(group):
        rng = np.random.default_rng(1)
        layers = nn.Linear(12, 16, rng=rng), nn.ReLU(), nn.Dropout(0.2, rng=rng), nn.Linear(16, 4, rng=rng)
        net = nn.Sequential(nn.Flatten(), *layers)
        return Trainer(net, optim.AdamW(net.named_parameters(), 0.01), group=group, precision="mixed")

    def weights(trainer):
        return {name: array.copy() for name, array in trainer.model.state_dict().items()}

    images, labels = rng.normal(size=(8, 3, 2, 2)).astype(np.float32), np.arange(8) % 4
    together, alone = make(GROUP), make(ALONE)
    for step in range(4):
        batch = images.copy()
        if step == 1:
            batch[-1] = 1e6  # of the last process; float16 ends at 65504
        before = weights(together)
        alone.train_step(batch, labels)
        together.train_step(batch[GROUP.part(len(batch))], labels[GROUP.part(len(labels))])
        same_bits(together)
        skipped = all((array == before[name]).all() for name, array in weights(together).items())
        assert skipped == (step == 1), (GROUP.rank, step)
        expected = {"scale": 2.0**16 if step == 0 else 2.0**15, "good_steps": (1, 0, 1, 2)[step]}
        assert together.scaler.state_dict() == alone.scaler.state_dict() == expected
        assert difference(weights(together), weights(alone)) < 1e-2


def networks(rng):
    images, labels = rng.integers(0, 256, (20, 1, 28, 28), np.uint8), np.arange(20) % 10
    check("LeNet-5", models.lenet5, images, labels, 13, 6, rule=optim.AdamW)
    images, labels = rng.integers(0, 256, (11, 3, 12, 12), np.uint8), np.arange(11) % 10
    check("ResNet-20", lambda: models.resnet20((3, 12, 12)), images, labels, 8, 4, weights=1e-8)


if __name__ == "__main__":
    assert GROUP.size > 1
    for case in (small_batches, local_batch_norm, mixed_precision, networks):
        case(np.random.default_rng(0))
    if GROUP.rank == 0:
        print("all the same", file=sys.stdout, flush=True)
