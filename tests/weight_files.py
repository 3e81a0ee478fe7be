"""PyTorch's files of weights written by hand, so that they may lie, and so that PyTorch need not be installed."""

import io
import pickle
import struct
import zipfile

import numpy as np

KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}
MAGIC = 0x1950A86A20F9469CFC6C


def literal(value):
    """Return the instructions that push a text, a number or a tuple of them."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(literal, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, array, *, kind=None, count=None, offset=0, shape=None, strides=None):
    """Return the instructions that push a tensor; what is not given is the array's."""
    kind = KINDS[array.dtype.str[1:]] if kind is None else kind
    shape = array.shape if shape is None else shape
    strides = tuple(stride // array.itemsize for stride in array.strides) if strides is None else strides
    count = array.size if count is None else count
    storage = literal("storage") + f"ctorch\n{kind}Storage\n".encode() + literal(str(key)) + literal("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + (storage + literal(count) + b"tQ" + literal(offset) + literal(shape) + literal(strides))
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def pickle_of(state, **lies):
    """Return the pickle of a state dictionary; the lies are those of `tensor`, about all its tensors."""
    items = (literal(name) + tensor(i, array, **lies) for i, (name, array) in enumerate(state.items()))
    return b"\x80\x02}(" + b"".join(items) + b"u."


def zip_file(state, content=None, *, byteorder=None, compression=zipfile.ZIP_STORED, **lies):
    """Return a file of PyTorch 1.6 or newer, with another pickle if `content` is given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_of(state, **lies) if content is None else content)
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for i, array in enumerate(state.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(array).tobytes())
    return file.getvalue()


def older_file(state, *, keys=None, **lies):
    """Return a file of PyTorch before 1.6."""
    sizes = {"protocol_version": 1001, "little_endian": True}
    start = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, sizes))
    keys = [str(i) for i in range(len(state))] if keys is None else keys
    storages = b"".join(
        struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes() for array in state.values()
    )
    return start + pickle_of(state, **lies) + pickle.dumps(keys, 2) + storages
