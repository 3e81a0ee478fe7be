"""Trains random networks for a few steps beside PyTorch, from the same weights, and compares every array.

    python scripts/crosscheck.py                     # 1,000 networks, two minutes on two cores
    python scripts/crosscheck.py --count 50 --seed 7

Each network, its options, the batch, the loss and the optimizer are drawn from a seed. After each step the loss, the
gradient w.r.t. the input, the gradient and value of every parameter, and every running average are compared, in
float64. The tolerance is derived, not tuned. Rounding may change a layer's output, and the gradient w.r.t. it, by `tau`
of the largest element: the largest of `xpcnn.parity`'s tolerances, for sums as long as any in the network. What such
changes make of every array is measured: PyTorch trains four times more with random changes of this size. The
difference allowed is the largest that they made, and tau of the array's size. PyTorch's batch norm does not keep to
such a tolerance (in the network of seed 951 its error is 1.2e-12 in float64, this package's 3.5e-14): there each
channel's output is also scaled by 1 ± K·u and shifted by ± K·u, the worst case for K values per channel.

Result, PyTorch 2.13.0 and NumPy 2.4.6, 2026-11-21, seeds 0 to 999, 3 steps each: no array differs beyond its tolerance,
and the largest difference is 0.68 of it. A weight that is off by 10⁻⁹ is found (`tests/test_scripts.py`).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from xpcnn import nn, optim
from xpcnn.backend import CPU
from xpcnn.parity.tolerances import UNIT, tolerance

Arrays = dict[str, np.ndarray[Any, Any]]


class Case(NamedTuple):
    """A drawn network with its peer in PyTorch, and what it is trained on.

    Attributes:
        model, peer: the network here and in PyTorch, layer by layer.
        inputs, targets: the batch of each step.
        loss, peer_loss: the two losses.
        optimizer, peer_optimizer: called with the parameters.
        longest: the number of terms in the longest sum.
    """

    model: nn.Sequential
    peer: torch.nn.Sequential
    inputs: list[np.ndarray[Any, Any]]
    targets: list[np.ndarray[Any, Any]]
    loss: nn.Loss
    peer_loss: torch.nn.Module
    optimizer: Any
    peer_optimizer: Any
    longest: int


def choose(rng: np.random.Generator, *options: Any) -> Any:
    return options[rng.integers(len(options))]


def draw_convolution(rng: np.random.Generator, C: int) -> tuple[nn.Module, torch.nn.Module]:
    groups = choose(rng, 1, 1, 1, C, 2 if C % 2 == 0 else 1)
    O = groups * int(rng.integers(1, 5)) if groups > 1 else choose(rng, 1, 3, 8, 32, 64)
    kernel = choose(rng, 1, 2, 3, 3, (2, 3), 5)
    options: dict[str, Any] = {"padding": choose(rng, 0, 1, 2), "bias": choose(rng, True, False), "groups": groups}
    transposed = rng.random() < 0.15
    if rng.random() < 0.6:
        options |= {"stride": choose(rng, 1, 2, (1, 2)), "dilation": choose(rng, 1, 2)}
        if transposed and options["stride"] == 2:
            options["output_padding"] = choose(rng, 0, 1)
    ours, theirs = (nn.ConvTranspose2d, torch.nn.ConvTranspose2d) if transposed else (nn.Conv2d, torch.nn.Conv2d)
    return ours(C, O, kernel, **options, rng=rng, dtype=np.float64), theirs(C, O, kernel, **options).double()


def draw_pooling(rng: np.random.Generator) -> tuple[nn.Module, torch.nn.Module]:
    kernel = choose(rng, 2, 3, (2, 3))
    options: dict[str, Any] = {"stride": choose(rng, None, 1, 2), "padding": choose(rng, 0, 1)}
    options["ceil_mode"] = choose(rng, True, False)
    if rng.random() < 0.6:
        return nn.MaxPool2d(kernel, **options), torch.nn.MaxPool2d(kernel, **options)
    options["count_include_pad"] = choose(rng, True, False)
    return nn.AvgPool2d(kernel, **options), torch.nn.AvgPool2d(kernel, **options)


class LayerNorm2d(torch.nn.LayerNorm):
    """As torchvision's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def draw_norm(rng: np.random.Generator, shape: tuple[int, ...], N: int) -> tuple[nn.Module, torch.nn.Module]:
    """Return a layer that normalises at least 4 values at a time: of fewer, little but rounding errors is left."""
    C, pixels = shape[0], prod(shape[1:])
    kinds = [("batch", N * pixels), ("group", pixels), ("layer", C * pixels)]
    if len(shape) == 3:
        kinds.append(("pixels", C))
    fitting = [kind for kind, values in kinds if values >= 4]
    if not fitting:
        return nn.Identity(), torch.nn.Identity()
    kind = choose(rng, *fitting)
    if kind == "batch":
        options: dict[str, Any] = {"momentum": choose(rng, 0.1, None), "affine": choose(rng, True, False)}
        name = "BatchNorm2d" if len(shape) == 3 else "BatchNorm1d"
        return getattr(nn, name)(C, **options, dtype=np.float64), getattr(torch.nn, name)(C, **options).double()
    if kind == "pixels":
        return nn.LayerNorm2d(C, dtype=np.float64), LayerNorm2d(C, 1e-6).double()
    if kind == "group":
        groups = choose(rng, *(g for g in (1, 2, C) if C % g == 0))
        return nn.GroupNorm(groups, C, dtype=np.float64), torch.nn.GroupNorm(groups, C).double()
    bias = choose(rng, True, False)
    return nn.LayerNorm(shape, bias=bias, dtype=np.float64), torch.nn.LayerNorm(shape, bias=bias).double()


