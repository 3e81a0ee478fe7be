"""LeNet-5 on handwritten digits, network and training loop written out: at least 98 % in 8 epochs.

Run `python scripts/train_mnist.py`, or add `cuda` to insist on a GPU. Nothing is downloaded: the embedded data set
holds 10,000 training and 10,000 test images of MNIST.
"""

import sys

from xpcnn import Loader, device, nn, optim
from xpcnn.data import RandomAffine, load_dataset
from xpcnn.training import Metrics, evaluate

EPOCHS, TARGET = 8, 0.98
place = device(sys.argv[1] if len(sys.argv) > 1 else "auto")
vary = RandomAffine(degrees=10, scale=(0.9, 1.1), translate=(0.07, 0.07))
train = Loader(load_dataset("mnist-mini"), 64, shuffle=True, transform=vary)
test = Loader(load_dataset("mnist-mini", "test"), 256)

model = nn.Sequential(
    nn.conv_relu_pool(1, 6, 5, padding=2),
    nn.conv_relu_pool(6, 16, 5),
    nn.Flatten(),
    nn.Linear(400, 120),
    nn.ReLU(),
    nn.Linear(120, 84),
    nn.ReLU(),
    nn.Linear(84, 10),
).to(place)
loss_function = nn.CrossEntropyLoss()
optimizer = optim.AdamW(model.parameters(), optim.CosineSchedule(0.003, EPOCHS * len(train), warmup_steps=50))

for epoch in range(EPOCHS):
    metrics = Metrics()
    for images, labels in train:
        images, labels = place.asarray(images), place.asarray(labels)
        logits = model(images)
        loss = loss_function(logits, labels)
        optimizer.zero_grad()
        model.backward(loss_function.backward(), input_gradient=False)
        optimizer.step()
        metrics.update(loss, logits, labels)
    accuracy = evaluate(model, test).accuracy
    print(f"epoch {epoch + 1}: training loss {metrics.loss:.4f}, test accuracy {accuracy:.2%}")
assert accuracy >= TARGET, f"expected at least {TARGET:.0%}, got {accuracy:.2%}"
