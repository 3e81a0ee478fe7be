"""Repeating a recorded run on another device and comparing it with the recording.

This is done twice. First layer by layer: each layer is given exactly its recorded input, under tolerances derived from
its arithmetic. This names the layer at fault. Then as a training run from the recorded weights, under the drift that
the recorder measured. This shows what lies between the layers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..backend import CPU, Device, HostArray
from ..data import Dataset, DataSpec
from ..data.sources import resolve_data
from ..distributed import ALONE, Group
from ..models import OwnNetwork
from ..nn import Module, autocast
from ..nn.autocast import is_mixed
from .bounds import Bound, largest, rms
from .comparison import Comparison, compare
from .config import TraceConfig
from .drift import direction, perturbation
from .files import Folder, TraceError, load_step
from .inference import NETWORK, REWRITTEN, compare_inference
from .layers import replay, replay_loss
from .record import MEGABYTE, Trace, record, versions
from .report import LossStep, Report
from .steps import StepResult, batch_digest, host_state, train_steps
from .tolerances import Precision, precision_of, tolerance

# Later, rounding has pushed values near 0 across a ReLU's kink: only the loss and the accuracy are still comparable.
STEPS_WITH_SIZES = 10
_MARGIN = 4  # the twin's drift is a single sample of what rounding may cause


def check(
    path: str | Path,
    device: Device | str = "auto",
    *,
    data: str | None = None,
    data_dir: str | None = None,
    precision: str | None = None,
    network: OwnNetwork | None = None,
    group: Group = ALONE,
) -> Report:
    """Repeat a recorded run on a device and compare it with the recording.

    Args:
        path: the trace's folder.
        device: where to repeat the run.
        data: where the folder or file of the images is on this machine; None for where it was when recorded.
        data_dir: the folder of the data sets; see `xpcnn.data.load_parts`.
        network: the own network that was recorded; None for one of the package.
        precision: of products and convolutions, by whose tolerances the devices are compared: None for that of the
            trace. One of float32 may be checked in `"tf32"`, too.
        group: the processes that repeat the run together, each on its part of every batch. All of them call this.

    Returns:
        the report, on each process; its `agrees` is the verdict.

    Raises:
        TraceError: if the trace is damaged, of another version or model, or nothing could be compared.
        DeviceUnavailableError: if the device does not answer.
        ValueError: if the trace cannot be checked in this precision, the device does not have it, a batch is too small
            for the processes, or several are to compare inference.
    """
    trace, device = Trace.load(path), group.device(device)
    if (smallest := min(map(len, trace.batches))) < group.size:
        raise ValueError(f"{group.size} processes cannot share a batch of {smallest}: choose a larger --batch-size")
    if group.size > 1 and trace.config.mode == "eval":
        raise ValueError("--mode eval compares one process: in evaluation each image is computed by itself")
    try:
        trace.config = trace.config.using(network)
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from error
    recorded = trace.config.precision
    if precision not in (None, recorded) and (recorded, precision) != ("float32", "tf32"):
        raise ValueError(f"{path} was recorded in the precision {recorded}, it cannot be checked in {precision}")
    # NaN and values beyond the range are reported as differences.
    with autocast(precision or recorded, device), np.errstate(over="ignore", invalid="ignore"):
        return _report(trace, device, resolve_data(data or trace.config.data), data_dir, group)


def _report(trace: Trace, device: Device, data: str, data_dir: str | None, group: Group) -> Report:
    config = trace.config
    training, _ = replace(config, data=data).load_data(data_dir)
    dataset = _as_recorded(training, trace)
    _verify_data(trace, dataset)
    layers = list(_check_layers(trace, _model(trace, dataset, device), device, dataset, group))
    sizes, losses = _check_training(trace, _model(trace, dataset, device), dataset, device, group)
    if not sizes or not losses:
        raise TraceError(f"{trace.path}: nothing was compared")
    recorded = trace.info["recorded"]
    name = device.name if group.size == 1 else f"{device.name} in {group.size} processes"
    here = {"device": name, "description": device.description, "versions": versions()}
    return Report(config, _precision(trace, device), recorded, here, [*layers, *sizes], losses)


def run(
    config: TraceConfig,
    devices: Sequence[Device | str],
    *,
    data_dir: str | None = None,
    limit: int = 256 * MEGABYTE,
    precision: str | None = None,
    processes: Sequence[int] = (1,),
    group: Group = ALONE,
) -> list[Report]:
    """Record a run on the first device and check it on all others, by way of a temporary folder.

    Args:
        config: what to train.
        devices: at least two, or one with several numbers of processes.
        data_dir, limit, precision: as in `record` and `check`.
        processes: by how many processes to train on each device; the first is 1, which records.
        group: at least so many, on one machine; all of them call this.

    Returns:
        a report for each device and number of processes after the first; on process 0 all of them.

    Raises:
        ValueError: if there is only one device and number of processes, or the numbers do not begin with 1.
        TraceError, DeviceUnavailableError: as `record` and `check` do.
    """
    if len(devices) * len(processes) < 2:
        raise ValueError(f"comparing takes at least two devices, got {', '.join(map(str, devices)) or 'none'}")
    if processes[0] != 1 or not all(1 <= count <= group.size for count in processes):
        numbers = ", ".join(map(str, processes))
        raise ValueError(f"expected numbers of processes from 1 to {group.size}, the first of them 1, got {numbers}")
    if group.size == 1:
        devices = [backend.device(device) for device in devices]  # before any work
    first, *others = ((device, count) for count in processes for device in devices)
    options: dict[str, Any] = {"data_dir": data_dir, "precision": precision, "network": config.network}
    reports = []
    with tempfile.TemporaryDirectory(prefix="xpcnn-parity-") as folder:
        path = Path(os.fsdecode(group.share(os.fsencode(folder)))) / "trace"
        if not group.rank:
            record(path, config, first[0], data_dir=data_dir, limit=limit)
        for device, count in others:
            group.any(False)  # all wait here for those that are busy
            if (part := group.subgroup(count)) is not None:
                reports.append(check(path, device, **options, group=part))
        group.any(False)
    return reports


def _precision(trace: Trace, device: Device) -> Precision:
    return precision_of(trace.config.dtype, device.tf32, is_mixed())


def _as_recorded(dataset: Dataset, trace: Trace) -> Dataset:
    """Return the images here, with the mean and std that were recorded."""
    if (recorded := trace.info.get("data")) is None:  # they were those of the catalogue
        return dataset
    try:
        spec = DataSpec.from_dict(recorded)
    except ValueError as error:
        raise TraceError(f"{trace.path} is damaged: trace.json: {error}") from error
    # Sums over all images may be rounded differently here.
    known: dict[str, Any] = {"mean": spec.mean, "std": spec.std, "name": dataset.name, "part": dataset.part}
    if dataset.shape == spec.shape:
        dataset = Dataset(dataset.images, dataset.labels, classes=dataset.classes, drawing=dataset.drawing, **known)
    if differences := spec.differences(dataset.spec):
        raise TraceError(f"{trace.path}: the images of {dataset} are not those that were recorded: {differences}")
    return dataset


def _verify_data(trace: Trace, dataset: Dataset) -> None:
    for step, (indices, entry) in enumerate(zip(trace.batches, trace.steps(), strict=True), 1):
        if not 0 <= indices.min() <= indices.max() < len(dataset) or batch_digest(dataset, indices) != entry["data"]:
            raise TraceError(f"{trace.path}: the images of step {step} are not those of {dataset} here")


def _model(trace: Trace, dataset: Dataset, device: Device) -> Module:
    """Return the model with the recorded initial weights, on a device."""
    try:
        model = trace.config.make_model(dataset)
        own = host_state(model)
        model.load_state_dict(trace.initial)
        if any(trace.initial[name].dtype != array.dtype for name, array in own.items()):
            raise ValueError("its weights are of another data type")
    except ValueError as error:
        raise TraceError(f"{trace.path} was recorded from another model: {error}") from error
    found = [[name, type(module).__name__] for name, module in model.named_leaves()]
    if found != trace.info["layers"]:
        raise TraceError(
            f"{trace.path} was recorded from another {trace.config.model}: its layers differ from those here"
        )
    return model.to(device).train()


def _check_layers(trace: Trace, model: Module, device: Device, dataset: Dataset, group: Group) -> Iterator[Comparison]:
    """Compare all recorded arrays: each layer on its recorded input; each update, or the network in evaluation mode."""
    folder = Folder(trace.path)
    expected: dict[int, Any] = {}  # by the size of the batch
    trainer = trace.config.make_trainer(model, trace.config.steps, group=group)
    modules, before = dict(model.named_modules()), trace.initial
    for step, entry in enumerate(trace.steps(), 1):
        if entry["file"] is None:
            return
        recorded, indices = load_step(folder, step, entry), trace.batches[step - 1]
        if len(indices) not in expected:
            model_here = _model(trace, dataset, CPU)
            expected[len(indices)] = next(train_steps(trace.config, model_here, dataset, [indices])).layout()
        # What fits is safe to compute with.
        if recorded.layout() != expected[len(indices)]:
            raise TraceError(
                f"{trace.path} is damaged: the arrays of step {step} are not those of {trace.config.model}"
            )
        if not np.array_equal(recorded.loss.target, dataset.labels[indices]):
            raise TraceError(f"{trace.path} is damaged: the labels of step {step} are not those of {dataset}")
        if recorded.rewritten is not None:
            # The model stays in evaluation mode, so this also checks that the rewriting notices new weights.
            model.eval().load_state_dict(recorded.after)
            images, _ = trace.config.batch(dataset, indices)
            outputs = recorded.loss.output, recorded.rewritten
            yield from compare_inference(model, images, recorded.calls, *outputs, step, device)
            yield from replay_loss(recorded.loss, trainer.loss, device, step)
            continue
        model.load_state_dict(before)
        yield from replay(model, recorded.calls, step, device, group)
        yield from replay_loss(recorded.loss, trainer.loss, device, step, group)
        for call in recorded.calls:
            parameters = modules[call.name].own_parameters()
            for name, gradient in call.gradients.items():
                parameters[name].grad = device.asarray(gradient)
        trainer.update()
        yield from _updates(recorded, host_state(model))
        before = recorded.after


def _updates(recorded: StepResult, state: dict[str, HostArray]) -> Iterator[Comparison]:
    """Compare the weights and buffers after a step with those recorded."""
    for call in recorded.calls:
        prefix = f"{call.name}." if call.name else ""
        names = [name for name in recorded.after if name.startswith(prefix)]
        expected = {name[len(prefix) :]: recorded.after[name] for name in names}
        bounds = {}
        for name, array in expected.items():
            if array.dtype.kind != "f":
                bounds[name] = Bound(0.0, 1.0)
            elif name in call.gradients:
                bounds[name] = Bound(tolerance("elementwise", 1, precision_of(array.dtype)), largest(array))
            else:  # a running mean or variance, from sums over the batch and all positions
                length, size = call.x.size // call.x.shape[1], rms(call.x)
                allowed = tolerance("normalization", length, precision_of(array.dtype))
                bounds[name] = Bound(allowed, max(largest(array), size, size * size))
        if expected:
            found = {name[len(prefix) :]: state[name] for name in names}
            yield compare(call.name, call.kind, "update", recorded.step, found, expected, bounds)


def _check_training(
    trace: Trace, model: Module, dataset: Dataset, device: Device, group: Group
) -> tuple[list[Comparison], list[LossStep]]:
    """Train from the recorded weights. Compare array sizes up to `STEPS_WITH_SIZES`, loss and accuracy in all steps."""
    comparisons: list[Comparison] = []
    losses: list[LossStep] = []
    precision = _precision(trace, device)
    results = train_steps(trace.config, model, dataset, trace.batches, group)
    for entry, result in zip(trace.steps(), results, strict=True):
        drift = entry["drift"][precision]
        allowed = {name: perturbation(precision) + _MARGIN * drift[name] for name in ("forward", "backward")}
        here = float(result.loss.value), result.correct
        correct_allowed = 2 + _MARGIN * drift["correct"]
        losses.append(
            LossStep(
                result.step, entry["loss"], here[0], allowed["forward"], entry["correct"], here[1], correct_allowed
            )
        )
        if result.step <= STEPS_WITH_SIZES:
            kinds = {REWRITTEN: NETWORK, **dict(trace.info["layers"])}
            comparisons += _compare_sizes(result, entry["sizes"], kinds, allowed)
    return comparisons, losses


def _compare_sizes(
    result: StepResult, recorded: dict[str, float], kinds: dict[str, str], allowed: dict[str, float]
) -> Iterator[Comparison]:
    for name, size in result.sizes().items():
        layer, _, array = name.rpartition(":")
        absolute = abs(size - recorded.get(name, float("nan")))
        relative = absolute / recorded[name] if recorded.get(name) else (float("inf") if absolute else 0.0)
        where = layer, kinds.get(layer, "loss"), direction(name), array, result.step
        yield Comparison(*where, absolute, relative, allowed[direction(name)], source="sizes")
