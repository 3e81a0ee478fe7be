"""Files that are well formed but say anything: hypothesis draws their headers and JSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from fuzz.targets import Target
from hypothesis import strategies as st

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
        "config.json": st.one_of(changed_json(config), JSON.map(lambda value: json.dumps(value).encode())),
        "history.jsonl": lines.map(b"\n".join),
        "trace.json": changed_json(json.loads(trace.seeds[0])).map(sign),
        "checkpoint": st.one_of(safetensors_files(checkpoint), checkpoint_files(checkpoint)),
        "trained network": st.one_of(safetensors_files(checkpoint), checkpoint_files(checkpoint)),
        **arrays,
    }
