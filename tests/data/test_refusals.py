import dataclasses
import gzip
import hashlib
import os

import numpy as np
import pytest
import torch

from triptych.data import SOURCES, load, verify
from triptych.errors import UserError

PARTS = ("train", "validation", "test")


def refusal(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def content_of(data) -> list[torch.Tensor]:
    return [getattr(data, f"{part}_{kind}") for part in PARTS for kind in ("images", "labels")]


def same(a, b) -> bool:
    return a.sha256 == b.sha256 and all(map(torch.equal, content_of(a), content_of(b)))


@pytest.mark.parametrize("call", [load, verify])
class TestRefusals:
    def test_an_empty_folder(self, tiny, tmp_path, call):
        message = refusal(call, "mnist", tmp_path)
        for part in ("train-images-idx3-ubyte[.gz]", "MNIST/raw", "--data", "triptych data fetch"):
            assert part in message

    def test_one_file_missing(self, tiny, tmp_path, call):
        for name in tiny.names:
            path = tiny.write(tmp_path) / f"{name}.gz"
            path.unlink()
            assert f"{name}[.gz] is missing from" in refusal(call, "mnist", tmp_path)

    def test_two_folders_are_not_mixed(self, tiny, tmp_path, call):
        tiny.write(tmp_path)
        raw = tiny.write(tmp_path / "MNIST" / "raw")
        (raw / "t10k-labels-idx1-ubyte.gz").unlink()
        assert f"missing from {raw}" in refusal(call, "mnist", tmp_path)

    def test_a_folder_in_the_place_of_a_file(self, tiny, tmp_path, call):
        path = tiny.write(tmp_path) / "train-images-idx3-ubyte.gz"
        path.unlink()
        path.mkdir()
        assert "missing" in refusal(call, "mnist", tmp_path)

    def test_a_name_that_the_system_refuses(self, tiny, call):
        assert "--data" in refusal(call, "mnist", "x" * 5_000)

    def test_own_images_under_the_official_names(self, tiny, tmp_path, encode, call):
        path = tiny.write(tmp_path) / "train-images-idx3-ubyte.gz"
        own = encode(tiny.arrays["train-images-idx3-ubyte"] // 2)
        path.write_bytes(gzip.compress(own))
        message = refusal(call, "mnist", tmp_path)
        expected, got = tiny.source.files[0].sha256, hashlib.sha256(own).hexdigest()
        for part in (str(path), expected, got, "triptych data fetch mnist"):
            assert part in message

    def test_labels_in_the_place_of_images(self, tiny, tmp_path, call):
        folder = tiny.write(tmp_path)
        os.replace(folder / "train-labels-idx1-ubyte.gz", folder / "train-images-idx3-ubyte.gz")
        tiny_labels = folder / "train-labels-idx1-ubyte.gz"
        tiny_labels.write_bytes(tiny.packed("train-labels-idx1-ubyte"))
        assert "60 x 4 x 5" in refusal(call, "mnist", tmp_path)

    def test_fewer_labels_than_images(self, tiny_fashion, tmp_path, encode, call):
        path = tiny_fashion.write(tmp_path) / "train-labels-idx1-ubyte.gz"
        path.write_bytes(encode(tiny_fashion.arrays["train-labels-idx1-ubyte"][:-1]))
        assert "holds 59 values, where 60" in refusal(call, "fashion", tmp_path)

    def test_a_label_that_is_no_class(self, tiny_fashion, tmp_path, encode, call):
        labels = tiny_fashion.arrays["t10k-labels-idx1-ubyte"].copy()
        labels[7] = 10
        path = tiny_fashion.write(tmp_path) / "t10k-labels-idx1-ubyte.gz"
        path.write_bytes(encode(labels))
        assert "a label 10, where labels are 0 to 9" in refusal(call, "fashion", tmp_path)

    @pytest.mark.parametrize("packed", [True, False])
    def test_another_data_set_under_the_same_names(
        self, tiny, tiny_fashion, tmp_path, packed, call
    ):
        tiny.write(tmp_path, packed)
        assert "belongs to mnist, not to fashion" in refusal(call, "fashion", tmp_path)

    def test_another_published_archive_whose_content_hash_is_unknown(
        self, tiny, tiny_fashion, tmp_path, monkeypatch, call
    ):
        no_files_known = tuple(
            dataclasses.replace(file, sha256=None, md5="0" * 32) for file in tiny.source.files
        )
        kmnist = dataclasses.replace(SOURCES["kmnist"], validation=12, files=no_files_known)
        monkeypatch.setitem(SOURCES, "kmnist", kmnist)
        tiny_fashion.write(tmp_path)
        assert "belongs to fashion, not to kmnist" in refusal(call, "kmnist", tmp_path)


def corrupted(content: bytes, random: np.random.Generator) -> bytes:
    """A bit flipped, a stretch overwritten, the end cut off, or bytes put in."""
    at = int(random.integers(len(content)))
    noise = random.bytes(int(random.integers(1, 9)))
    match int(random.integers(4)):
        case 0:
            flipped = content[at] ^ (1 << int(random.integers(8)))
            return content[:at] + bytes([flipped]) + content[at + 1 :]
        case 1:
            return content[:at] + noise + content[at + len(noise) :]
        case 2:
            return content[:at]
        case _:
            return content[:at] + noise + content[at:]


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_loads_the_same_content_or_is_refused(tiny, tmp_path, packed):
    original = load("mnist", tiny.write(tmp_path, packed))
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(400):
        name = tiny.names[trial % 4]
        path = tmp_path / (f"{name}.gz" if packed else name)
        intact = path.read_bytes()
        # Headers are a small part of a file and the most delicate one.
        head = 40 if trial % 2 else len(intact)
        path.write_bytes(corrupted(intact[:head], random) + intact[head:])
        try:
            loaded = load("mnist", tmp_path)
        except UserError:
            refused += 1
        else:
            assert same(loaded, original)
        path.write_bytes(intact)
    assert refused > 300


@pytest.mark.mnist
def test_an_incomplete_copy_of_the_real_files(real_mnist, tmp_path):
    for name in os.listdir(real_mnist):
        os.symlink(real_mnist / name, tmp_path / name)
    [path] = tmp_path.glob("train-images-idx3-ubyte*")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    assert "cut short" in refusal(load, "mnist", tmp_path)
