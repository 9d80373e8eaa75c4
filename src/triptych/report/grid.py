"""Samples as one picture or one array."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.train.files import write_bytes

GAP, ZOOM, GREY = 2, 3, 128


def write_images(path: Path, images: NDArray[np.uint8]) -> None:
    """Write uint8 [n, 1, H, W] to a .npz (array `images`) or, as a near-square grid, to a .png."""
    if path.suffix == ".npz":
        raw = BytesIO()
        np.savez_compressed(raw, images=images)
        write_bytes(path, raw.getvalue())
        return
    columns = math.ceil(math.sqrt(len(images)))
    sheet = np.pad(mosaic(images[:, 0], columns, GAP, GREY), (0, GAP), constant_values=GREY)
    raw = BytesIO()
    Image.fromarray(sheet.repeat(ZOOM, 0).repeat(ZOOM, 1)).save(raw, "png")
    write_bytes(path, raw.getvalue())


def mosaic(images: NDArray[np.uint8], columns: int, gap: int, paper: int) -> NDArray[np.uint8]:
    """Images [n, H, W] in rows of so many, `gap` pixels of `paper` above and left of each."""
    n, h, w = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * columns, h + gap, w + gap), paper, np.uint8)
    sheet[:n, gap:, gap:] = images
    rowwise = sheet.reshape(rows, columns, h + gap, w + gap).swapaxes(1, 2)
    return rowwise.reshape(rows * (h + gap), columns * (w + gap))
