"""IDX, the file format of the MNIST family: two zero bytes, a type code, the number of dimensions,
the dimensions as big-endian 32-bit integers, then the values. Here the values are unsigned bytes.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from triptych.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def header(shape: Sequence[int]) -> bytes:
    """The bytes that every IDX file of unsigned bytes with this shape begins with."""
    return struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)


def read_idx(path: Path, shape: Sequence[int]) -> bytearray:
    """The whole content, decompressed, of an IDX file that must have exactly this shape.

    Gzip is recognised by its first bytes, not by the name. The header is compared before the body
    is read, and no more than one byte past the announced end is decompressed, so neither a lying
    header nor a decompression bomb costs memory.

    Raises:
        UserError: unreadable, damaged, cut short, too long, or another type or shape.
    """
    expected, size = header(shape), math.prod(shape)
    try:
        with _open(path) as stream:
            found = stream.read(len(expected))
            if found != expected:
                raise UserError(
                    f"{path} {_describe(found)}, where {times(shape)} unsigned bytes in IDX "
                    "format are needed: replace it with the official file"
                )
            body = stream.read(size + 1)
    except EOFError as error:
        raise UserError(f"{path} is cut short: replace it with a complete copy") from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"damaged gzip data, {error}"
        raise UserError(f"{path} cannot be read ({reason}): replace it") from error
    if len(body) != size:
        fault = "is cut short" if len(body) < size else "is too long"
        have = f"{len(body):,}" if len(body) < size else f"more than {size:,}"
        raise UserError(
            f"{path} {fault} (its header announces {size:,} values, it has {have}): "
            "replace it with a complete copy"
        )
    return bytearray(expected + body)


def as_tensor(content: bytearray, shape: Sequence[int]) -> UInt8[Tensor, "..."]:
    """The values of a file that `read_idx` returned, sharing its memory."""
    offset = len(header(shape))
    return torch.frombuffer(content, dtype=torch.uint8, offset=offset).reshape(tuple(shape))


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(path, "rb") if packed else path.open("rb")


def _describe(found: bytes) -> str:
    """What a header that is not the expected one says about its file."""
    if len(found) < 4 or found[:2] != b"\0\0" or not 1 <= found[3] <= 4:
        return "is not an IDX file"
    kind, n_dims = found[2], found[3]
    if kind != UNSIGNED_BYTE:
        return f"holds IDX values of type 0x{kind:02x}"
    if len(found) != 4 + 4 * n_dims:
        return f"holds an array of {n_dims} dimension(s)"
    return f"holds {times(struct.unpack(f'>{n_dims}I', found[4:]))} values"


def times(shape: Sequence[int]) -> str:
    """ "60000 x 28 x 28"."""
    return " x ".join(str(length) for length in shape)
