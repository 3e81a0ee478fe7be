"""Devices: how they are named and found, how work is shared, and what is said when a GPU does not answer."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused
from threadpoolctl import threadpool_limits

import xpcnn
from xpcnn import DeviceUnavailableError, available_devices, backend, functional
from xpcnn import device as device_named
from xpcnn.backend import (
    CPU,
    DeviceFailedError,
    array_namespace,
    batch_first,
    batch_last,
    blocks,
    device_of,
    device_or_none,
    failures_named,
    to_host,
)
from xpcnn.backend.device import _DEVICE_OF_TYPE

INSTALL = 'pip install "cupy-cuda13x[ctk]"'


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    """The CPU device with some number of threads."""
    before, CPU.threads = CPU.threads, request.param
    yield request.param
    CPU.threads = before


# -- Names ------------------------------------------------------------------------------------------------------------


def test_names():
    assert device_named("cpu") is CPU
    assert device_named(CPU) is CPU
    assert (CPU.name, CPU.xp, repr(CPU)) == ("cpu", np, "Device('cpu')")
    assert (
        device_named() is device_named("auto") is available_devices()[0][-1 if len(available_devices()[0]) == 1 else 1]
    )


@pytest.mark.parametrize("name", ["gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:1.0", "", 3, None])
def test_unknown_names(name):
    with refused("unknown device", repr(name), '"cpu", "cuda", "cuda:<number>" or "auto"'):
        device_named(name)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda device: pickle.loads(pickle.dumps(device))])
def test_copies_are_the_device_itself(duplicate):
    assert duplicate(CPU) is CPU
    assert duplicate({"device": CPU})["device"] is CPU


def test_without_a_gpu_the_reason_and_the_cure_are_named():
    devices, reason = available_devices()
    if len(devices) > 1:
        pytest.skip("a GPU answers")
    assert INSTALL in reason
    with refused(INSTALL, error=DeviceUnavailableError):
        device_named("cuda")
    with refused(error=DeviceUnavailableError):
        device_named("cuda:99")


# -- Finding a GPU, with a make-believe CuPy that fails in one way or another -----------------------------------------

CUPY = """
    import numpy
    from numpy import asarray, float32, ones

    class ndarray(numpy.ndarray):
        pass

    class cuda:
        class runtime:
            def getDeviceCount():
                return 2

        in_use = 0

        class Device:
            def __init__(self, index): self.index = index
            def __enter__(self): pass
            def __exit__(self, *error): pass
            def use(self): cuda.in_use = self.index
            mem_info = 0, 8 << 30
"""
PRODUCT = """
    class Matrix:
        def __add__(self, other): return self
        def __matmul__(self, other):
