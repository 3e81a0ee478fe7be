"""What a check found: tables and a one-line verdict for people, JSON for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from .comparison import Comparison
from .inference import NETWORK
from .tolerances import Precision

if TYPE_CHECKING:
    from .config import TraceConfig

_ORDER = {"forward": 0, "backward": 1, "update": 2}


@dataclass(frozen=True)
class LossStep:
    """The loss and the number of correctly classified samples of one step, as recorded and here.

    Attributes:
        step: the training step, from 1.
        recorded, here: the two losses.
        tolerance: the largest relative difference of the losses that agrees.
        recorded_correct, correct: how many samples of the batch were classified correctly.
        correct_tolerance: how far the numbers of correctly classified samples may differ, summed over the steps so far.
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
        """The difference of the losses, relative to the recorded loss."""
        return abs(self.here - self.recorded) / (abs(self.recorded) or 1.0)

    @property
    def agrees(self) -> bool:
        """Whether the losses are within the tolerance; NaN never is."""
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        values = f"the loss is {self.here:.6g}, recorded {self.recorded:.6g}"
        return f"step {self.step}: {values}, relative {self.relative:.2e}, allowed {self.tolerance:.2e}"


@dataclass(frozen=True)
class Report:
    """How a run on one device compares with its recording on another.

    Attributes:
        config: what was trained.
        precision: the precision whose tolerances were used.
        recorded, here: device, description and versions of each side.
        comparisons: of every layer and step.
        losses: of every step.
    """

    config: TraceConfig
    precision: Precision
    recorded: dict[str, Any]
    here: dict[str, Any]
    comparisons: list[Comparison]
    losses: list[LossStep]

    @property
    def agrees(self) -> bool:
        """Whether every layer, every loss and the accuracy agree."""
        layers = all(comparison.agrees for comparison in self.comparisons)
        return layers and all(loss.agrees for loss in self.losses) and self.accuracy_agrees

    @property
    def accuracy_agrees(self) -> bool:
        """Whether the numbers of correctly classified samples, summed over all steps, are within the tolerance."""
        difference = sum(loss.correct - loss.recorded_correct for loss in self.losses)
        return abs(difference) <= self.losses[-1].correct_tolerance

    @property
    def first_difference(self) -> str | None:
        """The first step and layer that differ, in words; None if all agree."""

        def order(comparison: Comparison) -> tuple[Any, ...]:
            # A layer that differs on its recorded input is itself at fault: it comes before what follows from it.
            propagated = comparison.source == "sizes"
            return comparison.step, propagated, _ORDER[comparison.direction], self._position(comparison)

        differing = sorted((comparison for comparison in self.comparisons if not comparison.agrees), key=order)
        loss = next((loss for loss in self.losses if not loss.agrees), None)
        if differing and (loss is None or differing[0].step <= loss.step):
            return str(differing[0])
        if loss is not None:
            return str(loss)
        return None if self.accuracy_agrees else "the accuracy over all steps"

    def worst(self) -> list[Comparison]:
        """Return the comparison nearest to its tolerance, for each layer and direction.

        Comparisons of sizes are left out where arrays were compared too, unless they differ.
        """
        worst: dict[tuple[str, str, str], Comparison] = {}
        for comparison in self.comparisons:
            key = (comparison.layer, comparison.direction, comparison.source)
            if key not in worst or comparison.severity > worst[key].severity:
                worst[key] = comparison
        chosen = [
            comparison
            for (layer, direction, source), comparison in worst.items()
            if source == "arrays" or not comparison.agrees or (layer, direction, "arrays") not in worst
        ]
        return sorted(chosen, key=lambda comparison: (_ORDER[comparison.direction], self._position(comparison)))

    @property
    def verdict(self) -> str:
        """One line: whether the devices agree, and if not, where they differ first."""
        sides = f"{self.here['device']} and {self.recorded['device']}"
        if not self.agrees:
            return f"DIFFER: {sides}, first in {self.first_difference}"
        layers = len({comparison.layer for comparison in self.comparisons if comparison.kind != NETWORK})
        steps = len({comparison.step for comparison in self.comparisons if comparison.source == "arrays"})
        arrays = f"every array of {steps} of them" if steps else "sizes only"
        return f"AGREE: {sides}, {layers} layers, {len(self.losses)} steps ({arrays})"

    def text(self) -> str:
        """Return the tables and the verdict."""
        config, lines = self.config, []
        lines.append(f"{config.model} on {config.data}, {config.work}, {self.precision}")
        for name, side in (("recorded", self.recorded), ("here", self.here)):
            lines.append(f"{name:8}  {side['device']} ({side['description']})")
        width = max(len(comparison.layer) for comparison in self.comparisons)
        lines += ["", f"{'layer':{width}}  pass      array         largest error  relative  tolerance  step  verdict"]
        lines += [_line(comparison, width) for comparison in self.worst()]
        lines += ["", "step  loss recorded  loss here  relative  tolerance  verdict"]
        for loss in self.losses:
            lines.append(
                f"{loss.step:4}  {loss.recorded:13.6f}  {loss.here:9.6f}  {loss.relative:8.1e}  {loss.tolerance:9.1e}  "
                f"{_verdict(loss)}"
            )
        return "\n".join([*lines, "", self.verdict])

    def growth(self) -> dict[str, list[float]]:
        """Return the largest relative errors by step, as curves for `xpcnn.viz.error_growth`."""
        labels = {"arrays": "layers, each on recorded input", "sizes": "layers, in a training run"}
        curves = {}
        for source, label in labels.items():
            errors: dict[int, float] = {}
            for comparison in self.comparisons:
                if comparison.source == source:
                    errors[comparison.step] = max(comparison.relative, errors.get(comparison.step, 0.0))
            if errors:
                curves[label] = [errors.get(loss.step, float("nan")) for loss in self.losses]
        curves["loss"] = [loss.relative for loss in self.losses]
        curves["tolerance of the loss"] = [loss.tolerance for loss in self.losses]
        return curves

    def to_dict(self) -> dict[str, Any]:
        """Return everything in the types of JSON."""
        losses = [asdict(loss) | {"relative": loss.relative, "agrees": loss.agrees} for loss in self.losses]
        return {
            "agrees": self.agrees,
            "verdict": self.verdict,
            "first_difference": self.first_difference,
            "config": asdict(self.config),
            "precision": self.precision,
            "recorded": self.recorded,
            "here": self.here,
            "layers": [comparison.to_dict() for comparison in self.worst()],
            "losses": [{key: _finite(value) for key, value in loss.items()} for loss in losses],
        }

    def _position(self, comparison: Comparison) -> int:
        """Return the layer's place in the order of the comparison's pass."""
        layers = list(dict.fromkeys(other.layer for other in self.comparisons))
        place = layers.index(comparison.layer)
        return place if comparison.direction == "forward" else -place


def _line(comparison: Comparison, width: int) -> str:
    array = comparison.array + (" (size)" if comparison.source == "sizes" else "")
    errors = f"{comparison.absolute:13.2e}  {comparison.relative:8.1e}  {comparison.tolerance:9.1e}"
    where = f"{comparison.layer:{width}}  {comparison.direction:8}  {array:12}"
    return f"{where}  {errors}  {comparison.step:4}  {_verdict(comparison)}"


def _verdict(compared: Comparison | LossStep) -> str:
    return "agrees" if compared.agrees else "DIFFERS"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
