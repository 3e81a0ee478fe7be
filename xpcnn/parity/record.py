"""Recording a trace: a training run with all that is needed to repeat it on another machine.

A trace is a folder:

- `initial.safetensors`: the initial weights, and the indices of the samples of each batch.
- `step-0001.safetensors` and so on, up to a size limit: every array that each layer and the loss were given and
  computed, and the weights after the step.
- `trace.json`: the configuration, device and versions; for each step the loss, a digest of the batch, the size (root
  mean square) of every array, and the drift to be expected (`xpcnn.parity.drift`); the SHA-256 of all files.
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
from ..data import Dataset
from ..nn import Module
from ..training.folder import new_folder
from .config import TraceConfig
from .drift import drift_by_step, precisions, twin_of
from .files import Folder, TraceError, read_array, store_step
from .steps import batch_digest, host_state, train_steps

FORMAT, VERSION = "xpcnn-trace", 3
MEGABYTE = 1 << 20


@dataclass
class Trace:
    """A trace that was read, and verified against its SHA-256 digests.

    Attributes:
        path: its folder.
        config: what was trained.
        info: the contents of `trace.json`.
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
            config = TraceConfig.from_dict(info["config"])
        except (TypeError, ValueError) as error:
            raise TraceError(f"{path} is damaged: trace.json does not describe a run ({error})") from error
        steps = info["steps"]
        if len(steps) != config.steps:
            raise TraceError(f"{path} is damaged: trace.json has {len(steps)} of {config.steps} steps")
        if any(step["drift"].keys() != {*precisions(config)} for step in steps):
            raise TraceError(f"{path} is damaged: trace.json has no drift for {' and '.join(precisions(config))}")
        names = [step["file"] for step in steps if step["file"]]
        folder.verify(["initial.safetensors", *names], info)
        arrays = folder.read_arrays("initial.safetensors")
        initial = {key[6:]: array for key, array in arrays.items() if key.startswith("state.")}
        batches = [read_array(folder.path, arrays, f"batch.{step}") for step in range(1, config.steps + 1)]
        if any(batch.dtype.kind not in "iu" or batch.ndim != 1 or len(batch) == 0 for batch in batches):
            raise TraceError(f"{path} is damaged: initial.safetensors has no indices of samples")
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
    """Train for some steps, and write what is needed to repeat them elsewhere into a new folder.

    Args:
        path: the folder, which must not exist yet.
        config: what to train.
        device: where to train.
        data_dir: the folder of the data sets; see `xpcnn.data.load_parts`.
        limit: how many bytes of arrays to keep, 0 or more. Steps beyond it are kept as array sizes only.

    Returns:
        the trace, read back from the folder.

    Raises:
        TraceError: if the loss is not finite.
        ValueError: if the folder exists already, or an option is outside its range.
        OSError: if the folder cannot be written to. After any error, no folder is left behind.
    """
    if limit < 0:
        raise ValueError(f"limit must be at least 0, got {limit}")
    path, device = Path(path), backend.device(device)
    dataset, _ = config.load_data(data_dir)
    batches = config.batches(dataset)
    model = config.make_model(dataset)
    initial = host_state(model)
    model.to(device)
    try:
        with new_folder(path, "choose another --output"):
            _record(Folder(path), config, device, dataset, batches, model, initial, limit)
            return Trace.load(path)
    except OSError as error:  # writing to a full disk raises it without a name
        raise OSError(error.errno, error.strerror, str(path)) from error


def _record(
    folder: Folder,
    config: TraceConfig,
    device: Device,
    dataset: Dataset,
    batches: list[HostArray],
    model: Module,
    initial: dict[str, HostArray],
    limit: int,
) -> None:
    """Train, and write everything into the folder."""
    start = {f"state.{name}": array for name, array in initial.items()}
    start |= {f"batch.{step}": indices for step, indices in enumerate(batches, 1)}
    folder.write_arrays("initial.safetensors", start)
    steps: list[dict[str, Any]] = []
    own: list[tuple[dict[str, float], int]] = []
    for result in train_steps(config, model, dataset, batches):
        loss = float(result.loss.value)
        if not np.isfinite(loss):
            raise TraceError(f"the loss became {loss} at step {result.step}: nothing to compare; a lower lr may help")
        entry: dict[str, Any] = {"loss": loss, "correct": result.correct, "sizes": result.sizes(), "drift": {}}
        entry["data"] = batch_digest(dataset, batches[result.step - 1])
        stored = store_step(folder, f"step-{result.step:04}.safetensors", result, limit - folder.stored)
        limit = limit if stored else 0  # keep the first steps, without gaps
        steps.append(entry | (stored or {"file": None}))
        own.append((result.quantities(), result.correct))
    for precision in precisions(config):
        twin = train_steps(config, twin_of(config, dataset, initial, precision).to(device), dataset, batches)
        for entry, drift in zip(steps, drift_by_step(own, twin), strict=True):
            entry["drift"][precision] = drift
    info = {
        "config": asdict(config),
        "data": dataset.spec.to_dict(),
        "recorded": {"device": device.name, "description": device.description, "versions": versions()},
        "layers": [[name, type(module).__name__] for name, module in model.named_leaves()],
        "steps": steps,
    }
    folder.write_info(FORMAT, VERSION, info)


def versions() -> dict[str, str]:
    """Return the versions of xpcnn, NumPy and Python here."""
    return {"xpcnn": __version__, "numpy": np.__version__, "python": platform.python_version()}
