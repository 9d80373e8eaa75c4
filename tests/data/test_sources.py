import dataclasses
import gzip
import hashlib

import pytest
import torch

from triptych.data import SOURCES, load, verify
from triptych.data import sources as module
from triptych.errors import UserError

PARTS = ("train", "validation", "test")


def content_of(data) -> list[torch.Tensor]:
    return [getattr(data, f"{part}_{kind}") for part in PARTS for kind in ("images", "labels")]


def same(a, b) -> bool:
    return a.sha256 == b.sha256 and all(map(torch.equal, content_of(a), content_of(b)))


def check_integrity(data, n_train, n_validation, n_test):
    """What holds for every data set."""
    for part, n in zip(PARTS, (n_train, n_validation, n_test), strict=True):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.shape == (n, *data.shape)
        assert labels.shape == (n,)
        # An int, because a uint8 tensor compares with 256 as with 0.
        assert int(images.max()) < data.levels
        assert labels.unique().tolist() == list(range(10))


def rows(*tensors: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for tensor in tensors for row in tensor)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["MNIST/raw", "."])
def test_each_layout_gives_the_images_that_were_written(tiny, tmp_path, layout, packed):
    tiny.write(tmp_path / layout, packed)
    data = load("mnist", tmp_path)
    train, train_labels, test, test_labels = map(torch.from_numpy, tiny.arrays.values())
    check_integrity(data, 48, 12, 20)
    assert torch.equal(data.test_images[:, 0], test)
    assert torch.equal(data.test_labels, test_labels.long())
    assert rows(data.train_images, data.validation_images) == rows(train)
    # Each image keeps its own label.
    written = zip(train, train_labels, strict=True)
    label_of = {image.numpy().tobytes(): int(y) for image, y in written}
    for part in PARTS[:2]:
        pairs = zip(getattr(data, f"{part}_images"), getattr(data, f"{part}_labels"), strict=True)
        assert all(label_of[image.numpy().tobytes()] == y for image, y in pairs)


def test_the_hash_is_that_of_the_files_one_after_the_other(tiny, tmp_path, encode):
    content = b"".join(encode(array) for array in tiny.arrays.values())
    data = load("mnist", tiny.write(tmp_path))
    assert data.sha256 == hashlib.sha256(content).hexdigest()


def test_files_packed_again_are_the_same_content(tiny, tmp_path, encode):
    original = load("mnist", tiny.write(tmp_path))
    for name, array in tiny.arrays.items():
        repacked = gzip.compress(encode(array), compresslevel=1, mtime=77)
        (tmp_path / f"{name}.gz").write_bytes(repacked)
    assert same(load("mnist", tmp_path), original)


def test_a_class_is_held_out_in_proportion(tiny, tmp_path):
    counts = load("mnist", tiny.write(tmp_path)).validation_labels.bincount()
    assert counts.min() >= 1
    assert counts.max() <= 2


def test_the_argument_beats_the_environment(tiny, tmp_path, monkeypatch):
    good = tiny.write(tmp_path / "good")
    monkeypatch.setenv("TRIPTYCH_DATA", str(good))
    expected = load("mnist")
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "missing"))
    assert same(load("mnist", str(good)), expected)
    with pytest.raises(UserError, match="missing"):
        load("mnist")


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_folder_it_is_fetched(tiny, tmp_path, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("TRIPTYCH_DATA", value)
    monkeypatch.setattr(module, "fetch", lambda name: tiny.write(tmp_path / name))
    assert load("mnist").name == "mnist"
    assert (tmp_path / "mnist").is_dir()


def test_a_home_folder_is_expanded(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.write(tmp_path / "images")
    assert load("mnist", "~/images").name == "mnist"


def test_to_moves_every_tensor_and_leaves_the_original(tiny, tmp_path):
    data = load("mnist", tiny.write(tmp_path))
    moved = data.to("meta")
    assert {tensor.device.type for tensor in content_of(moved)} == {"meta"}
    assert {tensor.device.type for tensor in content_of(data)} == {"cpu"}
    assert (moved.name, moved.shape, moved.sha256) == (data.name, (1, 4, 5), data.sha256)


def test_unknown_names_are_told_the_known_ones():
    for call in (load, verify):
        with pytest.raises(UserError, match="digits, mnist, fashion, kmnist"):
            call("cifar")


def test_digits_are_embedded_and_ignore_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "missing"))
    data = load("digits", tmp_path / "missing too")
    check_integrity(data, 1293, 144, 360)
    assert (data.levels, data.shape) == (17, (1, 8, 8))
    assert max(images.max() for images in content_of(data)[::2]) == 16
    assert len(rows(*content_of(data)[::2])) == 1797


def test_digits_are_split_alike_for_ever():
    data = load("digits")
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in content_of(data)))
    assert digest.hexdigest().startswith("225676eccc5f7078")


def test_changed_digits_are_refused(monkeypatch):
    other = dataclasses.replace(SOURCES["digits"], sha256="0" * 64)
    monkeypatch.setitem(SOURCES, "digits", other)
    for call in (load, verify):
        with pytest.raises(UserError, match="have changed"):
            call("digits")


def test_verify_says_what_each_file_is(tiny, tiny_fashion, tmp_path):
    lines = verify("mnist", tiny.write(tmp_path / "MNIST" / "raw").parents[1])
    assert len(lines) == 4
    for line, file in zip(lines, tiny.source.files, strict=True):
        assert f"{file.name}.gz: official content, sha256 {file.sha256}" in line
    archives = verify("fashion", tiny_fashion.write(tmp_path / "packed"))
    assert all(": official content" in line for line in archives)
    unpacked = verify("fashion", tiny_fashion.write(tmp_path / "unpacked", packed=False))
    assert all("not known whether official" in line for line in unpacked)
    assert len(verify("digits")) == 1


def test_content_without_a_known_hash_is_loaded(tiny_fashion, tmp_path):
    data = load("fashion", tiny_fashion.write(tmp_path, packed=False))
    check_integrity(data, 48, 12, 20)
    test = torch.from_numpy(tiny_fashion.arrays["t10k-images-idx3-ubyte"])
    assert torch.equal(data.test_images[:, 0], test)


@pytest.mark.mnist
class TestRealMnist:
    def test_the_official_content(self, real_mnist):
        data = load("mnist")
        check_integrity(data, 55_000, 5_000, 10_000)
        assert (data.levels, data.shape) == (256, (1, 28, 28))
        assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
        # `zcat` of the four files, train before t10k and images before labels, into `sha256sum`.
        assert data.sha256.startswith("b2d8f5bf39174ee5")
        everyone = data.train_labels.bincount() + data.validation_labels.bincount()
        assert everyone[0] == 5_923
        shares = data.validation_labels.bincount() - everyone * (5_000 / 60_000)
        assert shares.abs().max() < 1
        assert all("official" in line for line in verify("mnist"))

    def test_the_splits_never_move(self, real_mnist):
        data = load("mnist")
        digest = hashlib.sha256(data.validation_images.numpy().tobytes()).hexdigest()
        assert digest.startswith("ace52a600a5a65e4")
