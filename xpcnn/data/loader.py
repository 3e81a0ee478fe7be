"""Batches of a data set in a seeded order, the next ones prepared while the current one trains."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import backend
from ..backend import CPU, Array, Device, blocks
from ..distributed import ALONE, Group
from ..random import stream
from .dataset import Dataset
from .normalize import Normalize
from .rows import Rows
from .spec import DataSpec, pixels_of
from .transforms import Part, Transform, on_any_device, on_any_part, transform_at

Batch = tuple[Array, Array]  # images and labels
Images = NDArray[Any] | Rows
Result = TypeVar("Result")

_AHEAD = 2  # batches prepared before they are asked for
_COPIED = 64 << 20  # bytes of images copied to a GPU at a time
_SMALL_BATCH = 1 << 20  # bytes of pixels, which take less time to make a batch of than to hand it from thread to thread


class Loader:
    """Batches of a data set, ready for training: shuffled, augmented, normalised.

    Each `for images, labels in loader` is the next epoch, with its own order and augmentation. Every batch follows from
    the seed, its epoch and its index alone, so that `epoch` can resume a run at any batch. Batches have the same bits
    on every device; only float images that a transform computes may differ by rounding.

    Args:
        dataset: the samples; at least one.
        batch_size: samples in a batch; the last one of an epoch may have fewer.
        shuffle: draw a new order for each epoch; if false, keep the data set's.
        drop_last: leave out a last batch with fewer samples.
        seed: the run's seed, for the order and the transform.
        transform: changes each batch of images before it is normalised; see `xpcnn.data.transforms`. If it has the
            attribute `any_device = True`, as those there have, it runs on `device`. Otherwise it is given NumPy arrays:
            batches are made on the host, and the trainer copies them.
        mean: subtracted from each channel, after bytes are divided by 255; if None the data set's.
        std: each channel is divided by it afterwards; if None the data set's.
        dtype: of the images handed out, float32 or float64.
        device: where training runs, and where batches are made. A GPU keeps all images as they are stored, one byte a
            pixel, if they fit into a part of its memory (`Device.dataset_bytes`); then only an epoch's order moves.
            Otherwise a background thread reads each batch on the host, and its stored pixels are copied.
        group: the processes that share each batch. The batches are those of one process; this process is given its
            part of each, which may have no samples.

    Attributes:
        device: where batches are made, and lie.
        spec: what a network must know of the data: shape, classes, and the mean and std in use.

    Raises:
        ValueError: if an option is outside its range, or there would be no batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: DTypeLike = np.float32,
        device: Device | str = CPU,
        group: Group = ALONE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Loader: expected batch_size of 1 or more, got {batch_size}")
        if len(dataset) == 0:
            raise ValueError(f"Loader: expected at least one sample, got the empty data set {dataset}")
        if drop_last and len(dataset) < batch_size:
            raise ValueError(f"Loader: drop_last leaves no batch: batch_size={batch_size}, got {len(dataset)} samples")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"Loader: expected dtype float32 or float64, got {np.dtype(dtype)}")
        stream(seed, "shuffle")  # refuses a bad seed now, not in the first epoch

        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.transform = transform
        self.group = group
        # Whether a transform has to see the whole of a batch that processes share.
        self._whole = transform is not None and not on_any_part(transform)
        mean, std = (tuple(dataset.mean if mean is None else mean), tuple(dataset.std if std is None else std))
        pixels: Any = pixels_of(dataset.images.dtype)
        self.spec = DataSpec(dataset.shape, dataset.classes, mean, std, pixels, dataset.drawing)
        self.dtype = np.dtype(dtype)
        self.device = backend.device(device) if transform is None or on_any_device(transform) else CPU
        self._all_on_device = dataset.images.nbytes <= self.device.dataset_bytes
        self._images = _copied(dataset.images, self.device) if self._all_on_device else dataset.images
        self._labels = self.device.asarray(dataset.labels)
        in_memory = self._all_on_device and type(dataset.images) is np.ndarray
        small = in_memory and min(batch_size, len(dataset)) * dataset.images[0].nbytes <= _SMALL_BATCH
        # A transform of the user's may take its time. On a GPU a task only queues its work.
        self._at_once = not self.device.on_host or (small and (transform is None or on_any_device(transform)))
        self._passes = 0  # how many were begun by iterating
        self._normalize = Normalize(mean, std, white=self.spec.white, dtype=dtype, device=self.device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        self._passes += 1
        return self.epoch(self._passes - 1)

    def indices(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the indices into the data set of each batch of an epoch, in the order of the batches."""
        return list(self._rows(self._order(epoch), 0))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self.shuffle:
            return stream(self.seed, "shuffle", epoch).permutation(len(self.dataset))
        return np.arange(len(self.dataset))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, which on the CPU a background thread prepares ahead.

        Small ones, of images in memory and without a transform of the user's, are made when they are asked for.

        Which epoch the loader's own iteration comes to next does not depend on it.

        Args:
            epoch: numbers the order and the augmentation, from 0.
            start: the index of the first batch wanted; `len(loader)` gives none.

        Returns:
            An iterator over pairs: images `(N, C, H, W)`, whose memory lies channel-major `(C, H, W, N)`, and labels
            `(N,)` int64, all of them the caller's to keep. An error in the thread is raised here, with its traceback;
            closing or dropping the iterator ends the thread.

        Raises:
            ValueError: if the epoch is negative, or `start` is not from 0 to `len(loader)`.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"Loader: expected epoch >= 0 and start from 0 to {len(self)}, got {epoch} and {start}")
        if self._all_on_device:
            tasks = self._tasks(epoch, start)
            return (task() for task in tasks) if self._at_once else _prepared(tasks)
        read = _prepared(
            partial(self._images.__getitem__, self._read(rows)) for rows in self._rows(self._order(epoch), start)
        )
        return (task(self.device.asarray(images)) for task, images in zip(self._tasks(epoch, start), read, strict=True))

    def _rows(self, order: Array, start: int) -> Iterator[Array]:
        """Yield the rows of each batch."""
        return (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self)))

    def _tasks(self, epoch: int, start: int) -> Iterator[Callable[..., Batch]]:
        """Yield what makes each batch."""
        for i, rows in enumerate(self._rows(self.device.asarray(self._order(epoch)), start), start):
            yield partial(self._batch, rows, epoch, i)

    def _read(self, rows: Array) -> Array:
        """Return which of a batch's rows this process reads."""
        return rows if self._whole else rows[self.group.part(len(rows))]

    def _batch(self, rows: Array, epoch: int, index: int, images: Array | None = None) -> Batch:
        """Return a batch of the data set's rows, whose images are given if not all of them are on the device."""
        images = self._images[self._read(rows)] if images is None else images
        part = self.group.part(len(rows))
        if self.transform is not None and len(images):
            transform = transform_at(self.transform, epoch, rows, self.seed)
            generator = stream(self.seed, "augment", epoch, index)
            images = self._transformed(transform, images, generator, Part(part, len(rows)))
        return self._normalize(images[part] if self._whole else images), self._labels[rows[part]]

    def _transformed(self, transform: Any, images: Array, generator: np.random.Generator, part: Part) -> Array:
        alone = self._whole or self.group.size == 1
        changed = transform(images, generator) if alone else transform(images, generator, part)
        if changed.ndim != 4 or changed.shape[:2] != images.shape[:2]:
            raise ValueError(f"Loader: expected the transform to keep N and C of {images.shape}, got {changed.shape}")
        return changed


def _copied(images: Images, device: Device) -> Array:
    """Return images on a device, copied in parts if it is a GPU, as they may be larger than the host's memory."""
    if device.on_host:
        return images
    copy = device.empty(images.shape, images.dtype)
    for part in blocks(len(images), ceil(images.nbytes / _COPIED)):
        copy[part] = device.asarray(images[part])
    return copy


def _prepared(tasks: Iterator[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the results of the tasks, which a background thread runs ahead."""
    pool = ThreadPoolExecutor(1, "xpcnn-loader")
    ahead: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            ahead.append(pool.submit(task))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # Not waited for: the garbage collector may close this generator from within the thread itself.
        pool.shutdown(wait=False, cancel_futures=True)
