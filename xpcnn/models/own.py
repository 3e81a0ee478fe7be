"""Networks of one's own: a function in a file that the user names."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..nn import Module


@dataclass(frozen=True)
class OwnNetwork:
    """A function `function(in_shape, num_classes, seed=…)` in a file, which returns a network.

    Loading one runs the file. So load what the user names, never what a file names that may come from strangers.

    Attributes:
        location: the file's absolute path and the function, as `"/path/to/file.py:function"`.
        sha256: of the file, in hexadecimal digits. What the file imports is not part of it.
    """

    location: str
    sha256: str
    _function: Callable[..., Any] = field(repr=False)

    @classmethod
    def load(cls, text: str) -> OwnNetwork:
        """Run a file, as if from its own folder, and return the function in it.

        Args:
            text: `"path/to/file.py:function"`.

        Raises:
            ValueError: if the text names no file and function, or the file cannot be imported; the message says why.
        """
        file, _, name = text.rpartition(":")
        path = Path(file)
        if not is_own(text):
            raise ValueError(f"expected a network as path/to/file.py:function, got {text!r:.200}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        path = path.resolve()
        digest = hashlib.sha256(content).hexdigest()
        module = _imported(path, f"xpcnn_own_{digest[:16]}")
        function = getattr(module, name, None)
        if not callable(function):
            raise ValueError(f"{path} has no function {name!r}")
        return cls(f"{path}:{name}", digest, function)

    def build(self, in_shape: tuple[int, int, int], num_classes: int, *, seed: int = 0) -> Module:
        """Return the network, after trying it on an image of zeros.

        Raises:
            ValueError: if the function fails, returns no module, or one whose output is not `(N, num_classes)`.
        """
        return tried(self._function, in_shape, num_classes, seed=seed, name=self.location)


def tried(
    function: Callable[..., Any], in_shape: tuple[int, int, int], num_classes: int, *, seed: int, name: str
) -> Module:
    """Return the network that a function makes, after trying it on an image of zeros.

    Args:
        function: called with `(in_shape, num_classes, seed=seed)`.
        in_shape: `(C, H, W)` of an image.
        num_classes: number of outputs.
        seed: of the initial weights.
        name: of the function, for messages.

    Raises:
        ValueError: as for `OwnNetwork.build`.
    """
    try:
        model = function(in_shape, num_classes, seed=seed)
    except Exception as error:
        raise ValueError(f"{name} failed for images {in_shape}: {_where(error)}") from error
    if not isinstance(model, Module):
        raise ValueError(f"{name} returned {type(model).__name__}, expected an xpcnn.nn.Module")
    dtype = next((parameter.data.dtype for parameter in model.parameters()), np.dtype(np.float32))
    try:
        output = model.eval()(model.device.asarray(np.zeros((1, *in_shape), dtype)))
        shape = output.shape
    except Exception as error:
        raise ValueError(f"the network of {name} fails on an image {in_shape}: {_where(error)}") from error
    if shape != (1, num_classes):
        expected = f"expected (N, {num_classes}), a number for each class"
        found = ", ".join(["N", *map(str, shape[1:])])
        raise ValueError(f"the network of {name} makes outputs ({found}), {expected}")
    return model.train()


def is_own(text: str) -> bool:
    """Return whether a text names a file and a function in it."""
    file, _, name = text.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def _imported(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle and dataclasses look for it
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {_where(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _where(error: BaseException) -> str:
    """Return an error's type, text and the last line of Python that led to it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"
    if isinstance(error, SyntaxError):
        place = ""  # which its text says
    return f"{type(error).__name__}: {error}{place}"
