"""Configurations: all that determines a training run, besides the data set's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Self, get_args, get_type_hints

from ..backend import CPU, Device
from ..data import Dataset, Loader, RandomAffine, Transform
from ..data.catalog import dataset_info
from ..models import MODELS, build_model
from ..nn import Sequential
from ..optim import OPTIMIZERS, CosineSchedule, build_optimizer
from .callbacks import Callback
from .trainer import Trainer

EVALUATION_BATCH = 256  # images
_LARGEST = 2**63 - 1  # the largest integer that other programs can read from the files


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The configuration of training.

    Attributes:
        model: a name in `models.MODELS`.
        data: a name in `data.DATASETS`.
        batch_size: images in a step.
        optimizer: a name in `optim.OPTIMIZERS`.
        lr: the highest learning rate; None for the optimizer's default. It rises over the first twentieth of the
            steps and then falls along a cosine to 0.
        weight_decay: as the optimizer defines it.
        seed: of initial weights, order and augmentation.

    Raises:
        ValueError: if a name is unknown or a number is outside its range.
    """

    model: str = "lenet5"
    data: str = "mnist-mini"
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        if self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                f"batch size must be at least 1 and the seed at least 0, got {self.batch_size} and {self.seed}"
            )
        if self.model not in MODELS:
            raise ValueError(f"unknown model {self.model!r}: expected one of {', '.join(sorted(MODELS))}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value!r}")
        dataset_info(self.data)  # refuses an unknown name

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Return the configuration that `dataclasses.asdict` made a dictionary of.

        Raises:
            ValueError: if an entry is missing, unknown, or has a wrong value; the message names it.
        """
        names = get_type_hints(cls)
        if not isinstance(values, dict):
            raise ValueError(f"expected a configuration with {', '.join(names)}, got {values!r:.60}")
        for fault, keys in (("lacks", names.keys() - values), ("has an unknown", values.keys() - names.keys())):
            if keys:
                raise ValueError(f"the configuration {fault} {', '.join(sorted(map(repr, keys)))}"[:200])
        return cls(**values)

    def differences(self, other: TrainingConfig) -> str:
        """Return which entries differ from those of another configuration of the same kind, for a message."""
        own, others = asdict(self), asdict(other)
        return ", ".join(f"{name} ({own[name]!r}, there {others[name]!r})" for name in own if own[name] != others[name])

    def make_model(self, dataset: Dataset) -> Sequential:
        """Return the untrained network for a data set's images and classes, on the CPU."""
        _, *in_shape = dataset.images.shape
        return build_model(self.model, tuple(in_shape), len(dataset.classes), seed=self.seed)

    def make_transform(self) -> Transform | None:
        """Return the augmentation of training images, or None."""
        return None

    def make_loader(self, dataset: Dataset, *, train: bool, device: Device = CPU) -> Loader:
        """Return the loader of a split.

        Args:
            dataset: the split.
            train: whether it is shuffled and transformed for training, or in order for evaluation.
            device: where training runs.
        """
        return Loader(
            dataset,
            self.batch_size if train else EVALUATION_BATCH,
            shuffle=train,
            seed=self.seed,
            transform=self.make_transform() if train else None,
            device=device,
        )

    def make_trainer(self, model: Sequential, steps: int, callbacks: Sequence[Callback] = ()) -> Trainer:
        """Return the trainer that trains a model for `steps` steps."""
        lr = OPTIMIZERS[self.optimizer].lr if self.lr is None else self.lr
        schedule = CosineSchedule(lr, steps, steps // 20)
        parameters = model.named_parameters()
        optimizer = build_optimizer(self.optimizer, parameters, schedule, weight_decay=self.weight_decay)
        return Trainer(model, optimizer, callbacks=callbacks)


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a value is of a field's type; an integer is allowed for a float."""
    kinds = get_args(hint) or (hint,)
    allowed = (*kinds, int) if float in kinds else kinds
    # bool is a subclass of int.
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(_WORDS[kind] for kind in kinds)
        raise ValueError(f"{name} must be {expected}, got {value!r:.60}")
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{name} must be below 2**63, got a number of {len(str(abs(value)))} digits")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """The configuration of `xpcnn train`.

    Attributes:
        epochs: passes over the training images.
        augment: whether training images are rotated, scaled and shifted a little at random.

    For the other attributes see `TrainingConfig`.
    """

    epochs: int = 15
    augment: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")

    def make_transform(self) -> Transform | None:
        # Small rotations, scalings and shifts suit both handwriting and photographs.
        options: dict[str, Any] = {"degrees": 10, "scale": (0.9, 1.1), "translate": (0.07, 0.07)}
        return RandomAffine(**options) if self.augment else None
