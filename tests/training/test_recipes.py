"""Recipes: what is used where nothing, or something else, was chosen, and that each fits its data set."""

import numpy as np
import pytest

from xpcnn.data import DATASETS, DataSpec
from xpcnn.training import RunConfig
from xpcnn.training.recipes import RECIPES, with_recipe


@pytest.mark.parametrize(("data", "name"), [(data, name) for data, recipes in RECIPES.items() for name in recipes])
def test_a_recipe_is_a_configuration_whose_network_takes_the_images(data, name):
    values = with_recipe({"data": data}, name)
    assert values == {"data": data} | RECIPES[data][name]
    config = RunConfig(**values)
    info = DATASETS[data]
    spec = DataSpec(info.shape, info.classes, info.mean, info.std)
    assert config.make_model(spec)(np.zeros((2, *spec.shape), "f")).shape == (2, len(spec.classes))
    assert config.make_transform(spec) is not None


def test_the_first_recipe_is_used_unless_a_model_is_chosen():
    fast = RECIPES["mnist-mini"]["fast"]
    assert with_recipe({}) == fast
    assert with_recipe({"seed": 3, "epochs": 1}) == fast | {"seed": 3, "epochs": 1}
    assert with_recipe({"model": "lenet5"}) == {"model": "lenet5"}
    assert with_recipe({"model": "lenet5"}, "fast") == fast | {"model": "lenet5"}
    assert with_recipe({}, "none") == {}
    assert with_recipe({"data": "/pictures/of/birds"}) == {"data": "/pictures/of/birds"}


def test_another_optimizer_does_not_get_the_learning_rate_of_the_recipe():
    values = with_recipe({"optimizer": "adamw"})
    assert values["optimizer"] == "adamw"
    assert not {"lr", "weight_decay"} & values.keys()
    assert with_recipe({"optimizer": "adamw", "lr": 0.5})["lr"] == 0.5


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="there is no recipe 'slow' for mnist-mini: its recipes are fast"):
        with_recipe({}, "slow")
    with pytest.raises(ValueError, match="there is no recipe 'fast' for /birds: its recipes are none; mnist-mini"):
        with_recipe({"data": "/birds"}, "fast")
