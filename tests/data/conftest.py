"""A data set in miniature: MNIST's file names and formats, a few small images, known hashes."""

import dataclasses
import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from triptych.data import SOURCES
from triptych.data.registry import File, Source

# Height and width differ, so that a transposed image is another image.
N_TRAIN, N_TEST, HEIGHT, WIDTH, N_VALIDATION = 60, 20, 4, 5, 12


def idx_bytes(array: np.ndarray, kind: int = 0x08) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.astype(">u1").tobytes()


@dataclasses.dataclass
class Tiny:
    source: Source
    arrays: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    def packed(self, name: str) -> bytes:
        return gzip.compress(idx_bytes(self.arrays[name]), mtime=0)

    def write(self, folder: Path, packed: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays.items():
            if packed:
                (folder / f"{name}.gz").write_bytes(self.packed(name))
            else:
                (folder / name).write_bytes(idx_bytes(array))
        return folder


def _arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    arrays = {}
    for part, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        images = random.integers(0, 256, (n, HEIGHT, WIDTH), dtype=np.uint8)
        arrays[f"{part}-images-idx3-ubyte"] = images
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(n, dtype=np.uint8) % 10
    return arrays


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """In place of `mnist`, with the hashes of its own content."""
    monkeypatch.delenv("TRIPTYCH_DATA", raising=False)
    tiny = Tiny(SOURCES["mnist"], _arrays())
    files = tuple(
        File(
            name,
            array.shape,
            md5=hashlib.md5(tiny.packed(name)).hexdigest(),
            sha256=hashlib.sha256(idx_bytes(array)).hexdigest(),
        )
        for name, array in tiny.arrays.items()
    )
    tiny.source = dataclasses.replace(tiny.source, validation=N_VALIDATION, mirrors=(), files=files)
    monkeypatch.setitem(SOURCES, "mnist", tiny.source)
    return tiny


@pytest.fixture
def tiny_fashion(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """In place of `fashion`, other images of the same shapes; the hash of its content unknown."""
    arrays = {
        name: 255 - array if array.ndim == 3 else (9 - array).astype(np.uint8)
        for name, array in tiny.arrays.items()
    }
    other = Tiny(SOURCES["fashion"], arrays)
    files = tuple(
        File(name, array.shape, md5=hashlib.md5(other.packed(name)).hexdigest())
        for name, array in arrays.items()
    )
    other.source = dataclasses.replace(other.source, validation=N_VALIDATION, files=files)
    monkeypatch.setitem(SOURCES, "fashion", other.source)
    return other


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return idx_bytes
