"""A net with three filters learns MNIST from 2000 batches of 4 images: 95 % in 2 seconds on two CPU cores.

    python scripts/numpy_cnn_mnist.py                  # on the embedded 10,000 training images
    python scripts/numpy_cnn_mnist.py --data mnist     # on all 60,000, downloaded once, or from --data-dir

Convolution 3@5×5, ReLU, 3×3 max pooling by steps of 2, 84 hidden units, 10 outputs; SGD with momentum 0.9 and decay
1e-5. Batches of 4 move the accuracy up and down by a percent from one moment to the next, so the weights that count are
the mean over the second half of the iterations (Polyak and Juditsky 1992). On the 10,000 test images, seeds 0 to 2:
94.9 to 95.1 % from the embedded images, 94.9 to 95.4 % from all of them; the last iteration's weights 91.9 to 94.7 %.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from xpcnn import viz
from xpcnn.backend import Array, chain
from xpcnn.data import Dataset, Loader, load_dataset
from xpcnn.models import numpy_cnn
from xpcnn.nn import Sequential
from xpcnn.optim import Optimizer
from xpcnn.optim.optimizer import Parameters
from xpcnn.training import Trainer, evaluate, predict

BATCH_SIZE, ITERATIONS, LR = 4, 2000, 0.002


class KerasSGD(Optimizer):
    """SGD as Keras defines it: `v = momentum·v + lr·g`, `w -= v`, so that a new rate holds for new gradients only."""

    def __init__(self, parameters: Parameters, lr: float, momentum: float, decay: float) -> None:
        """The learning rate of step t is `lr / (1 + decay·t)`, with t from 0."""
        super().__init__(parameters, lr=lambda t: lr / (1 + decay * t), momentum=momentum, weight_decay=0.0)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum",)

    def numbers(self, group: dict[str, Any], lr: float, steps: int) -> tuple[float, ...]:
        return group["momentum"], lr

    @staticmethod
    @chain
    def update(data: Array, grad: Array, *operands: Any) -> None:
        velocity, momentum, lr = operands
        velocity *= momentum
        velocity += grad * lr
        data -= velocity


def train(dataset: Dataset, device: str = "auto", seed: int = 0) -> tuple[Sequential, dict[str, Array], list[float]]:
    """Return the network as the last iteration left it, its mean weights, and the loss of each iteration."""
    model = numpy_cnn(seed=seed).to(device)
    trainer = Trainer(model, KerasSGD(model.parameters(), LR, momentum=0.9, decay=1e-5))
    loader = Loader(dataset, BATCH_SIZE, shuffle=True, seed=seed)
    mean = {name: 0 * parameter.data for name, parameter in model.named_parameters()}
    for i, (images, labels) in zip(range(ITERATIONS), loader.epoch(0), strict=False):
        trainer.train_step(images, labels)
        if i >= ITERATIONS // 2:
            for name, parameter in model.named_parameters():
                mean[name] += parameter.data / (ITERATIONS - ITERATIONS // 2)
    trainer.metrics.read()
    return model, mean, trainer.metrics.losses


def prediction_picture(model: Sequential, sample: Dataset) -> viz.Figure:
    probabilities = predict(model, sample.images, mean=sample.mean, std=sample.std)
    return viz.predictions(sample.images, sample.labels, probabilities, sample.classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("mnist-mini", "mnist"), default="mnist-mini")
    parser.add_argument("--data-dir", help="folder of the data sets ($XPCNN_DATA, else the user's cache)")
    parser.add_argument("--device", default="auto", help='"auto" (default), "cpu" or "cuda"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/numpy-cnn"), help="folder for the pictures")
    args = parser.parse_args()
    training, test = (load_dataset(args.data, split, args.data_dir) for split in ("train", "test"))
    started = time.perf_counter()
    model, mean, losses = train(training, args.device, args.seed)
    seconds = time.perf_counter() - started
    last = evaluate(model, Loader(test, 500)).accuracy
    model.load_state_dict(mean)
    accuracy = evaluate(model, Loader(test, 500)).accuracy
    print(f"{args.data}: {seconds:.1f} s of training on {model.device.name}")
    print(f"test accuracy {accuracy:.2%} with mean weights, {last:.2%} with those of the last iteration")
    print(f"mean loss of 100 iterations: {np.mean(losses[:100]):.3f} at first, {np.mean(losses[-100:]):.3f} at last")
    args.output.mkdir(parents=True, exist_ok=True)
    viz.loss_curve(losses).savefig(args.output / "loss.png")
    prediction_picture(model, test.subset(slice(32))).savefig(args.output / "predictions.png")
    print(f"pictures in {args.output}")


if __name__ == "__main__":
    main()
