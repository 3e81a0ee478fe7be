"""What serves GPUs, as far as it shows without one: the choice of TF32, the fixtures, and the check script."""

import ctypes
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xpcnn.backend import CPU
from xpcnn.backend.cuda import CudaDevice
from xpcnn.testing.fixtures import first_gpu

ROOT = Path(__file__).parents[1]
TF32, USUAL = 7, 1


def fake_cuda(capability="80"):
    """Return a `CudaDevice` over as much of CuPy as choosing TF32 takes."""
    chosen = {"type": USUAL}
    core = SimpleNamespace(
        get_compute_type=lambda dtype: chosen["type"], set_compute_type=lambda dtype, kind: chosen.update(type=kind)
    )

    class Gpu(nullcontext):
        compute_capability, mem_info = capability, (0, 8 << 30)

        def use(self): ...

    runtime = SimpleNamespace(getDeviceProperties=lambda index: {"name": b"Fake GPU"})
    return CudaDevice(
        SimpleNamespace(_core=core, cuda=SimpleNamespace(Device=Gpu, runtime=runtime), __version__="14"), 0
    )


@pytest.mark.parametrize(
    ("shape", "parts"),
    [((6, 28 * 28 * 1024), 32), ((3, 2**20), 32), ((64, 5 << 17), 16), ((5, 100), 1), ((2, 99_999), 1)],
)
def test_few_long_rows_are_added_up_in_parts(shape, parts, monkeypatch):
    device = CudaDevice(
        SimpleNamespace(cuda=fake_cuda().xp.cuda, fuse=lambda kernel_name: lambda function: function), 0
    )
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape, np.float32) for _ in range(2))
    lengths = []
    total = np.ndarray.sum

    class Noted(np.ndarray):
        def sum(self, axis=None, **options):
            lengths.append(self.shape[axis])
            return total(self, axis=axis, **options)

    sums = device.row_sums(x.view(Noted))
    assert lengths == [shape[1] // parts, *[parts] * (parts > 1)]
    np.testing.assert_allclose(sums, x.sum(axis=1, keepdims=True, dtype="d"), rtol=1e-4, atol=0.05)
    exact = (x.astype("d") * y).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(device.row_dots(x, y), exact, rtol=1e-4, atol=0.05)


def test_half_of_the_free_memory_is_for_a_data_set():
    device = fake_cuda()
    device.xp.cuda.Device.mem_info = (6 << 30, 8 << 30)
    device.xp.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 1 << 30)
    assert device.dataset_bytes == 3.5 * (1 << 30)


def test_tf32_is_off_unless_asked_for_and_off_again_after_the_block():
    device = fake_cuda()
    assert not device.tf32
    with device.allow_tf32():
        assert device.tf32
    assert not device.tf32
    with pytest.raises(ZeroDivisionError), device.allow_tf32():
        raise ZeroDivisionError
    assert not device.tf32


@pytest.mark.parametrize("device", [CPU, fake_cuda("75")], ids=["cpu", "older GPU"])
def test_a_device_without_tf32_says_so(device):
    assert not device.tf32
    with pytest.raises(ValueError, match=r"TF32 was asked for, but .* does not have it"), device.allow_tf32():
        pass
    assert not device.tf32


