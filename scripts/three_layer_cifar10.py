"""One epoch of CIFAR-10 for the three-layer network, by Adam: the loss falls from 2.30 to 1.56.

    python scripts/three_layer_cifar10.py              # downloads CIFAR-10 once, or reads it from --data-dir

Convolution 32@7×7, ReLU, 2×2 max pooling, 500 hidden units, ReLU, 10 outputs; weights drawn with standard deviation
0.001, L2 penalty 0.001, learning rate 0.001, batches of 50. Measured: 45 % of the validation images are right after it.
As in CS231n, 1000 of the training images are kept for validation, accuracy on the training set is that of 1000 of its
images, and pixels only lose their mean.
"""

import argparse
from pathlib import Path

from xpcnn import viz
from xpcnn.data import Dataset, Loader, load_dataset
from xpcnn.models import three_layer_net
from xpcnn.nn import CrossEntropyLoss, L2Penalty, Sequential
from xpcnn.optim import Adam
from xpcnn.training import Callback, Metrics, ProgressBar, Record, Trainer, evaluate

SAMPLE = 1000  # images of each split to measure accuracy on
PIXEL = (1 / 255,) * 3  # pixels keep their scale from 0 to 255, and only lose their mean


class Losses(Callback):
    """Keeps the loss of each iteration."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, metrics: Metrics) -> None:
        metrics.read()
        self.values.append(metrics.losses[-1])


def solve(
    training: Dataset, validation: Dataset, *, epochs: int = 1, device: str = "auto", seed: int = 0
) -> tuple[Sequential, list[float], list[Record]]:
    """Return the trained network, the loss of each iteration, and loss and accuracies before and after each epoch."""
    model = three_layer_net(hidden_dim=500, num_filters=32, filter_size=7, weight_scale=0.001, seed=seed).to(device)
    penalised = L2Penalty(CrossEntropyLoss(), model, 0.001)
    losses = Losses()
    trainer = Trainer(model, Adam(model.named_parameters(), lr=1e-3), penalised, callbacks=[losses, ProgressBar()])
    loader = Loader(training, 50, shuffle=True, seed=seed, std=PIXEL)
    samples = {
        part: Loader(dataset.subset(slice(SAMPLE)), 250, std=PIXEL)
        for part, dataset in {"train": training, "test": validation}.items()
    }

    def record() -> Record:
        found = {part: evaluate(model, sample) for part, sample in samples.items()}
        values = {f"{part}_accuracy": metrics.accuracy for part, metrics in found.items()}
        return {"epoch": trainer.epoch, **values, **{f"{part}_loss": metrics.loss for part, metrics in found.items()}}

    records = [record()]
    for epoch in range(epochs):
        trainer.fit(loader, epoch + 1)
        records.append(record())
    return model, losses.values, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder of the data sets ($XPCNN_DATA, else the user's cache)")
    parser.add_argument("--device", default="auto", help='"auto" (default), "cpu" or "cuda"')
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/three-layer"), help="folder for the pictures")
    args = parser.parse_args()
    whole = load_dataset("cifar10", "train", args.data_dir)
    training, validation = whole.subset(slice(49_000)), whole.subset(slice(49_000, None))
    model, losses, records = solve(training, validation, epochs=args.epochs, device=args.device)
    print(f"loss of the first iteration {losses[0]:.4f}, mean of the last 100 {sum(losses[-100:]) / 100:.4f}")
    for record in records:
        accuracies = (record[f"{part}_accuracy"] for part in ("train", "test"))
        print("epoch {:.0f}: train accuracy {:.1%}, validation accuracy {:.1%}".format(record["epoch"], *accuracies))
    args.output.mkdir(parents=True, exist_ok=True)
    viz.loss_curve(losses).savefig(args.output / "loss.png")
    viz.curves(records).savefig(args.output / "curves.png")
    viz.filters(model["conv1"].weight.data).savefig(args.output / "filters.png")
    print(f"pictures in {args.output}")


if __name__ == "__main__":
    main()
