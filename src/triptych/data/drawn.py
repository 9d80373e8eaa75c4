"""Images that some program has drawn: a .npz file with the array `images`."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from triptych.data.own import read_arrays
from triptych.errors import UserError

NAME = "images"


def read_drawn(path: Path, shape: tuple[int, int, int]) -> Float[Tensor, "n C H W"]:
    """Grey values in [0, 1], of bytes 0 .. 255 or of floats; a missing dimension of one channel is
    put in.

    Raises:
        UserError: no such file or array, images of another shape, or other numbers.
    """
    arrays = read_arrays(path, (NAME,))
    if NAME not in arrays:
        raise UserError(f"{path} has no array {NAME!r}; write it with numpy.savez, {NAME}=...")
    images = arrays[NAME]
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1:] != shape or len(images) < 2:
        raise UserError(
            f"{path}: {NAME} is {list(arrays[NAME].shape)}; beside this data set it must be "
            f"[n, {', '.join(map(str, shape))}], n 2 or more; --dataset names another"
        )
    in_bytes = images.dtype == np.uint8
    if not in_bytes and images.dtype.kind != "f":
        raise UserError(f"{path}: {NAME} is {images.dtype}; write uint8, or floats of 0 to 1")
    low, top = images.min(), images.max()
    if not (top >= 128 if in_bytes else 0 <= low <= top <= 1):
        raise UserError(
            f"{path}: {NAME} has grey values {low:g} to {top:g}; white is 255 of bytes or 1 of "
            f"floats, black 0"
        )
    return torch.from_numpy(images.astype(np.float32)) / (255 if in_bytes else 1)
