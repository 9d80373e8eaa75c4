"""The bent images of a batch."""

import pytest
import torch

from triptych.data.augment import bend, bend_noise
from triptych.train.batches import evenly, some_bent


def test_who_is_bent_says_nothing_of_the_place_in_the_batch():
    """Times of diffusion are ordered over a batch: of every part of it the same share is bent, at
    each moment and in all of a training."""
    B = 60
    chosen = torch.stack([evenly(n, B, torch.device("cpu")) for n in range(B + 1)])
    for n, row in enumerate(chosen):
        assert row.sum() == n
        for length in range(1, B + 1):
            held = row.unfold(0, length, 1).sum(1)
            assert (held - length * n / B).abs().max() < 1
    often = chosen.double().mean(0)
    parts = torch.cat([often[[0, -1]], often.unflatten(0, (6, 10)).mean(1)])
    assert (parts - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("n", [0, 3, 7])
def test_a_number_and_a_tensor_bend_the_same_images(n, g):
    images = torch.randint(0, 256, (2, 7, 1, 8, 8), dtype=torch.uint8, generator=g)
    draws = torch.stack([bend_noise(7, g) for _ in images])
    where = evenly(n, 7, images.device)
    ours = some_bent(images, n, draws)
    assert torch.equal(ours, some_bent(images, torch.tensor(n), draws))
    for seed in range(2):
        assert torch.equal(ours[seed, ~where], images[seed, ~where])
        if n:
            assert torch.equal(ours[seed, where], bend(images[seed, where], draws[seed, where]))
