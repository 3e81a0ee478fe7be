"""A run that is killed by `kill -9` and resumed ends with the bits and the history of an uninterrupted one.

`scripts/kill_check.py` does the same a hundred times.
"""

import random
import signal
import sys

import pytest
from helpers import load_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
kill_check = load_script("kill_check")
VALIDATED = kill_check.VALIDATED
EVERY_STEP = ("--checkpoint-minutes", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The number of moments in an uninterrupted run with validation and patience, and its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return kill_check.count_moments(folder, VALIDATED, *EVERY_STEP), kill_check.result(folder)


def test_the_run_that_is_killed_stops_early_at_an_epoch_after_its_best(whole):
    _, history, (best,) = whole[1]["records"]
    assert best["epoch"] < len(history) < 8
    assert {test["epoch"] for test in whole[1]["tests"]} == {best["epoch"]}


# 2: with a folder, but no configuration; 9: within the first checkpoint; 13: after it, before its history is written.
@pytest.mark.parametrize("moment", [2, 9, 13, "late"])
def test_a_run_killed_at_a_chosen_moment(tmp_path, whole, moment):
    moments, expected = whole
    moment = moments * 3 // 4 if moment == "late" else moment
    assert kill_check.killed_at(tmp_path / "run", moment, VALIDATED, *EVERY_STEP) == -signal.SIGKILL
    assert kill_check.fault_when_resumed(tmp_path / "run", expected, VALIDATED, *EVERY_STEP) == ""


def test_a_run_killed_twice_at_random_moments(tmp_path, whole, request):
    draw, options = random.Random(request.config.getoption("--seed")), ("--checkpoint-minutes", "0.0005")
    for _ in range(2):
        code = kill_check.killed_after(tmp_path / "run", draw.uniform(0.3, 0.9), VALIDATED, *options)
        assert code in (0, -signal.SIGKILL)
    assert kill_check.fault_when_resumed(tmp_path / "run", whole[1], VALIDATED) == ""
