import pytest
import torch

from triptych.data import augment
from triptych.data.augment import bend, bend_noise

STRENGTHS = ("TURN", "SCALE", "SHIFT", "WOBBLE")


def bent(images, g):
    return bend(images, bend_noise(len(images), g))


def alone(monkeypatch, name, value):
    for strength in STRENGTHS:
        monkeypatch.setattr(augment, strength, value if strength == name else 0.0)


def disc(side, at=(0.0, 0.0), radius=0.5):
    """A white disc on black, in coordinates of [-1, 1]."""
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = line[:, None], line
    inside = ((x - at[0]) ** 2 + (y - at[1]) ** 2).sqrt() < radius
    return (255 * inside).byte()[None]


def centre(images):
    """Mean place of the light, in pixels from the middle: rows, then columns."""
    side = images.shape[-1]
    line, light = torch.arange(side) - (side - 1) / 2, images.float().squeeze(1)
    total = light.sum((-1, -2))
    return torch.stack([(light.sum(2) @ line) / total, (light.sum(1) @ line) / total], -1)


def spread(images):
    """Mean square distance of the light from its centre along each axis, in pixels."""
    side, light = images.shape[-1], images.float().squeeze(1)
    square = (torch.arange(side) - (side - 1) / 2).square()
    total = light.sum((-1, -2))
    return torch.stack([(light.sum(2) @ square) / total, (light.sum(1) @ square) / total], -1)


def test_without_strength_images_stay_as_they_are(monkeypatch, g):
    alone(monkeypatch, "none", 0.0)
    images = torch.randint(0, 256, (20, 1, 28, 28), generator=g).byte()
    assert torch.equal(bent(images, g), images)


@pytest.mark.parametrize("side", [8, 28])
def test_they_move_by_half_a_pixel_of_28_at_most(monkeypatch, g, side):
    alone(monkeypatch, "SHIFT", 1 / 56)
    moved = centre(bent(disc(side).expand(1000, 1, side, side), g))
    largest = side / 56
    assert moved.abs().max() == pytest.approx(largest, rel=0.1)
    assert moved.std(0) == pytest.approx(torch.full((2,), largest / 3**0.5), rel=0.1)


def test_turning_keeps_the_distance_from_the_middle(monkeypatch, g):
    alone(monkeypatch, "TURN", 0.3)
    place = centre(bent(disc(28, at=(0.5, 0), radius=0.2).expand(1000, 1, 28, 28), g))
    assert place.norm(dim=1) == pytest.approx(torch.full((1000,), 7.0), abs=0.15)
    angle = torch.atan2(place[:, 0], place[:, 1])
    assert angle.std().item() == pytest.approx(0.3, rel=0.1)


def test_scaling_is_of_both_axes_on_their_own(monkeypatch, g):
    alone(monkeypatch, "SCALE", 0.05)
    images = disc(28).expand(2000, 1, 28, 28)
    sizes = (spread(bent(images, g)) / spread(images)).sqrt().log()
    assert sizes.std(0) == pytest.approx(torch.full((2,), 0.05), rel=0.1)
    assert torch.corrcoef(sizes.mT)[0, 1].abs() < 0.1


def test_a_wobble_is_smooth_and_not_of_the_whole_image(monkeypatch, g):
    """Parts of an image that are far from each other move by themselves, near ones together."""
    alone(monkeypatch, "WOBBLE", 1 / 56)
    ramp = torch.arange(28).mul(9).byte()[None, None].expand(2000, 1, 28, 28)
    move = (bent(ramp, g).float() - ramp).squeeze(1)[:, 3:25, 3:25] / 9  # no edge moves in

    def alike(a, b):
        return torch.corrcoef(torch.stack([a, b]))[0, 1].item()

    assert move.std(0).max().item() == pytest.approx(0.5, rel=0.1)
    assert alike(move[:, 10, 10], move[:, 11, 10]) > 0.9
    assert abs(alike(move[:, 1, 1], move[:, 20, 20])) < 0.1


def test_the_same_generator_bends_alike_and_another_does_not():
    images = disc(8).expand(5, 1, 8, 8)
    first, same, other = (bent(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8


def test_a_training_in_double_precision_bends_the_same_images():
    images = disc(28).expand(4, 1, 28, 28)
    noise = bend_noise(4, torch.Generator().manual_seed(0))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        found = bend(images, noise.double())
    finally:
        torch.set_default_dtype(before)
    assert (found.int() - bend(images, noise).int()).abs().max() <= 1


def test_a_page_that_is_not_black_gets_no_black_edges(g):
    white = torch.full((50, 1, 28, 28), 255, dtype=torch.uint8)
    assert bent(white, g).min() == 255
