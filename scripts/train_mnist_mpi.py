"""LeNet-5 on handwritten digits by several processes, the loop written out: at least 98 % in 8 epochs.

Run `mpiexec -n 2 python scripts/train_mnist_mpi.py`, or leave `mpiexec -n 2` out: the result is the same. The lines
that several processes need are marked; the loader, the loss and the metrics are given the group besides.
"""

import sys

from xpcnn import Loader, distributed, models, nn, optim
from xpcnn.data import RandomAffine, load_dataset
from xpcnn.training import Metrics, evaluate

EPOCHS, TARGET = (int(sys.argv[1]), 0.0) if len(sys.argv) > 1 else (8, 0.98)
group = distributed.join()  # 1
place = group.device("auto")
vary = RandomAffine(degrees=10, scale=(0.9, 1.1), translate=(0.07, 0.07))
train = Loader(load_dataset("mnist-mini"), 64, shuffle=True, transform=vary, group=group)
test = Loader(load_dataset("mnist-mini", "test"), 256, group=group)

model = models.lenet5().to(place)
nn.synchronize(model, group)  # 2
loss_function = nn.GroupLoss(nn.CrossEntropyLoss(), group)
optimizer = optim.AdamW(model.parameters(), optim.CosineSchedule(0.003, EPOCHS * len(train), warmup_steps=50))

for epoch in range(EPOCHS):
    metrics = Metrics(group=group)
    for images, labels in group.steps(train):
        images, labels = place.asarray(images), place.asarray(labels)
        logits = model(images)
        loss = loss_function(logits, labels)
        optimizer.zero_grad()
        model.backward(loss_function.backward(), input_gradient=False)
        group.sum(*optimizer.gather())  # 3
        optimizer.step()
        metrics.update(loss, logits, labels)
    accuracy = evaluate(model, test, group=group).accuracy
    if group.rank == 0:
        print(f"epoch {epoch + 1}: training loss {metrics.loss:.4f}, test accuracy {accuracy:.2%}")
assert accuracy >= TARGET, f"expected at least {TARGET:.0%}, got {accuracy:.2%}"
