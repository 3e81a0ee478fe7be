"""Traces: a recorded training run, with all that is needed to repeat it on another machine.

A trace is a folder. `trace.json` holds the configuration, versions, and for each step the loss, a digest of the batch,
and the size (root mean square) of what each layer computed; `initial.safetensors` the initial weights and the indices
of each batch; `step-0001.safetensors` and so on, while the size limit lasts, every array that every layer was given
and returned. JSON holds the SHA-256 of the other files.

How far a second run may drift from the first depends on the network, its data and the step. So the recorder measures it
(`xpcnn.parity.drift`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, backend
from ..backend import Device, HostArray
from ..data import load_dataset
from .config import TraceConfig
from .drift import drift_by_step, precisions, twin_of
from .files import Folder, TraceError, read_array, store_step
from .observe import leaves
from .steps import batch_digest, host_state, train_steps

FORMAT, VERSION = "xpcnn-trace", 3
MEGABYTE = 1 << 20


@dataclass
class Trace:
    """A trace that was read, and verified against its digests.

    Attributes:
        path: its folder.
        config: what the run follows from.
        info: `trace.json` as it is.
        initial: the initial weights and buffers.
        batches: the indices of the samples of each step.
    """

    path: Path
    config: TraceConfig
    info: dict[str, Any]
    initial: dict[str, HostArray]
    batches: list[HostArray] = field(repr=False)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace's folder.

        Raises:
            TraceError: if it is no trace, damaged, or of another version.
        """
        folder = Folder(Path(path))
        info = folder.read_info(FORMAT, VERSION)
        try:
            config = TraceConfig(**info["config"])
            names = [step["file"] for step in info["steps"] if step["file"]]
            layers, count = info["layers"], len(info["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{path} is damaged: trace.json does not describe a run ({error})") from error
        if count != config.steps or not layers:
            raise TraceError(f"{path} is damaged: trace.json has {count} of {config.steps} steps, {len(layers)} layers")
        folder.verify(["initial.safetensors", *names], info)
        arrays = folder.read_arrays("initial.safetensors")
        initial = {key[6:]: array for key, array in arrays.items() if key.startswith("state.")}
        batches = [read_array(folder.path, arrays, f"batch.{step}") for step in range(1, config.steps + 1)]
        return cls(folder.path, config, info, initial, batches)

    def steps(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of the steps in `trace.json`, in order."""
        yield from self.info["steps"]


def record(
    path: str | Path,
    config: TraceConfig,
    device: Device | str = "cpu",
    *,
    data_dir: str | None = None,
    limit: int = 256 * MEGABYTE,
) -> Trace:
    """Train for some steps, and keep in a new folder what is needed to repeat that elsewhere.

    Args:
        path: the folder, which must not exist yet.
        config: what to train.
        device: where.
        data_dir: see `xpcnn.data.load_dataset`.
        limit: how many bytes of activations and gradients to keep; of later steps only their sizes are.

    Raises:
        TraceError: if the loss is not finite, or the folder exists.
    """
    device = backend.device(device)
    dataset = load_dataset(config.data, "train", data_dir)
    batches = config.batches(dataset)
    model = config.make_model(dataset)
    initial = host_state(model)
    folder = Folder.create(Path(path))
    start = {f"state.{name}": array for name, array in initial.items()}
    start |= {f"batch.{step}": indices for step, indices in enumerate(batches, 1)}
    folder.write_arrays("initial.safetensors", start)
    steps: list[dict[str, Any]] = []
    own: list[tuple[dict[str, float], int]] = []
    for result in train_steps(config, model.to(device), dataset, batches):
        loss = float(result.loss.value)
        if not np.isfinite(loss):
            raise TraceError(f"the loss became {loss} at step {result.step}: nothing to compare; a lower lr may help")
        entry: dict[str, Any] = {"loss": loss, "correct": result.correct, "sizes": result.sizes(), "spread": {}}
        entry["data"] = batch_digest(dataset, batches[result.step - 1])
        stored = store_step(folder, f"step-{result.step:04}.safetensors", result, limit - folder.stored)
        limit = limit if stored else 0  # what is kept is the beginning, without gaps
        steps.append(entry | (stored or {"file": None}))
        own.append((result.quantities(), result.correct))
    for precision in precisions(config):
        twin = train_steps(config, twin_of(config, dataset, initial, precision).to(device), dataset, batches)
        for entry, drift in zip(steps, drift_by_step(own, twin), strict=True):
            entry["spread"][precision] = drift
    info = {
        "config": asdict(config),
        "recorded": {"device": device.name, "description": device.description, "versions": versions()},
        "layers": [[name, type(module).__name__] for name, module in leaves(model)],
        "steps": steps,
    }
    folder.write_info(FORMAT, VERSION, info)
    return Trace.load(path)


def versions() -> dict[str, str]:
    """Return the versions of what computes here."""
    return {"xpcnn": __version__, "numpy": np.__version__, "python": platform.python_version()}
