"""The benchmark, the fuzzer, the check against PyTorch; tests of the source documents run other scripts."""

import json
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import load_script
from pytorch import single_threaded_torch

from xpcnn import models, nn


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


def test_the_benchmark_measures_every_layer_and_the_same_one_in_pytorch(rng):
    torch = single_threaded_torch()
    layers, to_torch = load_script("benchmark_layers").LAYERS, load_script("benchmark_torch").to_torch
    public = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    public = {name for name in public if issubclass(getattr(nn, name), nn.Module)}
    # Containers, base classes, and what computes nothing.
    others = {
        "Module",
        "Sequential",
        "Residual",
        "ResidualSequential",
        "Activation",
        "Identity",
        "Flatten",
        "AverageViews",
    }
    assert {type(make(8)).__name__ for make, _ in layers.values()} == public - others
    losses = {name for name in nn.__all__ if name.endswith("Loss")} - {"Loss", "GroupLoss"}
    assert load_script("benchmark_layers").LOSSES.keys() == losses
    networks = [
        (models.resnet18((3, 33, 32), 5, width=4), (3, 33, 32)),
        (models.mobilenet_v2((3, 33, 32), 5, width_mult=0.25, dropout=0), (3, 33, 32)),
        (models.convnext((3, 8, 9), 5, depths=(1, 2), widths=(4, 8), layer_scale=0.5), (3, 8, 9)),
    ]
    small = [(make(8), (8, 14, 14)[: len(shapes[0]) - 1]) for make, shapes in layers.values()]
    for module, shape in small + networks:
        x = rng.normal(size=(4, *shape)).astype(np.float32)
        if not isinstance(module, nn.Dropout):
            expected = to_torch(module)(torch.tensor(x)).detach().numpy()
            np.testing.assert_allclose(module(x), expected, 1e-4, 2e-5, err_msg=repr(module))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86")
def test_the_benchmark_holds_itself_to_avx2(monkeypatch):
    machine = load_script("benchmark_machine")
    started, run = [], subprocess.run

    def start(command, env, check):
        started.append((command, env))
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", start)
    with pytest.raises(SystemExit) as end:
        machine.hold_to_avx2()
    assert end.value.code == 7
    command, environment = started.pop()
    assert command == [sys.executable, *sys.orig_argv[1:]]
    for name in machine.avx2_environment():
        monkeypatch.setenv(name, environment[name])
    machine.hold_to_avx2()
    assert started == []
    program = (
        "import json; from numpy._core._multiarray_umath import __cpu_dispatch__ as names, __cpu_features__ as found\n"
        "from threadpoolctl import threadpool_info; from xpcnn.backend import CPU\n"
        "blas = [lib.get('architecture') for lib in threadpool_info() if lib['internal_api'] == 'openblas']\n"
        "print(json.dumps([[name for name in names if found[name]], blas, CPU.small_product, CPU.winograd_channels]))"
    )
    answer = run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    numpy_kernels, blas, small_product, winograd_channels = json.loads(answer.stdout)
    assert not [name for name in numpy_kernels if "512" in name or name == "X86_V4"]
    assert set(blas) <= {"Haswell"}
    assert (small_product, winograd_channels) == (0, 32)  # OpenBLAS has kernels for small products with AVX-512 only
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(SystemExit, match="arm64"):
        machine.hold_to_avx2()


def test_the_benchmark_gives_onnxruntime_the_same_network(rng):
    pytest.importorskip("onnxruntime", reason="not installed")
    pytest.importorskip("onnx", reason="not installed")
    single_threaded_torch()
    network = models.resnet20((3, 8, 8), 5).eval()
    for _, leaf in network.named_modules():
        if isinstance(leaf, nn.BatchNorm2d):  # else forgetting them would not show
            leaf.running_mean.data[...], leaf.running_var.data[...] = rng.normal(size=(2, leaf.num_features)) ** 2 + 0.5
    x = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    step = load_script("benchmark_onnx").onnx_step(network, x, threads=1)
    np.testing.assert_allclose(step(), network(x), 1e-4, 1e-4 * np.abs(network(x)).max())


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


def test_results_of_seeds_are_kept_and_not_measured_again(tmp_path, monkeypatch):
    results = load_script("recipe_results")
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = ["--data", str(tmp_path / "few.npz"), "--model", "numpy_cnn", "--epochs", "1", "--device", "cpu"]
    file = tmp_path / "new" / "few.jsonl"
    (line,) = results.run_seeds(file, [4], options)
    assert 0 <= line["accuracy"] <= 1
    assert 0 < line["training_seconds"] + 0.1 < line["seconds"]
    assert (line["config"]["seed"], line["config"]["model"]) == (4, "numpy_cnn")
    monkeypatch.setattr(results, "measured", lambda seed, options: {**line, "seed": seed, "accuracy": 0.5})
    lines = results.run_seeds(file, [4, 5], options)
    assert lines == [line, {**line, "seed": 5, "accuracy": 0.5}]
    assert [json.loads(text) for text in file.read_text().splitlines()] == lines
    assert results.described(lines).startswith(f"seed 4, 5: {(line['accuracy'] + 0.5) / 2:.2%}, ")
    with pytest.raises(ValueError, match=r"has runs of 'xpcnn train --data .* --device cpu', not of 'xpcnn train'"):
        results.run_seeds(file, [4], [])


def test_results_of_other_code_than_the_clones_are_marked(tmp_path, monkeypatch):
    results = load_script("recipe_results")
    here = results.commit()
    if here == "unknown":
        pytest.skip("these tests are not in a clone")
    assert len(here.rstrip("+")) == 40
    monkeypatch.setattr(results.subprocess, "run", lambda *args, **options: SimpleNamespace(stdout=""))
    assert results.commit() == ""
    package = shutil.copytree(Path(results.xpcnn.__file__).parent, tmp_path / "xpcnn")
    monkeypatch.setattr(results.xpcnn, "__file__", str(package / "__init__.py"))
    assert results.commit() == ""
    with (package / "random.py").open("a") as file:
        file.write("# changed")
    assert results.commit() == "+"
