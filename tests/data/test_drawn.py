"""Images that some program has drawn, as a file."""

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.data.drawn import read_drawn
from triptych.errors import UserError

SHAPE = (1, 4, 6)


@pytest.fixture
def image_bytes():
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    images[0, 0, 0, 0] = 255
    return images


def test_bytes_and_floats_are_the_same_grey_values(tmp_path, image_bytes):
    path = tmp_path / "drawn.npz"
    grey = torch.from_numpy(image_bytes) / 255
    for images in (image_bytes, image_bytes / 255, (image_bytes / 255).astype(np.float32)[:, 0]):
        np.savez(path, images=images)
        torch.testing.assert_close(read_drawn(path, SHAPE), grey)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"samples": np.zeros((5, *SHAPE), np.uint8)}, "no array 'images'"),
        ({"images": np.full((5, 1, 8, 8), 255, np.uint8)}, "[n, 1, 4, 6]"),
        ({"images": np.full((1, *SHAPE), 255, np.uint8)}, "n 2 or more"),
        ({"images": np.full((5, *SHAPE), 16, np.uint8)}, "16 to 16"),
        ({"images": np.full((5, *SHAPE), 255, np.int64)}, "int64"),
        ({"images": np.full((5, *SHAPE), 255.0)}, "255 to 255"),
        ({"images": np.full((5, *SHAPE), -1.0)}, "-1 to -1"),
        ({"images": np.full((5, *SHAPE), np.nan)}, "nan to nan"),
        ({"images": np.full((5, *SHAPE), True)}, "bool"),
        ({"images": np.full((5, *SHAPE), "a")}, "<U1"),
        ({"images": np.array(7.0)}, "is []"),
    ],
)
def test_what_cannot_be_grey_values_is_refused_in_a_sentence(tmp_path, arrays, named):
    path = tmp_path / "drawn.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as refused:
        read_drawn(path, SHAPE)
    assert named in str(refused.value)
    assert "drawn.npz" in str(refused.value)


def test_what_does_not_exist_is_said_to_be_missing(tmp_path):
    with pytest.raises(UserError, match=r"drawn does not exist; name a folder of \.png files"):
        read_drawn(tmp_path / "drawn", SHAPE)
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        read_drawn(tmp_path / "none.npz", SHAPE)


def test_a_folder_of_pictures_is_the_same_images(tmp_path, image_bytes):
    for i, image in enumerate(image_bytes[:, 0]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    grey = torch.from_numpy(image_bytes) / 255
    torch.testing.assert_close(read_drawn(tmp_path, SHAPE), grey)
    colours = Image.fromarray(image_bytes[0, 0]).convert("RGB")
    colours.save(tmp_path / "0.png")
    torch.testing.assert_close(read_drawn(tmp_path, SHAPE), grey)


def test_pictures_in_colour_are_refused_and_not_taken_for_their_luminance(tmp_path, image_bytes):
    tinted = np.stack([image_bytes[0, 0], image_bytes[0, 0] // 2, image_bytes[0, 0]], -1)
    Image.fromarray(tinted).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"0\.png is in colour; write it grey"):
        read_drawn(tmp_path, SHAPE)


def test_pictures_of_16_bits_are_refused_and_not_cut_off_at_255(tmp_path, image_bytes):
    for i, image in enumerate(image_bytes[:, 0].astype(np.uint16) * 257):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=r"0\.png has 16 bits a pixel; write 8"):
        read_drawn(tmp_path, SHAPE)


def test_a_folder_that_is_not_of_pictures_of_one_size_is_refused(tmp_path, image_bytes):
    with pytest.raises(UserError, match=r"no \.png files"):
        read_drawn(tmp_path, SHAPE)
    Image.fromarray(image_bytes[0, 0]).save(tmp_path / "0.png")
    Image.fromarray(image_bytes[0, 0].T.copy()).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png is of 6 x 4 pixels, others are of 4 x 6"):
        read_drawn(tmp_path, SHAPE)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        read_drawn(tmp_path, SHAPE)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "drawn.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"write it with numpy\.savez"):
        read_drawn(tmp_path / "drawn.npz", SHAPE)


def test_png_files_are_those_of_any_spelling(tmp_path, image_bytes):
    for i, name in enumerate(("a.png", "b.PNG", "c.Png")):
        Image.fromarray(image_bytes[i, 0]).save(tmp_path / name, "PNG")
    assert len(read_drawn(tmp_path, SHAPE)) == 3


def test_what_is_more_than_a_grey_image_is_refused(tmp_path, image_bytes):
    frames = [Image.fromarray(image) for image in image_bytes[:2, 0]]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"a\.png has 2 frames; write one opaque image a file"):
        read_drawn(tmp_path, SHAPE)
    frames[0].putalpha(100)
    frames[0].save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png has transparent pixels"):
        read_drawn(tmp_path, SHAPE)


def test_floats_that_were_divided_twice_are_refused_as_dark_bytes_are(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.linspace(0, 1 / 255, 128).reshape(2, 8, 8))
    with pytest.raises(UserError, match=r"grey values 0 to 0\.00392157; white is 255"):
        read_drawn(tmp_path / "a.npz", (1, 8, 8))


def test_a_picture_too_large_to_open_is_named(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"0\.png cannot be read .*exceeds limit"):
        read_drawn(tmp_path, (1, 8, 8))
