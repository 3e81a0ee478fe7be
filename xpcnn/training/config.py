"""Configurations: all that determines a training run, besides the data set's files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Self, get_args, get_type_hints

from ..backend import CPU, Device
from ..data import (
    Dataset,
    DataSpec,
    Loader,
    Transform,
    class_weights,
    default_augmentation,
    load_parts,
    make_transform,
)
from ..data.catalog import dataset_info
from ..data.transforms import chosen_augmentations
from ..distributed import ALONE, Group
from ..models import MODELS, OwnNetwork, build_model, whiten
from ..models.own import is_own
from ..nn import CrossEntropyLoss, Loss, Module
from ..nn.autocast import check_precision
from ..optim import OPTIMIZERS, Optimizer, build_cosine_optimizer
from .callbacks import Callback
from .pretrained import PRETRAINED, load_from_run, load_pretrained
from .trainer import Trainer
from .whitened import MUON, MUON_LR, WHITENED, WHITENING_IMAGES, FreezeFirstLayer, make_optimizer

EVALUATION_BATCH = 256  # images
VALIDATION = 0.1  # the part of the training images that is held out if patience is set and validation is not
_LARGEST = 2**63 - 1  # the largest integer that other programs can read from the files


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The configuration of training.

    Attributes:
        model: a name in `models.MODELS`, or the `location` of an `models.OwnNetwork`, which `using` makes known.
        model_sha256: of the file of an own network; None for others.
        data: a name in `data.DATASETS`, or the absolute path of a folder of pictures or a `.npz` file.
        size: the side of the square that a folder's pictures are scaled to; None to find one that suits them.
        skip_bad: whether files in a folder that are no pictures are left out, rather than refused.
        batch_size: images in a step.
        optimizer: one of `optimizers()`.
        lr: the highest learning rate; None for the optimizer's default. It rises over the first twentieth of the
            steps and then falls along a cosine to 0.
        weight_decay: as the optimizer defines it.
        seed: of initial weights, order and augmentation.
        precision: of products and convolutions in training, as in `nn.autocast`.

    Raises:
        ValueError: if a name is unknown or a number is outside its range.
    """

    model: str = "lenet5"
    model_sha256: str | None = None
    data: str = "mnist-mini"
    size: int | None = None
    skip_bad: bool = False
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.01
    seed: int = 0
    precision: str = "float32"

    network: ClassVar[OwnNetwork | None] = None  # which `using` sets; no field, as it is not saved
    mean: ClassVar[tuple[float, ...] | None] = None  # by which images are normalised; None for their own
    std: ClassVar[tuple[float, ...] | None] = None

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        if self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                f"batch size must be at least 1 and the seed at least 0, got {self.batch_size} and {self.seed}"
            )
        if self.model not in MODELS and not is_own(self.model):
            known = ", ".join(sorted(MODELS))
            raise ValueError(f"unknown model {self.model!r:.200}: expected one of {known}, or path/to/file.py:function")
        if (self.model_sha256 is None) != (self.model in MODELS):
            raise ValueError("a network of one's own, and no other, has a SHA-256: use TrainingConfig.using")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        check_precision(self.precision)
        if self.optimizer not in self.optimizers():
            raise ValueError(f"unknown optimizer {self.optimizer!r}: expected one of {', '.join(self.optimizers())}")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value!r}")
        if not is_path(self.data):
            dataset_info(self.data)  # refuses an unknown name

    def optimizers(self) -> list[str]:
        """Return the names of the optimizers that train the model."""
        return list(OPTIMIZERS)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Return the configuration that `dataclasses.asdict` made a dictionary of.

        Raises:
            ValueError: if an entry is missing, unknown, or has a wrong value; the message names it.
        """
        names = _hints(cls)
        if not isinstance(values, dict):
            raise ValueError(f"expected a configuration with {', '.join(names)}, got {values!r:.60}")
        values = {name: value for name, value in _ADDED.items() if name in names} | values
        if isinstance(values.get("augment"), bool):  # before there was a choice
            values["augment"] = "affine" if values["augment"] else "none"
        for fault, keys in (("lacks", names.keys() - values), ("has an unknown", values.keys() - names.keys())):
            if keys:
                raise ValueError(f"the configuration {fault} {', '.join(sorted(map(repr, keys)))}"[:200])
        return cls(**values)

    def differences(self, other: TrainingConfig) -> str:
        """Return which entries differ from those of another configuration of the same kind, for a message."""
        own, others = asdict(self), asdict(other)
        return ", ".join(f"{name} ({own[name]!r}, there {others[name]!r})" for name in own if own[name] != others[name])

    def using(self, network: OwnNetwork | None) -> Self:
        """Return a copy whose `make_model` builds an own network.

        The network has to be given, since what a configuration names is never imported on its own: it may come from
        strangers. There is a warning if it is not the one that the configuration was made with.

        Raises:
            ValueError: if there is no network and the configuration needs one, or the other way round.
        """
        if network is None:
            if self.model in MODELS:
                return self
            raise ValueError(
                f"its network is {self.model}, and files that a run names are not run on their own: "
                f"give it again by --model {self.model}"
            )
        if self.model in MODELS:
            raise ValueError(f"its network is {self.model}, not one of a file such as {network.location}")
        name, own = self.model.rpartition(":")[2], network.location.rpartition(":")[2]
        if self.model_sha256 != network.sha256:
            warnings.warn(f"{network.location} is not the file that was trained: its SHA-256 differs", stacklevel=2)
        elif name != own:
            warnings.warn(f"the function {own} is not the one that was trained, {name}", stacklevel=2)
        config = copy.copy(self)
        object.__setattr__(config, "network", network)
        return config

    def load_data(self, data_dir: str | None = None, progress: bool = False) -> tuple[Dataset, Dataset]:
        """Return the training and the test images; see `load_parts`."""
        return load_parts(self.data, data_dir, size=self.size, skip_bad=self.skip_bad, progress=progress)

    def make_model(self, data: Dataset | DataSpec) -> Module:
        """Return the untrained network for images of a shape and classes, on the CPU.

        Raises:
            ValueError: if the images do not fit the network, or it is an own network that `using` was not given.
        """
        if self.network is not None:
            return self.network.build(data.shape, len(data.classes), seed=self.seed)
        self.using(None)
        return build_model(self.model, data.shape, len(data.classes), seed=self.seed)

    def make_transform(self, data: Dataset | DataSpec) -> Transform | None:
        """Return the augmentation of training images, or None."""
        return None

    def make_loss(self, train: Dataset) -> Loss:
        """Return the loss, which may depend on the training images' labels."""
        return CrossEntropyLoss()

    def make_loader(
        self,
        dataset: Dataset,
        *,
        train: bool,
        device: Device = CPU,
        spec: DataSpec | None = None,
        group: Group = ALONE,
    ) -> Loader:
        """Return the loader of a split.

        Args:
            dataset: the split.
            train: whether it is shuffled and transformed for training, or in order for evaluation.
            device: where training runs.
            spec: of the training images, whose mean and std are used; None for those of the split.
            group: the processes that share each batch.
        """
        return Loader(
            dataset,
            self.batch_size if train else EVALUATION_BATCH,
            shuffle=train,
            seed=self.seed,
            transform=self.make_transform(dataset) if train else None,
            mean=self.mean if spec is None else spec.mean,
            std=self.std if spec is None else spec.std,
            device=device,
            group=group,
        )

    def make_optimizer(self, model: Module, steps: int) -> Optimizer:
        """Return the optimizer that trains a model for `steps` steps."""
        parameters, options = model.named_parameters(), {"weight_decay": self.weight_decay}
        return build_cosine_optimizer(self.optimizer, parameters, self.lr, steps, **options)

    def make_callbacks(self, model: Module) -> list[Callback]:
        """Return callbacks that training with the optimizer needs."""
        return []

    def make_trainer(
        self,
        model: Module,
        steps: int,
        callbacks: Sequence[Callback] = (),
        loss: Loss | None = None,
        group: Group = ALONE,
        local_batch_norm: bool = False,
        ema: float | None = None,
        cuda_graph: bool = False,
    ) -> Trainer:
        """Return the trainer that trains a model for `steps` steps.

        Args:
            loss: what `make_loss` returned; None for cross-entropy.
            group, local_batch_norm, ema, cuda_graph: see `Trainer`.
        """
        optimizer, callbacks = self.make_optimizer(model, steps), [*callbacks, *self.make_callbacks(model)]
        options: dict[str, Any] = {"precision": self.precision, "ema": ema, "cuda_graph": cuda_graph}
        options |= {"group": group, "local_batch_norm": local_batch_norm}
        return Trainer(model, optimizer, loss, callbacks, **options)


