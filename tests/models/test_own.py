"""Networks of one's own: a function in a file, what it may do wrong, and that nothing recorded is run on its own."""

import hashlib
import sys

import numpy as np
import pytest

from xpcnn.models import OwnNetwork

GOOD = """
import helper
from xpcnn import nn
from xpcnn.random import stream

def net(in_shape, num_classes, *, seed=0):
    C, H, W = in_shape
    rng = stream(seed, "init")
    last = nn.Linear(C * H * W, num_classes, rng=rng)
    return nn.Sequential(nn.Dropout(helper.P), nn.BatchNorm2d(C), nn.Flatten(), last)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a network's file and return what `--model` takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("P = 0.5\n")

    def written(text, name="net.py", function="net"):
        (tmp_path / name).write_text(text)
        return f"{name}:{function}"

    yield written
    sys.modules.pop("helper", None)


def test_a_network_is_the_one_that_its_function_makes(write, tmp_path):
    path = list(sys.path)
    own = OwnNetwork.load(write(GOOD))
    assert own.location == f"{tmp_path / 'net.py'}:net"
    assert own.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    one, same, other = (own.build((3, 4, 5), 7, seed=seed) for seed in (1, 1, 2))
    weights = [model.state_dict()["3.weight"] for model in (one, same, other)]
    assert weights[0].shape == (7, 60)
    assert weights[0].tobytes() == weights[1].tobytes() != weights[2].tobytes()
    assert one.training
    assert not one.state_dict()["1.num_batches_tracked"].any()
    np.testing.assert_array_equal(one.state_dict()["1.running_mean"], 0)
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "import nowhere\n",
            "net.py cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("def net(:\n", "net.py cannot be imported: SyntaxError: .*line 1"),
        ("raise SystemExit(3)\n", "net.py cannot be imported: SystemExit: 3"),
        ("net = 3\n", "net.py has no function 'net'"),
        ("", "net.py has no function 'net'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(write, text, fault):
    with pytest.raises(ValueError, match=fault):
        OwnNetwork.load(write(text))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("1 / 0", r"failed for images \(1, 4, 5\): ZeroDivisionError: .*\(net.py, line 3\)"),
        ("pass", "returned NoneType, expected an xpcnn.nn.Module"),
        ("return nn.Flatten()", r"makes outputs \(N, 20\), expected \(N, 7\), a number for each class"),
        ("return nn.Identity()", r"makes outputs \(N, 1, 4, 5\), expected"),
        ("return nn.Linear(3, 7)", r"fails on an image \(1, 4, 5\): ValueError"),
    ],
)
def test_a_function_that_makes_no_network_for_the_data_is_one_line(write, body, fault):
    own = OwnNetwork.load(write(f"from xpcnn import nn\ndef net(in_shape, num_classes, seed):\n    {body}\n"))
    with pytest.raises(ValueError, match=fault):
        own.build((1, 4, 5), 7)


@pytest.mark.parametrize("text", ["net.py", "net:net", ":net", "net.py:a b", "net.py:", "missing.py:net"])
def test_what_names_no_function_in_a_file_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected a network as path/to/file.py:function|missing.py cannot be read"):
        OwnNetwork.load(text)
