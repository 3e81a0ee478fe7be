"""Batches of a data set in a seeded order, the next ones prepared while the current one trains."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import backend
from ..backend import CPU, Array, Device
from ..random import stream
from .dataset import Dataset
from .normalize import Normalize
from .rows import Rows
from .spec import DataSpec, pixels_of
from .transforms import Transform

Batch = tuple[Array, Array]  # images and labels

_AHEAD = 2  # batches prepared before they are asked for


class Loader:
    """Batches of a data set, ready for training: shuffled, augmented, normalised.

    Each `for images, labels in loader` is the next epoch, with its own order and augmentation. Every batch follows from
    the seed, its epoch and its index alone, so that `epoch` can resume a run at any batch. Batches have the same bits
    on every device.

    Args:
        dataset: the samples; at least one.
        batch_size: samples in a batch; the last one of an epoch may have fewer.
        shuffle: draw a new order for each epoch; if false, keep the data set's.
        drop_last: leave out a last batch with fewer samples.
        seed: the run's seed, for the order and the transform.
        transform: changes each batch of images before it is normalised; see `xpcnn.data.transforms`.
        mean: subtracted from each channel, after bytes are divided by 255; if None the data set's.
        std: each channel is divided by it afterwards; if None the data set's.
        dtype: of the images handed out, float32 or float64.
        device: where training runs. On a GPU the images are kept as they are stored, one byte a pixel, and batches are
            made there, so that only an epoch's order moves. A transform needs the host: with one, batches are made
            there and the trainer moves them.

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
        mean, std = (tuple(dataset.mean if mean is None else mean), tuple(dataset.std if std is None else std))
        pixels: Any = pixels_of(dataset.images.dtype)
        self.spec = DataSpec(dataset.shape, dataset.classes, mean, std, pixels, dataset.drawing)
        self.dtype = np.dtype(dtype)
        device = backend.device(device)
        self.device = device if transform is None and not isinstance(dataset.images, Rows) else CPU
        self._images = dataset.images if isinstance(dataset.images, Rows) else self.device.asarray(dataset.images)
        self._labels = self.device.asarray(dataset.labels)
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
        order = self._order(epoch)
        return [
            order[first : first + self.batch_size] for first in range(0, len(self) * self.batch_size, self.batch_size)
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self.shuffle:
            return stream(self.seed, "shuffle", epoch).permutation(len(self.dataset))
        return np.arange(len(self.dataset))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, which a background thread prepares ahead on the CPU.

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
        tasks = self._tasks(epoch, start)
        # On a GPU a task only queues its work, which then runs beside the host's anyway.
        return _prepared(tasks) if self.device.on_host else (task() for task in tasks)

    def _tasks(self, epoch: int, start: int) -> Iterator[Callable[[], Batch]]:
        order = self.device.asarray(self._order(epoch))
        for i in range(start, len(self)):
            yield partial(self._batch, order[i * self.batch_size : (i + 1) * self.batch_size], epoch, i)

    def _batch(self, rows: Array, epoch: int, index: int) -> Batch:
        images = self._images[rows]
        if self.transform is not None:
            changed = self.transform(images, stream(self.seed, "augment", epoch, index))
            if changed.ndim != 4 or changed.shape[:2] != images.shape[:2]:
                raise ValueError(
                    f"Loader: expected the transform to keep N and C of {images.shape}, got {changed.shape}"
                )
            images = changed
        return self._normalize(images), self._labels[rows]


def _prepared(tasks: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
    """Yield the results of the tasks, which a background thread runs ahead."""
    pool = ThreadPoolExecutor(1, "xpcnn-loader")
    ahead: deque[Future[Batch]] = deque()
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
