"""Samples as one picture or one array."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.train.files import write_bytes

GAP, ZOOM = 2, 3


def write_images(path: Path, images: NDArray[np.uint8]) -> None:
    """Write uint8 [n, 1, H, W] to a .npz (array `images`) or, as a near-square grid, to a .png."""
    if path.suffix == ".npz":
        raw = BytesIO()
        np.savez_compressed(raw, images=images)
        write_bytes(path, raw.getvalue())
        return
    n, _, h, w = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), 128, np.uint8)
    for i, image in enumerate(images[:, 0]):
        row, column = divmod(i, columns)
        y, x = GAP + row * (h + GAP), GAP + column * (w + GAP)
        canvas[y : y + h, x : x + w] = image
    picture = Image.fromarray(canvas)
    size = (ZOOM * picture.width, ZOOM * picture.height)
    raw = BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(raw, "png")
    write_bytes(path, raw.getvalue())
