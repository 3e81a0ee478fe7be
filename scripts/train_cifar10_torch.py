"""The recipe of `train_cifar10.py` in PyTorch, on the same CPU, to compare times: images are read and varied by xpcnn.

    python scripts/train_cifar10_torch.py --threads 2 [--epochs N] [--seed N] [--steps N]

The network pads all sides, as pooling ignores what that adds, and lies in channels-last memory, which is faster here.
`--steps N` measures N steps only and trains nothing. It prints the seconds of each epoch and the test accuracy.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F
from train_cifar10 import BATCH

from xpcnn import Loader, models
from xpcnn.data import AlternatingFlip, Compose, RandomShift, load_dataset
from xpcnn.training.whitened import BIAS_EPOCHS, WHITENING_IMAGES


def make_network(sample: torch.Tensor, seed: int) -> nn.Sequential:
    """Return the network, with the initial weights of this package's; some normalised images give its first layer."""
    layers: dict[str, nn.Module] = {"whiten": nn.Conv2d(3, 24, 2), "gelu": nn.GELU("tanh")}
    channels = 24
    for block, width in enumerate((64, 256, 256), 1):
        for i in (1, 2):
            layers[f"conv{block}_{i}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            if i == 1:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
            layers[f"bn{block}_{i}"] = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
            layers[f"bn{block}_{i}"].weight.requires_grad = False
            layers[f"gelu{block}_{i}"] = nn.GELU("tanh")
            channels = width
    layers |= {"pool": nn.MaxPool2d(3), "flatten": nn.Flatten(), "fc": nn.Linear(channels, 10, bias=False)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    ours = models.whitened_cnn(seed=seed)
    models.whiten(ours, sample.numpy())
    model.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    model.whiten.weight.requires_grad = False
    return model.to(memory_format=torch.channels_last)


class Muon(torch.optim.Optimizer):
    """Muon as the recipe has it; that of PyTorch takes matrices only and iterates in bfloat16."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(0.6).add_(p.grad)
                x = (p.grad + 0.6 * velocity).reshape(len(p), -1)
                x = x / (x.norm() + 1e-7)
                wide = len(x) <= x.shape[1]
                x = x if wide else x.T
                for _ in range(3):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                p.mul_(len(p) ** 0.5 / p.norm())
                p.sub_((x if wide else x.T).reshape(p.shape), alpha=group["lr"])


def make_optimizers(model: nn.Sequential) -> list[torch.optim.Optimizer]:
    """Return SGD for biases and the last layer, the first layer's bias first, and Muon for the filters."""
    bias_lr, last_lr, decay = 0.053 * BATCH, 0.67 * BATCH / 256**2, 0.004
    named = dict(model.named_parameters())
    biases = [p for name, p in named.items() if name.startswith("bn") and name.endswith("bias")]
    groups = [
        {"params": [model.whiten.bias], "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": biases, "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": [model.fc.weight], "lr": last_lr, "weight_decay": decay / last_lr},
    ]
    filters = [p for name, p in named.items() if name.startswith("conv")]
    return [torch.optim.SGD(groups, momentum=0.85, nesterov=True), Muon(filters, 0.24)]


def logits_of_views(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Return the mean of the logits of six views, as `nn.AverageViews`."""
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    views = {x: 1 / 4, padded[..., :32, :32]: 1 / 8, padded[..., 2:, 2:]: 1 / 8}
    return sum(weight * (model(view) + model(view.flip(3))) for view, weight in views.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder of the data sets ($XPCNN_DATA, else the user's cache)")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="measure so many steps only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    training, test = (load_dataset("cifar10", split, args.data_dir) for split in ("train", "test"))
    vary = Compose([AlternatingFlip(), RandomShift(2, "reflect")])
    loader = Loader(training, BATCH, shuffle=True, drop_last=True, seed=args.seed, transform=vary)
    sample, _ = next(iter(Loader(training, WHITENING_IMAGES, shuffle=True, seed=args.seed)))
    model = make_network(torch.tensor(sample), args.seed)
    optimizers = make_optimizers(model)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    ends = [min(BIAS_EPOCHS, args.epochs) * len(loader)] + [args.epochs * len(loader)] * (len(groups) - 1)
    step, total = 0, 0.0
    for epoch in range(args.epochs):
        model.train()
        model.whiten.bias.requires_grad = epoch < BIAS_EPOCHS
        seconds, losses = [], []
        started = time.perf_counter()
        for images, labels in loader.epoch(epoch):
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            for group, rate, end in zip(groups, rates, ends, strict=True):
                group["lr"] = rate * max(0.0, 1 - step / end)
            loss = F.cross_entropy(model(x), torch.from_numpy(labels), label_smoothing=0.2)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
            now = time.perf_counter()
            seconds.append(now - started - sum(seconds))
            step += 1
            if step == args.steps:
                print(f"median of {step} steps, bias of the first layer included: {median(seconds):.3f} s")
                return
        total += sum(seconds)
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}, {sum(seconds):.1f} s", flush=True)
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in Loader(test, 250):
            logits = logits_of_views(model, torch.from_numpy(images).contiguous(memory_format=torch.channels_last))
            correct += int((logits.argmax(1) == torch.from_numpy(labels)).sum())
    print(f"seed {args.seed}, {args.epochs} epochs: six views {correct / len(test):.2%}, {total:.0f} s of training")


if __name__ == "__main__":
    main()
