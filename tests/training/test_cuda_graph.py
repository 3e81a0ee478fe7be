"""Training whose steps are recorded and replayed: the same weights, losses and state as without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xpcnn.backend import DeviceFailedError, to_host
from xpcnn.nn import (
    GELU,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    L2Penalty,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
)
from xpcnn.optim import SGD, AdamW, Combined, CosineSchedule, Muon, RMSprop, clip_grad_norm
from xpcnn.training import Callback, Trainer

EPOCHS, BATCH = 2, 4


def network(momentum: float | None = 0.1) -> Sequential:
    rng = np.random.default_rng(3)
    return Sequential(
        Conv2d(1, 4, 3, padding=1, rng=rng),
        BatchNorm2d(4, momentum=momentum),
        ReLU(),
        MaxPool2d(2),
        Dropout(0.25, rng=rng),
        Conv2d(4, 6, 3, rng=rng),
        GELU(),
        Flatten(),
        Linear(24, 3, rng=rng),
    )


def batches() -> list[tuple[Any, Any]]:
    """Return five batches, the last one smaller."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4 * BATCH + 3, 1, 8, 8)).astype(np.float32), rng.integers(3, size=4 * BATCH + 3)
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def sgd(model: Module) -> Any:
    return SGD(model.named_parameters(), CosineSchedule(0.1, 10, 3), momentum=0.9, weight_decay=0.01)


def muon_and_adamw(model: Module) -> Any:
    named = list(model.named_parameters())
    filters, others = ([item for item in named if (item[1].data.ndim == 4) is yes] for yes in (True, False))
    schedule = CosineSchedule(0.01, 10, 3)
    muon = Muon(filters, schedule, ns_steps=2, normalize=True, weight_decay=0.1)
    return Combined(muon, AdamW(others, schedule))


def rmsprop_with_groups(model: Module) -> Any:
    weights, biases = ([p for p in model.parameters() if (p.data.ndim > 1) is yes] for yes in (True, False))
    return RMSprop([{"params": weights}, {"params": biases, "lr": 0.001}], 0.002, momentum=0.5)


class FreezeLater(Callback):
    """Freezes the first layer from the second epoch on, and halves the learning rate after the third step of each."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        if epoch == 2:
            self.trainer.model[0].freeze()

    def on_step(self, metrics: Any) -> None:
        if self.trainer.batch == 3:
            self.trainer.optimizer.lr = 0.05 / self.trainer.epoch if self.trainer.epoch else 0.05


def clipped(optimizer: Any) -> None:
    clip_grad_norm(optimizer.parameters.values(), 0.5)


class EveryOther:
    """Sums the gradients of two batches."""

    calls = 0

    def __call__(self, optimizer: Any) -> bool:
        self.calls += 1
        return self.calls % 2 == 0


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "SGD": lambda: {"optimizer": sgd},
    "Muon and AdamW, EMA": lambda: {"optimizer": muon_and_adamw, "ema": 0.9},
    "RMSprop, groups": lambda: {"optimizer": rmsprop_with_groups, "momentum": None},
    "mixed precision": lambda: {"optimizer": sgd, "precision": "mixed"},
    "clipped, L2 penalty": lambda: {"optimizer": sgd, "before_step": clipped, "penalty": 0.01},
    "gradients of two batches": lambda: {"optimizer": sgd, "before_step": EveryOther()},
    "frozen later": lambda: {"optimizer": sgd, "callback": FreezeLater},
}


def trained(device: Any, cuda_graph: bool, options: dict[str, Any]) -> Trainer:
    options = dict(options)
    model = network(options.pop("momentum", 0.1)).to(device)
    optimizer = options.pop("optimizer")(model)
    loss = CrossEntropyLoss([1.0, 2.0, 1.0], label_smoothing=0.1)
    penalty = options.pop("penalty", None)
    callback = options.pop("callback", None)
    whole = loss if penalty is None else L2Penalty(loss, model, penalty)
    trainer = Trainer(model, optimizer, whole, cuda_graph=cuda_graph, **options)
    if callback is not None:
        trainer.callbacks.append(callback(trainer))
    trainer.fit(batches(), EPOCHS)
    return trainer


def arrays(trainer: Trainer) -> dict[str, Any]:
    """Return all that training has changed."""
    found = {f"model {name}": value for name, value in trainer.ema.training_state().items()}
    found |= {f"average {name}": value for name, value in trainer.ema.state_dict().items()}
    found |= {f"optimizer {name}": value for name, value in trainer.optimizer.state_dict().items()}
    found["losses"] = np.array(trainer.metrics.losses)
    found["accuracy"] = np.array([record["train_accuracy"] for record in trainer.records])
    found["dropout"] = np.array(trainer.model[4].calls)
    return {name: np.asarray(to_host(value)) for name, value in found.items()}


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_are_those_of_a_usual_epoch(device: Any, case: str) -> None:
    usual, replayed = (arrays(trained(device, graph, CASES[case]())) for graph in (False, True))
    assert usual.keys() == replayed.keys()
    for name, expected in usual.items():
        # A learning rate in the GPU's memory is rounded to float32.
        np.testing.assert_allclose(replayed[name], expected, rtol=2e-5, atol=1e-6, err_msg=name)


def test_labels_are_checked_in_each_step(device: Any) -> None:
    model = network().to(device)
    bad = batches()
    bad[3][1][0] = 3
    with pytest.raises(ValueError, match="label"):
        Trainer(model, sgd(model), cuda_graph=True).fit(bad, 1)


class Waiting(Module):
    """Reads a number from the device in each step."""

    def forward(self, x: Any) -> Any:
        return x * (1 + 0 * float(to_host(x).max()))

    def backward(self, dy: Any, *, input_gradient: bool = True) -> Any:
        return dy


def test_a_step_that_waits_for_the_gpu_is_refused_with_what_to_do(emulation: Any) -> None:
    model = network()
    model = Sequential(model, Waiting()).to("cuda")
    with pytest.raises(DeviceFailedError, match="cannot be a CUDA graph: something in them waits"):
        Trainer(model, sgd(model), cuda_graph=True).fit(batches(), 1)
    Trainer(model, sgd(model)).fit(batches(), 1)  # the GPU is as well as before


def test_a_replayed_step_is_few_operations(emulation: Any) -> None:
    model = network().to("cuda")
    on_device = [tuple(map(model.device.asarray, batch)) for batch in batches()]
    counts = []

    class Count(Callback):
        def on_step(self, metrics: Any) -> None:
            counts.append(emulation.counts())

    Trainer(model, sgd(model), callbacks=[Count()], cuda_graph=True).fit(on_device + on_device[:3], 1)
    before, after = counts[-2:]
    found = {name: after[name] - before[name] for name in after}
    assert found["graphs"] == 1
    # Two copies of the batch, the numbers, a copy of the loss, and three for the accuracy.
    operations = ("launches", "products", "device_to_device", "fills")
    assert found["products"] == 0
    assert sum(found[name] for name in operations) <= 8
    assert found["synchronisations"] == found["device_to_host"] == 0


def test_several_processes_are_refused() -> None:
    class Two:
        size = 2

    with pytest.raises(ValueError, match="a CUDA graph is for one process"):
        Trainer(network(), None, group=Two(), cuda_graph=True)  # type: ignore[arg-type]
