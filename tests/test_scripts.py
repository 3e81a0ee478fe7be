"""The benchmark's picture; other scripts are run by the tests of the source documents."""

import xml.etree.ElementTree as ElementTree

from helpers import load_script


def test_the_picture_of_the_benchmark_shows_each_ratio():
    rows = [{"network": "A & B", "batch": 4, "ratio": 0.5}, {"network": "C", "batch": 64, "ratio": 1.5}]
    machine = {"processor": "P", "threads": 2, "date": "2026-01-01"}
    picture = load_script("benchmark_picture").draw({"training": rows, "machine": machine})
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B, batch 4", "0.50", "C, batch 64", "1.50", "P, 2 threads, 2026-01-01"} <= set(texts)
    first, second = root.iter("{http://www.w3.org/2000/svg}rect")
    assert float(second.get("width")) == 3 * float(first.get("width"))
    assert [bar.get("class") for bar in (first, second)] == ["bar", "bar slower"]
    right = max(float(bar.get("x")) + float(bar.get("width")) for bar in (first, second))
    assert right < float(root.get("viewBox").split()[2])
