"""A run: its configuration, and the folder that keeps its checkpoint, history and configuration together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .. import backend
from ..backend import CPU, Device
from ..data import DATASETS, Dataset, Loader, RandomAffine, load_dataset
from ..data.catalog import dataset_info
from ..models import build_model
from ..nn import Sequential
from ..optim import SGD, Adam, AdamW, CosineSchedule, Optimizer
from .callbacks import Callback, Checkpointer, History
from .checkpoint import Checkpoint, CheckpointError
from .trainer import Trainer

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
_DEFAULT_LR = {"sgd": 0.05, "adam": 0.003, "adamw": 0.003}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run follows from, besides the data set's files.

    Attributes:
        model: a name in `models.MODELS`.
        data: a name in `data.DATASETS`.
        epochs: passes over the training images.
        batch_size: images in a step.
        optimizer: `"sgd"` (with Nesterov momentum 0.9), `"adam"` or `"adamw"`.
        lr: the highest learning rate; None for the optimizer's usual one. It rises over the first twentieth of the
            steps and then falls along a cosine to 0.
        weight_decay: as the optimizer defines it.
        augment: whether training images are turned, scaled and shifted a little at random.
        seed: of initial weights, order and augmentation.
    """

    model: str = "lenet5"
    data: str = "mnist-mini"
    epochs: int = 15
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.01
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                f"epochs and batch size must be at least 1 and the seed at least 0, got {self.epochs}, "
                f"{self.batch_size} and {self.seed}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
        dataset_info(self.data)  # refuses an unknown name

    @classmethod
    def from_dict(cls, values: Any) -> RunConfig:
        """Return the configuration that `dataclasses.asdict` made a dictionary of.

        Raises:
            ValueError: if an entry is missing, unknown, or has a wrong value.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f"expected a run's configuration with {', '.join(sorted(names))}, got {values!r:.80}")
        return cls(**values)

    def make_loader(self, dataset: Dataset, *, train: bool, device: Device = CPU) -> Loader:
        """Return the loader of a split: shuffled and augmented for training, in order for evaluation.

        Args:
            device: on a GPU batches that need no augmentation are made there.
        """
        # Wide strokes and small turns are what handwriting and photographs have in common.
        transform = (
            RandomAffine(degrees=10, scale=(0.9, 1.1), translate=(0.07, 0.07)) if train and self.augment else None
        )
        batch_size = self.batch_size if train else 256
        return Loader(dataset, batch_size, shuffle=train, seed=self.seed, transform=transform, device=device)

    def make_model(self, dataset: Dataset) -> Sequential:
        """Return the untrained network for a data set's images and classes, on the CPU."""
        _, *in_shape = dataset.images.shape
        return build_model(self.model, tuple(in_shape), len(dataset.classes), seed=self.seed)

    def make_trainer(self, model: Sequential, steps: int, callbacks: Sequence[Callback]) -> Trainer:
        """Return the trainer for a run of so many steps in all."""
        lr = _DEFAULT_LR[self.optimizer] if self.lr is None else self.lr
        options: dict[str, Any] = {"weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            options |= {"momentum": 0.9, "nesterov": True}
        optimizer = OPTIMIZERS[self.optimizer](model.named_parameters(), lr, **options)
        return Trainer(model, optimizer, schedule=CosineSchedule(lr, steps, steps // 20), callbacks=callbacks)


class Run:
    """A training run with its folder.

    Attributes:
        path: the folder, holding `config.json`, `history.jsonl`, `checkpoint.safetensors` and pictures.
        config: what the run follows from.
        trainer: ready to go on where the folder's checkpoint stops, or to begin.
        test: the loader of the test images.
        history: the records of all epochs.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        *,
        data_dir: str | None = None,
        device: Device | str = "auto",
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
    ) -> None:
        self.path, self.config = path, config
        device = backend.device(device)
        train, test = (load_dataset(config.data, split, data_dir) for split in ("train", "test"))
        self.loader = config.make_loader(train, train=True, device=device)
        self.test = config.make_loader(test, train=False, device=device)
        model = config.make_model(train)
        trainer = config.make_trainer(model, config.epochs * len(self.loader), callbacks)
        if resume:
            trainer.resume(Checkpoint.load(path / CHECKPOINT))
        model.to(device)
        self.trainer = trainer
        if not resume:
            make_run_folder(path)
            text = json.dumps(asdict(config), indent=2) + "\n"
            (path / CONFIG).write_text(text, encoding="utf-8")
        self.history = History(path / "history.jsonl")
        trainer.callbacks += [self.history, Checkpointer(self.save)]

    def fit(self) -> None:
        """Train to the end, or until `trainer.stop()`; the folder is kept up to date throughout."""
        self.trainer.fit(self.loader, self.config.epochs, self.test)

    def save(self) -> None:
        """Write the checkpoint."""
        self.trainer.checkpoint({"config": asdict(self.config)}).save(self.path / CHECKPOINT)


CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.json"


def make_run_folder(path: Path) -> None:
    """Make a folder for a new run.

    Raises:
        ValueError: if something is there already, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{path} exists already; choose another output, or go on with it by --resume") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error


def read_config(path: Path) -> RunConfig:
    """Return the configuration of a run's folder.

    Raises:
        ValueError: if it is no run's folder, or its configuration is damaged.
    """
    try:
        return RunConfig.from_dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} is not the folder of a run: {CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged: {error}") from error


def load_trained(path: str | os.PathLike[str], device: Device | str = "auto") -> tuple[Sequential, RunConfig]:
    """Return a run's trained network in evaluation mode, and its configuration.

    Args:
        path: the run's folder, or a checkpoint file.
        device: where the network is to be.

    Raises:
        CheckpointError: if there is no usable checkpoint.
    """
    path = Path(path)
    file = path / CHECKPOINT if path.is_dir() else path
    checkpoint = Checkpoint.load(file)
    try:
        config = RunConfig.from_dict(checkpoint.info.get("config"))
        info = DATASETS[config.data]
        model = build_model(config.model, info.shape, len(info.classes), seed=config.seed)
        model.load_state_dict(checkpoint.model)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a model of this package: {error}") from error
    return model.to(device).eval(), config
