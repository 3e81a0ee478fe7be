"""Batches gathered on the device itself, from a data set that stays there as bytes."""

from collections.abc import Iterator
from typing import Any

from .. import backend
from ..backend import Device
from .dataset import Dataset
from .loader import Loader
from .normalize import Normalize


class DeviceLoader(Loader):
    """The batches of a `Loader`, bit for bit, made on a device: for a GPU, which then waits for no host.

    The images are kept on the device as they are stored, one byte a pixel; what moves there for an epoch is its order.

    Args:
        dataset, batch_size, options: those of `Loader`; images are not augmented, as that is done on the host.
        device: where batches are made.

    Raises:
        ValueError: if there is a transform, or an option is outside its range.
    """

    def __init__(self, dataset: Dataset, batch_size: int, *, device: Device | str, **options: Any) -> None:
        super().__init__(dataset, batch_size, **options)
        if self.transform is not None:
            raise ValueError("DeviceLoader: images are augmented on the host: use Loader with a transform")
        self.device = backend.device(device)
        self._images = self.device.asarray(dataset.images)
        self._labels = self.device.asarray(dataset.labels)
        dataset_mean, dataset_std = options.get("mean") or dataset.mean, options.get("std") or dataset.std
        self._normalize = Normalize(
            dataset.images.shape[1], dataset_mean, dataset_std, dtype=self._normalize.dtype, device=self.device
        )

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        order = self.device.asarray(self._order(epoch))
        for batch in range(start, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield self._normalize(self._images[rows]), self._labels[rows]