def _hints(config: type[TrainingConfig]) -> dict[str, Any]:
    """Return the type of each field."""
    hints = get_type_hints(config)
    return {item.name: hints[item.name] for item in fields(config)}


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


def is_path(data: str) -> bool:
    """Return whether the name of a data set is the absolute path of a folder or file, on whichever system."""
    return PurePosixPath(data).is_absolute() or PureWindowsPath(data).is_absolute()


# What configurations lack that were written before there was a choice.
_ADDED: dict[str, Any] = {
    "model_sha256": None,
    "size": None,
    "skip_bad": False,
    "class_weights": False,
    "validation": 0.0,
    "patience": None,
    "pretrained": False,
    "freeze_features": False,
    "train_from": None,
    "init": None,
    "label_smoothing": 0.0,
    "ema": None,
    "mode": "train",
    "local_batch_norm": False,
    "precision": "float32",
}

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """The configuration of `xpcnn train`.

    Attributes:
        epochs: passes over the training images.
        augment: how training images are changed at random: names for `data.make_transform`, joined by commas, `"auto"`
            for what suits the data set (`data.default_augmentation`), or `"none"`.
        class_weights: whether the loss is weighted by `data.class_weights`, so that each class counts alike. The losses
            in the records, of training and test images, are then weighted too; accuracies are not.
        validation: the part of the training images that is held out, from 0 to below 1. If it is not 0, the epoch with
            the lowest loss on these images is the best one, whose weights are the run's result; the test images are
            used once, at the end.
        patience: how many epochs may pass without a better one; then training stops. None to train all epochs. With
            patience, a validation of 0 is changed to 0.1.
        local_batch_norm: whether several processes normalise their parts of a batch by statistics of their own. The
            result then depends on how many processes there are.
        pretrained: whether training starts from the weights of `training.pretrained_state`, with a new last layer. A
            folder's pictures are then scaled to the size that suits them, and normalised as those were.
        freeze_features: whether only the last layer is trained, and all others are frozen; see `Module.freeze`. None
            for true with `pretrained` and without `train_from`, else false. What they make of the images is computed
            once, unless the images are augmented: `"auto"` is then `"none"`.
        train_from: the name of a module, such as `"conv3"` or `"blocks.12"`; those before it are frozen. None for the
            first.
        init: the folder of a run whose weights training starts from; None for initial or pretrained weights. If its
            classes were others, the last layer is a new one.
        label_smoothing: the part of each target that is spread evenly over all classes, from 0 to 1. The losses in the
            records, of training and test images, are of such targets.
        ema: the decay of the average of the weights, which is then evaluated and is the run's result; see
            `training.EMA`. None for no average.

    For the other attributes see `TrainingConfig`.
    """

    epochs: int = 15
    augment: str = "auto"
    class_weights: bool = False
    validation: float = 0.0
    patience: int | None = None
    local_batch_norm: bool = False
    pretrained: bool = False
    freeze_features: bool | None = None
    train_from: str | None = None
    init: str | None = None
    label_smoothing: float = 0.0
    ema: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_features is None:
            object.__setattr__(self, "freeze_features", self.pretrained and self.train_from is None)
        if self.freeze_features and self.train_from is not None:
            raise ValueError("choose one of freeze_features, which trains the last layer, and train_from")
        if self.pretrained:
            if self.model not in PRETRAINED:
                raise ValueError(f"there are no pretrained weights for {self.model}, only for {', '.join(PRETRAINED)}")
            if self.size is None and is_path(self.data) and not self.data.lower().endswith(".npz"):
                object.__setattr__(self, "size", PRETRAINED[self.model].size)
            for name in ("mean", "std"):
                object.__setattr__(self, name, getattr(PRETRAINED[self.model], name))
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.augment != "auto":
            chosen_augmentations(self.augment)  # refuses an unknown name
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be at least 0 and below 1, got {self.validation}")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {self.label_smoothing}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {self.ema}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.patience is not None and not self.validation:
            object.__setattr__(self, "validation", VALIDATION)  # the way to set a field of a frozen dataclass

    def load_data(self, data_dir: str | None = None, progress: bool = False) -> tuple[Dataset, Dataset]:
        train, test = super().load_data(data_dir, progress)
        if self.mean is not None and train.shape[0] != len(self.mean):
            expected = f"images of {len(self.mean)} channels"
            raise ValueError(f"the pretrained weights of {self.model} are for {expected}, got {train.shape[0]}")
        return train, test

    def optimizers(self) -> list[str]:
        return [*OPTIMIZERS, *([MUON] if self.model in WHITENED else [])]

    def make_optimizer(self, model: Module, steps: int) -> Optimizer:
        if self.optimizer != MUON:
            return super().make_optimizer(model, steps)
        lr = MUON_LR if self.lr is None else self.lr
        return make_optimizer(model, self.epochs, steps, lr, self.weight_decay)

    def make_callbacks(self, model: Module) -> list[Callback]:
        return [FreezeFirstLayer(model)] if self.optimizer == MUON else []

    def start_weights(self, model: Module, train: Dataset, group: Group = ALONE) -> None:
        """Set the weights that training starts from, where they are not the network's initial ones.

        Args:
            model: the untrained network.
            train: the training images, some of which `whiten` is given.
            group: the processes that train together; only process 0 needs to have the folder `init`.

        Raises:
            ImportError, DataError: see `pretrained_state`.
            ValueError: if the run's weights do not fit the network.
            CheckpointError: if the run has no usable checkpoint.
        """
        if self.init is not None:
            load_from_run(model, Path(self.init), train.classes, group)
        elif self.pretrained:
            load_pretrained(model, self.model)
        elif self.model in WHITENED:
            some = Loader(train, min(WHITENING_IMAGES, len(train)), shuffle=True, seed=self.seed)
            whiten(model, next(iter(some))[0])

    def make_model(self, data: Dataset | DataSpec) -> Module:
        model = super().make_model(data)
        modules = dict(model.named_modules())
        with_parameters = [name for name, module in modules.items() if module.own_parameters()]
        first = with_parameters[-1] if self.freeze_features else self.train_from
        if first is None:
            return model
        if not first or first not in modules:
            known = ", ".join(with_parameters)
            raise ValueError(f"{self.model} has no module {first!r:.100}; those with parameters are {known}")
        model.freeze()
        for name in list(modules)[list(modules).index(first) :]:
            modules[name].unfreeze()
        return model

    def make_transform(self, data: Dataset | DataSpec) -> Transform | None:
        usual = "none" if self.freeze_features else default_augmentation(self.data, data.shape)
        names = usual if self.augment == "auto" else self.augment
        return make_transform(names, data.shape)

    def make_loss(self, train: Dataset) -> Loss:
        weight = class_weights(train) if self.class_weights else None
        return CrossEntropyLoss(weight, label_smoothing=self.label_smoothing)
