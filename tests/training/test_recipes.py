"""Recipes: what is used where nothing, or something else, was chosen, and that each fits its data set."""

import shutil

import numpy as np
import pytest

from xpcnn.data import DATASETS, DataSpec
from xpcnn.training import Run, RunConfig
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


@pytest.mark.parametrize(("data", "channels"), [("cifar10", 3), ("fashion-mnist", 1)])
def test_a_whitened_network_is_trained_by_muon_and_no_other_is(rng, tmp_path, data, channels):
    """As the recipes have it: whitened by the run, and resumed to the same bits with its layer frozen."""
    images, labels = rng.integers(0, 256, (60, channels, 12, 12), np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", X_train=images, y_train=labels, X_test=images[:9], y_test=labels[:9])
    recipe = RECIPES[data]["fast"] | {"data": str(tmp_path / "data.npz"), "epochs": 5, "batch_size": 20}
    config = RunConfig(**recipe)
    with Run(tmp_path / "run", config, device="cpu") as run:
        first = run.trainer.model["whiten"]
        fixed, outputs = first.weight.data.copy(), first(next(iter(run.loader))[0])
        # One filter for each principal component; random pixels have none of small variance.
        spread = outputs.transpose(1, 0, 2, 3).reshape(len(fixed), -1)[: 4 * channels]
        np.testing.assert_allclose(spread @ spread.T / spread.shape[1], np.eye(4 * channels), atol=0.25)
        run.trainer.fit(run.loader, 4)
        run.save()
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert first.frozen
        assert first.bias.data.any()
        run.fit()
        np.testing.assert_array_equal(first.weight.data, fixed)
        assert not {"whiten.weight", "bn1_1.weight"} & run.trainer.optimizer.parameters.keys()
        assert run.trainer.optimizer.lr == 0
        expected = run.trainer.model.state_dict()
    with Run(tmp_path / "copy", config, device="cpu", resume=True) as run:
        assert run.trainer.model.frozen_modules == ["whiten"]
        run.fit()
        for name, array in run.trainer.model.state_dict().items():
            np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(ValueError, match="unknown optimizer 'muon': expected one of sgd"):
        RunConfig(model="lenet5", optimizer="muon")
