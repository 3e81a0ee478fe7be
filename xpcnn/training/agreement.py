"""Whether the processes of a group are about to train the same thing."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256

import numpy as np

from .. import __version__
from ..data import Dataset
from ..distributed import Group
from .config import TrainingConfig


def check_same_run(group: Group, config: TrainingConfig) -> None:
    """Raise ValueError unless all processes have the same version of xpcnn and the same configuration."""
    group.same("the version of xpcnn", __version__)
    group.same("the configuration", sha256(json.dumps(asdict(config)).encode()).hexdigest()[:12])


def check_same_images(group: Group, *parts: Dataset) -> None:
    """Raise ValueError unless all processes have the same labels and classes, and some of the images are the same."""
    if group.size > 1:
        group.same("the data set", " and ".join(map(_fingerprint, parts)))


def _fingerprint(dataset: Dataset) -> str:
    """Return the size of a data set, and a digest of its labels and some of its images."""
    some = np.unique(np.linspace(0, len(dataset) - 1, 64).astype(int)) if len(dataset) else slice(0)
    digest = sha256(np.asarray(dataset.images[some], order="C").tobytes() + dataset.labels.tobytes())
    digest.update(repr((dataset.classes, dataset.mean, dataset.std)).encode())
    return f"{len(dataset):,} images {dataset.shape} {digest.hexdigest()[:12]}"
