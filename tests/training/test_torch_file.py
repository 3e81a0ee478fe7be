"""PyTorch's files against PyTorch where it is installed, and files that lie, are damaged or would run code."""

import os
import pickle
import random
import tracemalloc
import zipfile

import numpy as np
import pytest
from fuzz.mutate import mutate
from inputs import refused
from pytorch import single_threaded_torch
from weight_files import MAGIC, literal, older_file, pickle_of, tensor, zip_file

from xpcnn import load_torch, save_torch
from xpcnn.data import DataError
from xpcnn.models import MODELS, build_model

STATE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7, np.int64)}


def read(path, content):
    path.write_bytes(content)
    return load_torch(path)


@pytest.mark.parametrize("older", [False, True])
def test_bits_are_those_that_pytorch_reads(tmp_path, older):
    """Every data type, views, shared storages, empty tensors, parameters and a state dictionary's metadata."""
    torch = single_threaded_torch()
    torch.manual_seed(0)
    base = torch.randn(4, 6, 5)
    state = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).state_dict()
    for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[name] = (base * 3).to(getattr(torch, name))
    state |= {"view": base[1:3, :, ::2], "turned": base.transpose(0, 2), "empty": base[:0], "0-d": base[0, 0, 0]}
    state |= {"parameter": torch.nn.Parameter(base), "expanded": base[:, :1].expand(4, 7, 5)}
    state["special"] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-40], dtype=torch.bfloat16)
    path = tmp_path / "weights.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not older)
    found, expected = load_torch(path), torch.load(path, weights_only=True)
    assert list(found) == list(expected)
    for name, value in expected.items():
        value = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert found[name].tobytes() == value.tobytes(), name
    torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=not older)
    assert list(load_torch(path)) == list(state)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mobilenet_v2", "convnext_femto"])
def test_pytorch_loads_what_is_saved(tmp_path, name):
    """PyTorch's own reader takes the file, and what it reads has the names, shapes and bits of the network."""
    torch = single_threaded_torch()
    safetensors = pytest.importorskip("safetensors.torch")
    state = build_model(name, (3, 32, 32), 4, seed=1).state_dict()
    save_torch(tmp_path / "weights.safetensors", state)
    theirs = safetensors.load_file(tmp_path / "weights.safetensors")
    again = load_torch(tmp_path / "weights.safetensors")
    assert theirs.keys() == again.keys() == state.keys()
    for key, array in state.items():
        assert torch.equal(theirs[key], torch.from_numpy(np.array(array)))
        assert again[key].dtype == array.dtype
        assert again[key].tobytes() == np.asarray(array, order="C").tobytes()


def test_bfloat16_of_safetensors(tmp_path):
    torch = single_threaded_torch()
    save_file = pytest.importorskip("safetensors.torch").save_file
    values = torch.randn(5, 3).bfloat16()
    save_file({"a": values}, tmp_path / "a.safetensors")
    found = load_torch(tmp_path / "a.safetensors")["a"]
    assert found.dtype == np.float32
    assert found.tobytes() == values.float().numpy().tobytes()


def test_every_model_of_the_package_comes_back(tmp_path):
    for name in MODELS:
        in_shape = (3, 32, 32)
        state = build_model(name, in_shape, 4, seed=1).state_dict()
        save_torch(tmp_path / "weights.safetensors", state)
        other = build_model(name, in_shape, 4, seed=2)
        assert other.load_state_dict(load_torch(tmp_path / "weights.safetensors")) == ([], [], {})
        assert all(np.array_equal(other.state_dict()[key], array) for key, array in state.items())


def test_files_written_by_hand_are_read(tmp_path):
    """So that the refusals below are not for another reason than the lie."""
    turned = {"a": STATE["a"].astype(">f4"), "b": STATE["b"].astype(">i8")}
    for content in (zip_file(STATE), older_file(STATE), zip_file(turned, byteorder="big")):
        found = read(tmp_path / "a.pt", content)
        for name, array in STATE.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
            found[name][...] = 1  # may be written to


class Command:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["zip", "older", "older, at its start"])
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path, protocol, kind):
    victim = tmp_path / "made"
    code = pickle.dumps({"a": Command(victim)}, protocol)
    start = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, {}))
    content = {"zip": zip_file({}, code), "older": start + code, "older, at its start": code}[kind]
    with refused("a.pt", "mkdir", "nothing was run", error=DataError):
        read(tmp_path / "a.pt", content)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b"(S'x'\niposix\nsystem\n.", ["posix.system"]),
        (b"ctorch\nFloatStorage\n(K\x01tR.", ["calls the type of a storage"]),
        (b"\x82\x01.", ["EXT1"]),
        (b"c__builtin__\neval\n.", ["__builtin__.eval"]),
        (b"\x80\x02}q\xffh\x01.", ["damaged"]),
        (b"}}K\x01s.", ["dict", "key"]),
        (b"}K\x01K\x02b.", ["int where dict"]),
        (b"]K\x01s.", ["damaged"]),
        (b"u.", ["damaged"]),
        (b"K\x05.", ["int", "arrays by name"]),
        (b"}X\x01\x00\x00\x00aK\x05s.", ["'a'", "int"]),
        (b"\x8e" + b"\xff" * 8 + b".", ["damaged"]),
        (b"X\xff\xff\xff\x7f.", ["damaged"]),
        (b"K\x01Q.", ["int where tuple"]),
        (literal(("module", "x")) + b"Q.", ["damaged"]),
        (b"(" * 100_000 + b".", ["damaged"]),
        (rb"S'\u12'" + b"\n.", ["damaged", "invalid escape"]),
    ],
)
def test_pickles_of_anything_else(tmp_path, code, words):
    with refused("a.pt", *words, error=DataError):
        read(tmp_path / "a.pt", zip_file({}, code))


