"""Two processes at once never train the same run, nor get the same folder."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from xpcnn.cli import main
from xpcnn.training import Run, RunConfig
from xpcnn.training import folder as folder_module
from xpcnn.training.folder import FolderLock, claim_new, claim_next

pytestmark = pytest.mark.usefixtures("few_images")


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["train", "--device", "cpu", "--resume", str(folder)]
    with Run(folder, RunConfig(epochs=1), device="cpu"):
        assert main(command) == 2
        assert capsys.readouterr().err == f"xpcnn: error: {folder} is being trained by another process\n"
    assert main(command) == 0


def test_a_refused_run_unlocks_its_folder(tmp_path, capsys):
    Run(tmp_path / "run", RunConfig(epochs=1), device="cpu").close()
    for _ in range(2):
        assert main(["train", "--device", "tpu", "--resume", str(tmp_path / "run")]) == 2
        assert "unknown device 'tpu'" in capsys.readouterr().err


def test_several_runs_without_output_get_a_folder_each(tmp_path):
    barrier = threading.Barrier(8)

    def claim(_):
        barrier.wait()
        return claim_next(tmp_path / str(number) for number in itertools.count(1))

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, range(8)))
    assert sorted(path.name for path, _ in claims) == [str(number) for number in range(1, 9)]


def test_of_several_runs_with_one_output_one_gets_it(tmp_path):
    barrier = threading.Barrier(8)

    def claim(_):
        barrier.wait()
        try:
            return claim_new(tmp_path / "run")
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, range(8)))
    assert claims.count(f"{tmp_path / 'run'} is being trained by another process") == 7


def test_a_folder_that_another_run_just_finished_with_is_refused(tmp_path, monkeypatch):
    def lock_later(path):
        (path / "config.json").touch()
        return FolderLock(path)

    monkeypatch.setattr(folder_module, "FolderLock", lock_later)
    with pytest.raises(ValueError, match="exists already"):
        claim_new(tmp_path / "run")
    FolderLock(tmp_path / "run").release()
