"""The benchmark's picture, the fuzzer, the check against PyTorch; tests of the source documents run other scripts."""

import xml.etree.ElementTree as ElementTree

import pytest
from helpers import load_script
from pytorch import single_threaded_torch


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


def test_the_fuzzer_counts_and_keeps_each_kind_of_finding_once(tmp_path, capsys):
    pytest.importorskip("hypothesis", reason="of the test extra")
    pytest.importorskip("PIL", reason="of the test extra")
    findings = load_script("fuzz").Findings(tmp_path)

    def read(content):
        return {b"right": None, b"refused": "a message"}.get(content) or content[99]

    for content in (b"refused", b"bad", b"bad again"):
        findings.run("target", read, content)
    assert (findings.executions["target"], findings.refused["target"]) == (3, 1)
    assert "FINDING" in capsys.readouterr().out
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'"target"\nbad']


def test_random_networks_train_as_in_pytorch_and_a_small_error_is_found():
    single_threaded_torch()
    crosscheck = load_script("crosscheck")
    for seed in range(8):
        case = crosscheck.draw_case(seed, 2)
        problems, _ = crosscheck.differences(case, seed)
        assert problems == []
    case = crosscheck.draw_case(seed, 2)
    next(iter(case.model.parameters())).data[...] *= 1 + 1e-9
    problems, _ = crosscheck.differences(case, seed)
    assert "loss" in problems[0]
