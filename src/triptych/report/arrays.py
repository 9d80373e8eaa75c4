"""Arrays of an .npz file that may come from anywhere: no pickle, and no more memory than the file
announces and is allowed."""

import math
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

from numpy.lib import format as npy
from numpy.typing import NDArray

from triptych.errors import UserError

MOST = 2**28  # bytes of one array; what a run writes is far below
KINDS = "biufU"  # numbers and text
AGAIN = "delete it with scores.json beside it, and run the study again"


def read_npz(
    path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, NDArray]:
    """These arrays of the file, and of the optional ones those that it has.

    Raises:
        UserError: one is missing, damaged, of objects, or announces another size than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            names += tuple(name for name in optional if f"{name}.npy" in members)
            return {name: _array(archive, f"{name}.npy") for name in names}
    except (
        # what zipfile, zlib and numpy's parser of headers raise on bytes that are not theirs
        *(KeyError, ValueError, OSError, EOFError, RuntimeError, OverflowError, SyntaxError),
        *(zipfile.BadZipFile, zlib.error, TypeError, MemoryError),
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read ({reason}): it should hold {', '.join(names)}; {AGAIN}"
        ) from error


def _array(archive: zipfile.ZipFile, member: str) -> NDArray:
    size = archive.getinfo(member).file_size
    if size > MOST:
        raise ValueError(f"{member} announces {size:,} bytes, and {MOST:,} are allowed")
    raw = BytesIO(archive.read(member))  # never decompresses beyond what was announced
    version = npy.read_magic(raw)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{member} is of version {version}")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(raw)
    if dtype.kind not in KINDS:
        raise ValueError(f"{member} holds values of type {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - raw.tell():
        raise ValueError(f"{member} is not as long as its shape {shape} says")
    raw.seek(0)
    return npy.read_array(raw, allow_pickle=False)


def check_shapes(
    path: Path, arrays: dict[str, NDArray], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Refuse arrays of text, or of shapes that do not belong together."""
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind == "U":
            raise UserError(
                f"{path} holds {name} of type {arrays[name].dtype} and shape {arrays[name].shape}, "
                f"where numbers of shape {shape} are needed; {AGAIN}"
            )
