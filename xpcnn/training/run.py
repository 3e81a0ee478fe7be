"""A training run, and the folder that keeps its configuration, checkpoint and history together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from .. import backend
from ..backend import Device
from ..data import DATASETS, load_dataset
from ..models import build_model
from ..nn import Sequential
from .callbacks import Callback, Checkpointer, OnSaveError, Record, checked_record, write_history
from .checkpoint import Checkpoint, CheckpointError, non_finite
from .config import RunConfig
from .files import remove_parts, write_atomically
from .folder import FolderLock, check_new, claim_new, claim_next, holds_nothing

CHECKPOINT, CONFIG, HISTORY = "checkpoint.safetensors", "config.json", "history.jsonl"


class SaveError(OSError):
    """A run's file could not be written; the message names it, and the last good checkpoint and when it was saved."""


class Run:
    """A training run with its folder, which no other process can train while this one has it.

    The checkpoint is the one thing that counts. It holds the configuration and the history, too; the files of these
    are there to be read, and the history is written anew from it when a run is resumed. So whenever the process is
    killed, `resume` goes on from the last checkpoint, and ends with the bits and the history of an uninterrupted run.

    Args:
        path: the folder: a new one, or with `resume` that of an earlier run. Of several, the first that does not exist
            is made.
        config: what the run follows from.
        data_dir: see `load_dataset`.
        device: where to train.
        callbacks: told of each step and epoch, after what happened is saved.
        resume: go on from the folder's checkpoint, or from the start if the run was killed before it wrote one.
        checkpoint_minutes: how long training goes on within an epoch without a checkpoint; see `Checkpointer`.
        on_save_error: what follows if a checkpoint cannot be written; see `Checkpointer`.

    Attributes:
        path: the folder, holding `config.json`, `history.jsonl`, `checkpoint.safetensors` and pictures.
        config: what the run follows from.
        loader: the loader of the training images.
        trainer: ready to go on where the folder's checkpoint stops, or to begin.
        test: the loader of the test images.
        saving: whether a checkpoint is being written.
        last_checkpoint: which one that is, for a person to read.

    A run gives the folder back when it is closed, or used as a context manager, or no longer referred to.

    Raises:
        ValueError: if the folder exists already or cannot be made, another process has it, the network cannot take the
            images, or the configuration differs from the checkpoint's.
        CheckpointError: if there is no usable checkpoint to resume.
        SaveError: if the configuration cannot be written.
        DataError: if the data set cannot be read.
        DeviceUnavailableError: if the device does not answer.
    """

    def __init__(
        self,
        path: Path | Iterable[Path],
        config: RunConfig,
        *,
        data_dir: str | None = None,
        device: Device | str = "auto",
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
        checkpoint_minutes: float = 5.0,
        on_save_error: OnSaveError = "stop",
    ) -> None:
        self.config, self.saving, self.last_checkpoint = config, False, "there is no checkpoint yet"
        self._checkpointer = Checkpointer(self.save, checkpoint_minutes, on_save_error)
        lock = None
        if isinstance(path, Path):
            if resume:
                lock = FolderLock(path)
            else:
                check_new(path)  # before any work
        try:
            device = backend.device(device)
            train, test = (load_dataset(config.data, split, data_dir) for split in ("train", "test"))
            self.loader = config.make_loader(train, train=True, device=device)
            self.test = config.make_loader(test, train=False, device=device)
            model = config.make_model(train)
            # What is saved is saved before anything is said of it.
            self.trainer = config.make_trainer(
                model, config.epochs * len(self.loader), [self._checkpointer, *callbacks]
            )
            if isinstance(path, Path):
                self.path = path
            if resume:
                self._resume()
            model.to(device)
            if lock is None:  # last, so that what is refused leaves no folder
                self.path, lock = (path, claim_new(path)) if isinstance(path, Path) else claim_next(path)
                self._begin()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes train this run."""
        self._lock.release()

    @property
    def records(self) -> list[Record]:
        """The records of all complete epochs."""
        return self.trainer.records

    def fit(self) -> None:
        """Train to the end, or until `trainer.stop()`; the folder is kept up to date throughout.

        Raises:
            SaveError: if the folder cannot be written to; with `on_save_error="continue"` at the end, if that is still
                so.
            TrainingDivergedError, MemoryError: as `Trainer.fit` does.
        """
        self.trainer.fit(self.loader, self.config.epochs, self.test)
        if self._checkpointer.failure is not None:
            raise self._checkpointer.failure

    def save(self) -> None:
        """Write the checkpoint, and from it the history.

        Raises:
            SaveError: if one of them cannot be written.
            TrainingDivergedError: if a weight is not finite; the checkpoint before stays.
        """
        self.saving = True
        file = self.path / CHECKPOINT
        try:
            checkpoint = self.trainer.checkpoint({"config": asdict(self.config)})
            checkpoint.save(file)
            self.last_checkpoint = _described(checkpoint, time.time())
            file = self.path / HISTORY
            write_history(file, self.records)
        except OSError as error:
            raise SaveError(f"{file} cannot be written: {error.strerror or error}; {self.last_checkpoint}") from error
        finally:
            self.saving = False

    def _begin(self) -> None:
        """Write the configuration of a new run."""
        try:
            write_atomically(self.path / CONFIG, (json.dumps(asdict(self.config), indent=2) + "\n").encode())
        except OSError as error:
            raise SaveError(f"{self.path / CONFIG} cannot be written: {error.strerror or error}") from error

    def _resume(self) -> None:
        """Take up the checkpoint, and make the history that of the checkpoint."""
        remove_parts(self.path)
        file = self.path / CHECKPOINT
        if not file.exists() and not (self.path / HISTORY).exists():
            return  # killed before the first one
        checkpoint = Checkpoint.load(file)
        saved = config_of(file, checkpoint)
        if differences := self.config.differences(saved):
            raise ValueError(f"{self.path / CONFIG} differs from the copy in {CHECKPOINT}: {differences}")
        try:
            self.trainer.resume(checkpoint)
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error
        self.last_checkpoint = _described(checkpoint, file.stat().st_mtime)
        history = self.path / HISTORY
        if "records" not in checkpoint.info:  # before version 3 only the history had them
            self.trainer.records = _older_records(history, self.trainer.epoch)
        try:
            write_history(history, self.records)
        except OSError as error:
            raise SaveError(
                f"{history} cannot be written: {error.strerror or error}; {self.last_checkpoint}"
            ) from error


def read_config(path: Path) -> RunConfig:
    """Return the configuration of a run's folder.

    Raises:
        ValueError: if it is no run's folder, or its configuration is damaged.
    """
    try:
        return RunConfig.from_dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    except OSError as error:
        if holds_nothing(path):
            raise ValueError(f"nothing was trained in {path} yet: begin with --output {path}") from error
        raise ValueError(f"{path} is not the folder of a run: {CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / CONFIG} is damaged: {error}") from error


def config_of(file: Path, checkpoint: Checkpoint) -> RunConfig:
    """Return the configuration that a run's checkpoint carries.

    Raises:
        CheckpointError: if it has none, or one that is damaged.
    """
    try:
        return RunConfig.from_dict(checkpoint.info.get("config"))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} does not describe a run of this package: {error}") from error


def load_trained(path: str | os.PathLike[str], device: Device | str = "auto") -> tuple[Sequential, RunConfig]:
    """Return a run's trained network in evaluation mode, and its configuration.

    Args:
        path: the run's folder, or a checkpoint file.
        device: where the network goes.

    Raises:
        CheckpointError: if there is no usable checkpoint, or a weight in it is nan or infinite.
    """
    path = Path(path)
    file = path / CHECKPOINT if path.is_dir() else path
    checkpoint = Checkpoint.load(file)
    config = config_of(file, checkpoint)
    if fault := non_finite(checkpoint.model):
        raise CheckpointError(f"{file} is of no use: {fault}")
    try:
        info = DATASETS[config.data]
        model = build_model(config.model, info.shape, len(info.classes), seed=config.seed)
        model.load_state_dict(checkpoint.model)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a model of this package: {error}") from error
    return model.to(device).eval(), config


def _described(checkpoint: Checkpoint, seconds: float) -> str:
    progress: dict[str, Any] = checkpoint.info["progress"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"the last good checkpoint, after step {progress['step']} in epoch {progress['epoch'] + 1}, is of {when}"


def _older_records(path: Path, epoch: int) -> list[Record]:
    """Return what an older history holds up to an epoch: a kill may have cut its lines, or made some appear twice."""
    found: dict[float, Record] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = checked_record(json.loads(line))
            except (ValueError, RecursionError):
                continue
            if record["epoch"] <= epoch:
                found[record["epoch"]] = record
    return [found[number] for number in sorted(found)]
