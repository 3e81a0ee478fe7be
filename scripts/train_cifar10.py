"""A network of 0.8 million parameters on CIFAR-10: 91.2 % of the test images after 16 epochs.

    python scripts/train_cifar10.py --output runs/cifar10        # again with the same line: goes on where it stopped

The first layer whitens 2×2 patches: its weights follow from the training images and stay fixed (Jordan 2024). Three
blocks of two convolutions follow, normalised after pooling, where a quarter of the values is left. SGD with Nesterov
momentum, its learning rate rising for a fifth of the run and falling along a cosine; label smoothing; images mirrored
and shifted at random. At the end the logits of each test image and of its mirror image are averaged. Measured: 91.24 %
and 92.08 % (before the convolutions were made faster), at now about 1.7 minutes an epoch on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from xpcnn.backend import Array, to_host
from xpcnn.data import Compose, Dataset, Loader, RandomHorizontalFlip, RandomShift, load_dataset
from xpcnn.nn import BatchNorm2d, Conv2d, CrossEntropyLoss, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential, init
from xpcnn.optim import SGD, CosineSchedule
from xpcnn.random import stream
from xpcnn.training import Checkpoint, Checkpointer, ProgressBar, Table, Trainer, evaluate

Widths = tuple[int, int, int]


def network(images: Array, widths: Widths, seed: int = 0) -> Sequential:
    """Return the untrained network; a few thousand training images `(N, 3, 32, 32)`, scaled, give its first layer."""
    rng = stream(seed, "init")
    layers: dict[str, Module] = {"whiten": Conv2d(3, 24, 2), "relu": ReLU()}
    layers["whiten"].weight.data[...] = whitening(to_host(images))
    channels = 24
    for block, width in enumerate(widths, 1):
        layers[f"conv{block}_1"] = Conv2d(channels, width, 3, padding=1, bias=False, rng=rng)
        layers |= {f"pool{block}": MaxPool2d(2), f"bn{block}_1": BatchNorm2d(width), f"relu{block}_1": ReLU()}
        layers[f"conv{block}_2"] = Conv2d(width, width, 3, padding=1, bias=False, rng=rng)
        layers |= {f"bn{block}_2": BatchNorm2d(width), f"relu{block}_2": ReLU()}
        channels = width
    last = Linear(channels, 10, weight_init=init.normal(0.01), rng=rng)
    return Sequential(**layers, pool=MaxPool2d(3), flatten=Flatten(), fc=last)


def whitening(images: np.ndarray) -> np.ndarray:
    """Return 24 filters of 2×2: the principal components of patches, scaled to variance 1, and their negatives."""
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3))  # (N, 3, 31, 31, 2, 2)
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    variances, components = np.linalg.eigh(np.cov(patches, rowvar=False))
    filters = (components / np.sqrt(variances + 5e-4)).T.reshape(12, 3, 2, 2)
    return np.concatenate([filters, -filters])


class BothSides(Module):
    """The mean of a network's outputs for images and for their mirror images."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Array) -> Array:
        return (self.model(x) + self.model(x[..., ::-1])) / 2


def make_trainer(
    training: Dataset,
    epochs: int,
    batch_size: int = 128,
    lr: float = 0.1,
    widths: Widths = (48, 128, 192),
    seed: int = 0,
) -> tuple[Trainer, Loader]:
    """Return the trainer, with its network on the CPU, and the loader of the training images."""
    vary = Compose([RandomHorizontalFlip(), RandomShift(2)])
    loader = Loader(training, batch_size, shuffle=True, drop_last=True, seed=seed, transform=vary)
    sample, _ = next(iter(Loader(training, 5000)))
    model = network(sample, widths, seed)
    learning = [(name, parameter) for name, parameter in model.named_parameters() if name != "whiten.weight"]
    steps = epochs * len(loader)
    schedule = CosineSchedule(lr, steps, warmup_steps=steps // 5)
    optimizer = SGD(learning, schedule, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return Trainer(model, optimizer, CrossEntropyLoss(label_smoothing=0.1), [Table(), ProgressBar()]), loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder of the data sets ($XPCNN_DATA, else the user's cache)")
    parser.add_argument("--device", default="auto", help='"auto" (default), "cpu" or "cuda"')
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("runs/cifar10"), help="folder of the checkpoint")
    args = parser.parse_args()
    file, config = args.output / "checkpoint.safetensors", {"epochs": args.epochs}
    training, test = (load_dataset("cifar10", split, args.data_dir) for split in ("train", "test"))
    trainer, loader = make_trainer(training, args.epochs)
    if file.exists():
        checkpoint = Checkpoint.load(file)
        if checkpoint.info["config"] != config:
            parser.error(f"{file} is of a run with {checkpoint.info['config']}; choose another --output")
        trainer.resume(checkpoint)
    trainer.model.to(args.device)
    args.output.mkdir(parents=True, exist_ok=True)
    trainer.callbacks.append(Checkpointer(lambda: trainer.checkpoint({"config": config}).save(file)))
    unseen = Loader(test, 250)
    trainer.fit(loader, args.epochs, unseen)
    plain, mirrored = (evaluate(model, unseen).accuracy for model in (trainer.model, BothSides(trainer.model)))
    print(f"test accuracy {plain:.2%}, with mirror images {mirrored:.2%}; checkpoint in {args.output}")


if __name__ == "__main__":
    main()
