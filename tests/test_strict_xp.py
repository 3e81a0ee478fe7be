"""The make-believe device catches every kind of leak between host and device, and computes what NumPy computes."""

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_close
from strict_xp import DEVICE, HostReadError, StrictArray, count_host_reads, forbid_host_reads, host_reads, xp

from xpcnn import backend

values = np.arange(12, dtype=np.float32).reshape(3, 4)
labels = np.array([0, 2, 1])


# Each plants one kind of leak: `x` lies on the device, `values` and `labels` on the host.
LEAKS: dict[str, Callable[[StrictArray], Any]] = {
    "numpy reduction": lambda x: np.sum(x),
    "numpy ufunc": lambda x: np.exp(x),
    "numpy ufunc with a scalar": lambda x: np.multiply(2, x),
    "numpy ufunc method": lambda x: np.add.reduce(x),
    "numpy function": lambda x: np.concatenate([x, x]),
    "numpy function of shapes": lambda x: np.expand_dims(x, 0),
    "numpy allocation like": lambda x: np.zeros_like(x),
    "numpy out": lambda x: np.add(values, values, out=x),
    "numpy operand on the right": lambda x: x + values,
    "numpy operand on the left": lambda x: values * x,
    "numpy operand of a comparison": lambda x: values < x,
    "numpy operand of ==": lambda x: x == values,
    "0-d numpy operand on the right": lambda x: x + np.array(2.0),
    "0-d numpy operand on the left": lambda x: np.array(2.0) - x,
    "numpy operand of @": lambda x: x @ values.T,
    "numpy operand on the left of @": lambda x: values.T @ x,
    "numpy operand in place": lambda x: operator.iadd(x, values),
    "device operand in place on the host": lambda x: operator.iadd(values.copy(), x),
    "numpy argument": lambda x: xp.maximum(x, values),
    "numpy argument of a reduction": lambda x: xp.sum(values),
    "numpy argument in a list": lambda x: xp.concatenate([x, values]),
    "numpy out of a device function": lambda x: xp.add(x, x, out=values.copy()),
    "numpy argument of where": lambda x: xp.where(values > 0, x, 0),
    "list argument": lambda x: xp.sum([1.0, 2.0]),
    "list operand": lambda x: x + [1.0, 2.0, 3.0, 4.0],  # noqa: RUF005
    "comparison with None": lambda x: x == None,  # noqa: E711
    "np.asarray": lambda x: np.asarray(x),
    "np.array of a list": lambda x: np.array([x, x]),
    "device arrays in a list": lambda x: xp.asarray([x, x]),
    "numpy scalar type": lambda x: np.float32(x[0, 0]),
    "assignment into a host array": lambda x: operator.setitem(values.copy(), 0, x[0]),
    "host array indexed by the device": lambda x: values[x[0].astype(xp.int64)],
    "buffer protocol": lambda x: memoryview(x),
    "dlpack": lambda x: np.from_dlpack(x),
    "iteration": lambda x: list(x),
    "unpacking": lambda x: (lambda a, b, c: b)(*x),
    "reversed": lambda x: reversed(x),
    "membership": lambda x: 3.0 in x,
    "python's sum": lambda x: sum(x),
    "index from the device": lambda x: range(5)[x[0, 0].astype(xp.int64)],
    "shape from the device": lambda x: xp.zeros(x[0, 1].astype(xp.int64)),
    "axis from the device": lambda x: xp.sum(x, axis=x[0, 1].astype(xp.int64)),
    "slice bound from the device": lambda x: x[: x[0, 1].astype(xp.int64)],
    "numpy index array": lambda x: x[labels],
    "numpy index array among slices": lambda x: x[:, labels],
    "numpy mask": lambda x: x[values > 3],
    "list as index": lambda x: x[[0, 2]],
    "boolean as index": lambda x: x[True],
    "float index array": lambda x: x[x[0]],
    "numpy index array of take": lambda x: xp.take(x, labels, axis=0),
    "numpy value assigned": lambda x: operator.setitem(x, 0, values[0]),
    "numpy value assigned everywhere": lambda x: operator.setitem(x, slice(None), values),
    "list assigned": lambda x: operator.setitem(x, 0, [1, 2, 3, 4]),
    "numpy fill": lambda x: x.fill(values),
    "hash": lambda x: {x},
    "new attribute": lambda x: setattr(x, "cache", 1),
    "new shape": lambda x: setattr(x, "shape", (12,)),
    "writeable flag": lambda x: x.flags.writeable,
    "writeable flag set": lambda x: setattr(x.flags, "writeable", False),
    "unlisted errstate": lambda x: xp.errstate(all="ignore"),
    "unlisted insert": lambda x: xp.insert(x, 0, 1),
    "unlisted vecdot": lambda x: xp.vecdot(x, x),
    "unlisted ufunc method": lambda x: xp.maximum.reduce(x),
    "unlisted random numbers": lambda x: xp.random.default_rng(),
    "unlisted window view, which synchronises": lambda x: xp.lib.stride_tricks.sliding_window_view(x, 2, axis=0),
    "unlisted method": lambda x: x.round(),
    "keyword where of a ufunc": lambda x: xp.add(x, x, where=x > 0),
    "keyword where of a reduction": lambda x: xp.sum(x, where=x > 0),
    "keyword initial": lambda x: xp.max(x, initial=0),
    "keyword casting of astype": lambda x: x.astype(xp.float64, casting="safe"),
    "keyword writeable of as_strided": lambda x: xp.lib.stride_tricks.as_strided(x, (2,), (4,), writeable=False),
    "keyword out of min": lambda x: xp.min(x, axis=0, out=x[0]),
    "keyword mode of take": lambda x: xp.take(x, x[0].astype(xp.int64), mode="clip"),
    "out of another shape": lambda x: xp.add(x[0], 1, out=x),
    "out of the same size but another shape": lambda x: xp.matmul(x, x.T, out=xp.empty(9, xp.float32)),
    "out of a narrower kind": lambda x: xp.add(x, x, out=xp.empty(x.shape, xp.int64)),
    "overlapping assignment": lambda x: operator.setitem(x, slice(1, None), x[:-1]),
    "strides that leave the array": lambda x: xp.lib.stride_tricks.as_strided(x, (4, 4), x.strides),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_planted_leak_is_refused(leak: Callable[[StrictArray], Any]) -> None:
    x = xp.asarray(values)
    with pytest.raises((TypeError, ValueError, AttributeError, IndexError, BufferError)), count_host_reads() as reads:
        leak(x)
    assert reads.count == 0
    np.testing.assert_array_equal(x.get(), values)  # a refused statement has changed nothing


READS: dict[str, Callable[[StrictArray], Any]] = {
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "if": lambda x: 1 if x.max() > 3 else 0,
    "math": lambda x: math.sqrt(x.sum()),
    "item": lambda x: x[0, 0].item(),
    "get": lambda x: x.get(),
    "tolist": lambda x: x.tolist(),
    "asnumpy": lambda x: xp.asnumpy(x),
    "to_host": lambda x: backend.to_host(x),
    "moving to the CPU": lambda x: backend.CPU.asarray(x),
    "str": lambda x: str(x),
    "f-string": lambda x: f"{x.sum():.2f}",
    "pickle": lambda x: pickle.dumps(x),
    "mask": lambda x: x[x > 3],
    "mask assigned": lambda x: operator.setitem(x, x > 3, 0),
    "where of one argument": lambda x: xp.where(x > 3),
    "nonzero": lambda x: (x > 3).nonzero(),
    "unique": lambda x: xp.unique(x),
    "shares_memory": lambda x: xp.shares_memory(x, x[1:]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_host_read_is_allowed_counted_and_can_be_forbidden(read: Callable[[StrictArray], Any]) -> None:
    x = xp.asarray(values)
    before = host_reads()
    with count_host_reads() as outer, count_host_reads() as reads:
        read(x)
    assert outer.count == reads.count == host_reads() - before == 1
    with forbid_host_reads(), pytest.raises(HostReadError):
        read(x)
    read(x)
    assert reads.count == 1  # the block is over


# Right code, written as the package writes it: `x` and `y` are float32 (3, 4), `i` holds row numbers in range.
EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda xp, x, y, i: 2 * x + y / 3 - x**2 % 2 // 1 + -x + abs(y),
    "reflected operators": lambda xp, x, y, i: 1 - x + 2.0 / (x + 1) + 2**x,
    "numpy scalars": lambda xp, x, y, i: np.float32(2) * x + np.float64(3),
    "comparisons": lambda xp, x, y, i: ((x > y) | (x <= 1)) & ~(x == y) ^ (x != 2),
    "integers": lambda xp, x, y, i: ((i.astype(xp.uint32) * 2654435761) >> 7) & 255,
    "elementwise out": lambda xp, x, y, i: xp.maximum(x, 0, out=xp.empty(x.shape, x.dtype)),
    "where": lambda xp, x, y, i: xp.where(x > 1, x, 0.0),
    "clip": lambda xp, x, y, i: xp.clip(x, 1, 3),
    "softmax": lambda xp, x, y, i: xp.exp(x - x.max(1, keepdims=True)) / xp.exp(x - x.max(1, keepdims=True)).sum(),
    "moments": lambda xp, x, y, i: x.mean(axis=0) + x.var(axis=0) + xp.std(y, axis=0, ddof=1),
    "full reduction": lambda xp, x, y, i: x.sum() * 2,
    "reduction to another type": lambda xp, x, y, i: xp.sum(i, dtype=xp.float32) + (x > 2).sum(),
    "counts": lambda xp, x, y, i: xp.count_nonzero(x) + (x > 2).any(axis=0),
    "argmax": lambda xp, x, y, i: xp.argmax(x, axis=1, keepdims=True),
    "matmul": lambda xp, x, y, i: x @ y.T,
    "matmul out": lambda xp, x, y, i: xp.matmul(x, y.T, out=xp.empty((3, 3), x.dtype)),
    "matmul of stacks": lambda xp, x, y, i: xp.matmul(x.reshape(3, 2, 2), y[:1].reshape(1, 2, 2)),
    "tensordot": lambda xp, x, y, i: xp.tensordot(x, y, axes=((0, 1), (0, 1))),
    "einsum": lambda xp, x, y, i: xp.einsum("ij,kj->ik", x, y),
    "shapes": lambda xp, x, y, i: xp.moveaxis(x.reshape(3, 2, 2)[:, None], 1, -1).swapaxes(0, 1).squeeze(axis=-1),
    "joining": lambda xp, x, y, i: xp.concatenate([x, y], axis=1) + xp.tile(xp.stack([x[0], y[0]])[:1], (1, 2)),
    "pad, flip, roll": lambda xp, x, y, i: xp.roll(xp.flip(xp.pad(x, ((1, 1), (0, 2))), axis=1), 1, axis=0),
    "gather": lambda xp, x, y, i: x[i, :2] + xp.take(y, i - 3, axis=0)[:, 2:],
    "gather by pairs": lambda xp, x, y, i: x[xp.arange(3), i] - xp.take_along_axis(y, i[:, None], axis=1)[:, 0],
    "sort": lambda xp, x, y, i: xp.sort(y, axis=0) + xp.argsort(y, axis=1),
    "windows": lambda xp, x, y, i: xp.lib.stride_tricks.as_strided(x, (3, 2, 3), (*x.strides, x.strides[1])).sum(2),
    "bits": lambda xp, x, y, i: x.view(xp.int32) & 0xFF,
    "promotion": lambda xp, x, y, i: x.astype(xp.float16) * 2.5 + xp.ones(4, xp.result_type(x, xp.float64)),
    "creation": lambda xp, x, y, i: (
        xp.arange(4, dtype=x.dtype) + xp.linspace(0, 1, 4) + xp.full_like(y, 2) + xp.eye(3, 4)
    ),
    "broadcasting": lambda xp, x, y, i: xp.broadcast_to(x[:1], x.shape) + xp.broadcast_arrays(x, y[0])[1],
    "no floating point warnings": lambda xp, x, y, i: xp.isfinite(xp.log(-x) / 0),
}


def in_place_through_views(xp: Any, x: Any, y: Any, i: Any) -> Any:
    x[1] += 5
    row = x.T[0]
    row *= 2
    x[:, 1:].fill(7)
    return x


def assignments(xp: Any, x: Any, y: Any, i: Any) -> Any:
    x[0, ::2] = y[1, :2]
    x[..., 3] = -1
    x[:, 1:3] = x[:, :2].copy()
    xp.copyto(x, y, where=x > 8)
    return x


def scatters(xp: Any, x: Any, y: Any, i: Any) -> Any:
    x[xp.arange(3), i] = y[0, :3]
    x[i * 0] = 5  # one place three times, but with one value
    xp.put_along_axis(y, i[:, None], 9, axis=1)
    return x + y


PROGRAMS = EXPRESSIONS | {program.__name__: program for program in (in_place_through_views, assignments, scatters)}


SORTING = {"sort": pytest.mark.real_gpu("CuPy sorts by Thrust, which is compiled into it for GPUs only")}


@pytest.mark.parametrize("program", [pytest.param(PROGRAMS[n], id=n, marks=SORTING.get(n, ())) for n in PROGRAMS])
def test_right_code_computes_on_every_device_what_numpy_computes(
    program: Callable[..., Any], device: backend.Device
) -> None:
    operands = values, (values * 5) % 7, labels
    with np.errstate(all="ignore"), forbid_host_reads():
        expected = program(np, *(a.copy() for a in operands))
        actual = program(device.xp, *(device.asarray(a.copy()) for a in operands))
    assert_close(actual, expected, device=device)


def test_reductions_give_0d_arrays() -> None:
    x = xp.asarray(values)
    for result in (x.sum(), x.mean(), x.max(), xp.argmax(x), xp.any(x > 3), xp.count_nonzero(x), x[1, 2]):
        assert isinstance(result, StrictArray)
        assert result.shape == ()


def test_dtypes_follow_nep_50(xp: Any) -> None:
    x = xp.ones(3, xp.float32)
    assert (x * 2.5).dtype == (2.5 * x).dtype == xp.where(x > 0, x, 0.0).dtype == np.float32
    assert (x * np.float32(2)).dtype == np.float32
    assert (x * np.float64(2)).dtype == (np.float64(2) * x).dtype == (x * xp.ones((), xp.float64)).dtype == np.float64
    assert (xp.ones(3, xp.int64) / 2).dtype == np.float64


def test_fresh_memory_is_poisoned() -> None:
    for dtype in (xp.float16, xp.float32, xp.float64):
        assert np.isnan(xp.empty((2, 2), dtype).get()).all()
    for dtype in (xp.int8, xp.uint8, xp.int64):
        assert (xp.empty_like(xp.zeros(3, dtype)).get() == np.iinfo(dtype).max).all()
    assert np.isnan(DEVICE.empty((2,), np.float32).get()).all()


def test_scratch_is_poisoned_once_its_slot_is_asked_for_again() -> None:
    first = DEVICE.scratch((3,), np.float32, "columns")
    other = DEVICE.scratch((3,), np.float32, "partial sums")
    first[...] = other[...] = 1
    DEVICE.scratch((5,), np.float32, "columns")
    assert np.isnan(first.get()).all()
    assert not np.isnan(other.get()).any()


def test_a_gather_out_of_range_is_poisoned_where_it_is() -> None:
    x = xp.asarray(values)
    outside = xp.asarray([0, 3, -1, -4, 100])
    expected = np.array([0, np.nan, 8, np.nan, np.nan], np.float32)
    for gathered in (x[outside, 0], x[outside][:, 0], x[..., 0][outside], xp.take(x, outside, axis=0)[:, 0]):
        np.testing.assert_array_equal(gathered.get(), expected)
    np.testing.assert_array_equal(x[xp.asarray([1, 9], xp.uint8), xp.asarray([4, 0])].get(), [np.nan, np.nan])
    assert np.isnan(xp.take(x, 12).get())
    assert xp.asarray([5, 6])[xp.asarray([7])].get() == np.iinfo(np.int64).max
    assert np.isnan(xp.take_along_axis(x, xp.asarray([[0], [4], [1]]), axis=1).get()).tolist() == [
        [False],
        [True],
        [False],
    ]
    with pytest.raises(IndexError):  # a Python integer is checked by CuPy too
        x[3]


def test_an_assignment_out_of_range_is_poisoned_where_it_wraps_to() -> None:
    x = xp.zeros(4)
    x[xp.asarray([1, 6])] = xp.asarray([1.0, 2.0])
    np.testing.assert_array_equal(x.get(), [0, 1, np.nan, 0])
    x = xp.zeros(300)
    x[xp.asarray([5, -2], xp.int8)] = 1
    assert x.get().sum() == x[5].get() + x[298].get() == 2


def test_an_assignment_that_hits_a_place_twice_is_poisoned_there() -> None:
    x = xp.zeros((3, 2))
    x.T[:, xp.asarray([0, 2, 0])] = xp.asarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(x.get(), [[np.nan, np.nan], [0, 0], [1, 4]])
    x = xp.zeros(3, xp.int32)
    xp.put_along_axis(x, xp.asarray([1, 1]), xp.asarray([7, 8]), axis=0)
    assert x.tolist() == [0, np.iinfo(np.int32).max, 0]


@pytest.mark.parametrize("device", ["strict", "cuda"], indirect=True)
def test_results_are_laid_out_as_on_a_gpu(device: backend.Device, xp: Any) -> None:
    x = device.asarray(values).T  # NumPy's elementwise results would follow this layout
    assert x.flags.f_contiguous
    assert not x.flags.c_contiguous
    rows = device.asarray([1, 0])
    for result in (x + 1, xp.exp(x), xp.where(x > 1, x, 0), x.copy(), x[rows], xp.concatenate([x, x]), x @ x.T):
        assert result.flags.c_contiguous
    for kept in (x.astype(xp.float64), xp.empty_like(x), xp.copy(x), xp.asarray(x)):
        assert kept.flags.f_contiguous
    assert device.asarray(np.zeros((2, 3, 4)).transpose(1, 2, 0)).flags.c_contiguous


def test_no_layout_is_promised_where_cupys_own_varies() -> None:
    x = xp.asarray(values)
    for result in (xp.einsum("ij,kj->ik", x, x), xp.argsort(x, axis=0), xp.cumsum(x, axis=0)):
        assert not result.flags.c_contiguous


def test_views_share_memory_and_know_their_base() -> None:
    x = xp.asarray(values)
    for view in (x[1:], x[0, 0], x.T, x[1:][:, 2], x.reshape(12), x.ravel(), xp.broadcast_to(x, (2, 3, 4))):
        assert view.base is x
        assert xp.may_share_memory(view, x)
    assert x.base is None
    assert x.flags.owndata
    assert xp.asarray(x) is x
    assert xp.add(x, 1, out=x) is x
    assert x.astype(xp.float32, copy=False) is x
    assert x.copy().base is None
    assert values[0, 0] == 0  # what was handed over is a copy


def test_an_array_keeps_its_place_through_copy_and_pickle() -> None:
    x = xp.asarray(values)
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin is not x
        assert_close(twin, values, device=DEVICE)


def test_the_device_obeys_the_contract_of_every_device() -> None:
    x = DEVICE.asarray(values)
    assert backend.device_of(x) is DEVICE
    assert backend.array_namespace(x) is xp
    assert DEVICE.asarray(x) is x
    assert DEVICE.asarray([1, 2], np.float32).dtype == np.float32
    assert backend.device(DEVICE) is DEVICE
    assert copy.deepcopy(DEVICE) is pickle.loads(pickle.dumps(DEVICE)) is DEVICE
    assert repr(DEVICE) == "Device('strict')"
    np.testing.assert_array_equal(DEVICE.to_host(x), values)
    order: list[int] = []
    assert DEVICE.map(lambda task: order.append(task) or task * 2, [1, 2, 3]) == [2, 4, 6]
    assert order != [1, 2, 3]  # nothing may count on tasks running in turn


def test_assert_close_names_what_is_wrong() -> None:
    x = DEVICE.asarray(values)
    wrong = values.copy()
    wrong[1, 2] += 1
    wrong[2, 3] += 0.5
    for expected, options, reason in (
        (values, {"device": backend.CPU}, "expected an array on Device\\('cpu'\\), got StrictArray"),
        (values[:2], {"device": DEVICE}, "expected shape \\(2, 4\\), got \\(3, 4\\)"),
        (values.astype(np.float64), {"device": DEVICE}, "expected dtype float64, got float32"),
        (wrong, {"device": DEVICE}, "2 of 12 values differ; worst at \\(1, 2\\): got 6.0, expected 7.0"),
        (values * np.nan, {"device": DEVICE}, "12 of 12"),
    ):
        with pytest.raises(AssertionError, match=reason):
            assert_close(x, expected, **options)
    assert_close(x, wrong, atol=1, device=DEVICE)
    assert_close(x, values.astype(np.float64), device=DEVICE, dtype=np.float32)
    assert_close(DEVICE.asarray([np.inf, np.nan]), np.array([np.inf, np.nan]), device=DEVICE)
