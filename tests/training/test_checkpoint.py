"""Checkpoints: a round trip keeps every bit; whatever is not a checkpoint is refused in one line."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from xpcnn.training import Checkpoint, CheckpointError


def write(path, tensors, metadata):
    """Write a safetensors file by hand: `tensors` are name, data type, shape and bytes."""
    header, data = {"__metadata__": metadata}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def metadata(version="2", info="{}"):
    return {"format": "xpcnn-checkpoint", "version": version, "info": info}


def test_round_trip_on_every_device(tmp_path, device, rng):
    arrays = {"a.weight": rng.standard_normal((3, 4, 2, 2)).astype("f"), "a.bias": rng.standard_normal(3)}
    arrays["a.num_batches_tracked"] = np.array(7)
    on_device = {name: device.asarray(array) for name, array in arrays.items()}
    flipped = device.asarray(arrays["a.weight"]).transpose(3, 2, 1, 0)
    Checkpoint(on_device, {"mean.a": flipped}, {"note": "π", "epoch": 3}, {"a.bias": flipped}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.info == {"note": "π", "epoch": 3}
    for name, array in arrays.items():
        assert (loaded.model[name].dtype, loaded.model[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded.model[name], array)
    for part in (loaded.optimizer["mean.a"], loaded.best["a.bias"]):
        np.testing.assert_array_equal(part, arrays["a.weight"].transpose(3, 2, 1, 0))
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
        (lambda path: write(path, [("model.w", "BF16", [2], b"1234")], metadata()), "model.w is of type BF16"),
        (lambda path: write(path, [("model.w", "F8_E4M3", [2], b"12")], metadata()), "model.w is of type F8_E4M3"),
        (lambda path: write(path, [("model.w", "a\nb", [2], b"12")], metadata()), "damaged or not a checkpoint"),
        (lambda path: write(path, [("model.w", "U8", [1] * 71, b"1")], metadata()), "a shape that NumPy refuses"),
        (lambda path: write(path, [], metadata(info="[]")), r"expected info to be a JSON object, got \[\]"),
        (lambda path: write(path, [], metadata(info="null")), "expected info to be a JSON object, got None"),
        (lambda path: write(path, [], metadata(info="[" * 100_000)), "damaged"),
        (lambda path: write(path, [], metadata(info="9" * 5000)), "info is not JSON"),
        (lambda path: write(path, [], metadata("3")), "sha256 is not JSON"),
        (lambda path: write(path, [], metadata("3") | {"sha256": "[]"}), "its digests are not those of its arrays"),
        (lambda path: write(path, [], metadata("3") | {"sha256": "{}"}), "its digests are not those of its arrays"),
        (lambda path: write(path, [], metadata("3") | {"sha256": '{"info": 3}'}), "info is not as it was saved"),
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


def test_every_changed_byte_is_noticed(tmp_path, rng):
    path = tmp_path / "c"
    model = {"w": rng.standard_normal((2, 3)).astype("f"), "count": np.array(7)}
    Checkpoint(model, {"mean.w": np.ones(2)}, {"progress": {"epoch": 1}}).save(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            loaded = Checkpoint.load(path)
        except CheckpointError:
            continue
        # The digit of the version, in a file that is otherwise whole.
        assert loaded.info == {"progress": {"epoch": 1}}
        assert all(loaded.model[name].tobytes() == array.tobytes() for name, array in model.items())
        assert loaded.optimizer["mean.w"].tolist() == [1, 1]


def test_older_versions_are_read(tmp_path):
    for version in ("1", "2"):
        save_file({"model.w": np.arange(3.0)}, tmp_path / version, metadata(version, '{"progress": {}}'))
        loaded = Checkpoint.load(tmp_path / version)
        np.testing.assert_array_equal(loaded.model["w"], np.arange(3.0))
        assert loaded.info == {"progress": {}}
