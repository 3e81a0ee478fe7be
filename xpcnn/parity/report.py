"""What a check found: for a person as a table with a one-line verdict, for a machine as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from .comparison import Row
from .tolerances import Precision

if TYPE_CHECKING:
    from .config import TraceConfig

_ORDER = {"forward": 0, "backward": 1, "update": 2}


@dataclass(frozen=True)
class LossStep:
    """The loss and the rightly classified samples of one step, as recorded and here.

    Attributes:
        tolerance: what the relative difference of the losses may be.
        correct_tolerance: by how much the number of rightly classified samples may differ over the steps so far.
    """

    step: int
    recorded: float
    here: float
    tolerance: float
    recorded_correct: int
    correct: int
    correct_tolerance: float

    @property
    def relative(self) -> float:
        """The difference of the losses, relative to the recorded one."""
        return abs(self.here - self.recorded) / (abs(self.recorded) or 1.0)

    @property
    def agrees(self) -> bool:
        """Whether the losses are as close as they should be; not a number never is."""
        return self.relative <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The comparison of a run on one device with its recording on another.

    Attributes:
        config: what was trained.
        precision: under whose tolerances.
        recorded, here: device, description and versions on both sides.
        rows: every comparison of a layer.
        losses: every step.
    """

    config: TraceConfig
    precision: Precision
    recorded: dict[str, Any]
    here: dict[str, Any]
    rows: list[Row]
    losses: list[LossStep]

    @property
    def agrees(self) -> bool:
        """Whether every layer, every loss and the accuracy agree."""
        return (
            all(row.agrees for row in self.rows) and all(loss.agrees for loss in self.losses) and self.accuracy_agrees
        )

    @property
    def accuracy_agrees(self) -> bool:
        """Whether about as many samples were classified rightly over all steps."""
        off = sum(loss.correct - loss.recorded_correct for loss in self.losses)
        return abs(off) <= self.losses[-1].correct_tolerance

    @property
    def first_difference(self) -> str | None:
        """The first step and layer that differ, in words; None if all agree."""
        # A layer that differs given its recorded input is at fault itself: it goes before what it leads to.
        failed = [row for row in self.rows if not row.agrees]
        failed.sort(key=lambda row: (row.step, row.source == "sizes", _ORDER[row.direction], self._position(row)))
        loss = next((loss for loss in self.losses if not loss.agrees), None)
        if failed and (loss is None or failed[0].step <= loss.step):
            row = failed[0]
            place = f" at {row.index}" if row.index else ""
            return (
                f"step {row.step}, layer {row.layer} ({row.kind}), {row.direction}: {row.array} is off by "
                f"{row.absolute:.2e}{place}, relative {row.relative:.2e}, allowed {row.tolerance:.2e}"
            )
        if loss is not None:
            values = f"the loss is {loss.here:.6g}, recorded {loss.recorded:.6g}"
            return f"step {loss.step}: {values}, relative {loss.relative:.2e}, allowed {loss.tolerance:.2e}"
        return None if self.accuracy_agrees else "the accuracy over all steps"

    def worst_rows(self) -> list[Row]:
        """Return for each layer and direction the row nearest to its tolerance: of sizes only if they differ."""
        worst: dict[tuple[str, str, str], Row] = {}
        for row in self.rows:
            key = (row.layer, row.direction, row.source)
            if key not in worst or row.severity > worst[key].severity:
                worst[key] = row
        chosen = [
            row
            for key, row in worst.items()
            if row.source == "arrays" or not row.agrees or (*key[:2], "arrays") not in worst
        ]
        return sorted(chosen, key=lambda row: (list(_ORDER).index(row.direction), self._position(row)))

    @property
    def verdict(self) -> str:
        """One line: whether the devices agree, and if not, where they differ first."""
        sides = f"{self.here['device']} and {self.recorded['device']}"
        kept = {row.step for row in self.rows if row.source == "arrays"}
        if self.agrees:
            layers = len({row.layer for row in self.rows})
            arrays = f"every array of {len(kept)} of them" if kept else "sizes only"
            return f"AGREE: {sides}, {layers} layers, {len(self.losses)} steps ({arrays})"
        return f"DIFFER: {sides}, first in {self.first_difference}"

    def text(self) -> str:
        """Return the tables and the verdict."""
        config, lines = self.config, []
        lines.append(
            f"{config.model} on {config.data}, {config.steps} steps of {config.batch_size} images, {self.precision}"
        )
        for name, side in (("recorded", self.recorded), ("here", self.here)):
            lines.append(f"{name:8}  {side['device']} ({side['description']})")
        width = max(len(row.layer) for row in self.rows)
        lines += ["", f"{'layer':{width}}  pass      array         largest error  relative  tolerance  step  verdict"]
        for row in self.worst_rows():
            array = row.array + (" (size)" if row.source == "sizes" else "")
            lines.append(
                f"{row.layer:{width}}  {row.direction:8}  {array:12}  {row.absolute:13.2e}  {row.relative:8.1e}  "
                f"{row.tolerance:9.1e}  {row.step:4}  {'agrees' if row.agrees else 'DIFFERS'}"
            )
        lines += ["", "step  loss recorded  loss here  relative  tolerance  verdict"]
        for loss in self.losses:
            lines.append(
                f"{loss.step:4}  {loss.recorded:13.6f}  {loss.here:9.6f}  {loss.relative:8.1e}  {loss.tolerance:9.1e}  "
                f"{'agrees' if loss.agrees else 'DIFFERS'}"
            )
        return "\n".join([*lines, "", self.verdict])

    def growth(self) -> dict[str, list[float]]:
        """Return the largest errors by step, for a picture."""
        curves: dict[str, list[float]] = {}
        steps = [loss.step for loss in self.losses]
        for source, label in (("arrays", "layers, each on recorded input"), ("sizes", "layers, in a run of its own")):
            found = [[row.relative for row in self.rows if row.source == source and row.step == step] for step in steps]
            if any(found):
                curves[label] = [max(values, default=float("nan")) for values in found]
        curves["loss"] = [loss.relative for loss in self.losses]
        curves["tolerance of the loss"] = [loss.tolerance for loss in self.losses]
        return curves

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON can hold it."""
        losses = [asdict(loss) | {"relative": loss.relative, "agrees": loss.agrees} for loss in self.losses]
        return {
            "agrees": self.agrees,
            "verdict": self.verdict,
            "first_difference": self.first_difference,
            "config": asdict(self.config),
            "precision": self.precision,
            "recorded": self.recorded,
            "here": self.here,
            "layers": [row.to_dict() for row in self.worst_rows()],
            "losses": [{key: _finite(value) for key, value in loss.items()} for loss in losses],
        }

    def _position(self, row: Row) -> int:
        layers = list(dict.fromkeys(other.layer for other in self.rows))
        place = layers.index(row.layer)
        return place if row.direction == "forward" else -place


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
