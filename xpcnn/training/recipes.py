"""Recipes: settings for training on known data sets, each chosen on images held out from the training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .whitened import DECAY, MUON, MUON_LR

NO_RECIPE = "none"

_SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.1}
_MUON: dict[str, Any] = {
    "optimizer": MUON,
    "lr": MUON_LR,
    "weight_decay": DECAY,
    "augment": "alternating-flip,reflected-crop",
    "label_smoothing": 0.2,
}

# By data set and name: fields of `RunConfig`. The first one of a data set is what `xpcnn train` uses. The comments have
# the accuracy on 10,000 held-out images of the training set, for one seed.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # 99.26 % after 10 epochs, of images of MNIST's training set that are not in mnist-mini.
    "mnist-mini": {"fast": {"model": "compact_cnn", **_SGD, "epochs": 9, "ema": 0.99}},
    # 99.52 %; 99.49 % after 12 epochs.
    "mnist": {"fast": {"model": "compact_cnn", **_SGD, "lr": 0.2, "batch_size": 128, "epochs": 24, "ema": 0.995}},
    # 94.60 %; 94.77 % after 9 epochs.
    "fashion-mnist": {"fast": {"model": "whitened_cnn_small", **_MUON, "batch_size": 1000, "epochs": 7}},
    "cifar10": {"fast": {"model": "whitened_cnn", **_MUON, "batch_size": 2000, "epochs": 9}},
}


def with_recipe(values: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Return the fields of a configuration with those of a recipe added.

    Args:
        values: the fields that were chosen, which win. If the optimizer is among them, the recipe's learning rate and
            weight decay are left out, which are for another one.
        name: the recipe of the data set in `values`, or `"none"`. None for the data set's first recipe, if it has one
            and no model was chosen.

    Raises:
        ValueError: if the data set has no such recipe.
    """
    data = values.get("data", "mnist-mini")
    known = RECIPES.get(data, {})
    if name is None:
        name = NO_RECIPE if "model" in values else next(iter(known), NO_RECIPE)
    if name == NO_RECIPE:
        return dict(values)
    if name not in known:
        has = ", ".join(known) or f"none; {', '.join(RECIPES)} have some"
        raise ValueError(f"there is no recipe {name!r} for {data}: its recipes are {has}")
    unfit = {"lr", "weight_decay"} if "optimizer" in values else set()
    return {key: value for key, value in known[name].items() if key not in unfit} | dict(values)
