import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest

from triptych.data.idx import as_tensor, header, read_idx
from triptych.errors import UserError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images"


def refusal(path, shape=ARRAY.shape) -> str:
    """The one sentence with which a file is refused; it names the file."""
    with pytest.raises(UserError) as caught:
        read_idx(path, shape)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_was_written_is_read(path, encode, shape, pack):
    array = ARRAY.ravel()[: np.prod(shape)].reshape(shape)
    content = encode(array)
    path.write_bytes(pack(content))
    data = read_idx(path, shape)
    assert data == content
    assert as_tensor(data, shape).tolist() == array.tolist()


def test_the_name_does_not_decide_whether_a_file_is_packed(tmp_path, encode):
    path = tmp_path / "unpacked-by-the-browser.gz"
    path.write_bytes(encode(ARRAY))
    assert read_idx(path, ARRAY.shape) == encode(ARRAY)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("mend", "words"),
    [
        (lambda c: b"", "not an IDX file"),
        (lambda c: c[:3], "not an IDX file"),
        (lambda c: b"<html><body>not found</body></html>", "not an IDX file"),
        (lambda c: c[:10], "array of 3 dimension"),
        (lambda c: b"\1" + c[1:], "not an IDX file"),
        (lambda c: c[:2] + b"\x0d" + c[3:], "type 0x0d"),
        (lambda c: c[:3] + b"\1" + c[4:], "array of 1 dimension"),
        (lambda c: header((3, 2, 4)) + c[16:], "holds 3 x 2 x 4 values, where 2 x 3 x 4"),
        (lambda c: header((2, 3, 5)) + c[16:] + bytes(6), "holds 2 x 3 x 5 values"),
        (lambda c: c[:-1], "cut short .*24 values, it has 23"),
        (lambda c: c + b"\0", "too long .*24 values, it has more than 24"),
    ],
)
def test_wrong_content_is_named(path, encode, mend, words, pack):
    path.write_bytes(pack(mend(encode(ARRAY))))
    message = refusal(path)
    assert re.search(words, message), message


def test_little_endian_dimensions_are_refused(path, encode):
    path.write_bytes(struct.pack("<HBB3I", 0, 8, 3, *ARRAY.shape) + encode(ARRAY)[16:])
    assert "33554432 x 50331648 x 67108864" in refusal(path)


def test_damaged_gzip_is_named(path, encode):
    packed = gzip.compress(encode(ARRAY))
    for cut in range(2, len(packed)):
        path.write_bytes(packed[:cut])
        assert "cut short" in refusal(path)
    path.write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])
    assert "damaged gzip data" in refusal(path)
    path.write_bytes(packed + b"more")
    assert "damaged gzip data" in refusal(path)


def test_a_folder_or_nothing_is_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing")
    assert "directory" in refusal(tmp_path)


def peak_of_refusal(path, shape) -> int:
    tracemalloc.start()
    refusal(path, shape)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_decompression_bomb_is_not_decompressed(path, encode):
    path.write_bytes(gzip.compress(encode(ARRAY) + bytes(100_000_000), compresslevel=1))
    assert path.stat().st_size < 1_000_000
    assert peak_of_refusal(path, ARRAY.shape) < 5_000_000


def test_a_header_that_announces_too_much_costs_no_memory(path):
    path.write_bytes(gzip.compress(header((50_000, 28, 28)) + bytes(39_200_000), compresslevel=1))
    assert peak_of_refusal(path, ARRAY.shape) < 5_000_000


def test_a_large_unpacked_file_is_not_read_whole(path, encode):
    path.write_bytes(encode(ARRAY) + bytes(50_000_000))
    assert peak_of_refusal(path, ARRAY.shape) < 5_000_000
