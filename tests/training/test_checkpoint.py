"""Checkpoints: a round trip keeps every bit; whatever is not a checkpoint is refused in one line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from xpcnn.training import Checkpoint, CheckpointError


def test_round_trip_on_every_device(tmp_path, device, rng):
    arrays = {"a.weight": rng.standard_normal((3, 4, 2, 2)).astype("f"), "a.bias": rng.standard_normal(3)}
    arrays["a.num_batches_tracked"] = np.array(7)
    on_device = {name: device.asarray(array) for name, array in arrays.items()}
    flipped = device.asarray(arrays["a.weight"]).transpose(3, 2, 1, 0)
    Checkpoint(on_device, {"mean.a": flipped}, {"note": "π", "epoch": 3}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.info == {"note": "π", "epoch": 3}
    for name, array in arrays.items():
        assert (loaded.model[name].dtype, loaded.model[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded.model[name], array)
    np.testing.assert_array_equal(loaded.optimizer["mean.a"], arrays["a.weight"].transpose(3, 2, 1, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    Checkpoint({"w": np.ones(3)}).save(tmp_path / "c")
    with pytest.raises(TypeError):
        Checkpoint({"w": np.zeros(3)}, info={"bad": object()}).save(tmp_path / "c")
    assert Checkpoint.load(tmp_path / "c").model["w"].sum() == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no checkpoint at"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b"\x80\x04}q" * 50), "damaged or not a checkpoint"),
        (lambda path: save_file({"w": np.ones(2)}, path), "not an xpcnn checkpoint"),
        (
            lambda path: save_file({}, path, {"format": "xpcnn-checkpoint", "version": "999", "info": "{}"}),
            "version 999, this package reads 1",
        ),
        (
            lambda path: save_file({}, path, {"format": "xpcnn-checkpoint", "version": "1", "info": "{"}),
            "damaged header",
        ),
        (
            lambda path: save_file(
                {"x.w": np.ones(2)}, path, {"format": "xpcnn-checkpoint", "version": "1", "info": json.dumps({})}
            ),
            "unknown entry 'x.w'",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, damage, message):
    path = tmp_path / "c.safetensors"
    Checkpoint({"w": np.ones(3)}).save(path)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