def draw_activation(rng: np.random.Generator) -> tuple[nn.Module, torch.nn.Module]:
    name = choose(
        rng, "ReLU", "ReLU", "ReLU", "ReLU6", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Identity"
    )
    return getattr(nn, name)(), getattr(torch.nn, name)()


def draw_network(rng: np.random.Generator, shape: tuple[int, ...], N: int) -> tuple[list[Any], tuple[int, ...], int]:
    """Return pairs of layers, the shape of their output without the batch, and the longest sum."""
    pairs: list[Any] = []
    longest = N

    def add(pair: tuple[nn.Module, torch.nn.Module]) -> None:
        nonlocal shape, longest
        # A layer that does not fit is not added, or PyTorch's limits would have to be known here.
        try:
            y = pair[1](torch.zeros((N, *shape), dtype=torch.float64))
        except (RuntimeError, ValueError):
            return
        if y.numel() > max(60_000, N * prod(shape)) or 0 in y.shape:
            return
        longest = max(longest, y.numel() // y.shape[1], *(p.numel() for p in pair[1].parameters()), y[0].numel())
        pairs.append(pair)
        shape = tuple(y.shape[1:])

    for _ in range(rng.integers(1, 5)):
        add(draw_convolution(rng, shape[0]))
        if rng.random() < 0.5:
            add(draw_norm(rng, shape, N))
        add(draw_activation(rng))
        if rng.random() < 0.5:
            add(draw_pooling(rng))
    ending = choose(rng, "flatten", "global", "adaptive")
    if ending == "adaptive":
        size = choose(rng, 1, 2, (3, 2))
        add((nn.AdaptiveAvgPool2d(size), torch.nn.AdaptiveAvgPool2d(size)))
    if ending == "global":
        add((nn.GlobalAvgPool2d(), torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())))
    else:
        add((nn.Flatten(), torch.nn.Flatten()))
    for _ in range(rng.integers(0, 2)):
        features, bias = choose(rng, 3, 16), choose(rng, True, False)
        add((nn.Linear(shape[0], features, bias, rng=rng, dtype=np.float64), _linear(shape[0], features, bias)))
        if rng.random() < 0.3:
            add(draw_norm(rng, shape, N))
        add(draw_activation(rng))
    classes = choose(rng, 2, 5, 10)
    add((nn.Linear(shape[0], classes, rng=rng, dtype=np.float64), _linear(shape[0], classes, True)))
    return pairs, shape, longest


def _linear(inputs: int, outputs: int, bias: bool) -> torch.nn.Module:
    return torch.nn.Linear(inputs, outputs, bias).double()


