"""What a classifier made of the test images: which class is taken for which, recall, and the surest mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Self

import numpy as np

from ..backend import HostArray
from ..data import Dataset
from .markup import Html, element, scrolling, section, table
from .pictures import embedded, picture

_MOST_IN_A_TABLE = 20  # classes; more of them make a picture
_PAIRS = 20
_MISTAKES = 24


@dataclass(frozen=True)
class Predictions:
    """The predictions for some images, without the probabilities of all classes.

    Attributes:
        predicted: `(N,)`, the most probable class.
        confidence: `(N,)`, its probability.
        true: `(N,)`, the probability of the true class.
    """

    predicted: HostArray
    confidence: HostArray
    true: HostArray

    @classmethod
    def of(cls, probabilities: HostArray, labels: HostArray) -> Self:
        """Return the predictions of probabilities `(N, classes)` for images with labels `(N,)`."""
        rows, predicted = np.arange(len(labels)), probabilities.argmax(1)
        return cls(predicted, probabilities[rows, predicted], probabilities[rows, labels])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the predictions for the images of all parts."""
        names = ("predicted", "confidence", "true")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def loss(self) -> float:
        """The mean cross-entropy."""
        smallest = np.finfo(self.true.dtype).tiny
        return float(-np.log(np.maximum(self.true, smallest), dtype=np.float64).mean())


def class_sections(data: Dataset, found: Predictions) -> list[Html]:
    """Return the parts of the page on classes and mistakes.

    Args:
        data: images, labels and the names of the classes.
        found: the predictions for its images.
    """
    names = [str(name) for name in data.classes]
    n = len(names)
    counts = np.bincount(data.labels * n + found.predicted, minlength=n * n).reshape(n, n)
    pairs = _most_confused(counts, names)
    confused = (
        _table(counts, names) if n <= _MOST_IN_A_TABLE else element("div", _matrix(counts), pairs, class_="columns")
    )
    return [
        section("Which class is taken for which", confused),
        section("The surest mistakes", *_mistakes(data, found, names)),
        section("Each class", _each_class(counts, names)),
    ]


def _table(counts: HostArray, names: Sequence[str]) -> Html:
    """Return the confusion table: a row for each true class, a column for each predicted one."""
    tall = "tall" if max(map(len, names)) > 3 else None
    head = element(
        "tr",
        element("th", element("span", "true ↓"), element("span", "predicted →"), scope="col", class_="corner"),
        *(
            element("th", element("span", name, class_=tall, title=name if tall else None), scope="col")
            for name in names
        ),
    )
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = row.sum() or 1
        cells = (_cell(int(count), count / total, i == j) for j, count in enumerate(row))
        rows.append(element("tr", element("th", name, scope="row"), *cells))
    caption = "Number of test images by true class (rows) and predicted class (columns)"
    inside = element("caption", caption, class_="hidden"), element("thead", head), element("tbody", *rows)
    return scrolling(caption, element("table", *inside, class_="confusion"))


def _cell(count: int, share: float, right: bool) -> Html:
    if count == 0:
        return element("td")
    # Few mistakes must be seen too, hence the root.
    shade = 0.45 * share if right else 0.15 + 0.5 * sqrt(share)
    return element("td", f"{count:,}", class_="hit" if right else "miss", style=f"--a:{min(shade, 0.5):.2f}")


def _matrix(counts: HostArray) -> Html:
    """Return the confusion table as a picture, transparent where there is nothing, for either scheme."""
    n = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    pixels = np.empty((n, n, 4), np.uint8)
    pixels[..., :3] = (226, 112, 24)
    pixels[range(n), range(n), :3] = (56, 135, 212)
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    size = max(1, 480 // n)
    label = f"Confusion of {n} classes: rows are the true classes, columns the predicted ones"
    drawn = embedded(
        pixels.repeat(size, 0).repeat(size, 1), f"{label}; the table beside it lists the most frequent", class_="matrix"
    )
    note = f"A row for each of the {n} true classes, a column for each predicted one, in the order of the classes."
    return element("div", drawn, element("p", note, class_="soft"))


def _most_confused(counts: HostArray, names: Sequence[str]) -> Html:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    places = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    if not places:
        return element("p", "No class is taken for another.")
    rows = [(names[i], names[j], f"{wrong[i, j]:,}", f"{wrong[i, j] / counts[i].sum():.1%}") for i, j in places]
    return table("Most frequent mistakes", ("true class", "taken for", "images", "of the class"), rows, left=2)


def _mistakes(data: Dataset, found: Predictions, names: Sequence[str]) -> list[Html]:
    wrong = np.flatnonzero(found.predicted != data.labels)
    if not len(wrong):
        return [element("p", f"There are none: all {len(data):,} images are classified correctly.")]
    surest = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:_MISTAKES]
    shown = "all of them" if len(wrong) <= _MISTAKES else f"the {_MISTAKES} with the highest probability"
    return [
        element("p", f"{len(wrong):,} of {len(data):,} images; {shown}.", class_="soft"),
        element("div", *(_mistake(data, found, names, int(i)) for i in surest), class_="pictures"),
    ]


def _mistake(data: Dataset, found: Predictions, names: Sequence[str], i: int) -> Html:
    guess, label = names[found.predicted[i]], names[data.labels[i]]
    caption = element("figcaption", "is ", element("strong", label), f", taken for {guess} ({found.confidence[i]:.1%})")
    return element("figure", picture(np.asarray(data.images[i]), f"test image {i}, of class {label}"), caption)


def _each_class(counts: HostArray, names: Sequence[str]) -> Html:
    """Return a table of the classes, those with the lowest recall first."""
    images, guesses, right = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = right / np.maximum(images, 1)
    rows = [
        (names[i], f"{images[i]:,}", _bar(recall[i]) if images[i] else "-", _percent(right[i], guesses[i]))
        for i in np.argsort(np.where(images, recall, 2.0), kind="stable")
    ]
    caption = "Recall: correct among the images of the class. Precision: correct among those taken for it."
    return element(
        "div", element("p", caption, class_="soft"), table(caption, ("class", "images", "recall", "precision"), rows)
    )


def _bar(share: float) -> Html:
    filled = element("span", style=f"width:{100 * share:.1f}%")
    return element("span", element("span", filled, class_="bar", aria_hidden="true"), f"{share:.1%}")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
