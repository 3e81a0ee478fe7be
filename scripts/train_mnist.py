"""LeNet-5 on handwritten digits, with the training loop written out: at least 98 % in 6 epochs.

Run it with `python scripts/train_mnist.py`, or add `cuda` to insist on a GPU. It needs no download: the embedded data
set holds 10,000 training and 10,000 test images of MNIST.
"""

import sys

import xpcnn
from xpcnn.data import DATASETS, Loader, RandomAffine, load_dataset
from xpcnn.models import lenet5
from xpcnn.nn import CrossEntropyLoss
from xpcnn.optim import AdamW, CosineSchedule
from xpcnn.training import Metrics, ProgressBar, evaluate

EPOCHS, TARGET = 6, 0.98

device = xpcnn.device(sys.argv[1] if len(sys.argv) > 1 else "auto")
info = DATASETS["mnist-mini"]
scaling = {"mean": info.mean, "std": info.std}
vary = RandomAffine(degrees=10, scale=(0.9, 1.1), translate=(0.07, 0.07))
train = Loader(load_dataset("mnist-mini"), 64, shuffle=True, transform=vary, **scaling)
test = Loader(load_dataset("mnist-mini", "test"), 256, **scaling)

model = lenet5().to(device)
loss_function = CrossEntropyLoss()
optimizer = AdamW(model.named_parameters())
schedule = CosineSchedule(lr=0.003, total_steps=EPOCHS * len(train), warmup_steps=50)
progress = ProgressBar()

for epoch in range(EPOCHS):
    metrics = Metrics()
    progress.on_epoch_start(epoch + 1, EPOCHS, len(train))
    for images, labels in train.epoch(epoch):
        images, labels = device.asarray(images), device.asarray(labels)
        logits = model(images)
        loss = loss_function(logits, labels)
        optimizer.zero_grad()
        model.backward(loss_function.backward(), input_gradient=False)
        optimizer.lr = schedule(optimizer.steps)
        optimizer.step()
        metrics.update(loss, logits, labels)
        progress.on_step(metrics)
    progress.on_stop()
    accuracy = evaluate(model, test).accuracy
    print(f"epoch {epoch + 1}: training loss {metrics.loss:.4f}, test accuracy {accuracy:.2%}")
assert accuracy >= TARGET, f"expected at least {TARGET:.0%}, got {accuracy:.2%}"