@pytest.mark.parametrize("write", [zip_file, older_file])
@pytest.mark.parametrize(
    ("lies", "words"),
    [
        ({"shape": (2, 4), "strides": (3, 1)}, ["(2, 4)", "beyond its storage"]),
        ({"offset": 1}, ["beyond its storage"]),
        ({"offset": -1}, ["-1"]),
        ({"strides": (-3, 1)}, ["-3"]),
        ({"strides": (3,)}, ["2 axes", "1 strides"]),
        ({"shape": (True, 3)}, ["True"]),
        ({"shape": (2**61, 2**61)}, ["beyond"]),
        ({"shape": (2**61, 2**61), "strides": (0, 0)}, ["damaged"]),
        ({"shape": (0,), "strides": (1,), "offset": 9}, ["beyond"]),
        ({"count": 7}, ["7"]),
        ({"count": 2**40}, ["bytes"]),
        ({"kind": "Double"}, ["bytes"]),
        ({"kind": "Module"}, ["torch.ModuleStorage"]),
    ],
)
def test_tensors_and_storages_that_lie_about_their_size(tmp_path, write, lies, words):
    with refused("a.pt", *words, error=DataError):
        read(tmp_path / "a.pt", write({"a": STATE["a"]}, **lies))


def test_archives_that_lie(tmp_path):
    """A compressed member may be a bomb; members that overlap have more bytes than the file."""
    path, zeros = tmp_path / "a.pt", {"a": np.zeros(50_000_000, np.uint8)}
    bomb = zip_file(zeros, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 60_000
    tracemalloc.start()
    with refused("compressed", error=DataError):
        read(path, bomb)
    many = {str(i): np.zeros(1000, np.uint8) for i in range(50)}
    content = zip_file(many)
    for i in range(1, 50):  # all members of the directory at the place of the first one
        place = content.rindex(b"PK\1\2", 0, content.rindex(f"archive/data/{i}".encode()))
        first = content.rindex(b"PK\1\2", 0, content.rindex(b"archive/data/0"))
        content = content[: place + 42] + content[first + 42 : first + 46] + content[place + 46 :]
    with refused(error=DataError):
        read(path, content)
    assert tracemalloc.get_traced_memory()[1] < 10 * max(len(bomb), len(content))
    tracemalloc.stop()
    with refused("2 files data.pkl", error=DataError):
        again = zip_file({"a/data.pkl": STATE["a"]})
        read(path, again.replace(b"archive/data/0", b"arch/data.pkl0").replace(b"arch/data.pkl0", b"arch1/data.pkl"))
    with refused("no file archive/data/0", error=DataError):
        read(path, zip_file({}, pickle_of({"a": STATE["a"]})))
    with refused("two types", error=DataError):
        both = b"\x80\x02}(" + literal("a") + tensor(0, STATE["a"]) + literal("b") + tensor(0, STATE["a"], kind="Int")
        read(path, older_file(STATE).replace(pickle_of(STATE), both + b"u."))


@pytest.mark.parametrize("write", [zip_file, older_file])
def test_truncated_and_flipped_files(tmp_path, write):
    """Every length, and 300 random changes: an answer, or one line that names the file."""
    content, rng = write(STATE), random.Random(0)
    path, refusals = tmp_path / "a.pt", 0
    for damaged in [
        *(content[:end] for end in range(len(content))),
        *(mutate(content, rng, [content]) for _ in range(300)),
    ]:
        message = None
        try:
            read(path, damaged)
        except DataError as error:
            message = str(error)
            refusals += 1
        assert message is None or (str(path) in message and "\n" not in message)
    assert refusals >= len(content)


def test_what_cannot_be_read_or_written(tmp_path):
    with refused("none.pt", "No such file", error=DataError):
        load_torch(tmp_path / "none.pt")
    with refused("a folder", error=DataError):
        load_torch(tmp_path)
    with refused("neither a zip archive", error=DataError):
        read(tmp_path / "a.pt", pickle.dumps(5, 2))
    with refused("a.safetensors", "damaged", error=DataError):
        read(tmp_path / "a.safetensors", b"\xff" * 20)
    header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    with refused("F8_E4M3", error=DataError):
        read(tmp_path / "a.safetensors", len(header).to_bytes(8, "little") + header + b"\0")
    with refused(".safetensors", "a.pt"):
        save_torch(tmp_path / "a.pt", STATE)
