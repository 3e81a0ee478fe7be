"""The page about a parity check: the verdict, and each layer's error beside its tolerance."""

from dataclasses import replace
from math import inf, nan

import pytest
from html_pages import Page
from other_order import other_order
from strict_xp import DEVICE

from xpcnn.parity import TraceConfig, run
from xpcnn.report import parity_report

ERRORS = "Errors and tolerances"


@pytest.fixture(scope="module")
def reports():
    with other_order():
        return run(TraceConfig(steps=2, batch_size=4), ["cpu", DEVICE, "cpu"])


def test_each_array_is_shown_with_its_error_and_its_tolerance(reports):
    page = Page(parity_report(reports[:1]))
    assert page.text.startswith("Do cpu and strict compute the same? lenet5 on mnist-mini, 2 steps of 4 images AGREE")
    rows = page.tables[ERRORS][1:]
    assert [(row[0], row[1]) for row in rows] == [(c.layer, c.direction) for c in reports[0].worst()]
    worst = max(reports[0].worst(), key=lambda c: c.severity)
    assert worst.relative > 0
    expected = [worst.layer, worst.direction, worst.array, "", f"{worst.relative:.1e}", f"{worst.tolerance:.1e}"]
    assert expected in [row[:6] for row in rows]
    assert {row[-1] for row in rows} == {"agrees"}
    assert [row[0] for row in page.tables["Loss of each step"]] == ["step", "1", "2"]
    labels = [attributes.get("aria-label", "") for tag, attributes in page.tags if tag == "svg"]
    assert any(label.startswith("relative error by step: layers, each on recorded input from") for label in labels)


@pytest.mark.parametrize("error", [1.5, inf, nan])
def test_what_differs_comes_first(reports, error):
    found = reports[0].comparisons
    place = next(i for i, c in enumerate(found) if (c.layer, c.direction) == ("fc3", "update"))
    changed = [*found[:place], replace(found[place], relative=error, absolute=error), *found[place + 1 :]]
    page = Page(parity_report([replace(reports[0], comparisons=changed)]))
    assert "DIFFER strict and cpu, first in step 1, layer fc3 (Linear), update" in page.text
    rows = page.tables[ERRORS][1:]
    assert rows[0][:2] == ["fc3", "update"]
    assert [row[-1] for row in rows] == ["DIFFERS"] + ["agrees"] * (len(rows) - 1)


def test_several_devices_are_on_one_page(reports):
    page = Page(parity_report(reports))
    assert "Do cpu and strict and cpu compute the same?" in page.text
    assert page.text.count("AGREE") == 2
