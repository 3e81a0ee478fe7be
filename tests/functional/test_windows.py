"""Windows, tiles, im2col and col2im, each against trying out every position."""

from math import prod

import numpy as np
import pytest
import reference
from helpers import assert_close
from inputs import choose, draw_pair, draw_size, noted, refused

from xpcnn import functional as F
from xpcnn.backend import CPU
from xpcnn.functional.im2col import Tile, col2im, im2col, tiles
from xpcnn.functional.windows import Window, make_window, reach


def draw_window(rng):
    kernel, dilation = draw_pair(rng, 1, 4), draw_pair(rng, 1, 3)
    sides = tuple(int(side) for side in rng.integers(0, 6, 4))
    return kernel, draw_pair(rng, 1, 4), sides, dilation, draw_size(rng, kernel, sides, dilation)


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        ((1, 2, 3, 4), (3, 4, 1, 2)),
        ("valid", (0, 0, 0, 0)),
        ("same", (1, 2, 4, 5)),
    ],
)
def test_every_form_of_padding(padding, sides):
    made = make_window((2, 4), 1, padding, (3, 3))
    assert made == Window((2, 4), (1, 1), (3, 3), sides)
    assert padding != "same" or made.output_size(11, 7) == (11, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": 0}, ["kernel_size", "at least 1", "0"]),
        ({"kernel": (2, 2, 2)}, ["kernel_size", "one or two integers", "(2, 2, 2)"]),
        ({"kernel": (2, 2.5)}, ["kernel_size", "integers", "2.5"]),
        ({"kernel": 2.5}, ["kernel_size", "integers", "2.5"]),
        ({"kernel": None}, ["kernel_size", "integers", "None"]),
        ({"stride": "2"}, ["stride", "integers", "'2'"]),
        ({"padding": "SAME"}, ['"same" or "valid"', "'SAME'"]),
        ({"padding": (1, 1, 1, 1, 1)}, ["padding", "(1, 1, 1, 1, 1)"]),
    ],
    ids=repr,
)
def test_bad_options_are_named(options, words):
    with refused(*words, error=(ValueError, TypeError)):
        make_window(**{"kernel": 3} | options)


def test_numpy_integers_are_integers():
    size = np.int64(3)
    assert make_window(size, (size, 1)) == make_window(3, (3, 1))


def test_output_size_counts_the_positions(rng):
    for draw_rng in rng.spawn(200):
        kernel, stride, padding, dilation, (H, W) = draw_window(draw_rng)
        with noted(kernel=kernel, stride=stride, padding=padding, dilation=dilation, H=H, W=W):
            left, right, top, bottom = padding
            assert make_window(kernel, stride, padding, dilation).output_size(H, W) == (
                reference.output_size(H, kernel[0], stride[0], top, bottom, dilation[0]),
                reference.output_size(W, kernel[1], stride[1], left, right, dilation[1]),
            )


def test_reach_finds_every_meeting_of_position_and_pixel(rng):
    for _ in range(300):
        start, stride, size, offset = (int(n) for n in rng.integers([0, 1, 1, -8], [4, 4, 6, 8]))
        positions = slice(start, start + int(rng.integers(1, 6)))
        inside, pixels = reach(positions, stride, offset, size)
        met = [
            (p - start, p * stride + offset) for p in range(start, positions.stop) if 0 <= p * stride + offset < size
        ]
        with noted(positions=positions, stride=stride, offset=offset, size=size):
            found = zip(range(20)[inside], range(size)[pixels], strict=True)
            assert list(found) == met


def test_tiles_cover_everything_once_in_order_and_keep_their_size(rng):
    pieces = set()
    for _ in range(300):
        OH, OW, N = (int(n) for n in rng.integers(1, [9, 9, 70]))
        each, budget, at_least = int(rng.integers(1, 100)), 1 << int(rng.integers(0, 17)), int(rng.integers(1, 6))
        cut = tiles(OH, OW, N, each, budget, at_least)
        place = np.arange(OH * OW * N).reshape(OH, OW, N)
        with noted(OH=OH, OW=OW, N=N, each=each, budget=budget, at_least=at_least):
            assert sorted(n for tile in cut for n in place[tile].ravel()) == list(range(place.size))
            starts = [(tile.rows.start, tile.cols.start, tile.images.start) for tile in cut]
            assert starts == sorted(starts)
            assert len(cut) >= min(at_least, OH)
            for tile in cut:
                # Sixteen images stay together however little fits: shorter runs of memory are not worth moving.
                assert prod(tile.shape) * each <= max(budget, 16 * each)
                span = tile.span(OW, N)
                pieces.add(span is None)
                if span is None:
                    assert tile.shape[2] < N
                else:
                    assert np.array_equal(place[tile].ravel(), place.ravel()[span])
    assert pieces == {True, False}


