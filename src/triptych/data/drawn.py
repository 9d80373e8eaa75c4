"""Images that some program has drawn: a .npz file with the array `images`, or a folder of .png."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from triptych.data.idx import times
from triptych.data.own import read_arrays
from triptych.errors import UserError

NAME = "images"


def read_drawn(path: Path, shape: tuple[int, int, int]) -> Float[Tensor, "n C H W"]:
    """Grey values in [0, 1], of bytes 0 .. 255 or of floats; a missing dimension of one channel is
    put in.

    Raises:
        UserError: no such file or array, images of another shape, or other numbers.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder of .png files, or a .npz file")
    found = _of_folder(path) if path.is_dir() else _of_archive(path)
    images = found[:, None] if found.ndim == 3 else found
    if images.ndim != 4 or images.shape[1:] != shape or len(images) < 2:
        raise UserError(
            f"{path}: {NAME} is {list(found.shape)}; beside this data set it must be "
            f"[n, {', '.join(map(str, shape))}], n 2 or more; --dataset names another"
        )
    in_bytes = images.dtype == np.uint8
    if not in_bytes and images.dtype.kind != "f":
        raise UserError(f"{path}: {NAME} is {images.dtype}; write uint8, or floats of 0 to 1")
    low, top = images.min(), images.max()
    if not (top >= 128 if in_bytes else low >= 0 and 0.5 <= top <= 1):
        raise UserError(
            f"{path}: {NAME} has grey values {low:g} to {top:g}; white is 255 of bytes or 1 of "
            f"floats, black 0"
        )
    return torch.from_numpy(images.astype(np.float32)) / (255 if in_bytes else 1)


def _of_archive(path: Path) -> NDArray[Any]:
    arrays = read_arrays(path, (NAME,))
    if NAME not in arrays:
        raise UserError(f"{path} has no array {NAME!r}; write it with numpy.savez, {NAME}=...")
    return arrays[NAME]


def _of_folder(path: Path) -> UInt8[np.ndarray, "n H W"]:
    """Its .png files, by name."""
    images: list[NDArray[np.uint8]] = []
    for file in sorted(f for f in path.iterdir() if f.suffix.lower() == ".png"):
        images.append(_grey_image(file))
        if images[-1].shape != images[0].shape:
            raise UserError(
                f"{file} is of {times(images[-1].shape)} pixels, others are of "
                f"{times(images[0].shape)}; give images of one size"
            )
    if not images:
        raise UserError(f"{path} has no .png files; name a folder of images, or a .npz file")
    return np.stack(images)


def _grey_image(file: Path) -> UInt8[np.ndarray, "H W"]:
    try:
        image = Image.open(file)
        frames = getattr(image, "n_frames", 1)
        opaque = (np.asarray(image.convert("RGBA"))[..., 3] == 255).all()
        deep = image.mode.startswith("I")  # `convert` would make 255 of all values above it
        colours = np.asarray(image.convert("RGB"))
        grey = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read ({error}); draw it again") from None
    if deep:
        raise UserError(f"{file} has 16 bits a pixel; write 8, grey values 0 to 255")
    if frames > 1 or not opaque:
        what = f"{frames} frames" if frames > 1 else "transparent pixels"
        raise UserError(f"{file} has {what}; write one opaque image a file")
    if (colours != colours[..., :1]).any():
        raise UserError(f"{file} is in colour; write it grey")
    return grey
