"""Every reader of files in the package, with files to damage and the errors that it documents.

A reader passes if it returns or raises a documented error of one line. Where the content has a checksum, it has to
return what the undamaged file gave: nothing is misread.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from weight_files import older_file, pickle_of, zip_file

from fuzz.mutate import mutate, repair_png, sign_cache
from xpcnn.data import DataError, Dataset, read_npz
from xpcnn.data.download import unpack
from xpcnn.data.formats.cifar import CIFAR10, RECORD, read_cifar
from xpcnn.data.formats.format import Published
from xpcnn.data.formats.idx import IDX, idx_header, read_idx
from xpcnn.data.formats.images import read_image
from xpcnn.data.image_folder.cache import read_cache
from xpcnn.models import build_model
from xpcnn.parity import TraceConfig, TraceError, check, record
from xpcnn.parity import files as trace_files
from xpcnn.training import (
    Checkpoint,
    CheckpointError,
    RunConfig,
    load_torch,
    load_trained,
    read_history,
    save_torch,
)
from xpcnn.training.run import read_config


@dataclass
class Target:
    """A reader of files.

    Attributes:
        name: what it reads.
        path: the file to damage.
        seeds: contents that it can read.
        read: reads the file, or what it is part of.
        errors: the documented ones.
        repair: makes a checksum in damaged content right again; half of the contents go through it.
        same: returns what has to be equal for damaged content that is read without an error; None if it may differ.
    """

    name: str
    path: Path
    seeds: Sequence[bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    repair: Callable[[bytes], bytes] | None = None
    same: Callable[[Any], Any] | None = None
    _right: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for seed in self.seeds:
            self.path.write_bytes(seed)
            result = self.read(self.path)  # an undamaged file is read without an error
            self._right.append(self.same(result) if self.same else None)

    def damaged(self, rng: random.Random) -> bytes:
        """Return damaged content."""
        content = mutate(rng.choice(self.seeds), rng, list(self.seeds))
        return self.repair(content) if self.repair and rng.random() < 0.5 else content

    def run(self, content: bytes) -> str | None:
        """Read content.

        Returns:
            The documented error's message; None if there was none.

        Raises:
            AssertionError: if the message has several lines, or content was misread. Undocumented errors pass through.
        """
        self.path.write_bytes(content)
        try:
            result = self.read(self.path)
        except self.errors as error:
            message = str(error)
            assert message, "an error without a message"
            assert "\n" not in message, f"an error of several lines: {message!r}"
            return message
        if self.same:
            assert self.same(result) in self._right, "damaged content was taken for another"
        return None


def targets(folder: Path) -> list[Target]:
    """Return all targets, with their files in a folder."""
    readers = (_data, _npz, _pictures, _cache, _runs, _weights, _traces)
    return [target for reader in readers for target in reader(folder)]


def _digest(arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def _data(folder: Path) -> list[Target]:
    arrays = [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(3, dtype=np.float32),
        np.array([[1, -1]], np.int16),
    ]
    plain = [idx_header(array) + array.astype(array.dtype.newbyteorder(">")).tobytes() for array in arrays]
    packed = [gzip.compress(content, mtime=0) for content in plain]
    known = Published(hashlib.sha256(plain[0]).hexdigest(), len(plain[0]))
    records = np.random.default_rng(0).integers(0, 10, (2, RECORD), np.uint8).tobytes()
    of_records = Published(hashlib.sha256(records).hexdigest(), len(records))

    def unpacked(path: Path) -> bytes:
        unpack(path, {"one": 11}, 1 << 15)
        return (path.parent / "one").read_bytes()

    errors = (DataError,)
    return [
        Target("idx", folder / "idx", [*plain, *packed], read_idx, errors),
        Target(
            "idx, compressed",
            folder / "idx-in-gzip",
            plain,
            lambda path: read_idx(_compressed(path)),
            errors,
        ),
        Target(
            "idx, published",
            folder / "idx-published",
            [plain[0], packed[0]],
            lambda path: IDX.read_published(path, known),
            errors,
            same=lambda array: _digest([array]),
        ),
        Target("cifar", folder / "cifar", [records], read_cifar, errors),
        Target(
            "cifar, published",
            folder / "cifar-published",
            [records],
            lambda path: CIFAR10.read_published(path, of_records),
            errors,
            same=lambda array: _digest([array]),
        ),
        Target("archive", folder / "archive", [_archive()], unpacked, errors),
        Target(
            "archive, compressed",
            folder / "archive-in-gzip",
            [gzip.decompress(_archive())],
            lambda path: unpacked(_compressed(path)),
            errors,
        ),
    ]


def _compressed(path: Path) -> Path:
    """Damage below the compression: its checksum is right."""
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
    return packed


def _archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in (("a/readme", b"text"), ("a/one", b"some values")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _npz(folder: Path) -> list[Target]:
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 4), np.uint8)
    y = np.array(["a", "b", "c"] * 2)
    four = {"x_train": x / 255, "y_train": y, "x_test": x[:2] / 255, "y_test": y[:2]}
    contents = []
    for save, arrays in ((np.savez, {"x": x, "y": y == "a"}), (np.savez_compressed, four)):
        file = io.BytesIO()
        save(file, **arrays)
        contents.append(file.getvalue())
    arrays = []
    for array in (x, y, x.astype(">f4"), np.asfortranarray(x)):
        file = io.BytesIO()
        np.save(file, array)
        arrays.append(file.getvalue())

    def read_array(path: Path) -> Any:
        """Read a `.npz` file with the array as images and as labels: its checksums are right."""
        content = path.read_bytes()
        for names in (("x", "y"), ("y", "x")):
            with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{names[0]}.npy", content)
                archive.writestr(f"{names[1]}.npy", arrays["xy".index(names[1])])
            try:
                return read_npz(path.with_suffix(".npz"))
            except DataError as error:
                message = str(error)
        raise DataError(message)

    return [
        Target(
            "npz",
            folder / "npz",
            contents,
            read_npz,
            (DataError,),
            same=lambda parts: _digest([part.images for part in parts] + [part.labels for part in parts]),
        ),
        Target("npz, array", folder / "array", arrays, read_array, (DataError,)),
    ]


def _cache(folder: Path) -> list[Target]:
    pictures, caches = folder / "pictures", folder / "data" / "folders"
    for i, name in enumerate(("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/a/bad.png")):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), i, np.uint8)).save(pictures / name)
    (pictures / "val/a/bad.png").write_bytes(b"")
    with contextlib.redirect_stderr(io.StringIO()):
        Dataset.from_folder(pictures, cache_dir=caches.parent, skip_bad=True)
    (path,) = caches.iterdir()

    def same(cache: Any) -> str:
        return repr((cache.files, cache.faults, cache.plan, cache.images.shape))

    content = path.read_bytes()
    return [
        Target("cache", folder / "cache", [content], read_cache, (DataError,), same=same),
        Target("cache, signed", folder / "cache", [content], read_cache, (DataError,), sign_cache),
    ]


def _pictures(folder: Path) -> list[Target]:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 7)).astype(np.uint8)
    colours = rng.integers(0, 256, (7, 9, 4)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6

    def encoded(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
        image, file = Image.fromarray(pixels), io.BytesIO()
        (image.convert(mode) if mode else image).save(file, kind, **options)
        return file.getvalue()

    deep, real = grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255
    seeds = {
        "png": [
            encoded(grey, "PNG", exif=exif),
            encoded(grey > 100, "PNG", "1"),
            encoded(deep, "PNG"),
            encoded(colours, "PNG"),
            encoded(colours, "PNG", "LA"),
            encoded(colours[..., :3], "PNG", "P", transparency=3),
        ],
        "jpeg": [encoded(grey, "JPEG", exif=exif), encoded(colours, "JPEG", "CMYK")],
        "tiff": [
            encoded(deep, "TIFF", exif=exif),
            encoded(real, "TIFF"),
            encoded(colours, "TIFF", compression="tiff_lzw"),
            encoded(colours, "TIFF", "CMYK", compression="tiff_adobe_deflate"),
        ],
        "gif, bmp, webp, ppm": [
            encoded(colours, "GIF", "P", transparency=0),
            encoded(grey, "GIF", save_all=True, append_images=[Image.fromarray(grey + 1)]),
            encoded(colours, "BMP"),
            encoded(colours, "WEBP", exif=exif),
            encoded(colours[..., :3], "PPM"),
        ],
    }

    def read(path: Path) -> None:
        for shape, drawing in (((1, 28, 28), True), ((3, 32, 32), False)):
            image, done = read_image(path, shape, drawing=drawing)
            assert (image.shape, image.dtype) == (shape, np.uint8)
            assert done

    return [
        Target(name, folder / "picture", contents, read, (DataError,), repair_png if name == "png" else None)
        for name, contents in seeds.items()
    ]


def _runs(folder: Path) -> list[Target]:
    config = RunConfig(model="numpy_cnn")
    state = build_model(config.model, (1, 28, 28), 10, seed=0).state_dict()
    run = folder / "run"
    run.mkdir()
    Checkpoint(state, {"step": np.array(3)}, {"config": vars(config)}).save(run / "checkpoint.safetensors")
    content = (run / "checkpoint.safetensors").read_bytes()
    text = json.dumps(vars(config), indent=2).encode()
    history = b'{"epoch": 1, "loss": 0.5, "test_accuracy": 0.9}\n{"epoch": 2, "loss": 0.4, "test_accuracy": NaN}\n'
    return [
        Target("checkpoint", folder / "checkpoint", [content], Checkpoint.load, (CheckpointError,)),
        Target("trained network", folder / "trained", [content], lambda p: load_trained(p, "cpu"), (CheckpointError,)),
        Target("config.json", run / "config.json", [text], lambda path: read_config(path.parent), (ValueError,)),
        Target("history.jsonl", run / "history.jsonl", [history], read_history, (ValueError,)),
    ]


def _weights(folder: Path) -> list[Target]:
    state: dict[str, Any] = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.array([1, -1], np.int64),
    }
    save_torch(folder / "seed.safetensors", state)
    contents = {
        ".safetensors": (folder / "seed.safetensors").read_bytes(),
        ".pt": zip_file(state),
        " before 1.6.pt": older_file(state),
    }

    def read_pickle(path: Path) -> Any:
        """Read an archive with the damaged pickle: its checksums are right."""
        path.write_bytes(zip_file(state, path.read_bytes()))
        return load_torch(path)

    errors = (DataError,)
    return [
        *(
            Target(f"weights{end}", folder / f"weights{end}", [data], load_torch, errors)
            for end, data in contents.items()
        ),
        Target("weights, pickle", folder / "pickle.pt", [pickle_of(state)], read_pickle, errors),
    ]


def _traces(folder: Path) -> list[Target]:
    path = folder / "trace"
    record(path, TraceConfig(model="numpy_cnn", steps=1, batch_size=2))
    info = json.loads((path / "trace.json").read_text())
    whole = {name: (path / name).read_bytes() for name in ("initial.safetensors", "step-0001.safetensors")}

    def sign(content: bytes) -> bytes:
        """Return `trace.json` with its own digest made right, if it is JSON."""
        try:
            changed = json.loads(content)
            del changed["sha256"]["trace.json"]
            changed["sha256"]["trace.json"] = trace_files._digest_of(changed)
            return json.dumps(changed).encode()
        except (ValueError, KeyError, TypeError, RecursionError):
            return content

    def checked(file: Path) -> None:
        try:
            assert check(path, "cpu").verdict
        finally:
            file.write_bytes(whole.get(file.name, json.dumps(info).encode()))
            (path / "trace.json").write_bytes(json.dumps(info).encode())

    def signed(file: Path) -> None:
        changed = json.loads(json.dumps(info))
        changed["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        (path / "trace.json").write_bytes(sign(json.dumps(changed).encode()))
        checked(file)

    errors = (TraceError,)
    compact = json.dumps(info).encode()
    arrays = [Target(f"trace, {name}", path / name, [content], signed, errors) for name, content in whole.items()]
    return [Target("trace.json", path / "trace.json", [compact], checked, errors, sign), *arrays]
