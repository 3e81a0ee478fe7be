"""The options that several commands share, each defined once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ..data import DATASETS
from ..data.sources import resolve_data
from ..models import MODELS, OwnNetwork
from ..models.own import is_own
from ..optim import OPTIMIZERS
from ..training import TrainingConfig
from ..training.recipes import with_recipe

Function = Callable[[argparse.Namespace], int]
Config = TypeVar("Config", bound=TrainingConfig)


def add_command(commands: Any, name: str, function: Function, text: str) -> argparse.ArgumentParser:
    """Add a command to the sub-parsers of a command line.

    Args:
        commands: the sub-parsers.
        name: what the user types.
        function: given the parsed arguments, does the work and returns the exit code.
        text: one line of help.

    Returns:
        The command's parser, for its options.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(function=function)
    return parser


def add_training_options(parser: argparse.ArgumentParser, usual: TrainingConfig) -> None:
    """Add an option for each field of `TrainingConfig`; one that is not given is None.

    Args:
        usual: the defaults that the help names.
    """
    rates = ", ".join(f"{name} {preset.lr:g}" for name, preset in OPTIMIZERS.items())
    text = f"one of {', '.join(sorted(MODELS))}, or FILE:FUNCTION for a network of your own ({usual.model})"
    parser.add_argument("--model", type=_any_model, help=text)
    text = f"one of {', '.join(DATASETS)}, a folder of pictures or a .npz file ({usual.data})"
    parser.add_argument("--data", metavar="NAME|PATH", help=text)
    text = "side of the square that a folder's pictures are scaled to (their own, up to 64)"
    parser.add_argument("--size", type=int, metavar="N", help=text)
    text = "leave out files of a folder that are no pictures, instead of naming them and stopping"
    parser.add_argument("--skip-bad", action="store_true", default=None, help=text)
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"images in a step ({usual.batch_size})")
    parser.add_argument("--optimizer", help=f"one of {', '.join(OPTIMIZERS)} ({usual.optimizer})")
    parser.add_argument("--lr", type=float, metavar="RATE", help=f"highest learning rate ({rates})")
    parser.add_argument("--weight-decay", type=float, metavar="X", help=f"({usual.weight_decay:g})")
    parser.add_argument("--seed", type=int, metavar="N", help=f"of everything random ({usual.seed})")
    add_precision(parser, usual.precision)


def add_precision(parser: argparse.ArgumentParser, usual: str) -> None:
    """Add `--precision`; without it there is None.

    Args:
        usual: what the help names as the default.
    """
    text = f"of products in training: float32, tf32 (newer GPUs) or mixed, which is float16 summed in float32 ({usual})"
    parser.add_argument("--precision", help=text)


def given(args: argparse.Namespace, config: type[TrainingConfig]) -> dict[str, Any]:
    """Return the fields of a configuration that the user gave as options."""
    values = {item.name: getattr(args, item.name, None) for item in fields(config)}
    return {name: value for name, value in values.items() if value is not None}


def config_from(args: argparse.Namespace, kind: type[Config]) -> Config:
    """Return the configuration that the user described by options, and by a recipe where a command has any."""
    values, network = given(args, kind), network_from(args)
    if args.data is not None:
        values["data"] = resolve_data(args.data)
    if network is not None:
        values |= {"model": network.location, "model_sha256": network.sha256}
    if hasattr(args, "recipe"):
        values = with_recipe(values, args.recipe)
    config = kind(**values)
    return config if network is None else config.using(network)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add `--model` to a command that needs the network of a run again."""
    text = "of a run with a network of your own: its function again"
    parser.add_argument("--model", type=_own_model, metavar="FILE:FUNCTION", help=text)


def network_from(args: argparse.Namespace) -> OwnNetwork | None:
    """Run the file of `--model FILE:FUNCTION` and return the network; None if the user named none."""
    return None if args.model is None or args.model in MODELS else OwnNetwork.load(args.model)


def _any_model(text: str) -> str:
    if text not in MODELS and not is_own(text):
        known = ", ".join(sorted(MODELS))
        raise argparse.ArgumentTypeError(f"unknown model {text!r}: expected one of {known}, or FILE:FUNCTION")
    return text


def _own_model(text: str) -> str:
    if not is_own(text):
        raise argparse.ArgumentTypeError(f"expected path/to/file.py:function, got {text!r}")
    return text


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--data-dir`."""
    text = "folder of the data sets ($XPCNN_DATA, else the user's cache)"
    parser.add_argument("--data-dir", metavar="DIR", help=text)


def add_device(parser: argparse.ArgumentParser, usual: str = "auto") -> None:
    """Add `--device`.

    Args:
        usual: the device that is used if none is given.
    """
    names = ['"auto"', '"cpu"', '"cuda"'] if usual == "auto" else ['"cpu"', '"cuda"']
    text = ", ".join(f"{name} (default)" if name == f'"{usual}"' else name for name in names)
    parser.add_argument("--device", default=usual, help=f'{text} or "cuda:<number>"')


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`, which `main` obeys."""
    text = "CPU threads (all cores); results do not depend on it"
    parser.add_argument("--threads", type=int, metavar="N", help=text)


def check_writable(option: str, name: str) -> None:
    """Raise ValueError if the file that an option names cannot be written, before the work for it."""
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"{option} {name}: it is a folder")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option} {name}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {name}: it is not a regular file")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ValueError(f"{option} {name}: no permission to write there")


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Add a file's name to an OSError in the block: writing to a full disk raises it without."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
