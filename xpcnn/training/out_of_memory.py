"""The message of an error for lack of memory: which layer asked for it, and for how many samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ..nn import Module


@contextmanager
def naming_the_layer(model: Module, batch_size: int) -> Iterator[None]:
    """Add the layer and the batch size to the message of a MemoryError in the block, CuPy's included.

    The layer is found in the traceback, so a step without the error costs nothing more.
    """
    try:
        yield
    except MemoryError as error:
        detail = f": {error}" if str(error) else ""  # NumPy and CuPy say how many bytes
        where = _layer(model, error.__traceback__)
        raise MemoryError(f"out of memory{where} with a batch of {batch_size:,}{detail}") from error


def _layer(model: Module, traceback: TracebackType | None) -> str:
    """Return the innermost module that was computing, such as " in layer conv1 (Conv2d)"; "" if there was none."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found = ""
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        if id(module) in names:
            found = f" in layer {names[id(module)]} ({type(module).__name__})"
        traceback = traceback.tb_next
    return found
