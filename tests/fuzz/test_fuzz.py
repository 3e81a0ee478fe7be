"""Damaged files and odd command lines: a documented error of one line, or an answer; nothing else.

A few seconds of what `scripts/fuzz.py` runs for as long as one likes, with the same seeds in every run.
"""

import random

import pytest

pytest.importorskip("PIL", reason="pictures are read with Pillow, of the viz extra")
hypothesis = pytest.importorskip("hypothesis", reason="of the test extra")

from hypothesis import HealthCheck, given, settings  # noqa: E402

from fuzz.commands import COMMAND_LINES, playground, run_command  # noqa: E402
from fuzz.structure import structures  # noqa: E402
from fuzz.targets import targets  # noqa: E402

SHORT = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return {target.name: target for target in targets(tmp_path_factory.mktemp("fuzz"))}


NAMES = [
    *("idx", "idx, compressed", "idx, published", "cifar", "cifar, published", "archive", "archive, compressed"),
    *("npz", "npz, array"),
    *("png", "jpeg", "tiff", "gif, bmp, webp, ppm", "cache", "cache, signed"),
    *("checkpoint", "trained network", "config.json", "history.jsonl"),
    *("weights.safetensors", "weights.pt", "weights before 1.6.pt", "weights, pickle"),
    *("trace.json", "trace, initial.safetensors", "trace, step-0001.safetensors"),
]
STRUCTURED = [
    *(
        "idx",
        "npz, array",
        "png",
        "tiff",
        "cache, signed",
        "trace, initial.safetensors",
        "trace, step-0001.safetensors",
    ),
    *("config.json", "history.jsonl", "checkpoint", "trained network", "trace.json"),
]


def test_every_target_is_run(readers):
    assert [*readers] == NAMES
    assert len(structures(readers)) == len(STRUCTURED)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(readers, name):
    target, rng = readers[name], random.Random(name)
    messages = {target.run(target.damaged(rng)) for _ in range(50)}
    assert len(messages) > 2  # damage is noticed, in more than one way


@pytest.mark.parametrize("name", STRUCTURED)
def test_well_formed_files_that_say_anything(readers, name):
    @SHORT
    @given(structures(readers)[name])
    def read(content):
        readers[name].run(content)

    read()


def test_command_lines(tmp_path):
    @SHORT
    @given(COMMAND_LINES)
    def command(arguments):
        run_command(arguments)

    with playground(tmp_path / "here"):
        command()