def a_tile(rng, OH, OW, N):
    borders = [sorted(int(n) for n in rng.choice(size + 1, 2, replace=False)) for size in (OH, OW, N)]
    return Tile(*(slice(*border) for border in borders))


@pytest.mark.parametrize("apart", [False, True])
def test_im2col_and_col2im_move_each_value_to_its_place(apart, device, rng, monkeypatch):
    """Also where the columns of pixels are taken apart by the stride, as for few images."""
    monkeypatch.setattr(device, "launch_bytes", 0 if apart else 1 << 60)
    for draw_rng in rng.spawn(40):
        kernel, stride, padding, dilation, (H, W) = draw_window(draw_rng)
        window = make_window(kernel, stride, padding, dilation)
        C, N = 2, choose(draw_rng, 1, 5)
        tile = a_tile(draw_rng, *window.output_size(H, W), N)
        x = draw_rng.normal(size=(C, H, W, N))
        columns = np.zeros((C, *kernel, *tile.shape))
        back = np.zeros(x.shape)
        weights = draw_rng.normal(size=columns.shape)
        for (oh, ow), seen in reference.window_positions(H, W, kernel, stride, padding, dilation):
            row, col = oh - tile.rows.start, ow - tile.cols.start
            if 0 <= row < tile.shape[0] and 0 <= col < tile.shape[1]:
                for (kh, kw), (h, w) in seen:
                    columns[:, kh, kw, row, col] = x[:, h, w, tile.images]
                    back[:, h, w, tile.images] += weights[:, kh, kw, row, col]
        flat = (C * kernel[0] * kernel[1], -1)
        with noted(window=window, H=H, W=W, tile=tile):
            lowered = im2col(device.asarray(x), window, tile, device)
            assert_close(lowered, columns.reshape(flat), 0, 0, device=device)
            step = window.stride[1] if apart else 1
            dx = device.asarray(np.zeros((C, H, step, -(-W // step), N)))
            col2im(device.asarray(weights.reshape(flat)), window, tile, dx, W, device)
            joined = device.to_host(dx).swapaxes(2, 3).reshape(C, H, -1, N)[:, :, :W]
            np.testing.assert_allclose(joined, back, 1e-12, 1e-14)


def test_few_images_with_a_stride_give_the_same_bits(rng, monkeypatch):
    """However the columns are copied, they are multiplied and added up in the same order."""
    x, weight = rng.normal(size=(3, 4, 13, 15)), rng.normal(size=(4, 4, 3, 5))
    results = []
    for launch_bytes in (0, 1 << 60):
        monkeypatch.setattr(CPU, "launch_bytes", launch_bytes)
        y, cache = F.conv2d_forward(x, weight, stride=(2, 3), padding=1, dilation=(1, 2))
        back, back_cache = F.conv_transpose2d_forward(x, weight, weight[:, 0, 0, 0], stride=2)
        results.append([y, *F.conv2d_backward(y, cache)[:2], back, *F.conv_transpose2d_backward(back, back_cache)[:2]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_im2col_copies_no_image_where_no_padding_is_met(device, monkeypatch):
    """The working memory asked for is the columns alone; on a GPU, which copies them by one kernel, always."""
    slots = []
    scratch = type(device).scratch
    monkeypatch.setattr(
        type(device), "scratch", lambda self, s, d, slot: slots.append(slot) or scratch(self, s, d, slot)
    )
    x = device.asarray(np.zeros((1, 6, 6, 2)))
    window = make_window(3, 1, (1, 0))
    padded = {"columns"} if device.name.startswith("cuda") else {"product", "columns"}
    for rows, expected in ((slice(1, 5), {"columns"}), (slice(0, 5), padded)):
        slots.clear()
        im2col(x, window, Tile(rows, slice(0, 4), slice(0, 2)), device)
        assert set(slots) == expected


@pytest.mark.parametrize("value", [1.0, np.float32(1), (1.0, 1), None, np.ones(2)])
@pytest.mark.parametrize("name", ["kernel", "stride", "dilation", "padding"])
def test_an_option_that_is_no_integer_is_refused_whatever_came_before(name, value):
    """Windows are cached, under keys to which 1.0 is the same as 1."""
    make_window(**{"kernel": 1, name: 1})
    make_window(**{"kernel": 1, name: (1, 1)})
    with refused("kernel_size" if name == "kernel" else name, "given in integers"):
        make_window(**{"kernel": 1, name: value})


def test_integers_of_any_type_are_taken():
    assert make_window(np.int64(3), [np.int32(1), 2], np.uint8(1)) == make_window(3, (1, 2), 1)
