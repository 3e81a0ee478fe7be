"""What the page on parity shows is true: its table, and its example."""

import re
from pathlib import Path
from typing import get_args

from other_order import other_order
from strict_xp import DEVICE

from xpcnn import parity
from xpcnn.nn.module import Arithmetic

# The page stands in the source tree only; an installed package has none.
TEXT = (Path(__file__).parents[2] / "xpcnn/parity/README.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_tolerances():
    assert parity.tolerance_table() in TEXT


def test_every_arithmetic_is_described():
    assert re.findall(r'^\| `"(\w+)"`', TEXT, re.MULTILINE) == list(get_args(Arithmetic))


def test_the_example_compares_a_layer_of_a_user_s_own(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert '["cpu", "cuda"]' in code
    with other_order():
        exec(code.replace('"cuda"', "DEVICE"), {"DEVICE": DEVICE})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1, layer square (Square), forward: y is off by ")
    assert all(line.endswith(" agrees") for line in lines)
