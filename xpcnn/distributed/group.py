"""The group of processes that train together, and the group of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .. import backend
from ..backend import Array, Device

STAND_INS = 2  # as batch norm over a process's own samples refuses a single one


class Group:
    """The processes that train together; this class is the group of one, which sends nothing.

    All methods but `part`, `device` and `abort` are collective: each process of the group has to call them, in the same
    order, with arrays of the same shapes and dtypes. Results have the same bits on all processes.

    Attributes:
        rank: this process's number, from 0.
        size: how many processes there are.
        counts: how many samples of the current batch each process has; `steps` keeps it up to date.
    """

    rank = 0
    size = 1
    counts: tuple[int, ...] = ()

    def __deepcopy__(self, memo: object) -> Group:
        return self  # as devices: modules that are copied compute in the same group

    def __reduce__(self) -> tuple[Any, ...]:
        return _alone, ()  # modules that are unpickled, perhaps elsewhere, compute alone

    # -- Arrays --------------------------------------------------------------------------------------------------------

    def sum(self, *arrays: Array) -> None:
        """Replace each array, contiguous and on any device, by its sum over the processes."""

    def gather(self, x: Array) -> Array:
        """Return the arrays of all processes, `(size, *x.shape)`."""
        return x[None]

    def concatenate(self, x: Array) -> Array:
        """Return the arrays of all processes joined along their first axis, whose lengths may differ."""
        return x

    def broadcast(self, *arrays: Array) -> None:
        """Replace each array, contiguous and on any device, by that of process 0."""

    # -- Batches -------------------------------------------------------------------------------------------------------

    def part(self, length: int) -> slice:
        """Return which samples of a batch of `length` are this process's; in a small batch it may be none of them."""
        first, last = (-(-length * rank // self.size) for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def steps(
        self, batches: Iterable[tuple[Any, ...]], stops: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Any, ...]]:
        """Yield batches, after each process has told the others how many samples it has in this step.

        It has to be the last iterator before the loop, not one that is read ahead. Where a process has no samples, two
        of zeros stand in for them, as layers refuse an empty batch: `GroupLoss`, `Metrics` and batch norm leave them
        out.

        Args:
            batches: this process's parts of the batches, tuples of arrays `(N, ...)`.
            stops: asked before each step; if one process returns True, all of them stop.

        Raises:
            RuntimeError: if one process has more batches than another.
        """
        for batch in batches:
            if stops():
                return
            yield batch

    @property
    def samples(self) -> int:
        """How many samples this process has in the current batch, 0 if two of zeros stand in for them."""
        if not self.counts:
            raise RuntimeError("which samples are whose is not known: iterate over group.steps(batches)")
        return self.counts[self.rank]

    @property
    def rows(self) -> int:
        """How many samples this process computes with: its own, or those that stand in for them."""
        return self.samples or STAND_INS

    @property
    def total(self) -> int:
        """How many samples the current batch has."""
        return sum(self.counts)

    def whole(self, count: int) -> int:
        """Return how many values the whole batch has, where this process computes with `count`."""
        return count if self.size == 1 else count // self.rows * self.total

    @property
    def first(self) -> int:
        """The place in the current batch of this process's first sample."""
        return sum(self.counts[: self.rank])

    # -- Agreement -----------------------------------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any process."""
        return flag

    def share(self, data: bytes) -> bytes:
        """Return the bytes of process 0."""
        return data

    def texts(self, text: str) -> list[str]:
        """Return the texts of all processes, by rank."""
        return [text]

    def same(self, what: str, text: str) -> None:
        """Raise ValueError unless a text, such as a version, is the same on all processes.

        Args:
            what: what the text is, for the message.
        """
        texts = self.texts(text)
        other = next((rank for rank, found in enumerate(texts) if found != texts[0]), None)
        if other is not None:
            raise ValueError(
                f"the processes differ in {what}: {texts[0] or 'none'} on process 0, {texts[other] or 'none'} on "
                f"process {other}"
            )

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Run the block on the first process of each machine, then on the others, which may use its files."""
        yield

    def subgroup(self, size: int) -> Group | None:
        """Return the group of the first `size` processes; None on the others."""
        return self

    # -- Places and ends -----------------------------------------------------------------------------------------------

    def device(self, name: Device | str = "auto") -> Device:
        """Return this process's device: with several processes on a machine, a GPU for each.

        Args:
            name: as in `backend.device`; a GPU is named by its number only where there is one process.

        Raises:
            DeviceUnavailableError: if there is no GPU for this process.
            ValueError: if several processes were given one GPU by its number.
        """
        return backend.device(name)

    def all_fail(self, seconds: float = 0.5) -> bool:
        """Return whether all processes call this within some time, as after an error that each of them has met."""
        return True

    def abort(self, code: int = 1) -> NoReturn:
        """End all processes at once: where one has failed, the others would wait for it for ever."""
        raise SystemExit(code)


ALONE = Group()


def _alone() -> Group:
    return ALONE
