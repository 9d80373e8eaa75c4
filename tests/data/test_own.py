"""Images of one's own: NAME.npz in the folder of --data."""

import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from triptych.data import load, verify
from triptych.data.own import read_own
from triptych.errors import UserError

N, M = 50, 20


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "train_images": random.integers(0, 256, (N, 4, 6), dtype=np.uint8),
        "train_labels": np.arange(N) % 26,
        "test_images": random.integers(0, 256, (M, 4, 6), dtype=np.uint8),
        "test_labels": np.arange(M) % 26,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIPTYCH_DATA", raising=False)
    return tmp_path


def test_parts_are_what_was_written(folder, arrays):
    np.savez(folder / "letters.npz", **arrays)
    data = load("letters", folder)
    assert (data.name, data.levels, data.shape, data.classes) == ("letters", 256, (1, 4, 6), 26)
    assert torch.equal(data.test_images[:, 0], torch.from_numpy(arrays["test_images"]))
    assert torch.equal(data.test_labels, torch.from_numpy(arrays["test_labels"]))
    assert len(data.validation_images) == N // 10
    again = torch.cat([data.train_images, data.validation_images]).flatten(1).tolist()
    assert sorted(again) == sorted(arrays["train_images"].reshape(N, -1).tolist())
    assert data.sha256 in verify("letters", folder)[0]


def test_images_without_labels_are_of_one_class(folder, arrays):
    bare = {k: a for k, a in arrays.items() if k.endswith("images")}
    np.savez(folder / "bare.npz", **bare)
    np.savez(folder / "one.npz", **bare, train_labels=[0] * N, test_labels=[0] * M)
    data = load("bare", folder)
    assert data.classes == 1
    assert len(data.validation_images) == N // 10
    assert data.sha256 == load("one", folder).sha256


def test_a_channel_of_its_own_and_the_folder_of_the_environment(folder, arrays, monkeypatch):
    np.savez(folder / "flat.npz", **arrays)
    deep = {k: a[:, None] if a.ndim == 3 else a for k, a in arrays.items()}
    np.savez_compressed(folder / "deep.npz", **deep)
    monkeypatch.setenv("TRIPTYCH_DATA", str(folder))
    flat, deep = load("flat"), load("deep")
    assert flat.sha256 == deep.sha256
    assert torch.equal(flat.train_images, deep.train_images)


def test_levels_are_said_and_are_part_of_the_data(folder, arrays):
    dark = {k: a // 16 if a.dtype == np.uint8 else a for k, a in arrays.items()}
    np.savez(folder / "dark.npz", **dark, levels=16)
    np.savez(folder / "darker.npz", **dark, levels=32)
    assert load("dark", folder).levels == 16
    assert load("dark", folder).sha256 != load("darker", folder).sha256


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_labels": None}, "no array 'test_labels'; it needs train_images, train_labels"),
        (
            {"train_labels": None, "test_labels": None, "test_images": None},
            "no array 'test_images'; it needs train_images, test_images",
        ),
        ({"train_images": np.zeros((N, 4, 6))}, r"train_images is float64 \[50, 4, 6\]"),
        ({"train_images": np.zeros((N, 3, 4, 6), np.uint8)}, r"uint8 \[50, 3, 4, 6\]"),
        ({"test_images": np.zeros((0, 4, 6), np.uint8)}, r"test_images is uint8 \[0, 4, 6\]"),
        ({"test_images": np.full((M, 6, 4), 255, np.uint8)}, "50 x 4 x 6 .* of 20 x 6 x 4"),
        ({"train_images": np.full((19, 4, 6), 255, np.uint8)}, "20 or more to train on"),
        ({"test_images": np.full((1, 4, 6), 255, np.uint8)}, "and 2 to test on"),
        ({"train_labels": np.arange(N) / 2}, "train_labels must be 50 whole numbers"),
        (
            {"train_labels": np.arange(N - 1)},
            "train_labels must be 50 whole numbers, .* not int64 .49.",
        ),
        ({"test_labels": np.arange(M) - 1}, "test_labels must be 20 whole numbers"),
        ({"test_labels": np.full(M, 256)}, "a class of 0 to 255 for each image"),
        ({"levels": np.array(16)}, "grey value 2.., where levels = 16 leave 0 to 15"),
        (
            {"train_images": np.full((N, 4, 6), 99, np.uint8), "levels": np.array(16)},
            "grey value 99, .*write levels = 100, or more",
        ),
        ({"levels": np.array(1)}, "levels must be one whole number, 2 to 256, not 1"),
        ({"levels": np.array([256])}, r"not \[256\]"),
        (
            {f"{part}_images": np.ones((M, 4, 6), np.uint8) for part in ("train", "test")},
            r"brightest pixel is 1 of 255; add the array levels, .* \(2, if that one is white\)",
        ),
        (
            {f"{part}_images": np.zeros((M, 4, 6), np.uint8) for part in ("train", "test")},
            "all of its pixels are 0; write grey values from 0 to 255",
        ),
        ({"train_images": np.zeros((0, 4, 6), np.uint8)}, "each at least 1"),
        (
            {"train_images": np.array([None] * N)},
            "has arrays of objects; write numbers of one type",
        ),
    ],
)
def test_what_images_cannot_be(folder, arrays, changes, said):
    found = {k: a for k, a in (arrays | changes).items() if a is not None}
    np.savez(folder / "mine.npz", **found)
    with pytest.raises(UserError, match=rf"mine\.npz.*{said}"):
        load("mine", folder)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"\x93NUMPY", b"text"])
def test_what_is_no_archive(folder, content):
    (folder / "mine.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz cannot be read"):
        load("mine", folder)


def test_a_damaged_archive(folder, arrays):
    np.savez_compressed(folder / "mine.npz", **arrays)
    whole = (folder / "mine.npz").read_bytes()
    refused = 0
    for at in range(0, len(whole), 97):
        (folder / "mine.npz").write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
        with suppress(UserError):
            refused += 1
            load("mine", folder)
            refused -= 1
    assert refused > 10


def test_names(folder, arrays):
    np.savez(folder / "mnist.npz", **arrays)
    with pytest.raises(UserError, match="no train-images-idx3-ubyte"):  # MNIST is MNIST
        load("mnist", folder)
    with pytest.raises(UserError, match=rf"letters\.npz .* in which there is none: {folder}"):
        load("letters", folder)
    with pytest.raises(
        UserError,
        match=r"letters\.npz with train_images, .* folder that --data or TRIPTYCH_DATA names$",
    ):
        load("letters")
    for name in ("../letters", "", "a b", "x" * 65):
        with pytest.raises(UserError, match="a name of your own of letters, digits, - and _"):
            load(name, folder)


def test_a_member_of_an_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("train_images", "test_images"):
            archive.writestr(name, "hello")
    with pytest.raises(UserError, match=r"is not an \.npz file, or is damaged"):
        read_own(tmp_path / "a.npz")


def test_a_lack_of_memory_is_not_told_as_damage(tmp_path, monkeypatch):
    def full(*_, **named):
        raise MemoryError

    np.savez(tmp_path / "a.npz", train_images=np.zeros(1))
    monkeypatch.setattr(np, "load", full)
    with pytest.raises(MemoryError):
        read_own(tmp_path / "a.npz")
