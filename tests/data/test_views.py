import inspect
from fractions import Fraction

import pytest
import torch

from triptych.data.views import VIEWS, view
from triptych.errors import UserError

LEVELS = [2, 17, 256]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey_levels(levels: int) -> torch.Tensor:
    return torch.arange(levels, dtype=torch.uint8)


def test_the_names():
    assert VIEWS == ("threshold", "dynamic", "raw")
    with pytest.raises(UserError, match=r"unknown view 'grey'.*threshold, dynamic, raw"):
        view("grey")


@pytest.mark.parametrize("levels", LEVELS)
def test_threshold_is_one_strictly_above_a_half(levels):
    x = view("threshold")(grey_levels(levels), levels, None)
    expected = [float(Fraction(k, levels - 1) > Fraction(1, 2)) for k in range(levels)]
    assert x.tolist() == expected


@pytest.mark.parametrize("levels", LEVELS)
def test_raw_is_the_integers(levels):
    assert view("raw")(grey_levels(levels), levels, None).tolist() == list(range(levels))


@pytest.mark.parametrize("levels", LEVELS)
def test_dynamic_has_the_grey_value_as_its_mean(levels):
    n = 4_000
    images = grey_levels(levels).expand(n, levels)
    x = view("dynamic")(images, levels, generator())
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    p = torch.arange(levels) / (levels - 1)
    error = (x.mean(0) - p).abs()
    # Exact at black and white, where the standard error is zero.
    assert (error <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_dynamic_black_stays_black_at_the_smallest_draw(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.zeros(3))
    images = torch.tensor([0, 1, 16], dtype=torch.uint8)
    assert view("dynamic")(images, 17, generator()).tolist() == [0, 1, 1]


def test_dynamic_pixels_are_independent():
    images = torch.full((20_000, 2), 8, dtype=torch.uint8)
    x = view("dynamic")(images, 17, generator())
    assert abs(torch.corrcoef(x.T)[0, 1].item()) < 5 / 20_000**0.5


def test_dynamic_draws_from_the_generator_alone():
    images = torch.full((100,), 128, dtype=torch.uint8)
    state, shared = torch.get_rng_state(), generator(1)
    first = view("dynamic")(images, 256, shared)
    assert not torch.equal(first, view("dynamic")(images, 256, shared))
    assert torch.equal(first, view("dynamic")(images, 256, generator(1)))
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="generator"):
        view("dynamic")(images, 256, None)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4, 5), (2, 3, 1, 4, 5), (0, 1, 4, 5)])
def test_views_share_a_signature_and_keep_shape_and_images(name, shape):
    images = torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8)
    before = images.clone()
    x = view(name)(images, 256, generator())
    assert x.dtype == torch.float32
    assert x.shape == images.shape
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_a_view_is_refused(name):
    """By the view itself: users have no checks of annotations, as tests have."""
    with pytest.raises(TypeError, match=r"a view takes uint8 images, not torch.float32"):
        inspect.unwrap(view(name))(torch.rand(3), 256, generator())
