"""Arrays from `.npz` files: the right values, and one clear line for each fault, without memory being taken."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from xpcnn.data import DataError, Dataset, read_npz

X = np.random.default_rng(0).integers(0, 256, (20, 5, 6), np.uint8)
Y = np.arange(20) % 4 + 3
NAMES = np.array(["cat", "dog", "ape", "cow"])[Y - 3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my pictures.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [Y, Y.astype(">u2"), NAMES])
@pytest.mark.parametrize("images", [X, np.asfortranarray(X), (X / 255).astype(">f8")[:, None]])
def test_four_arrays_are_both_parts(path, save, labels, images):
    save(path, X_train=images[:12], y_train=labels[:12], x_test=images[12:], Y_test=labels[12:], other=[{}] * 2)
    train, test = read_npz(path)
    assert [str(train), str(test)] == ["my pictures (train)", "my pictures (test)"]
    assert train.classes == test.classes == (("ape", "cat", "cow", "dog") if labels is NAMES else ("3", "4", "5", "6"))
    for part, rows in ((train, slice(12)), (test, slice(12, 20))):
        np.testing.assert_array_equal(part.images, images[rows].reshape(-1, 1, 5, 6))
        assert [part.classes[label] for label in part.labels] == [str(label) for label in labels[rows]]
        assert part.mean == train.mean
        assert part.images.dtype.isnative


def test_two_arrays_are_split(path):
    np.savez(path, x=X, y=Y)
    for part, expected in zip(read_npz(path), Dataset(X, Y).split(0.8, seed=0), strict=True):
        np.testing.assert_array_equal(part.images, expected.images)
        np.testing.assert_array_equal(part.labels, expected.labels)
    like = Dataset(X, Y, classes=[str(i) for i in range(9)])
    assert [part.classes for part in read_npz(path, like=like)] == [like.classes] * 2


def npy(header, content=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text + content


def header(shape, dtype="'|u1'"):
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


def zipped(compression=zipfile.ZIP_STORED, **arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in arrays.items():
            if isinstance(content, np.ndarray):
                inner = io.BytesIO()
                np.save(inner, content)
                content = inner.getvalue()
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def said_larger(content, real, said):
    """A zip file whose directory says another size of a member once decompressed."""
    place = content.index(b"PK\x01\x02") + 24
    assert int.from_bytes(content[place : place + 4], "little") == real
    return content[:place] + said.to_bytes(4, "little") + content[place + 4 :]


WHOLE = zipped(x=X, y=Y)
NAN = np.where(X[7, 0, 0] == X, np.nan, X)
OBJECTS = np.array([{}, None] * 10)
ZEROS = npy(header((2**31 - 128,)), bytes(3 << 20))
SHRUNK = zipped(zipfile.ZIP_DEFLATED, x=ZEROS, y=Y)
HUGE = npy(header((2**40, 28, 28)), bytes(100))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no .npz file, or damaged"),
        (b"text", "no .npz file, or damaged"),
        (WHOLE[:-30], "no .npz file, or damaged"),
        (WHOLE.replace(X[3].tobytes(), X[4].tobytes()), "no .npz file, or damaged .*CRC"),
        (zipped(a=X, y=Y), r"expected the arrays x_train, .*, or x and y; got a, y$"),
        (zipped(x=X, y=Y, x_train=X, y_train=Y, x_test=X, y_test=Y), "or x and y, not both; got x, y, x_train"),
        (zipped(x=X, X=X, y=Y), r"several arrays x\.npy, X\.npy"),
        (zipped(x=X, y=OBJECTS), "y: it has Python objects, which are not read"),
        (zipped(x=X, y=b"text"), "y: damaged|damaged .*magic"),
        (zipped(x=npy("{}"), y=Y), "damaged"),
        (zipped(x=npy(header((20, 5, 6)), version=(3, 0)), y=Y), r"x: an array in version \(3, 0\)"),
        (zipped(x=HUGE, y=Y), r"x: shape \(1099511627776, 28, 28\) of uint8 takes 862017116176384 bytes, found 100"),
        (zipped(x=npy(header((-20, 5, 6)), bytes(600)), y=Y), "x: shape"),
        (zipped(x=npy(header((2,), "'<U1'"), b"\xff" * 8), y=Y), "x: damaged: text with characters"),
        (zipped(zipfile.ZIP_LZMA, x=X, y=Y), "x: compressed in another way than NumPy does"),
        (said_larger(WHOLE, 728, 2**31), "x: 728 of the file's .* bytes are said to be 2147483648"),
        (said_larger(SHRUNK, len(ZEROS), 2**31), "x: .* bytes are said to be 2147483648"),
        (zipped(x=X[..., None].repeat(3, 3)[:, :, :5], y=Y), r"x.*transpose\(0, 3, 1, 2\)"),
        (zipped(x=X, y=Y[:-1]), r"my pictures: expected labels \(20,\), got \(19,\)"),
        (zipped(x=X, y=Y / 2), "labels that are integers or strings, got float64"),
        (zipped(x=X[0], y=Y), r"expected images \(N, C, H, W\)"),
        (zipped(x=NAN, y=Y), "image . has pixels that are nan"),
        (zipped(x=X[:4], y=Y[:4]), "a split needs two samples of each class"),
        (zipped(x_train=X, y_train=Y, x_test=X, y_test=Y + 1), r"my pictures \(test\): the label 7 of image"),
        (zipped(x_train=X, y_train=Y, x_test=X[:, :4], y_test=Y), "as in training"),
    ],
)
def test_a_wrong_file_gets_one_clear_line_and_no_memory(path, content, fault):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=fault) as caught:
            read_npz(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert peak < 16 << 20


def test_a_missing_file_and_a_folder_are_named(path):
    with pytest.raises(DataError, match="npz: no such file"):
        read_npz(path)
    path.mkdir()
    with pytest.raises(DataError, match=r"npz: cannot be read .*a folder"):
        read_npz(path)
