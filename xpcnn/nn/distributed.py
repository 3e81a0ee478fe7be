"""What makes the copies of a network on several processes compute as one network on the whole batch."""

from __future__ import annotations

from typing import TypeVar

from ..backend import Array, device_of
from ..distributed import ALONE, Group
from .dropout import Dropout
from .loss import Loss
from .module import Module
from .normalization import BatchNorm

AnyModule = TypeVar("AnyModule", bound=Module)


def synchronize(model: AnyModule, group: Group, *, local_batch_norm: bool = False) -> AnyModule:
    """Make a model one of the copies that a group trains, all with the weights of process 0; return the model.

    Batch norm then has the statistics of the whole batch, and dropout the mask of this process's part of it.

    Args:
        model: on any device; on all processes the same network.
        group: the processes.
        local_batch_norm: leave batch norm the statistics of this process's part, which needs two values per channel.
            Then call `average_statistics` at each step, so that the running averages stay the same on all processes.
    """
    for _, module in model.named_modules():
        if isinstance(module, Dropout):
            module.group = group
        elif isinstance(module, BatchNorm):
            module.group = ALONE if local_batch_norm else group
    if group.size > 1:
        state = {name: array.reshape(-1).copy() for name, array in model.state_dict().items()}  # contiguous, not 0-d
        group.broadcast(*state.values())
        model.load_state_dict({name: state[name].reshape(array.shape) for name, array in model.state_dict().items()})
    return model


def average_statistics(model: Module, group: Group) -> None:
    """Average the running means and variances of local batch norms over the processes, weighted by their samples."""
    if group.size == 1:
        return
    norms = [module for _, module in model.named_modules() if isinstance(module, BatchNorm)]
    tracked = [norm for norm in norms if norm.group.size == 1 and norm.track_running_stats]
    averages = [buffer.data for norm in tracked for buffer in (norm.running_mean, norm.running_var)]
    if not averages:
        return
    total = device_of(averages[0]).xp.concatenate(averages)
    total *= group.samples / group.total
    group.sum(total)
    first = 0
    for average in averages:
        average[...] = total[first : first + average.size]
        first += average.size


class GroupLoss(Loss):
    """This process's part of a loss over a batch that a group shares: the parts' sum is the loss of the whole batch.

    Gradients w.r.t. the outputs are likewise those of the whole batch's loss. Where the loss is a weighted mean, the
    weights of all processes count.

    Args:
        loss: a mean over the batch.
        group: the processes; it knows the sizes of the parts by `Group.steps`.
    """

    def __init__(self, loss: Loss, group: Group) -> None:
        super().__init__()
        self._loss, self._group, self.metrics = loss, group, loss.metrics
        self._share: Array = 1.0

    @classmethod
    def of(cls, loss: Loss, group: Group) -> Loss:
        """Return the loss as it is if it is of a group already, or the group is of one process."""
        return loss if group.size == 1 or isinstance(loss, GroupLoss) else cls(loss, group)

    def place(self, output: Array, target: Array) -> Array:
        return self._loss.place(output, target)

    def forward(self, output: Array, target: Array) -> Array:
        loss = self._loss(output, target)
        if self._group.size > 1:
            self._share = self._share_of(output, target)
            # A mean over samples that are all left out is NaN.
            loss = device_of(output).xp.where(self._share != 0, loss * self._share, 0)
        return loss

    def backward(self) -> Array:
        if self._group.size == 1:
            return self._loss.backward()
        self._loss.share = self._share
        try:
            return self._loss.backward() * self._share
        finally:
            self._loss.share = 1.0

    def _share_of(self, output: Array, target: Array) -> Array:
        """Return this process's weight in the mean over the whole batch, a 0-d array."""
        device, group = device_of(output), self._group
        weight = self._loss.total_weight(output, target)
        if weight is None:
            return device.asarray(group.samples / group.total, output.dtype)
        own = device.asarray(weight, output.dtype).reshape(1) * (group.samples > 0)
        total = own.copy()
        group.sum(total)
        return (own / total)[0]
