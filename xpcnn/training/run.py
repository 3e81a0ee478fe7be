"""A training run, and the folder that keeps its configuration, checkpoint and history together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .. import backend
from ..backend import Device
from ..data import DATASETS, load_dataset
from ..models import build_model
from ..nn import Sequential
from .callbacks import Callback, Checkpointer, History
from .checkpoint import Checkpoint, CheckpointError
from .config import RunConfig
from .folder import make_folder

CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.json"


class Run:
    """A training run with its folder.

    Args:
        path: the folder: a new one, or with `resume` that of an earlier run.
        config: the configuration.
        data_dir: see `load_dataset`.
        device: where to train.
        callbacks: called before those that update the folder.
        resume: continue from the folder's checkpoint.

    Attributes:
        path: the folder, holding `config.json`, `history.jsonl`, `checkpoint.safetensors` and pictures.
        config: the configuration.
        loader: the loader of the training images.
        trainer: at the start of training, or in the state of the folder's checkpoint.
        test: the loader of the test images.
        history: the records of all epochs.

    Raises:
        ValueError: if the folder exists already or cannot be made, or the network cannot take the images.
        CheckpointError: if there is no usable checkpoint to resume.
        DataError: if the data set cannot be read.
        DeviceUnavailableError: if the device does not answer.
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
            make_folder(path, "choose another --output, or continue it with --resume")
            text = json.dumps(asdict(config), indent=2) + "\n"
            (path / CONFIG).write_text(text, encoding="utf-8")
        self.history = History(path / "history.jsonl")
        trainer.callbacks += [self.history, Checkpointer(self.save)]

    def fit(self) -> None:
        """Train to the end, or until `trainer.stop()`; the folder is updated after each epoch."""
        self.trainer.fit(self.loader, self.config.epochs, self.test)

    def save(self) -> None:
        """Write the checkpoint."""
        self.trainer.checkpoint({"config": asdict(self.config)}).save(self.path / CHECKPOINT)


def read_config(path: Path) -> RunConfig:
    """Return the configuration of a run's folder.

    Raises:
        ValueError: if the folder is not that of a run, or its configuration is damaged.
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
        device: where the network goes.

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
