"""Images of one's own: NAME.npz, in the folder of the data files.

    train_images, test_images   uint8 [N, H, W], 0 to levels - 1
    train_labels, test_labels   integers [N], classes counted from 0; without both, one for all
    levels                      optional, the number of grey levels, 2 to 256; left out, 256

`numpy.savez(path, train_images=..., ...)` writes one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.idx import times
from triptych.errors import UserError

OWN_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
IMAGES, LABELS = ARRAYS[::2], ARRAYS[1::2]
FEWEST = 20  # training images; with fewer there is nothing to split
MOST_LEVELS = MOST_CLASSES = 256


def read_own(path: Path) -> tuple[int, list[Tensor], str]:
    """Levels, the four arrays in the order of `ARRAYS`, and the sha256 of all of it.

    Raises:
        UserError: no such file, no such arrays in it, or numbers that images cannot have.
    """
    arrays = read_arrays(path, (*ARRAYS, "levels"))
    labelled = any(name in arrays for name in LABELS)
    needed = ARRAYS if labelled else IMAGES
    if absent := [name for name in needed if name not in arrays]:
        raise UserError(f"{path} has no array {absent[0]!r}; it needs {', '.join(needed)}")
    levels = _levels(arrays.get("levels", np.array(MOST_LEVELS)), path)
    found = {name: _images(arrays[name], name, path) for name in IMAGES}
    _check_grey_values(found, levels, "levels" in arrays, path)
    train, test = found.values()
    if train.shape[1:] != test.shape[1:] or len(train) < FEWEST or len(test) < 2:
        raise UserError(
            f"{path} has training images of {times(train.shape)} and test images of "
            f"{times(test.shape)}; both must be of one height and width, {FEWEST} or more to train "
            f"on and 2 to test on"
        )
    for name, images in zip(LABELS, (train, test), strict=True):
        given = arrays[name] if labelled else np.zeros(len(images), np.uint8)
        found[name] = _labels(given, len(images), name, path)
    content = hashlib.sha256(str((levels, train.shape, test.shape)).encode())
    for name in ARRAYS:
        content.update(found[name].tobytes())
    return levels, [torch.from_numpy(found[name]) for name in ARRAYS], content.hexdigest()


def read_arrays(path: Path, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Those of these arrays that the .npz file has; a UserError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in names if name in file}
        if strange := [n for n, a in found.items() if not isinstance(a, np.ndarray)]:
            raise TypeError(f"{strange[0]} is no array")  # numpy reads it as bytes
        return found
    except MemoryError:
        raise
    except Exception as error:  # of the system, the archive, its compression or its headers
        if "Object arrays" in str(error):
            raise UserError(f"{path} has arrays of objects; write numbers of one type") from None
        reason = getattr(error, "strerror", None) or "it is not an .npz file, or is damaged"
        raise UserError(f"{path} cannot be read ({reason}); write it with numpy.savez") from None


def _levels(array: NDArray[Any], path: Path) -> int:
    whole = array.shape == () and array.dtype.kind in "iu"
    if not whole or not 2 <= int(array) <= MOST_LEVELS:
        raise UserError(
            f"{path}: levels must be one whole number, 2 to {MOST_LEVELS}, not {array.tolist()!r}"
        )
    return int(array)


def _images(array: NDArray[Any], name: str, path: Path) -> NDArray[np.uint8]:
    """[N, H, W]; a dimension of one channel is taken off."""
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype != np.uint8 or array.ndim != 3 or array.size == 0:
        raise UserError(
            f"{path}: {name} is {array.dtype} {list(array.shape)}; grey images are uint8 "
            f"[N, height, width], each at least 1"
        )
    return np.ascontiguousarray(array)


def _check_grey_values(
    found: Mapping[str, NDArray[np.uint8]], levels: int, is_given: bool, path: Path
) -> None:
    """Refuse images brighter than their levels, all black ones, and, where the file does not give
    levels, ones so dark that they seem to have fewer than the 256 that are assumed."""
    for name, images in found.items():
        if (top := int(images.max())) >= levels:
            raise UserError(
                f"{path}: {name} has a grey value {top}, where levels = {levels} leave 0 to "
                f"{levels - 1}; write levels = {top + 1}, or more"
            )
    brightest = max(int(images.max()) for images in found.values())
    if brightest == 0:
        raise UserError(f"{path}: all of its pixels are 0; write grey values from 0 to 255")
    if not is_given and brightest < MOST_LEVELS // 2:
        raise UserError(
            f"{path}: its brightest pixel is {brightest} of 255; add the array levels, the number "
            f"of grey values that a pixel can have ({brightest + 1}, if that one is white)"
        )


def _labels(array: NDArray[Any], n: int, name: str, path: Path) -> NDArray[np.uint8]:
    whole = array.dtype.kind in "iu" and array.shape == (n,)
    if not whole or array.min() < 0 or array.max() >= MOST_CLASSES:
        raise UserError(
            f"{path}: {name} must be {n} whole numbers, a class of 0 to {MOST_CLASSES - 1} "
            f"for each image, not {array.dtype} {list(array.shape)}"
        )
    return array.astype(np.uint8)
