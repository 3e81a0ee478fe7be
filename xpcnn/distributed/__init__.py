"""Several processes that train one network together, each on its part of every batch.

`join` returns the group of the processes that `mpiexec` started, or without `mpiexec` the group of this process alone,
for which nothing changes. A hand-written loop needs three more lines, here marked; the loader and the loss are given
the group:

    group = distributed.join()                                                  # 1
    loader = Loader(dataset, 64, shuffle=True, group=group)                     # yields this process's part
    model = nn.synchronize(models.lenet5(), group)                              # 2
    loss_function, metrics = nn.GroupLoss(nn.CrossEntropyLoss(), group), Metrics(group=group)
    for images, labels in group.steps(loader):
        logits = model(images)
        loss = loss_function(logits, labels)
        optimizer.zero_grad()
        model.backward(loss_function.backward(), input_gradient=False)
        group.sum(*optimizer.gather())                                          # 3
        optimizer.step()
        metrics.update(loss, logits, labels)

The engine is MPI, through mpi4py; between GPUs NCCL, through CuPy. `import xpcnn` imports neither.
"""

from .group import ALONE, Group
from .launch import mpiexec, processes_started, rank_started
from .world import join

__all__ = ["ALONE", "Group", "join", "mpiexec", "processes_started", "rank_started"]
