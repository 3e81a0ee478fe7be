"""The same bits for any number of threads, from one layer to a whole training run, and work in the background."""

import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from inputs import refused

from xpcnn import functional as F
from xpcnn.backend import CPU, batch_first
from xpcnn.models import lenet5
from xpcnn.nn import Conv2d, CrossEntropyLoss, ReLU, Sequential
from xpcnn.optim import Adam


@pytest.fixture
def with_threads():
    """Return a function that calls another with several numbers of threads and returns the results."""
    before = CPU.threads

    def call(function):
        results = []
        for count in (1, 2, 3, 4, 8, 16):
            CPU.threads = count
            results.append(function())
        return results

    yield call
    CPU.threads = before


def bits(*arrays):
    return [array.tobytes() for array in arrays]


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def layers(rng):
    """Return a few layers, each large enough for several tasks, as functions of nothing."""

    def convolution(x, dy, weight, bias, **options):
        y, cache = F.conv2d_forward(x, weight, bias, **options)
        gradients = F.conv2d_backward(dy, cache)
        return bits(y, *(gradient for gradient in gradients if gradient is not None))

    def pooling(x, dy):
        y, cache = F.max_pool2d_forward(x, 3, stride=1, padding=1)
        return bits(y, F.max_pool2d_backward(dy, cache))

    def linear(x, dy, weight, bias):
        y, cache = F.linear_forward(x, weight, bias)
        return bits(y, *F.linear_backward(dy, cache))

    def relu(x, dy):
        y, cache = F.relu_forward(x)
        return bits(y, F.relu_backward(dy, cache))

    def softmax(x, dy):
        y, cache = F.softmax_forward(x, 1)
        return bits(y, F.softmax_backward(dy, cache))

    def loss_of_values(name, x, target):
        value, cache = getattr(F, f"{name}_forward")(x, target)
        return bits(value, getattr(F, f"{name}_backward")(cache))

    def batch_norm(x, dy, weight, bias):
        y, statistics, cache = F.batch_norm_forward(x, weight, bias)
        return bits(y, *statistics, *F.batch_norm_backward(dy, cache))

    def group_norm(x, dy, weight, bias):
        y, cache = F.group_norm_forward(x, 4, weight, bias)
        return bits(y, *F.group_norm_backward(dy, cache))

    def average(x, dy):
        y, cache = F.avg_pool2d_forward(x, 3, stride=2, padding=1)
        return bits(y, F.avg_pool2d_backward(dy, cache))

    def images(*shape):
        return batch_first(normal(rng, *shape))

    x, dy = (batch_first(normal(rng, 12, 29, 31, 100)) for _ in range(2))
    halved = batch_first(normal(rng, 12, 15, 16, 100))
    weight, depthwise, bias = normal(rng, 12, 12, 3, 3), normal(rng, 12, 1, 5, 3), normal(rng, 12)
    wide = normal(rng, 530, 401), normal(rng, 530, 85), normal(rng, 85, 401), normal(rng, 85)
    large, large_dy, large_halved = images(16, 32, 32, 160), images(16, 32, 32, 160), images(16, 16, 16, 160)
    gain, shift, scores = normal(rng, 16), normal(rng, 16), images(4000, 640)
    convolutions = {  # C, O, kernel, size, batch, groups
        "in small products": (16, 16, 3, 16, 128, 1),
        "by Winograd": (64, 96, 3, 16, 64, 1),
        "by Winograd, few patches": (300, 280, 3, 7, 8, 1),
        "by im2col": (64, 96, 5, 16, 32, 1),
        "by im2col, large gradient": (300, 280, 5, 7, 8, 1),
        "pointwise": (64, 96, 1, 16, 64, 1),
        "pointwise, large gradient": (1024, 900, 1, 7, 8, 1),
        "four groups": (64, 64, 3, 16, 64, 4),
    }
    shapes = {}
    for name, (C, O, kernel, size, batch, groups) in convolutions.items():
        arrays = images(C, size, size, batch), images(O, size, size, batch), normal(rng, O, C // groups, kernel, kernel)
        options = {"padding": kernel // 2, "groups": groups}
        shapes[f"conv2d, {name}"] = partial(convolution, *arrays, None, **options)
    return shapes | {
        "batch_norm": lambda: batch_norm(large, large_dy, gain, shift),
        "group_norm": lambda: group_norm(large, large_dy, gain, shift),
        "avg_pool2d": lambda: average(large, large_halved),
        "conv2d": lambda: convolution(x, dy, weight, bias, padding=1),
        "conv2d, stride 2": lambda: convolution(x, halved, weight, bias, padding=1, stride=2),
        "conv2d, depthwise": lambda: convolution(x, dy, depthwise, bias, padding=(2, 1), groups=12),
        "max_pool2d": lambda: pooling(x, dy),
        "linear": lambda: linear(*wide),
        "relu": lambda: relu(x, dy),
        "softmax": lambda: softmax(large, large_dy),
        "squared error": lambda: loss_of_values("mean_squared_error", large, large_dy),
        "binary cross-entropy": lambda: loss_of_values("binary_cross_entropy", large, large_dy),
        "cross-entropy": lambda: loss_of_values("cross_entropy", scores, np.arange(640)),
    }


def test_of_every_layer(with_threads, rng, monkeypatch):
    tasks = []
    map_tasks = type(CPU).map
    monkeypatch.setattr(type(CPU), "map", lambda self, f, items: tasks.append(len(items)) or map_tasks(self, f, items))
    for name, layer in layers(rng).items():
        one, *others = with_threads(lambda layer=layer: (tasks.clear(), layer(), tuple(tasks)))
        assert max(tasks) >= 4, f"{name} is too small to be shared"
        for other in others:
            assert one[1] == other[1], name
            # Not by luck: the work is cut alike for any number of threads.
            assert one[2] == other[2], name


@pytest.mark.parametrize("batch", [1, 64])
def test_of_a_training_run(batch, with_threads, rng):
    images = rng.random((3, batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, (3, batch))

    def train():
        model, loss = lenet5(seed=1), CrossEntropyLoss()
        optimizer = Adam(model.named_parameters(), 0.01)
        losses = []
        for x, t in zip(images, labels, strict=True):
            optimizer.zero_grad()
            losses.append(loss(model(x), t))
            model.backward(loss.backward(), input_gradient=False)
            optimizer.step()
        return bits(*losses, *model.state_dict().values())

    one, *others = with_threads(train)
    assert all(other == one for other in others)


@pytest.mark.parametrize(
    ("C", "O", "kernel", "size", "batch"),
    [(128, 128, 3, 16, 64), (256, 256, 3, 7, 8), (256, 512, 5, 7, 8), (512, 512, 1, 7, 32)],
    ids=["by Winograd", "by Winograd, few patches", "by im2col", "pointwise"],
)
def test_layers_with_large_gradients_keep_four_threads_busy_and_sums_small(C, O, kernel, size, batch, rng, monkeypatch):
    """Their partial sums take at most 16 MiB, but the work is shared out all the same."""
    weight = normal(rng, O, C, kernel, kernel)
    x, dy = (batch_first(normal(rng, channels, size, size, batch)) for channels in (C, O))
    tasks, memory = [], []
    map_tasks, empty = type(CPU).map, type(CPU).empty
    monkeypatch.setattr(type(CPU), "map", lambda self, f, items: tasks.append(len(items)) or map_tasks(self, f, items))
    monkeypatch.setattr(
        type(CPU), "empty", lambda self, shape, dtype: memory.append(4 * np.prod(shape)) or empty(self, shape, dtype)
    )
    _, cache = F.conv2d_forward(x, weight, padding=kernel // 2)
    assert max(tasks) >= 4
    for gradient in (F.conv2d_input_gradient, F.conv2d_parameter_gradients):
        tasks.clear()
        memory.clear()
        gradient(dy, cache)
        assert max(tasks) >= 4, gradient
    assert sum(memory) <= (16 << 20) + 36 * weight[:, :, 0, 0].nbytes + weight.nbytes  # and the gradient itself


# -- In the background ------------------------------------------------------------------------------------------------

LARGE = 1 << 30  # multiplications


@pytest.fixture
def two_threads():
    before, CPU.threads = CPU.threads, 2
    yield
    CPU.threads = before


@pytest.mark.usefixtures("two_threads")
def test_a_background_task_runs_beside_the_block_and_is_done_when_it_ends():
    meeting, done = threading.Barrier(2), []

    def task():
        meeting.wait(timeout=10)
        done.append(threading.get_ident())
        return "result"

    with CPU.overlapping(), CPU.overlapping():
        result = CPU.background(task, LARGE)
        meeting.wait(timeout=10)
    assert done != [threading.get_ident()]
    assert len(done) == 1
    assert result() == result() == "result"


def test_idle_threads_compute_parts_of_a_background_task(monkeypatch):
    monkeypatch.setattr(CPU._workers, "_cores", 3)
    before, meeting = CPU.threads, threading.Barrier(3)

    def part(i):
        meeting.wait(timeout=20)  # both parts and this test: three threads at once
        return i

    try:
        CPU.threads = 3
        with CPU.overlapping():
            result = CPU.background(lambda: CPU.map(part, range(2)), LARGE)
            meeting.wait(timeout=20)
        assert result() == [0, 1]
        assert CPU._workers._helping == CPU._workers._unfinished == 0
        monkeypatch.setattr(CPU._workers, "_cores", 2)  # both are busy: with the task, and in the foreground
        with CPU.overlapping():
            begun = threading.Event()
            result = CPU.background(lambda: begun.set() or CPU.map(lambda i: threading.get_ident(), range(2)), LARGE)
            begun.wait(timeout=20)
        assert len(set(result())) == 1
    finally:
        CPU.threads = before


@pytest.mark.usefixtures("two_threads")
def test_a_task_that_is_done_keeps_nothing_alive():
    array = np.ones(1000)
    gone = weakref.ref(array)
    with CPU.overlapping():
        result = CPU.background(lambda array=array: array.sum(), LARGE)
    del array
    assert gone() is None
    assert result() == 1000


@pytest.mark.parametrize("where", ["no block", "one thread", "a small task", "a worker"])
def test_a_background_task_is_done_at_once_where_it_gains_nothing(where, two_threads):
    seen = []

    def start(_=None):
        result = CPU.background(lambda: seen.append(threading.get_ident()), 10 if where == "a small task" else LARGE)
        assert seen == [threading.get_ident()]
        result()

    if where == "no block":
        start()
    elif where == "a worker":
        with CPU.overlapping():
            CPU.map(lambda i: start() if i else None, [0, 1])
    else:
        CPU.threads = 1 if where == "one thread" else 2
        with CPU.overlapping():
            start()


@pytest.mark.usefixtures("two_threads")
def test_of_many_background_tasks_only_a_few_wait():
    go, begun = threading.Event(), []

    def task(i):
        begun.append(i)
        assert threading.current_thread() is threading.main_thread() or go.wait(timeout=10)
        return i

    with CPU.overlapping():
        results = [CPU.background(lambda i=i: task(i), LARGE) for i in range(6)]
        assert {2, 3, 4, 5} <= set(begun)  # one runs and one waits: these were done at once
        go.set()
    assert [result() for result in results] == list(range(6))
    assert sorted(begun) == list(range(6))


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_the_background_is_raised_where_the_block_ends():
    with refused("behind", error=LookupError), CPU.overlapping():
        CPU.background(lambda: {}["behind"], LARGE)
    running, ended = threading.Event(), []

    def slow():
        running.set()
        threading.Event().wait(0.05)
        ended.append(True)

    with refused("in the block", error=LookupError), CPU.overlapping():
        CPU.background(slow, LARGE)
        assert running.wait(timeout=10)
        raise LookupError("in the block")
    assert ended
    # One that no thread has begun is left out, and is no longer waited for.
    with refused("in the block", error=LookupError), CPU.overlapping():
        running.clear()
        CPU.background(slow, LARGE)
        assert running.wait(timeout=10)
        left_out = CPU.background(lambda: 1, LARGE)
        raise LookupError("in the block")
    with refused("has failed", error=RuntimeError):
        left_out()
    meeting = threading.Barrier(2)
    with CPU.overlapping():
        CPU.background(lambda: meeting.wait(timeout=10), LARGE)
        meeting.wait(timeout=10)


@pytest.mark.usefixtures("two_threads")
def test_what_no_free_thread_takes_is_done_by_the_one_that_waits():
    """As when several threads of a program share the pool."""
    busy, go = threading.Barrier(3), threading.Event()

    def block(_):
        busy.wait(timeout=10)
        assert go.wait(timeout=10)

    with ThreadPoolExecutor(1) as other:
        other.submit(CPU.map, block, [0, 1])  # holds the pool's thread and one of the program's
        busy.wait(timeout=10)
        assert set(CPU.map(lambda _: threading.get_ident(), [0, 1])) == {threading.get_ident()}
        go.set()


@pytest.mark.usefixtures("two_threads")
def test_gradients_are_complete_when_backward_returns(rng):
    """The caller may then use the arrays it gave for something else; several passes add up in order."""
    model = Sequential(Conv2d(8, 8, 3, padding=1, rng=rng), ReLU(), Conv2d(8, 8, 3, padding=1, rng=rng))
    arrays = [batch_first(normal(rng, 8, 32, 32, 64)) for _ in range(4)]
    results = []
    for CPU.threads in (1, 2):
        for x, dy in (arrays[:2], arrays[2:]):
            given = [array.copy(order="K") for array in (x, dy)]
            model(given[0])
            model.backward(given[1])
            for array in given:
                array[...] = np.nan
        results.append(bits(*(parameter.grad for parameter in model.parameters())))
        model.zero_grad()
    assert results[0] == results[1]


@pytest.mark.usefixtures("two_threads")
def test_a_gradient_asked_for_too_early_is_waited_for(rng):
    """As by a module that looks at its layers' gradients in its own backward pass."""
    conv = Conv2d(8, 8, 3, padding=1, rng=rng)
    x = batch_first(normal(rng, 8, 32, 32, 64))
    with CPU.overlapping():
        conv.backward(conv(x))
        early = conv.weight.grad.copy()
    assert np.abs(early).min() > 0
    assert bits(early) == bits(conv.weight.grad)


@pytest.mark.parametrize(("variable", "expected"), [("1", 1), ("1,4", 1), ("100000", None), ("0", 1), ("x", None)])
def test_omp_num_threads_limits_the_threads(variable, expected):
    code = "from xpcnn.backend import CPU; print(CPU.threads)"
    environment = {**os.environ, "OMP_NUM_THREADS": variable}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) == (expected or len(os.sched_getaffinity(0)))
