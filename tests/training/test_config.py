"""Configurations: what they refuse, what they make, and that their JSON keys stay."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from xpcnn.data import Cutout, Dataset, DataSpec, RandomAffine, RandomHorizontalFlip, RandomShift, load_dataset
from xpcnn.optim import OPTIMIZERS
from xpcnn.parity import TraceConfig
from xpcnn.training.config import RunConfig, TrainingConfig

SHARED = {"model", "data", "batch_size", "optimizer", "lr", "weight_decay", "seed", "model_sha256", "size", "skip_bad"}
OF_RUNS = {
    "epochs",
    "augment",
    "class_weights",
    "validation",
    "patience",
    "pretrained",
    "freeze_features",
    "train_from",
    "init",
    "local_batch_norm",
    "label_smoothing",
    "ema",
}
ADDED = {
    "model_sha256",
    "size",
    "skip_bad",
    "class_weights",
    "validation",
    "patience",
    "pretrained",
    "freeze_features",
    "train_from",
    "init",
    "local_batch_norm",
    "label_smoothing",
    "ema",
}


@pytest.mark.parametrize(
    ("kind", "own"), [(TrainingConfig, set()), (RunConfig, OF_RUNS), (TraceConfig, {"steps", "dtype", "mode"})]
)
def test_the_keys_in_files_stay_and_come_back(kind, own):
    values = asdict(kind(seed=3, lr=0.5))
    assert values.keys() == SHARED | own
    assert kind.from_dict(values) == kind(seed=3, lr=0.5)
    assert kind.from_dict({key: value for key, value in values.items() if key not in ADDED}) == kind(seed=3, lr=0.5)
    for wrong, fault in (
        (values | {"more": 1}, "has an unknown 'more'"),
        ({key: value for key, value in values.items() if key != "seed"}, "lacks 'seed'"),
        ("text", "expected a configuration with model, .*got 'text'"),
        (None, "got None"),
    ):
        with pytest.raises(ValueError, match=fault):
            kind.from_dict(wrong)


@pytest.mark.parametrize("kind", [TrainingConfig, RunConfig, TraceConfig])
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"batch_size": 0}, "batch size must be at least 1 and the seed at least 0, got 0 and 0"),
        ({"seed": -1}, "got .* and -1"),
        ({"lr": "0.003"}, "lr must be a number or null, got '0.003'"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"weight_decay": None}, "weight_decay must be a number, got None"),
        ({"batch_size": 64.0}, "batch_size must be a whole number, got 64.0"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"seed": 10**400}, r"seed must be below 2\*\*63, got a number of 401 digits"),
        ({"model": ["lenet5"]}, r"model must be a text, got \['lenet5'\]"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion': expected one of sgd, adam, adamw"),
        ({"data": "imagenet"}, "unknown data set 'imagenet': expected one of mnist-mini, "),
    ],
)
def test_impossible_options_are_refused(kind, options, fault):
    with pytest.raises(ValueError, match=fault):
        kind(**options)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"epochs": 4.5}, "epochs"),
        ({"augment": 3}, "augment must be a text"),
        (
            {"augment": "auto,flip"},
            "augmentation: got 'auto,flip', expected none, or some of alternating-flip, reflected-crop",
        ),
        ({"validation": 1.0}, "below 1"),
        ({"patience": 0}, "at least 1"),
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1, got 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
    ],
)
def test_a_run_refuses_options_of_wrong_types(options, fault):
    with pytest.raises(ValueError, match=fault):
        RunConfig(**options)


def test_patience_holds_images_out():
    assert RunConfig(patience=3).validation == 0.1
    assert RunConfig(patience=3, validation=0.3).validation == 0.3
    assert RunConfig().validation == 0


def test_a_loader_takes_the_mean_and_std_of_the_training_images():
    dataset = load_dataset("mnist-mini").subset(slice(80))
    spec = replace(dataset.spec, mean=(0.5,), std=(0.25,))
    assert RunConfig().make_loader(dataset, train=False, spec=spec).spec == spec
    assert RunConfig().make_loader(dataset, train=False).spec == dataset.spec


def test_only_a_run_augments_and_only_its_training_images():
    dataset = load_dataset("mnist-mini").subset(slice(80))
    for kind in (TrainingConfig, RunConfig, TraceConfig):
        loader = kind().make_loader(dataset, train=True)
        assert (loader.transform is not None) == (kind is RunConfig)
        assert loader.shuffle
        assert kind().make_loader(dataset, train=False).transform is None
    assert RunConfig(augment="none").make_loader(dataset, train=True).transform is None


def test_augmentation_is_that_of_the_data_set_unless_others_are_named():
    def kinds(channels=3, **options):
        spec = DataSpec((channels, 16, 16), ("a", "b"), (0,) * channels, (1,) * channels)
        transform = RunConfig(**options).make_transform(spec)
        return [] if transform is None else [type(part) for part in transform.transforms]

    flip, crop = RandomHorizontalFlip, RandomShift
    for data, expected in (
        ("mnist-mini", [RandomAffine]),
        ("mnist", [RandomAffine]),
        ("fashion-mnist", [flip]),
        ("cifar10", [flip, crop]),
        ("/pictures/of/birds", [flip, crop]),
        ("/arrays/of.NPZ", []),
    ):
        assert kinds(data=data) == expected
        assert kinds(data=data, augment="cutout, crop") == [crop, Cutout]
        assert kinds(data=data, augment="none") == []
    assert kinds(1, data="/pictures/of/letters") == []
    assert kinds(1, data="fashion-mnist") == [flip]


def test_class_weights_are_those_of_the_training_labels():
    train = Dataset(np.zeros((4, 28, 28), np.uint8), [0, 1, 1, 1])
    config = RunConfig(class_weights=True)
    loss = config.make_loss(train)
    np.testing.assert_allclose(loss.weight, [2, 2 / 3])
    assert config.make_trainer(config.make_model(train), 40, loss=loss).loss is loss
    assert RunConfig().make_loss(train).weight is None
    assert RunConfig(label_smoothing=0.2).make_loss(train).label_smoothing == 0.2
    assert TrainingConfig().make_loss(train).weight is None


def test_older_runs_said_yes_or_no_to_augmentation():
    values = asdict(RunConfig())
    for old, new in ((True, "affine"), (False, "none")):
        assert RunConfig.from_dict(values | {"augment": old}).augment == new


def test_data_may_be_a_path_of_any_system():
    for path in ("/home/me/flowers", "/data/x.npz", "C:\\pictures", "//server/share"):
        assert RunConfig(data=path).data == path
    for relative in ("flowers", "./flowers", "x.npz"):
        with pytest.raises(ValueError, match="unknown data set"):
            RunConfig(data=relative)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_trainer_has_the_optimizer_and_its_learning_rate(name):
    dataset = load_dataset("mnist-mini").subset(slice(80))
    for lr in (None, 0.125):
        config = TrainingConfig(optimizer=name, lr=lr)
        trainer = config.make_trainer(config.make_model(dataset), 40)
        assert type(trainer.optimizer) is OPTIMIZERS[name].kind
        (group,) = trainer.optimizer.param_groups
        assert max(group["lr"](step) for step in range(40)) == pytest.approx(lr or OPTIMIZERS[name].lr)


def test_a_trace_makes_a_model_of_its_dtype():
    dataset = load_dataset("mnist-mini").subset(slice(80))
    model = TraceConfig(dtype="float64").make_model(dataset)
    assert {parameter.data.dtype for parameter in model.parameters()} == {np.dtype("float64")}
