"""The trained network of a run, with what it needs to classify images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..backend import Array, Device, HostArray
from ..data import DATASETS, DataSpec
from ..data.rows import Rows
from ..models import OwnNetwork
from ..nn import Module
from .checkpoint import Checkpoint, CheckpointError, non_finite
from .config import RunConfig
from .folder import weights_file
from .predict import predict


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model: the network, in evaluation mode.
        config: the configuration of its run.
        spec: of the training images.
    """

    model: Module
    config: RunConfig
    spec: DataSpec

    def predict(self, images: Array | Rows, batch_size: int = 256) -> HostArray:
        """Return the probability of each class for each image, `(N, classes)`; see `Trainer.predict`."""
        return predict(self.model, images, self.spec, batch_size=batch_size)


def load_trained(
    path: str | os.PathLike[str], device: Device | str = "auto", network: OwnNetwork | None = None
) -> Trained:
    """Return a run's trained network. Its data set is not needed.

    Args:
        path: the run's folder, or one of its checkpoint files. Of a folder, `best.safetensors` is read if there is one,
            even if training is not complete, else `checkpoint.safetensors`.
        device: where the network goes.
        network: the own network that was trained; None for one of the package.

    Raises:
        CheckpointError: if there is no usable checkpoint, or a weight in it is nan or infinite.
        ValueError: if the run's network is an own network and there is none here, or the other way round.
    """
    path = Path(path)
    file = weights_file(path) if path.is_dir() else path
    checkpoint = Checkpoint.load(file)
    config = config_of(file, checkpoint)
    if fault := non_finite(checkpoint.model):
        raise CheckpointError(f"{file} cannot be used: {fault}")
    try:
        config = config.using(network)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    try:
        spec = _spec_of(checkpoint, config)
        model = config.make_model(spec)
        model.load_state_dict(checkpoint.model)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a model of this package: {error}") from error
    return Trained(model.to(device).eval(), config, spec)


def _spec_of(checkpoint: Checkpoint, config: RunConfig) -> DataSpec:
    """Return the spec of the training images in a checkpoint."""
    if (data := checkpoint.info.get("data")) is not None:
        return DataSpec.from_dict(data)
    if (info := DATASETS.get(config.data)) is not None:  # before checkpoints had it
        return DataSpec(info.shape, info.classes, info.mean, info.std, drawing=info.drawing)
    raise ValueError("it does not say what the images are")


def config_of(file: Path, checkpoint: Checkpoint) -> RunConfig:
    """Return the copy of the configuration in a run's checkpoint.

    Raises:
        CheckpointError: if it is absent or damaged.
    """
    try:
        return RunConfig.from_dict(checkpoint.info.get("config"))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} does not describe a run of this package: {error}") from error
