"""Draws the training table of `benchmark.py` as an SVG: each step's time beside PyTorch's, as bars.

    python scripts/benchmark.py --json results.json && python scripts/benchmark_picture.py results.json picture.svg

The picture has no size in pixels of its own, and takes the colours of a light or dark page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

LABEL, SCALE, ROW, TOP = 190, 260, 22, 58  # widths and heights in the picture's units; SCALE is that of a ratio of 1
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .small { fill: #59636e } .value { fill: #ffffff; text-anchor: end }
  .bar { fill: #1a7f37 } .slower { fill: #9a6700 } line { stroke: #59636e; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } line { stroke: #9198a1 }
  }
"""


def draw(results: dict[str, Any]) -> str:
    """Return the SVG of the figures that `benchmark.py --json` wrote."""
    rows, machine = results["training"], results["machine"]
    widest = max(row["ratio"] for row in rows)
    width, height = LABEL + SCALE * max(1.0, widest) + 40, TOP + ROW * len(rows) + 26
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">']
    lines += [
        f"<style>{STYLE}</style>",
        _text(0, 16, "Time of a training step, PyTorch = 1 (shorter is faster)", "title"),
    ]
    lines.append(_text(0, 36, f"{machine['processor']}, {machine['threads']} threads, {machine['date']}", "small"))
    for i, row in enumerate(rows):
        y, length = TOP + ROW * i, SCALE * row["ratio"]
        kind = "bar" if row["ratio"] <= 1 else "bar slower"
        lines.append(_text(0, y + 13, f"{row['network']}, batch {row['batch']}"))
        lines.append(f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="16" rx="2"/>')
        lines.append(_text(LABEL + length - 6, y + 13, f"{row['ratio']:.2f}", "value"))
    bottom = TOP + ROW * len(rows)
    lines.append(f'<line x1="{LABEL + SCALE}" y1="{TOP - 6}" x2="{LABEL + SCALE}" y2="{bottom}"/>')
    lines.append(_text(LABEL + SCALE - 28, bottom + 16, "PyTorch", "small"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
