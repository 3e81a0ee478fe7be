"""`xpcnn evaluate` and `xpcnn predict`: measure a trained network, classify pictures."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from itertools import chain
from typing import Any

from ..data.errors import DataError
from ..data.sources import load_for_evaluation
from ..nn import AverageViews
from ..training import evaluate, load_trained
from .options import add_command, add_data_dir, add_device, add_network, add_threads, network_from
from .pictures import BadFiles, find_pictures, read_pictures
from .results import STDOUT, check_csv, results

_MANY = 100  # pictures, for which a progress bar is shown


def add_commands(commands: Any) -> None:
    """Add `evaluate` and `predict` to the sub-parsers of a command line."""
    measuring = add_command(commands, "evaluate", _evaluate, "measure a trained network, usually on the test images")
    measuring.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    measuring.add_argument("--data", metavar="NAME|PATH", help="other images of the same classes")
    text = "all images, not only the test part: for images that the network was not trained on"
    measuring.add_argument("--whole", action="store_true", help=text)
    text = "average over N views of each image: 2 with its mirror image, 6 with both shifted by a pixel, too (1)"
    measuring.add_argument("--views", type=int, choices=[1, 2, 6], default=1, help=text)
    classifying = add_command(commands, "predict", _predict, "classify pictures")
    classifying.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    text = "PNG, JPEG, TIFF or other picture, of any size, or a folder of pictures, with its subfolders"
    classifying.add_argument("images", metavar="PATH", nargs="+", help=text)
    text = "write a table: path, class, probability, and the probability of each class (- for stdout)"
    classifying.add_argument("--csv", metavar="FILE", help=text)
    classifying.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be read")
    classifying.add_argument("--progress", action="store_true", help="show a progress bar in any case")
    add_data_dir(measuring)
    for parser in (measuring, classifying):
        add_network(parser)
        add_device(parser)
        add_threads(parser)


def _evaluate(args: argparse.Namespace) -> int:
    trained = load_trained(args.run, args.device, network_from(args))
    config, spec, device = trained.config, trained.spec, trained.model.device
    options: dict[str, Any] = {"skip_bad": config.skip_bad, "progress": sys.stderr.isatty()}
    parts = load_for_evaluation(args.data or config.data, args.data_dir, like=spec, whole=args.whole, **options)
    # Normalised as in training, whatever the data set's own mean and std are.
    loaders = [config.make_loader(part, train=False, device=device, spec=spec) for part in parts]
    result = evaluate(AverageViews(trained.model, args.views), chain.from_iterable(loaders))
    kind = "images" if args.whole else "test images"
    print(
        f"{parts[0].name}: accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} {kind}), "
        f"loss {result.loss:.4f}, device {device.name} ({device.description})"
    )
    return 0


def _predict(args: argparse.Namespace) -> int:
    if args.csv is not None:
        check_csv(args.csv)
    trained = load_trained(args.run, args.device, network_from(args))
    spec = trained.spec
    if spec.pixels != "uint8" or spec.shape[0] not in (1, 3):
        raise ValueError(f"{args.run} was trained on {spec.pixels} images of shape {spec.shape}, which no picture has")
    paths = find_pictures(args.images)
    total = len(paths)
    bad = BadFiles()
    reading = closing(read_pictures(paths, spec))  # closing ends its processes
    with results(args.csv, spec.classes) as write, reading as batches, _progress(args, total) as bar:
        for batch in batches:
            bad.add(batch.faults)
            # After a bad file the others are read only to name all that are bad.
            if batch.paths and (args.skip_bad or not bad.count):
                write(batch, trained.predict(batch.images))
            bar.update(len(batch))
        if bad.count == total == 1:
            raise DataError(bad.first[0])
        if bad.count == total or (bad.count and not args.skip_bad):
            raise DataError(bad.text(total, "" if args.skip_bad else "; --skip-bad leaves them out"))
    if bad.count:
        print(f"xpcnn: warning: {bad.text(total, ' and are left out')}", file=sys.stderr)
    return 0


def _progress(args: argparse.Namespace, total: int) -> Any:
    """Return a progress bar on stderr; it is shown if asked for, or for many pictures if it disturbs no lines."""
    from tqdm import tqdm

    lines = args.csv in (None, STDOUT) and sys.stdout.isatty()
    shown = args.progress or (total >= _MANY and sys.stderr.isatty() and not lines)
    return tqdm(total=total, unit=" pictures", file=sys.stderr, disable=not shown)
