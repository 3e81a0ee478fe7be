"""Redirects the CUDA runtime that is linked into CuPy's extension modules to the emulation.

The files stay as they are: where a function begins in memory, a jump to the emulation's is written.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import re
import struct
from pathlib import Path

# Extension modules that call the runtime. Others have it too, but are not used: CUB, Thrust, cuFFT, …
MODULES = ("cupy_backends.cuda.api.runtime",)
_JUMP = b"\x48\xb8%s\xff\xe0"  # movabs rax, address; jmp rax


def redirect_runtime(library: ctypes.CDLL) -> None:
    """Load the modules that call the runtime, and redirect it there, before CuPy uses it."""
    for name in MODULES:
        redirect(Path(str(importlib.import_module(name).__file__)), library)


def redirect(path: Path, library: ctypes.CDLL) -> None:
    """Redirect all functions of the runtime in a loaded library."""
    base = _base(path)
    missing = ctypes.cast(library.emu_not_emulated, ctypes.c_void_p).value
    libc = ctypes.CDLL(None)
    for name, (value, size) in _functions(path).items():
        if not re.fullmatch(r"cuda[A-Z]\w*", name):
            continue
        function = getattr(library, name, None)
        target = missing if function is None else ctypes.cast(function, ctypes.c_void_p).value
        jump = _JUMP % struct.pack("<Q", target)
        if size < len(jump):
            continue
        start = base + value
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        length = ctypes.c_size_t(start + len(jump) - first)
        if libc.mprotect(ctypes.c_void_p(first), length, 7):  # readable, writable, executable
            raise OSError(f"the memory of {path} cannot be changed")
        ctypes.memmove(start, jump, len(jump))


def _base(path: Path) -> int:
    """Return the address at which a library is loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            return int(line.split("-")[0], 16)
    raise OSError(f"{path} is not loaded")


def _functions(path: Path) -> dict[str, tuple[int, int]]:
    """Return address and size of the functions in the symbol table of an ELF file."""
    return {name: (value, size) for name, kind, value, size in _symbols(path, 2) if kind == 2 and value}


def undefined(path: Path) -> list[str]:
    """Return the names that an ELF file takes from other libraries."""
    return [name for name, _, value, _ in _symbols(path, 11) if name and not value]


def _symbols(path: Path, table: int) -> list[tuple[str, int, int, int]]:
    """Return name, type, address and size of the symbols in the tables of one type (2: all; 11: for the loader)."""
    data = path.read_bytes()
    (sections,) = struct.unpack_from("<Q", data, 0x28)
    entry, count, _ = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections + i * entry) for i in range(count)]
    found = []
    for _, kind, _, _, offset, size, link, _, _, width in headers:
        if kind != table:
            continue
        names = headers[link][4]
        for at in range(offset, offset + size, width):
            name, info, _, _, value, length = struct.unpack_from("<IBBHQQ", data, at)
            text = data[names + name : data.index(b"\0", names + name)].decode()
            found.append((text, info & 0xF, value, length))
    return found
