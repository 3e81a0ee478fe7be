"""Folders of pictures: the right pixels, classes and parts; a cache that is never stale; every fault in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from picture_folders import fill, noise, save

from xpcnn import Dataset
from xpcnn.backend import CPU
from xpcnn.data import DataError, DataSpec
from xpcnn.data.formats.images import read_image
from xpcnn.data.image_folder import build, workers

Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow, of the viz extra")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; caches are kept beside it."""
    monkeypatch.setenv("XPCNN_DATA", str(tmp_path / "data"))
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded in this process, from one call to the next."""
    paths = []

    def decode(those, plan):
        paths.extend(those)
        return workers_decode(those, plan)

    workers_decode = workers.decode
    monkeypatch.setattr(workers, "decode", decode)
    return paths


def caches(folder):
    return sorted((folder.parent / "data" / "folders").iterdir())


def test_pixels_classes_and_parts_are_those_of_the_files(folder):
    train = fill(folder / "train", classes=["dog", "cat 2", "ä"])
    test = fill(folder / "val", 2, ["dog"])
    test["dog/deep/er/x.PNG"] = save(folder / "val/dog/deep/er/x.PNG", noise(9, 7, seed=99))
    for ignored in ("train/dog/Thumbs.db", "train/dog/._1.png", "train/.git/1.png", "train/loose.png", "val/dog/a.txt"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / ignored).write_bytes(b"no picture")

    parts = Dataset.from_folder(folder)
    assert [str(part) for part in parts] == ["pictures (train)", "pictures (test)"]
    for part, pictures in zip(parts, (train, test), strict=True):
        names = sorted(pictures)
        assert isinstance(part.images, np.memmap)
        np.testing.assert_array_equal(part.images[:, 0], [pictures[name] for name in names])
        assert [part.classes[label] for label in part.labels] == [name.split("/")[0] for name in names]
        assert part.classes == ("cat 2", "dog", "ä")
        assert part.mean == parts[0].mean


@pytest.mark.parametrize(("odd", "processes"), [((9, 7, 3), 1), ((9, 8), 1), ((9, 8, 3), 1), ((9, 8, 3), 2)])
def test_the_shape_follows_from_all_pictures(folder, monkeypatch, odd, processes):
    monkeypatch.setattr(build, "_WORTHWHILE", 1e-9)
    monkeypatch.setattr(build, "_BATCH", 8)
    monkeypatch.setattr(CPU, "threads", processes)
    fill(folder, 40)
    assert Dataset.from_folder(folder)[0].shape == (1, 9, 7)
    pixels = noise(*odd)
    if len(odd) == 3:
        pixels[..., 1] = pixels[..., 0]
    save(folder / "dog/odd.png", pixels)  # none of those that are looked at first
    channels, size = len(odd) if len(odd) == 3 else 1, (9, 7) if odd[:2] == (9, 7) else (64, 64)
    for asked, expected in ((None, size), (5, (5, 5))):
        part, other = Dataset.from_folder(folder, asked, test_share=0.3)
        assert part.shape == other.shape == (channels, *expected)
        again = sorted((part.classes[part.labels[i]], part.images[i].tobytes()) for i in range(len(part)))
        again += sorted((part.classes[other.labels[i]], other.images[i].tobytes()) for i in range(len(other)))
        files = [*folder.rglob("*.png")]
        right = [(f.parent.name, read_image(f, part.shape, drawing=False)[0].tobytes()) for f in files]
        assert sorted(again) == sorted(right)
    (folder / "dog/odd.png").unlink()
    assert Dataset.from_folder(folder)[0].shape == (1, 9, 7)  # although the older cache has another


def test_large_pictures_of_one_size_are_scaled(folder):
    fill(folder, shape=(65, 10))
    assert Dataset.from_folder(folder)[1].shape == (1, 64, 64)


def test_the_split_is_that_of_a_hash_and_stays(folder):
    pictures = fill(folder, 60)
    fill(folder, 2, ["few"])

    def names(part):  # by content, as no picture is there twice
        return {picture.tobytes() for picture in part.images}

    train, test = Dataset.from_folder(folder)
    # Those of "cat/000.png" to "cat/059.png" whose SHA-256 begins with less than 0x3333..., a fifth of the range.
    cats = [18, 23, 26, 40, 42, 47, 52, 55]
    np.testing.assert_array_equal(test.images[test.labels == 0, 0], [pictures[f"cat/{i:03}.png"] for i in cats])
    assert {*train.labels} == {*test.labels} == {0, 1, 2}
    fill(folder, 90)
    more_train, more_test = Dataset.from_folder(folder)
    assert names(train) < names(more_train)
    assert names(test) < names(more_test)
    for share in (0.001, 0.999):
        assert all({*part.labels} == {0, 1, 2} for part in Dataset.from_folder(folder, test_share=share))
    assert 0.1 < len(more_test) / (len(more_test) + len(more_train)) < 0.3


def test_what_has_not_changed_is_not_decoded_again(folder, decoded):
    fill(folder, shape=(9, 7, 3))
    Dataset.from_folder(folder)
    assert len(decoded) == 12
    decoded.clear()
    train, _ = Dataset.from_folder(folder)
    assert not decoded
    Dataset.from_folder(folder, 5)
    assert len(caches(folder)) == 2  # of either size
    decoded.clear()

    (folder / "cat/000.png").unlink()
    save(folder / "cat/new.png", noise(9, 7, seed=77))
    changed = save(folder / "dog/003.png", noise(9, 7, seed=78))
    os.utime(folder / "dog/003.png", ns=(1, 1))
    parts = Dataset.from_folder(folder)
    assert sorted(Path(path).name for path in decoded) == ["003.png", "new.png"]
    assert len(caches(folder)) == 1  # none of what is no longer there
    found = sorted(image.tobytes() for part in parts for image in part.images)
    assert found == sorted(read_image(path, train.shape, drawing=False)[0].tobytes() for path in folder.rglob("*.png"))
    assert np.stack([changed] * 3).tobytes() in found


@pytest.mark.parametrize("damage", ["cut", "longer", "beginning", "text", "empty", "another folder's"])
def test_a_damaged_or_foreign_cache_is_made_anew(folder, decoded, damage):
    fill(folder)
    before, _ = Dataset.from_folder(folder)
    (cache,) = caches(folder)
    content = cache.read_bytes()
    fill(folder.parent / "other")
    Dataset.from_folder(folder.parent / "other")
    (other,) = (path for path in caches(folder) if path != cache)
    cache.unlink()  # and not changed, as it is mapped into memory
    cache.write_bytes(
        {
            "cut": content[:-1],
            "longer": content + b"\0",
            "text": b"text" * 100,
            "empty": b"",
            "beginning": content[1:],
            "another folder's": other.read_bytes(),
        }[damage]
    )
    decoded.clear()
    after, _ = Dataset.from_folder(folder)
    assert len(decoded) == 12
    np.testing.assert_array_equal(after.images, before.images)


def test_every_bad_file_is_named_or_left_out(folder, capsys, decoded):
    fill(folder, 10)
    for i in range(7):
        (folder / f"dog/bad{i}.jpg").write_bytes(b"no picture")
    (folder / "cat/link.png").symlink_to("nowhere")
    with pytest.raises(DataError) as caught:
        Dataset.from_folder(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: 8 of 28 files cannot be read; skip_bad (--skip-bad) leaves them out: ")
    assert f"{folder / 'cat/link.png'}: no such file; {folder / 'dog/bad0.jpg'}: cannot be read as a pic" in message
    assert message.endswith("; and 3 more")
    decoded.clear()
    train, test = Dataset.from_folder(folder, skip_bad=True)
    assert not decoded  # what is bad is remembered
    assert len(train) + len(test) == 20
    line = f"xpcnn: warning: {folder}: 8 of 28 files cannot be read and are left out\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([], "a subfolder for each of two or more classes, got none"),
        (["loose.png"], "two or more classes, got none"),
        (["cat/1.png", "cat/2.png"], "two or more classes, got cat"),
        (["train/cat/1.png", "train/dog/2.png"], "got train; train needs test or val beside it"),
        (["cat/1.png", "cat/2.png", "dog/notes.txt"], r"no pictures of dog \(\.bmp, "),
        (["cat/1.png", "cat/2.png", "dog/1.png"], "dog: one picture, expected two or more"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"], "test: c is none of the classes a, b"),
        (["train/a/1.png", "train/b/1.png", "test/a/notes.txt"], "test: no pictures; expected a subfolder for each"),
        (["cat/1.bad.png", "cat/2.bad.png", "dog/1.png", "dog/2.png"], "2 of 4 files cannot be read"),
    ],
)
def test_folders_of_another_layout_get_one_clear_line(folder, files, fault):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png") and "bad" not in name:
            save(folder / name, noise(4, 4))
        else:
            (folder / name).write_bytes(b"text")
    with pytest.raises(DataError, match=fault) as caught:
        Dataset.from_folder(folder)
    assert "\n" not in str(caught.value)
    if "cannot be read" in fault:
        with pytest.raises(DataError, match="no train picture of cat can be read; remove its bad files"):
            Dataset.from_folder(folder, skip_bad=True)


def test_no_folder_and_values_out_of_range_are_refused(folder, monkeypatch):
    with pytest.raises(DataError, match="absent: no such folder"):
        Dataset.from_folder(folder / "absent")
    (folder / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file: cannot be read \(Not a directory"):
        Dataset.from_folder(folder / "file")
    with pytest.raises(ValueError, match="size of 1 pixel or more, got 0"):
        Dataset.from_folder(folder, 0)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        Dataset.from_folder(folder, test_share=1)
    fill(folder)
    monkeypatch.setenv("XPCNN_DATA", str(folder / "file"))
    with pytest.raises(DataError, match=r"decoded pictures cannot be kept there .* XPCNN_DATA"):
        Dataset.from_folder(folder)
    scandir = os.scandir

    def forbidden(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DataError, match=r"dog: cannot be read \(Permission denied"):
        Dataset.from_folder(folder)


def test_links_in_a_circle_end(folder):
    fill(folder)
    (folder / "cat/loop").symlink_to(folder / "cat")
    (folder / "cat/up").symlink_to(folder)
    (folder / "cat/itself").symlink_to("itself")
    (folder / "linked").symlink_to(folder / "dog")
    train, test = Dataset.from_folder(folder)
    assert np.bincount(np.concatenate([train.labels, test.labels]))[1:].tolist() == [6, 6]


def test_a_trained_network_gets_its_own_classes_and_shape(folder):
    digits = DataSpec((1, 28, 28), ("cat", "cow", "dog"), (0.25,), (0.5,), drawing=True)
    fill(folder, shape=(40, 40, 3))
    for part in Dataset.from_folder(folder, like=digits):
        assert (part.shape, part.classes, part.mean, part.drawing) == ((1, 28, 28), digits.classes, (0.25,), True)
        assert {*part.labels} == {0, 2}
    expected = [read_image(file, (1, 28, 28), drawing=True)[0].tobytes() for file in folder.rglob("*.png")]
    found = [image.tobytes() for part in Dataset.from_folder(folder, like=digits) for image in part.images]
    assert sorted(found) == sorted(expected)
    with pytest.raises(DataError, match="pictures: dog is none of the classes cat, cow"):
        Dataset.from_folder(folder, like=DataSpec((1, 28, 28), ("cat", "cow"), (0.25,), (0.5,)))
