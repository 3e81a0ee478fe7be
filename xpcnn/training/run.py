"""A training run, and the folder that keeps its configuration, checkpoint and history together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from ..backend import Device
from ..distributed import ALONE, Group
from ..nn import Sequential, autocast
from .agreement import check_same_images, check_same_run
from .batches import Batches
from .callbacks import Callback, Checkpointer, OnSaveError, Record, checked_record, write_history
from .checkpoint import Checkpoint, CheckpointError, read_checkpoint
from .config import RunConfig
from .features import Features, frozen_modules_of
from .files import remove_parts, write_atomically
from .folder import BEST, CHECKPOINT, CONFIG, HISTORY, FolderLock, check_new, claim_new, claim_next, is_unused
from .trained import config_of


class SaveError(OSError):
    """A file of a run could not be written; the message names it and the last good checkpoint."""


class Run:
    """A training run with its folder, which is locked: no other process can train the same run.

    The checkpoint is the only file that matters: it has copies of the configuration, the history and the best weights,
    and when a run is resumed, `history.jsonl` and `best.safetensors` are written again from it. So the process may be
    killed at any moment: the resumed run ends with the bits and the history of an uninterrupted one.

    With `config.validation`, that part of the training images is held out. The best epoch is the one with the lowest
    loss on it; its weights are in `best.safetensors`, and after `fit` in the network. The test images are used once, by
    the best weights. Without it, the test images are used after each epoch, and nothing is selected by them.

    Of a group of processes, process 0 alone has the folder; the others train with it, and `path` is where it is.

    Args:
        path: the folder: a new one, or with `resume` that of an earlier run. Of an endless iterator of paths, the first
            that does not exist yet.
        config: the configuration; with an own network, what its `using` returned.
        data_dir: see `load_parts`.
        device: where to train.
        callbacks: called after the one that saves the checkpoint.
        resume: continue from the folder's checkpoint, or from the start if the run was killed before it wrote one.
        checkpoint_minutes: time between checkpoints within an epoch; see `Checkpointer`.
        progress: show a progress bar on stderr while a folder of pictures is read for the first time.
        on_save_error: what to do if a checkpoint cannot be written; see `Checkpointer`.
        group: the processes that train together; all of them create and `fit` the run with the same arguments.
        cuda_graph: see `Trainer`.

    Attributes:
        path: the folder, with `config.json`, `history.jsonl`, `checkpoint.safetensors`, with validation
            `best.safetensors`, and pictures.
        config: the configuration.
        loader: the loader of the training images.
        trainer: at the start of training, or in the state of the folder's checkpoint.
        validation: the loader of the images held out; None if there are none.
        test: the loader of the test images.
        saving: whether a checkpoint is being written.
        last_checkpoint: the last good checkpoint, described for messages.

    `close`, or the end of a `with` block, unlocks the folder.

    Raises:
        ValueError: if the folder exists already, cannot be made or is locked, the images do not fit the network, the
            configuration differs from the checkpoint's, the device does not have its precision, or the processes
            differ in version, configuration or data.
        CheckpointError: if there is no usable checkpoint to resume.
        SaveError: if the configuration cannot be written.
        DataError: if the data set cannot be read.
        DeviceUnavailableError: if the device does not answer.
    """

    def __init__(
        self,
        path: Path | Iterator[Path],
        config: RunConfig,
        *,
        data_dir: str | None = None,
        device: Device | str = "auto",
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
        progress: bool = False,
        checkpoint_minutes: float = 5.0,
        on_save_error: OnSaveError = "stop",
        group: Group = ALONE,
        cuda_graph: bool = False,
    ) -> None:
        self.group = group
        self.config, self.saving, self.last_checkpoint = config, False, "there is no checkpoint yet"
        self._tested: Record | None = None
        self._last: Checkpoint | None = None  # that of the last epoch, once the network has the best weights
        self._best_info: dict[str, Any] = {}  # what `best.safetensors` says of its weights
        self._checkpointer = Checkpointer(self.save, checkpoint_minutes, on_save_error)
        lock = None
        if isinstance(path, Path) and not group.rank:
            if resume:
                lock = FolderLock(path)
            else:
                check_new(path)  # before any work
        try:
            check_same_run(group, config)
            device = group.device(device)
            with group.one_at_a_time():
                train, test = config.load_data(data_dir, progress)
            check_same_images(group, train, test)
            options: dict[str, Any] = {"device": device, "group": group}
            self.validation = None
            if config.validation:
                train, held_out = train.split(1 - config.validation, config.seed)
                held_out.part = "validation"
                self.validation = config.make_loader(held_out, train=False, **options)
            self.loader = config.make_loader(train, train=True, **options)
            # By the mean and std of the images trained on, as those held out.
            self.test = config.make_loader(test, train=False, spec=self.loader.spec, **options)
            model = config.make_model(train)
            if not resume:
                config.start_weights(model, train, group)
            # The checkpoint comes before what the other callbacks print about it.
            callbacks = [*([] if group.rank else [self._checkpointer]), *callbacks]
            steps = config.epochs * len(self.loader)
            loss = config.make_loss(train)
            options = {"group": group, "local_batch_norm": config.local_batch_norm, "ema": config.ema}
            options["cuda_graph"] = cuda_graph
            self.trainer = config.make_trainer(model, steps, callbacks, loss, **options)
            if isinstance(path, Path):
                self.path = path
            if resume:
                self._resume()
            model.to(device)
            with autocast(config.precision, device):  # raises if the device does not have it
                pass
            if lock is None and not group.rank:  # last, so that bad input leaves no folder behind
                self.path, lock = (path, claim_new(path)) if isinstance(path, Path) else claim_next(path)
                self._begin()
            self.path = Path(os.fsdecode(group.share(b"" if group.rank else os.fsencode(self.path))))
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
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.release()

    @property
    def records(self) -> list[Record]:
        """The records of all complete epochs."""
        return self.trainer.records

    @property
    def tested(self) -> Record | None:
        """The loss and metrics on the test images, with the epoch whose weights were measured.

        With validation it is None until training is complete; otherwise it is that of the last epoch. Checkpoints keep
        it as `info["test"]`.
        """
        if self.validation is not None or not self.records:
            return self._tested
        last = self.records[-1]
        return {"epoch": last["epoch"]} | {key[5:]: last[key] for key in last if key.startswith("test_")}

    def fit(self) -> None:
        """Train to the end, or until `trainer.stop()`, with checkpoints.

        At the end of a run with validation, the network is given the best weights and measured on the test images.

        Raises:
            SaveError: if a checkpoint cannot be written; with `on_save_error="continue"`, if the last one cannot.
            TrainingDivergedError, MemoryError: see `Trainer.fit`.
        """
        with self._batches() as (train, test):
            if self.validation is None:
                self.trainer.fit(train, self.config.epochs, test)
            else:
                self.trainer.fit(train, self.config.epochs, validation=test, patience=self.config.patience)
        if self.validation is not None and self.trainer.complete:
            self._use_best()
        if self._checkpointer.failure is not None:
            raise self._checkpointer.failure

    @contextmanager
    def _batches(self) -> Iterator[tuple[Batches, Batches]]:
        """Yield the batches of the training images, and of those to evaluate on after each epoch.

        If the network's first modules are frozen and images are not augmented, they are batches of features.
        """
        model, test = self.trainer.model, self.test if self.validation is None else self.validation
        frozen = frozen_modules_of(model) if self.loader.transform is None else 0
        if not isinstance(model, Sequential) or not frozen or self.trainer.epoch >= self.config.epochs:
            yield self.loader, test
            return
        self.trainer.spec = self.loader.spec
        features = Features(model, frozen, self.loader, shuffle=True), Features(model, frozen, test, shuffle=False)
        with model.after(frozen):
            yield features

    def _use_best(self) -> None:
        """Give the network the best weights and, unless that was done before, measure them on the test images."""
        self._last = self._last or self._checkpoint()
        self.trainer.restore_best()
        if self._tested is None:
            best = self.trainer.best
            assert best is not None
            self._tested = {"epoch": best["epoch"], **self.trainer.evaluate(self.test)}
            self._last.info["test"] = self._tested
            if not self.group.rank:
                self._checkpointer.save()

    def save(self) -> None:
        """Write the checkpoint, then the best weights and the history, which are copies of what is in it.

        Raises:
            SaveError: if one of them cannot be written.
            TrainingDivergedError: if the loss or a weight is not finite; then the previous checkpoint stays.
        """
        self.saving = True
        try:
            checkpoint = self._last or self._checkpoint()
            self._write(CHECKPOINT, checkpoint.save)
            self.last_checkpoint = _described(checkpoint, time.time())
            self._write_copies()
        finally:
            self.saving = False

    def _checkpoint(self) -> Checkpoint:
        test = {} if self.tested is None else {"test": self.tested}
        return self.trainer.checkpoint({"config": asdict(self.config), **test})

    def _write_copies(self) -> None:
        """Write the best weights, if there are others than before, and the history."""
        if self.trainer.spec is not None and self.trainer.best is not None:
            info = {"config": asdict(self.config), "data": self.trainer.spec.to_dict(), "record": self.trainer.best}
            info |= {} if self.tested is None else {"test": self.tested}
            if info != self._best_info:
                self._write(BEST, Checkpoint(self.trainer.best_weights, info=info).save)
                self._best_info = info
        self._write(HISTORY, lambda path: write_history(path, self.records))

    def _begin(self) -> None:
        """Write the configuration of a new run."""
        text = json.dumps(asdict(self.config), indent=2) + "\n"
        self._write(CONFIG, lambda path: write_atomically(path, text.encode()))

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file of the folder, with the error that `SaveError` describes."""
        try:
            write(self.path / name)
        except OSError as error:
            reason = error.strerror or error
            raise SaveError(f"{self.path / name} cannot be written: {reason}; {self.last_checkpoint}") from error

    def _resume(self) -> None:
        """Load the checkpoint on all processes, and write the best weights and the history again from it."""
        file = self.path / CHECKPOINT
        found = self.group.share(b"" if self.group.rank else self._found(file))
        if not found:
            return  # killed before the first checkpoint
        checkpoint = Checkpoint.from_bytes(found, file)
        saved = config_of(file, checkpoint)
        if differences := self.config.differences(saved):
            raise ValueError(f"{self.path / CONFIG} differs from the copy in {CHECKPOINT}: {differences}")
        try:
            self.trainer.resume(checkpoint)
            if "test" in checkpoint.info:
                self._tested = checked_record(checkpoint.info["test"])
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error
        if self.group.rank:
            return
        self.last_checkpoint = _described(checkpoint, file.stat().st_mtime)
        if "records" not in checkpoint.info:  # before version 3 they were in the history only
            self.trainer.records = _older_records(self.path / HISTORY, self.trainer.epoch)
        self._write_copies()

    def _found(self, file: Path) -> bytes:
        """Return the content of the checkpoint's file; none if the run was killed before the first one."""
        remove_parts(self.path)
        return read_checkpoint(file) if file.exists() or (self.path / HISTORY).exists() else b""


def read_config(path: Path) -> RunConfig:
    """Return the configuration of a run's folder.

    Raises:
        ValueError: if the folder is not that of a run, or its configuration is damaged.
    """
    file = path / CONFIG
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is not a regular file")
        return RunConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        if is_unused(path):
            raise ValueError(f"nothing was trained in {path} yet: start with --output {path}") from error
        raise ValueError(f"{path} is not the folder of a run: {CONFIG} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _described(checkpoint: Checkpoint, seconds: float) -> str:
    progress: dict[str, Any] = checkpoint.info["progress"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    place = f"step {progress['step']}, {progress['epoch']} epochs complete"
    return f"the last good checkpoint is of {when} ({place})"


def _older_records(path: Path, epoch: int) -> list[Record]:
    """Return the records of the first epochs from an older history, where a kill may have cut or repeated lines."""
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
