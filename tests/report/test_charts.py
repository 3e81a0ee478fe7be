"""Charts: round ticks, whole epochs, gaps where nothing can be drawn, and colours that can be read."""

import re
from math import inf, nan

import pytest

from xpcnn.report.charts import Curve, error_scale, line_chart, linear_ticks, log_ticks, whole_ticks
from xpcnn.report.style import SERIES, STYLE


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.9731, 0.9893, [0.97, 0.975, 0.98, 0.985, 0.99]),
        (1.3, 1.3, [1.1, 1.2, 1.3, 1.4, 1.5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (-3, 1e9, [-2.5e8, 0, 2.5e8, 5e8, 7.5e8, 1e9]),
        (1e-300, 1e-300, [9e-301, 9.5e-301, 1e-300, 1.05e-300, 1.1e-300]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert linear_ticks(low, high) == ticks


def test_epochs_are_whole_and_powers_of_ten_enclose():
    assert whole_ticks(1, 1) == [1]
    assert whole_ticks(1, 3) == [1, 2, 3]
    assert whole_ticks(1, 40) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert log_ticks(3e-8, 2e-3) == pytest.approx([1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    assert log_ticks(1e-7, 1e-7) == pytest.approx([1e-7, 1e-6])
    assert log_ticks(1e-30, 1)[0] == pytest.approx(1e-30)


def numbers(pattern, source):
    return [tuple(map(float, found)) for found in re.findall(pattern, source)]


def test_points_lie_where_the_ticks_say():
    chart = line_chart("loss", [Curve("a", [(1, 0.5), (2, 1.0), (3, 0.0)], 0)])
    heights = dict(re.findall(r'<text x="44.0" y="([\d.]+)"[^>]*>([\d.]+)</text>', chart))
    heights = {float(text): float(y) for y, text in heights.items()}
    across = {int(text): float(x) for x, text in re.findall(r'<text x="([\d.]+)" y="191.0"[^>]*>(\d+)<', chart)}
    dots = numbers(r'cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert dots[1] == (across[2], heights[1.0])
    assert dots[2] == (across[3], heights[0.0])
    assert dots[0] == pytest.approx((across[1], (heights[0.4] + heights[0.6]) / 2), abs=0.1)


def test_lines_have_gaps_where_a_value_cannot_be_drawn():
    points = [(1, 1e-3), (2, 0.0), (3, 1e-4), (4, 1e-5), (5, nan), (6, inf), (7, 1e-6)]
    chart = line_chart("error", [Curve("a", points, 0), Curve("none", [(1, -1.0)], 1)], logarithmic=True)
    assert [len(line.split()) for line in re.findall(r'points="([^"]*)"', chart)] == [1, 2, 1]
    assert "none" not in chart
    assert "no values that can be drawn" in line_chart("error", [Curve("a", [(1, nan)], 0)])


def test_a_perfect_accuracy_has_no_tick_beyond():
    chart = line_chart("accuracy", [Curve("a", [(1, 1.0)], 0)], bounds=(0, 1))
    assert re.findall(r'text-anchor="end">([\d.]+)<', chart) == ["0.9", "0.95", "1"]


def test_further_curves_repeat_the_colours_dashed():
    styles = [Curve("", [], i).style for i in (0, SERIES - 1, SERIES)]
    assert styles == ["s1", f"s{SERIES}", "s1 dashed"]


def test_errors_lie_beside_their_tolerances():
    def places(error, tolerance):
        drawn = error_scale(error, tolerance, 1e-8, 1e-4, agrees=True)
        return float(re.search(r'cx="([\d.]+)"', drawn)[1]), float(re.search(r'x1="([\d.]+)"', drawn)[1])

    assert places(1e-6, 1e-4) == (72.0, 138.0)
    assert places(0.0, 0.0) == (6.0, 6.0)
    assert places(nan, 1e-4) == places(inf, 1e-4) == (138.0, 138.0)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_in_both_schemes():
    """A contrast of 4.5, as WCAG 2 asks of small text."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    for scheme in (light, dark):
        written = {name: text.lstrip("#") for name, text in re.findall(r"--(\w+): (#\w+)", scheme)}
        written = {name: text if len(text) == 6 else "".join(c * 2 for c in text) for name, text in written.items()}
        colours = {name: tuple(bytes.fromhex(text)) for name, text in written.items()}
        paper = colours["paper"]
        for name in ("ink", "soft", *(f"s{i}" for i in range(1, SERIES + 1))):
            assert contrast(colours[name], paper) >= 4.5, name
        for name in ("right", "wrong"):  # the darkest cell of a confusion table
            cell = tuple(map(int, re.search(rf"--{name}: (\d+) (\d+) (\d+)", scheme).groups()))
            shade = [0.5 * a + 0.5 * b for a, b in zip(cell, paper, strict=True)]
            assert contrast(colours["ink"], shade) >= 4.5, name
