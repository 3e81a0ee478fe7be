"""Files that are well formed but say anything: hypothesis draws their headers and JSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from picture_files import png_file, tiff_file

from fuzz.mutate import sign_cache
from fuzz.targets import Target

_NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**32 - 1, 2**53, 2**63, 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.integers(),
)
_TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["", "0.003", "nan", "../x", "\0", "\x1b[2J", "lenet5", "cpu"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed_json(draw: st.DrawFn, document: Any) -> bytes:
    """JSON with up to three of its parts replaced, removed or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        part = document
        while isinstance(part, list | dict) and part:
            keys = range(len(part)) if isinstance(part, list) else list(part)
            key = draw(st.sampled_from(keys))
            if not isinstance(part[key], list | dict) or not part[key] or draw(st.integers(0, 3)) == 0:
                if draw(st.integers(0, 4)) == 0:
                    del part[key]
                else:
                    part[key] = draw(JSON)
                break
            part = part[key]
    return json.dumps(document).encode()


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    """IDX files of any header."""
    code = draw(st.sampled_from([0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0, 0xFF]))
    sizes = draw(st.lists(st.one_of(st.integers(0, 3), st.sampled_from([2**16, 2**31, 2**32 - 1])), max_size=70))
    header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes)
    return header + draw(st.binary(max_size=40))


@st.composite
def npy_files(draw: st.DrawFn) -> bytes:
    """Arrays in NumPy's format of any header."""
    kinds = ["|u1", "<f4", ">f8", "<U1", "|S3", "|O", "<i8", "|b1", "<M8[s]", "<c8", "|V4", "<U0", "<U99999999", "x"]
    sizes = st.one_of(st.integers(-1, 4), st.sampled_from([2**16, 2**31, 2**62, 10**30]))
    dtype = draw(st.one_of(st.sampled_from(kinds), st.just([("a", "|u1")]), JSON))
    values = {"descr": dtype, "fortran_order": draw(st.booleans()), "shape": tuple(draw(st.lists(sizes, max_size=70)))}
    text = draw(st.one_of(st.just(repr(values)), st.text())).encode("utf-8", "replace") + b"\n"
    version = draw(st.sampled_from([1, 2, 3, 9]))
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + draw(st.binary(max_size=100))


@st.composite
def cache_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Caches of folders whose description says anything, with its checksum made right."""
    length = int.from_bytes(content[-56:-48], "little")
    info = json.loads(content[-56 - length : -56])
    text = draw(changed_json(info))
    return sign_cache(content[: -56 - length] + text + len(text).to_bytes(8, "little") + bytes(32) + content[-16:])


_SIDES = st.one_of(st.integers(0, 9), st.sampled_from([65_535, 65_536, 2**31 - 1, 2**32 - 1]))
_BITS = st.sampled_from([1, 2, 4, 8, 12, 16, 32, 64])


@st.composite
def png_files(draw: st.DrawFn) -> bytes:
    """PNG files of any header, with right checksums."""
    chunks = st.tuples(st.sampled_from([b"tRNS", b"PLTE", b"eXIf", b"gAMA", b"acTL", b"iCCP", b"tEXt"]), st.binary())
    size, bits, colour = draw(st.tuples(_SIDES, _SIDES)), draw(_BITS), draw(st.integers(0, 7))
    rows = draw(st.one_of(st.just(bytes(4096)), st.binary()))
    return png_file(size, bits, colour, rows, draw(st.lists(chunks, max_size=2)), draw(st.integers(0, 2)))


@st.composite
def tiff_files(draw: st.DrawFn) -> bytes:
    """TIFF files of any tags."""
    tags = {256: draw(_SIDES), 257: draw(_SIDES), 258: draw(_BITS)}
    for tag, values in {
        259: [1, 2, 4, 5, 7, 8, 32_773],  # compression
        262: [0, 1, 2, 3, 5, 6, 8],  # photometric
        266: [1, 2],  # fill order
        273: [0, 8, 2**31],  # place of the strip
        274: [*range(10)],  # orientation
        277: [0, 1, 2, 3, 4, 5],  # samples
        278: [0, 1, 9],  # rows
        279: [0, 1, 64, 2**31],  # bytes of the strip
        284: [1, 2],  # planes
        317: [1, 2, 3],  # predictor
        338: [0, 1, 2],  # extra samples
        339: [0, 1, 2, 3, 4, 6],  # sample format
    }.items():
        if draw(st.booleans()):
            tags[tag] = draw(st.sampled_from(values))
    return tiff_file(draw(st.one_of(st.just(bytes(range(256)) * 4), st.binary())), tags)


@st.composite
def safetensors_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Files of arrays whose header is changed, and its length made right."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    arrays = [name for name in header if name != "__metadata__"]
    name = draw(st.sampled_from(arrays))
    match draw(st.integers(0, 3)):
        case 0:  # a type that takes as many bytes
            same = {"F32": ["I32", "U32"], "I64": ["F64", "U64", "C64"], "U8": ["I8", "BOOL", "F8_E4M3", "F8_E5M2"]}
            header[name]["dtype"] = draw(st.sampled_from(same.get(header[name]["dtype"], ["BF16"])))
        case 1:  # half-width values, twice as many
            header[name]["dtype"] = draw(st.sampled_from(["BF16", "F16", "I16"]))
            header[name]["shape"] = [2, *header[name]["shape"]]
        case 2:
            header[name]["shape"] = draw(st.permutations(header[name]["shape"])) + [1] * draw(
                st.sampled_from([0, 1, 70])
            )
        case _:
            header = json.loads(draw(changed_json(header)))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@st.composite
def checkpoint_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Checkpoints whose JSON says anything."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header["__metadata__"]
    info = json.loads(metadata["info"])
    metadata["info"] = draw(st.one_of(changed_json(info).map(bytes.decode), JSON.map(json.dumps), _TEXTS))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def structures(targets: dict[str, Target]) -> dict[str, st.SearchStrategy[bytes]]:
    """Return what to draw, by the name of the target that reads it."""
    config = json.loads(targets["config.json"].seeds[0])
    trace = targets["trace.json"]
    checkpoint = targets["checkpoint"].seeds[0]
    sign: Callable[[bytes], bytes] = trace.repair or bytes
    lines = st.lists(st.one_of(changed_json({"epoch": 1, "loss": 0.5}), JSON.map(lambda v: json.dumps(v).encode())))
    arrays = {name: safetensors_files(targets[name].seeds[0]) for name in targets if name.startswith("trace, ")}
    return {
        "idx": idx_files(),
        "npz, array": npy_files(),
        "png": png_files(),
        "tiff": tiff_files(),
        "cache, signed": cache_files(targets["cache, signed"].seeds[0]),
        "config.json": st.one_of(changed_json(config), JSON.map(lambda value: json.dumps(value).encode())),
        "history.jsonl": lines.map(b"\n".join),
        "trace.json": changed_json(json.loads(trace.seeds[0])).map(sign),
        "checkpoint": st.one_of(safetensors_files(checkpoint), checkpoint_files(checkpoint)),
        "trained network": st.one_of(safetensors_files(checkpoint), checkpoint_files(checkpoint)),
        **arrays,
    }