def draw_loss(rng: np.random.Generator, classes: int) -> tuple[nn.Loss, torch.nn.Module, str]:
    kind = choose(rng, "labels", "labels", "labels", "values", "probabilities")
    if kind == "values":
        return nn.MSELoss(), torch.nn.MSELoss(), kind
    if kind == "probabilities":
        return nn.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss(), kind
    weight = rng.uniform(0.2, 2, classes) if rng.random() < 0.3 else None
    options: dict[str, Any] = {
        "label_smoothing": choose(rng, 0.0, 0.1),
        "ignore_index": choose(rng, -100, 0) if classes > 2 else -100,
    }
    theirs = torch.nn.CrossEntropyLoss(None if weight is None else torch.tensor(weight), **options)
    return nn.CrossEntropyLoss(weight, **options), theirs, kind


def draw_optimizer(rng: np.random.Generator) -> tuple[Any, Any]:
    name = choose(rng, "SGD", "SGD", "Adam", "AdamW", "RMSprop")
    lr = float(10 ** rng.uniform(-4, -2))
    options: dict[str, Any] = {"weight_decay": choose(rng, 0.0, 0.01)}
    if name == "SGD":
        options["momentum"] = choose(rng, 0.0, 0.9)
        options["nesterov"] = choose(rng, True, False) if options["momentum"] else False
    ours, theirs = getattr(optim, name), getattr(torch.optim, name)
    return (lambda parameters: ours(parameters, lr, **options)), (lambda parameters: theirs(parameters, lr, **options))


def draw_case(seed: int, steps: int) -> Case:
    rng = np.random.default_rng(seed)
    N = choose(rng, 2, 5, 16, 33)
    shape = (choose(rng, 1, 3, 4, 64), int(rng.integers(5, 13)), int(rng.integers(5, 13)))
    pairs, (classes,), longest = draw_network(rng, shape, N)
    loss, peer_loss, kind = draw_loss(rng, classes)
    optimizer, peer_optimizer = draw_optimizer(rng)
    model, peer = nn.Sequential(*(ours for ours, _ in pairs)), torch.nn.Sequential(*(theirs for _, theirs in pairs))
    for ours, theirs in pairs:
        state = ours.state_dict()
        if state:
            theirs.load_state_dict({name: torch.tensor(np.array(array)) for name, array in state.items()})
    inputs = [rng.normal(size=(N, *shape)) for _ in range(steps)]
    targets = []
    for _ in range(steps):
        if kind == "labels":
            labels = rng.integers(0, classes, N)
            labels[0] = classes - 1  # not all are ignored
            if loss.ignore_index < 0 and rng.random() < 0.3:
                labels[1:] = np.where(rng.random(N - 1) < 0.3, -100, labels[1:])
            targets.append(labels)
        else:
            targets.append(rng.random((N, classes)))
    return Case(model, peer, inputs, targets, loss, peer_loss, optimizer, peer_optimizer, longest)


def train(case: Case) -> list[Arrays]:
    """Return the arrays of each step of the network here."""
    found = []
    optimizer = case.optimizer(case.model.named_parameters())
    for x, target in zip(case.inputs, case.targets, strict=True):
        optimizer.zero_grad()
        loss = case.loss(case.model(x), target)
        arrays: Arrays = {"loss": np.array(loss), "input gradient": case.model.backward(case.loss.backward())}
        arrays |= {f"gradient of {name}": p.grad.copy() for name, p in case.model.named_parameters()}
        optimizer.step()
        found.append(arrays | {name: np.array(array) for name, array in case.model.state_dict().items()})
    return found


