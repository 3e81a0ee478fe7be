"""Batches gathered on the device itself, from a data set that stays there as bytes."""

from collections.abc import Iterator
from typing import Any

from .. import backend
from ..backend import Device, batch_first
from .dataset import Dataset
from .loader import Loader, normalize


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
        self._device_scale, self._device_shift = (self.device.asarray(x) for x in (self._scale, self._shift))

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        order = self.device.asarray(self._order(epoch))
        for batch in range(start, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            # Transposed as single bytes and made floats after that: a quarter of the memory traffic.
            pixels = self.device.xp.ascontiguousarray(self._images[rows].transpose(1, 2, 3, 0))  # (C, H, W, N)
            values = self.device.empty(pixels.shape, self.dtype)
            normalize(pixels, self._device_scale, self._device_shift, values)
            yield batch_first(values), self._labels[rows]
