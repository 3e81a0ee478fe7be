"""What the user may give as their data."""

import numpy as np
import pytest

from xpcnn.data import DATASETS, DataError, Dataset, load_dataset, load_parts


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow, of the viz extra")
    for name in ("cat", "dog"):
        (tmp_path / "mnist" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((40, 40), i, np.uint8)).save(tmp_path / "mnist" / name / f"{i}.png")
    return tmp_path / "mnist"


def test_a_name_is_a_known_data_set():
    for part, loaded in zip(("train", "test"), load_parts("mnist-mini"), strict=True):
        np.testing.assert_array_equal(loaded.images, load_dataset("mnist-mini", part).images)
        assert str(loaded) == f"mnist-mini ({part})"


def test_a_folder_is_read_and_cached_in_the_data_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (folder / "cat/bad.png").write_bytes(b"")
    train, test = load_parts("./mnist", tmp_path / "data", size=8, skip_bad=True, progress=True)
    assert train.shape == test.shape == (1, 8, 8)
    assert len(train) + len(test) == 8
    assert "1 of 9 files cannot be read" in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "data" / "folders").iterdir()] == [".pixels"]
    like = Dataset(np.zeros((2, 3, 9, 9), np.uint8), ["dog", "cat"])
    assert load_parts(folder, tmp_path / "data", skip_bad=True, like=like)[1].shape == (3, 9, 9)
    (folder / "cat/bad.png").unlink()
    with pytest.raises(DataError, match="none of the classes ape"):
        load_parts(folder, tmp_path / "data", like=Dataset(np.zeros((2, 3, 9, 9), np.uint8), ["ape"] * 2))


def test_a_progress_bar_is_shown_while_decoding_if_asked_for(folder, tmp_path, capsys):
    def shown(**options):
        load_parts(folder, tmp_path / "data", **options)
        return capsys.readouterr().err

    assert "8/8" in shown(progress=True)
    assert shown(progress=True) == ""  # read from the cache
    assert shown(size=8) == ""


def test_an_npz_file_is_read(tmp_path):
    np.savez(tmp_path / "x.NPZ", x=np.zeros((10, 5, 5), np.uint8), y=np.arange(10) % 2)
    (tmp_path / "x.NPZ.npz").rename(tmp_path / "x.NPZ")
    assert [len(part) for part in load_parts(str(tmp_path / "x.NPZ"))] == [8, 2]
    like = Dataset(np.zeros((3, 1, 5, 5), np.uint8), [0, 1, 2])
    assert load_parts(tmp_path / "x.NPZ", like=like)[0].num_classes == 3


@pytest.mark.parametrize("name", ["mnits", "", "a\0b", "n" * 300, "a\x1b[2J\n/b.zip"])
def test_anything_else_names_what_there_is(name):
    with pytest.raises(DataError) as caught:
        load_parts(name)
    message = str(caught.value)
    assert "unknown data" in message
    assert ", ".join(DATASETS) in message
    assert message.endswith("; a folder with a subfolder of pictures for each class; or a .npz file")
    assert message.isprintable()


@pytest.mark.parametrize("name", ["mnist-mini", "x.npz"])
def test_a_size_is_for_folders_only(name):
    with pytest.raises(ValueError, match=f"size is for folders of pictures only, got size=8 for .*{name}"):
        load_parts(name, size=8)