def train_peer(case: Case, rng: np.random.Generator | None = None, tau: float = 0.0) -> list[Arrays]:
    """Return the arrays of each step of PyTorch's network; with `rng`, with random changes of `tau` in each layer."""
    peer = copy.deepcopy(case.peer)
    if rng is not None:

        def changed(array: torch.Tensor, size: Any) -> torch.Tensor:
            return array + size * torch.tensor(rng.standard_normal(array.shape))

        def change(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            size = output.detach().abs().max()
            if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                channels = output.shape[1]
                signs = torch.tensor(rng.choice([-1, 1], (2, channels, *[1] * (output.ndim - 2))))
                scale, shift = output.numel() / channels * UNIT["float64"] * signs
                output = output * (1 + scale) + shift
            output = changed(output, tau * size)
            sizes = []  # of the changes of the gradient w.r.t. the output

            def change_gradient(dy: torch.Tensor) -> torch.Tensor:
                sizes.append(tau * dy.abs().max())
                return changed(dy, sizes[0])

            output.register_hook(change_gradient)
            factor = normalization_factor(layer, inputs[0])
            if factor and inputs[0].requires_grad:
                # The terms of this gradient may cancel, and their rounding errors do not.
                inputs[0].register_hook(lambda dx: changed(dx, factor * sizes[0]))
            return output

        for layer in peer:
            layer.register_forward_hook(change)
    optimizer = case.peer_optimizer(peer.parameters())
    found = []
    for x, target in zip(case.inputs, case.targets, strict=True):
        optimizer.zero_grad()
        inputs = torch.tensor(x, requires_grad=True)
        loss = case.peer_loss(peer(inputs), torch.tensor(target))
        loss.backward()
        arrays: Arrays = {"loss": loss.detach().numpy(), "input gradient": inputs.grad.numpy()}
        arrays |= {f"gradient of {name}": p.grad.numpy().copy() for name, p in peer.named_parameters()}
        optimizer.step()
        found.append(arrays | {name: array.numpy().copy() for name, array in peer.state_dict().items()})
    return found


def normalization_factor(layer: torch.nn.Module, x: torch.Tensor) -> float:
    """Return the largest `1 / √(variance + eps)` of a normalization layer, by which gradients grow; 0 for others."""
    if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
        values = x.detach().transpose(0, 1).flatten(1)
    elif isinstance(layer, torch.nn.GroupNorm):
        values = x.detach().reshape(len(x) * layer.num_groups, -1)
    elif isinstance(layer, LayerNorm2d):
        values = x.detach().permute(0, 2, 3, 1).flatten(0, 2)
    elif isinstance(layer, torch.nn.LayerNorm):
        values = x.detach().flatten(1)
    else:
        return 0.0
    return float((values.var(1, correction=0).min() + layer.eps) ** -0.5)


def differences(case: Case, seed: int) -> tuple[list[str], float]:
    """Return what differs beyond the tolerance, and the largest difference as a part of it."""
    tau = max(
        tolerance(kind, case.longest, "float64") for kind in ("product", "reduction", "normalization", "elementwise")
    )
    rng = np.random.default_rng(seed)
    ours, theirs = train(case), train_peer(case)
    changed = [train_peer(case, rng, tau) for _ in range(4)]
    problems: list[str] = []
    worst = 0.0
    for step, (found, expected) in enumerate(zip(ours, theirs, strict=True), 1):
        if found.keys() != expected.keys():
            problems.append(f"step {step}: {sorted(found.keys() ^ expected.keys())} on one side only")
            continue
        for name, want in expected.items():
            got = found[name]
            if got.shape != want.shape:
                problems.append(f"step {step}, {name}: shape {got.shape}, in PyTorch {want.shape}")
                continue
            size = float(abs(want).max(initial=0))
            made = max(float(abs(other[step - 1][name] - want).max(initial=0)) for other in changed)
            allowed = tau * size + made
            difference = float(abs(got - want).max(initial=0))
            if not difference <= allowed:
                problems.append(f"step {step}, {name}: {difference:.3g} apart, allowed {allowed:.3g}, size {size:.3g}")
            elif allowed:
                worst = max(worst, difference / allowed)
    return problems, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="how many networks (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first network (default: 0)")
    parser.add_argument("--steps", type=int, default=3, help="training steps of each (default: 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    usual = CPU.winograd_channels, CPU.part_work
    started, failed, worst = time.perf_counter(), 0, 0.0
    used: dict[str, int] = {}
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        case = draw_case(seed, arguments.steps)
        # Every second network meets Winograd's algorithm and several parts often, for which these are too small.
        CPU.winograd_channels, CPU.part_work = usual if seed % 2 else (3, 1 << 12)
        for layer in (*case.model, case.loss, case.optimizer(case.model.parameters())):
            used[type(layer).__name__] = used.get(type(layer).__name__, 0) + 1
        problems, part = differences(case, seed)
        worst = max(worst, part)
        if problems:
            failed += 1
            print(f"seed {seed}: {case.model!r}\n  " + "\n  ".join(problems[:5]))
    print(", ".join(f"{name} {count}" for name, count in sorted(used.items())))
    print(
        f"{arguments.count} networks, {arguments.steps} steps each: {failed} differ; otherwise at most "
        f"{worst:.2g} of the tolerance; {time.perf_counter() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
