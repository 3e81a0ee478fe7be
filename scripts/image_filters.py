"""Two filters set by hand, applied to photographs: one makes them grey, one shows the horizontal edges of their blue.

    python scripts/image_filters.py                    # on images that come with installed packages
    python scripts/image_filters.py one.jpg two.jpg    # on your own

Each photograph is cropped to a square of 200×200 pixels and stands in a row with what the two filters made of it.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import xpcnn
from xpcnn import Device, viz
from xpcnn.backend import Array
from xpcnn.data.formats.images import read_image
from xpcnn.functional import conv2d_forward

SIZE = 200
PHOTOGRAPHS = {  # package: files inside it
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": ("data/chelsea.png", "data/astronaut.png"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg", "mpl-data/sample_data/Minduka_Present_Blue_Pack.png"),
}
HINT = "pass others as arguments, or pip install scikit-learn, which brings two"


def hand_set_filters() -> tuple[np.ndarray, np.ndarray]:
    """Return weight `(2, 3, 3, 3)` and bias `(2,)` of a convolution."""
    weight = np.zeros((2, 3, 3, 3))
    weight[0, :, 1, 1] = 0.3, 0.6, 0.1  # grey, from red, green and blue
    weight[1, 2] = [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]  # blue above less blue below
    return weight, np.array([0.0, 128.0])  # edges come in both signs: 128 makes most of them positive


def filtered(images: Array, device: Device) -> Array:
    """Return the two filters' results `(N, 2, H, W)` for images `(N, 3, H, W)` of any dtype."""
    weight, bias = (device.asarray(array) for array in hand_set_filters())
    return conv2d_forward(device.asarray(images, np.float64), weight, bias, padding=1)[0]


def photographs_at_hand() -> list[Path]:
    """Return the images found in installed packages, photographs first, without importing these."""
    specs = {package: find_spec(package) for package in PHOTOGRAPHS}
    folders = {package: Path(spec.origin).parent for package, spec in specs.items() if spec and spec.origin}
    files = [folders[package] / name for package in folders for name in PHOTOGRAPHS[package]]
    return [file for file in files if file.is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="*", type=Path)
    parser.add_argument("--device", default="auto", help='"auto" (default), "cpu" or "cuda"')
    parser.add_argument("--output", type=Path, default=Path("runs/image-filters.png"), help="the picture to write")
    args = parser.parse_args()
    files = args.photographs or photographs_at_hand()[:2]
    if len(files) < 2 and not args.photographs:
        print(f"photographs found in installed packages: {len(files)} instead of 2; {HINT}")
    if not files:
        return
    images = np.stack([read_image(file, (3, SIZE, SIZE), drawing=False)[0] for file in files])
    maps = filtered(images, xpcnn.device(args.device))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    viz.filtered_images(images, maps, ("Original image", "Grayscale", "Edges")).savefig(args.output)
    print(f"{', '.join(file.name for file in files)}: picture in {args.output}")


if __name__ == "__main__":
    main()