class OnGpu(np.ndarray):
    """An array of the host with CuPy's way to give its address."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))


def fake_gemm(handle, turn_a, turn_b, m, n, k, one, a, of_a, step_a, b, of_b, step_b, zero, c, of_c, step_c, *kind):
    """Compute what cuBLAS does: matrices column by column, of float16, into one of float32."""
    assert (of_a, of_b, of_c, *kind) == ("half", "half", "single", "float32 sums", "default")

    def matrix(address, rows, columns, step, kind):
        assert step >= rows
        count = step * (columns - 1) + rows
        memory = np.ctypeslib.as_array((ctypes.c_byte * (count * np.dtype(kind).itemsize)).from_address(address))
        return np.lib.stride_tricks.as_strided(
            memory.view(kind), (rows, columns), np.dtype(kind).itemsize * np.array((1, step))
        )

    left = matrix(a, k, m, step_a, "e").T if turn_a else matrix(a, m, k, step_a, "e")
    right = matrix(b, n, k, step_b, "e").T if turn_b else matrix(b, k, n, step_b, "e")
    matrix(c, m, n, step_c, "f")[...] = left.astype("f") @ right.astype("f")


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 7, 9), (5, 7, 1), (5, 1, 9), (1, 1, 1)])
@pytest.mark.parametrize("part", [False, True])
def test_a_product_in_mixed_precision_is_one_call_of_cublas(shape, turned, part, rng, monkeypatch):
    device, (M, K, N) = fake_cuda(), shape
    cublas = SimpleNamespace(gemmEx=fake_gemm, CUBLAS_COMPUTE_32F="float32 sums", CUBLAS_GEMM_DEFAULT="default")
    for name, value in {"CUDA_R_16F": "half", "CUDA_R_32F": "single"}.items():
        setattr(device.xp.cuda.runtime, name, value)
    device.xp.cuda.cublas, device.xp.cuda.device = cublas, SimpleNamespace(get_cublas_handle=lambda: 1)

    def operand(rows, columns, turn, kind):
        x = rng.normal(size=(columns, rows + 3) if turn else (rows, columns + 3)).astype(kind).view(OnGpu)
        return x.T[:rows] if turn else x[:, :columns]

    a, b = operand(M, K, turned[0], "e"), operand(K, N, turned[1], "f")
    whole = np.full((M, N + 2), np.nan, "f").view(OnGpu)
    out = whole[:, :N] if part else np.full((M, N), np.nan, "f").view(OnGpu)
    device.matmul(a[None], b[None], out=out[None])  # one of several products, as of 1×1 convolutions
    exact = a.astype("d") @ b.astype("e").astype("d")
    np.testing.assert_allclose(np.asarray(out), np.asarray(exact), 0, 1e-5)
    assert np.isnan(whole[:, N:]).all()  # nothing was written beside it


def test_cupy_has_what_the_choice_takes():
    pytest.importorskip("cupy")
    from cupy import _core
    from cupy._core import _routines_linalg

    assert _routines_linalg.compute_type_to_str(TF32) == "COMPUTE_TYPE_TF32"
    assert _core.get_compute_type(np.float32) in (USUAL, TF32)  # the latter by CUPY_TF32=1
    assert callable(_core.set_compute_type)


@pytest.mark.gpu
def test_float32_products_on_a_gpu_are_float32_unless_told_otherwise():
    gpu, reason = first_gpu()
    if gpu is None:
        pytest.skip(reason)
    a = np.random.default_rng(0).normal(size=(256, 256)).astype("f")
    exact, x = a.astype("d") @ a.astype("d"), gpu.asarray(a)
    assert abs(gpu.to_host(x @ x) - exact).max() < 1e-3
    with gpu.allow_tf32():
        assert abs(gpu.to_host(x @ x) - exact).max() > 1e-3
    assert abs(gpu.to_host(x @ x) - exact).max() < 1e-3


USER_S_TESTS = """
def test_layer(device, xp):
    assert device.name in ("cpu", "cuda:0")
    assert float(xp.ones(3).sum()) == 3
"""


def call(command, cwd=ROOT, **environment):
    # Without the machine's own GPU, if there is one: what is tested here is its absence.
    variables = (
        os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "XPCNN_REQUIRE_GPU": ""} | environment
    )
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=variables, check=False
    )


def test_the_fixtures_serve_a_user_s_own_tests(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["xpcnn.testing.fixtures"]\n')
    (tmp_path / "test_own.py").write_text(USER_S_TESTS)
    command = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    result = call(command, tmp_path)
    assert "1 passed, 1 skipped" in result.stdout, result.stdout
    assert "To use an NVIDIA GPU" in result.stdout  # the reason, and what to do about it
    result = call(command, tmp_path, XPCNN_REQUIRE_GPU="1")
    assert "1 passed, 1 error" in result.stdout, result.stdout
    assert "XPCNN_REQUIRE_GPU=1, but" in result.stdout


def test_the_check_script_needs_a_gpu_and_says_so_in_one_line(tmp_path):
    result = call(["scripts/gpu_check.py", "--output", str(tmp_path / "out")])
    assert result.returncode == 2
    assert result.stderr.startswith("gpu_check: no GPU: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_check_script_can_be_rehearsed(tmp_path):
    out = tmp_path / "out"
    for part in (
        "LeNet-5, float32",
        "LeNet-5, mixed",
        "accuracy",
        "dropout",
        *["levers", "compiled", "cores"] * bool(find_spec("torch")),
        "tests",
    ):
        result = call(["scripts/gpu_check.py", "--rehearse", "--output", str(out / part), "--only", part])
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads((out / part / "report.json").read_text())
        (found,) = report["parts"].values()
        assert report["rehearsal"]
        assert found["well"]
        assert "| yes |" in (out / part / "report.md").read_text()


def test_the_benchmark_changes_properties_that_exist():
    pytest.importorskip("torch")
    result = call(["scripts/benchmark.py", "--set", "tile_byte=1"])
    assert result.returncode == 1
    assert result.stderr == "benchmark: cpu has no property tile_byte that is a number\n"