"""
FAILURES = {
    "not installed": ("raise ModuleNotFoundError('No module named cupy', name='cupy')", "No module named cupy"),
    "package missing": ("raise ModuleNotFoundError('No module named fastrlock', name='fastrlock')", "fastrlock"),
    "library missing": ("raise ImportError('libcudart.so.12: cannot open\\nand more')", "libcudart.so.12: cannot open"),
    "no driver": (CUPY.replace("return 2", "raise RuntimeError('cudaErrorNoDevice: none')"), "cudaErrorNoDevice: none"),
    "product fails": (
        CUPY + PRODUCT + "            raise RuntimeError('libcublas.so.12 is missing')\n    ones = lambda *_: Matrix()",
        "libcublas.so.12 is missing",
    ),
    "error without words": (
        CUPY + PRODUCT + "            raise LookupError\n    ones = lambda *_: Matrix()",
        "LookupError",
    ),
    "product wrong": (CUPY + "    ones = numpy.zeros", "cuda:0 computes a small product wrongly"),
    "no such GPU": (CUPY.replace("return 2", "return 0"), "CUDA sees 0 GPU(s)"),
}


def python(code, tmp_path, cupy):
    """Run a program that finds this text as the module `cupy`, and return what it printed and its complaints."""
    (tmp_path / "cupy.py").write_text(dedent(cupy))
    path = os.pathsep.join([str(tmp_path), str(Path(xpcnn.__file__).parents[1])])
    command = [sys.executable, "-P", "-c", dedent(code)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("failure", FAILURES)
def test_a_gpu_that_does_not_answer(failure, tmp_path):
    cupy, reason = FAILURES[failure]
    code = """
        import sys
        from xpcnn import DeviceUnavailableError, available_devices, device as device_named
        assert "cupy" not in sys.modules
        try:
            device_named("cuda")
        except DeviceUnavailableError as error:
            print(error)
        assert device_named("auto") is device_named() is device_named("auto") is device_named("cpu")
        devices, reason = available_devices()
        assert devices == [device_named("cpu")]
        print(reason)
    """
    printed, complaint = python(code, tmp_path, cupy)
    named, listed = printed.splitlines()
    assert reason in named
    assert listed == named
    expected = "" if failure == "not installed" else f"<string>:9: UserWarning: using the CPU: {named}\n"
    assert complaint == expected  # once, in one line, at the place that asked
    assert (INSTALL in named) == (failure not in ("product wrong", "no such GPU"))


def test_a_gpu_that_answers(tmp_path):
    code = """
        import pickle
        from xpcnn import DeviceUnavailableError, available_devices, device as device_named
        assert device_named("auto") is device_named("cuda") is device_named("cuda:0")
        second = device_named("cuda:1")
        assert second is pickle.loads(pickle.dumps(second)) is not device_named("cuda:0")
        assert available_devices() == ([device_named("cpu"), device_named("cuda:0"), device_named("cuda:1")], "")
        import cupy
        assert device_named("cuda:1").xp is cupy
        for gpu in ("cuda:1", "cuda", device_named("cuda:1")):  # CuPy computes on the one last asked for
            asked = device_named(gpu)
            assert asked.name == f"cuda:{cupy.cuda.in_use}", (asked, cupy.cuda.in_use)
        try:
            device_named("cuda:2")
        except DeviceUnavailableError as error:
            print(device_named("cuda:1"), error)
    """
    printed, complaint = python(code, tmp_path, CUPY)
    assert printed == "Device('cuda:1') cuda:2 was asked for, but CUDA sees 2 GPU(s)\n"
    assert complaint == ""


# -- Arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [None, [1.0], 2.0, "x", range(3)])
def test_what_is_no_array_has_no_device(thing):
    assert device_or_none(thing) is None
    with refused("expected an array", type(thing).__name__, error=TypeError):
        device_of(thing)


def test_arrays_move_and_are_copied_only_where_they_must(device):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = device.asarray(host)
    assert device_of(x) is device
    assert array_namespace(x) is device.xp
    assert device.xp.may_share_memory(device.asarray(x), x)
    assert_close(x, host, 0, 0, device=device)
    assert_close(device.asarray(x, np.float64), host, 0, 0, device=device, dtype=np.float64)
    assert_close(device.asarray([[1, 2]]), np.array([[1, 2]]), 0, 0, device=device)
    assert_close(CPU.asarray(x), host, 0, 0, device=CPU)
    assert type(to_host(x)) is type(device.to_host(x)) is np.ndarray
    assert device_of(x.sum()) is device
    device.synchronize()


def test_the_order_of_memory(device, rng):
    host = rng.normal(size=(4, 2, 3, 5))
    x = device.asarray(host)
    turned = batch_last(x)
    assert_close(turned, host.transpose(1, 2, 3, 0), 0, 0, device=device)
    assert turned.flags.c_contiguous
    back = batch_first(turned)
    assert_close(back, host, 0, 0, device=device)
    assert device.xp.may_share_memory(batch_last(back), back)  # what the layers return is not copied again
    matrix = device.asarray(host[:, 0, 0])
    assert_close(batch_first(batch_last(matrix)), host[:, 0, 0], 0, 0, device=device)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_whole_kilobytes_apart_are_turned_too(dtype, threads, rng, monkeypatch):
    """They are moved apart on the way, in blocks of pixels."""
    asked, scratch = [], CPU.scratch
    monkeypatch.setattr(CPU, "scratch", lambda *arguments: asked.append(arguments[2]) or scratch(*arguments))
    for shape, apart in (((16, 3, 32, 32), True), ((130, 5, 1024), True), ((15, 3, 32, 32), False), ((20, 3), False)):
        asked.clear()
        images = rng.integers(0, 255, shape).astype(dtype)
        turned = batch_last(images)
        assert np.array_equal(turned, np.moveaxis(images, 0, -1))
        assert turned.flags.c_contiguous
        assert ("apart" in asked) == apart


def test_blocks_are_even_and_whole():
    for length in range(1, 20):
        for count in range(1, 8):
            cut = blocks(length, count)
            assert [i for part in cut for i in range(length)[part]] == list(range(length))
            sizes = [part.stop - part.start for part in cut]
            assert len(cut) == min(length, count)
            assert max(sizes) - min(sizes) <= 1


# -- Work shared between threads --------------------------------------------------------------------------------------


def test_work_is_cut_by_its_size_alone():
    sizes = [int(1.3**i) for i in range(120)]
    before, answers = CPU.threads, []
    try:
        for CPU.threads in (1, 3, 16):
            answers.append([CPU.parts(size) for size in sizes])
    finally:
        CPU.threads = before
    assert answers[0] == answers[1] == answers[2] == sorted(answers[0])
    assert set(answers[0]) == {1, 4, 8, 16}  # more than four threads can help, and two, four or eight share evenly
    assert CPU.parts((1 << 25) - 1) == 1
    assert [CPU.parts(1 << 40, at_most=most) for most in (0, 1, 2, 3, 5, 7, 12, 100)] == [1, 1, 2, 2, 4, 4, 8, 16]
    assert backend.Device().parts(1 << 40) == 1  # a GPU shares work among its own processors


def test_more_than_four_threads_can_help_a_layer(rng):
    x = batch_first(rng.normal(size=(8, 32, 32, 64)).astype("f"))
    weight = rng.normal(size=(96, 8, 5, 5)).astype("f")
    workers, before = set(), CPU.threads
    CPU.threads = 8
    meeting = threading.Barrier(8)
    scratch = CPU.scratch

    def meet(*args):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            meeting.wait(timeout=20)
        return scratch(*args)

    try:
        CPU.scratch = meet
        functional.conv2d_forward(x, weight, padding=2)
    finally:
        del CPU.scratch
        CPU.threads = before
    assert len(workers) == 8


def blas_threads():
    # NumPy's own; other packages bring further copies, which no layer calls.
    return [lib.num_threads for lib in CPU._workers._blas]


@pytest.fixture
def two_blas_threads():
    with threadpool_limits(2, "blas"):
        if set(blas_threads()) != {2}:
            pytest.skip("BLAS runs on one thread here whatever it is asked")
        yield


@pytest.mark.usefixtures("two_blas_threads")
def test_map_keeps_the_order_and_holds_blas_to_one_thread(threads):
    for count in range(9):
        tasks = list(range(count))
        results = CPU.map(lambda i: (i * i, blas_threads()), tasks)
        assert [square for square, _ in results] == [i * i for i in tasks]
        assert {n for _, counts in results for n in counts} <= {1}
    assert set(blas_threads()) == {2}


def test_map_runs_on_as_many_threads_as_asked(threads):
    meeting = threading.Barrier(threads)

    def meet(_):
        meeting.wait(timeout=10)
        return threading.get_ident()

    assert len(set(CPU.map(meet, range(threads)))) == threads
    assert CPU.threads == threads


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_map_passes_on_an_error_once_all_tasks_have_ended(failing, threads):
    running, ended = [], []

    def work(i):
        running.append(i)
        if i == failing:
            raise LookupError(f"task {i}")
        time.sleep(0.02 * (i + 1))  # the later, the longer: the failing one is not the last
        ended.append(i)

    with refused(f"task {failing}", error=LookupError):
        CPU.map(work, range(4))
    assert sorted([*ended, failing]) == sorted(running)
    assert set(blas_threads()) == {2}
    assert CPU.map(abs, [-1, 2, -3]) == [1, 2, 3]  # the pool still works


@pytest.mark.usefixtures("two_blas_threads")
def test_map_within_map(threads):
    def outer(i):
        return sum(CPU.map(lambda j: CPU.map(lambda k: i * j * k, range(3))[-1], range(5)))

    assert CPU.map(outer, range(6)) == [i * 2 * 10 for i in range(6)]
    assert set(blas_threads()) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_map_from_another_thread_holds_blas_too(threads):
    """Whichever thread of the user came first, and although the limit outside was set in this one."""
    with ThreadPoolExecutor(1) as another:
        inside = [another.submit(CPU.map, lambda _: blas_threads(), range(4)).result()]
        inside.append(CPU.map(lambda _: blas_threads(), range(4)))
        inside.append(another.submit(CPU.map, lambda _: blas_threads(), range(4)).result())
    assert {n for results in inside for counts in results for n in counts} == {1}
    assert set(blas_threads()) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_the_last_to_leave_gives_blas_its_threads_back():
    entered, leave = threading.Event(), threading.Event()

    def stay(_):
        entered.set()
        assert leave.wait(timeout=10)

    with ThreadPoolExecutor(1) as another:

        def call_another(_):
            future = another.submit(CPU.map, stay, [0])
            assert entered.wait(timeout=10)
            return future

        (future,) = CPU.map(call_another, [0])
        assert set(blas_threads()) == {1}
        leave.set()
        future.result()
    assert set(blas_threads()) == {2}


def test_map_from_several_threads_at_once(threads):
    def user(n):
        return [CPU.map(lambda i: (time.sleep(0.0005), i + n)[1], range(5)) for _ in range(10)]

    with ThreadPoolExecutor(4) as users:
        for n, results in enumerate(users.map(user, range(4))):
            assert results == [[i + n for i in range(5)]] * 10


def test_map_elements_meets_every_element(threads):
    for size in (1000, (1 << 17) + 13):
        x, y = np.arange(float(size)), np.zeros(size)
        CPU.map_elements(lambda x, y: np.add(x, 1, out=y), x, y)
        assert np.array_equal(y, x + 1)


def test_sums_of_elements_are_those_of_all_pieces(threads, monkeypatch):
    x = np.arange(1 << 16, dtype=float)
    monkeypatch.setattr(CPU, "tile_bytes", 1000)
    pieces = []

    def product(x, y, factor):
        pieces.append(x.size)
        return factor * x * y

    assert CPU.summed(product, x, x[::-1].copy(), 2) == 2 * (x @ x[::-1])  # whole numbers, so it is exact
    assert len(pieces) > 1000
    assert sum(pieces) == x.size
    # Operands that cannot be cut alike are taken as they are.
    assert CPU.summed(product, x.reshape(256, 256), x[:256], 1) == (x.reshape(256, 256) * x[:256]).sum()
    square = x.reshape(256, 256)
    assert CPU.summed(product, square, square.T, 1) == (square * square.T).sum()


def test_the_number_of_threads_is_at_least_one():
    before = CPU.threads
    with refused("at least 1", "0"):
        CPU.threads = 0
    assert CPU.threads == before >= 1


def test_scratch_memory_is_kept_for_each_slot_and_thread():
    first = CPU.scratch((4, 5), np.float32, "test")
    assert (first.shape, first.dtype, first.flags.c_contiguous) == ((4, 5), np.float32, True)
    smaller = CPU.scratch((3,), np.float64, "test")
    assert np.shares_memory(first, smaller)
    assert not np.shares_memory(first, CPU.scratch((4, 5), np.float32, "test of another"))
    larger = CPU.scratch((100, 5), np.float32, "test")
    assert larger.shape == (100, 5)
    assert np.shares_memory(larger, CPU.scratch((4, 5), np.float32, "test"))

    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(CPU.scratch((100, 5), np.float32, "test")))
    thread.start()
    thread.join()
    assert not np.shares_memory(larger, elsewhere[0])


def test_a_kind_of_array_can_be_registered():
    class Strange:
        pass

    strange = Strange()
    try:
        backend.register(Strange, lambda array: CPU if array is strange else None)
        assert device_of(strange) is CPU
    finally:
        del _DEVICE_OF_TYPE[Strange]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_a_pool_of_its_own():
    code = """
import os
from xpcnn.backend import CPU
CPU.threads = 3
assert CPU.map(abs, range(-4, 0)) == [4, 3, 2, 1]
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(CPU.map(abs, range(-4, 0)) != [4, 3, 2, 1])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(xpcnn.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    assert done.returncode == 0


def test_what_cuda_says_of_a_failure_is_one_line() -> None:
    error = type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api.runtime"})
    with pytest.raises(DeviceFailedError, match=r"^the GPU failed: cudaErrorUnknown$"), failures_named():
        raise error("cudaErrorUnknown\nmore")
    with pytest.raises(ZeroDivisionError), failures_named():
        raise ZeroDivisionError
