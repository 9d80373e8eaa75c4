import itertools
import math

import pytest
import torch
from torch import nn
from toys import randomised

from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.pixelvae import AutoregressiveBernoulli

FEATURES = 4


def likelihood_on(shape, window=3, std=1.0):
    torch.manual_seed(1)
    net = MLP([2, FEATURES * math.prod(shape)])
    return randomised(AutoregressiveBernoulli(net, shape, FEATURES, window), std)


def every_image(shape):
    pixels = itertools.product([0.0, 1.0], repeat=math.prod(shape))
    return torch.tensor(list(pixels)).view(-1, *shape)


@torch.no_grad()
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("window", [3, 5])
def test_the_probabilities_of_all_images_sum_to_one(window):
    shape = (1, 3, 4)
    likelihood, x = likelihood_on(shape, window), every_image(shape)
    for z in torch.randn(3, 2):
        log_p = likelihood.log_prob(x, z.expand(len(x), 2))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-7)  # softplus itself is to 2e-9


@torch.no_grad()
@pytest.mark.usefixtures("float64")
def test_a_pixel_sees_those_before_it_in_its_window():
    """Which logits move with a pixel: those of the pixels that see it."""
    shape, window = (1, 6, 7), 5
    likelihood = likelihood_on(shape, window)
    seen = torch.zeros(42, 42, dtype=torch.bool)
    z, x = torch.randn(1, 2), torch.rand(1, *shape).round()

    def logits(x):
        answers = []
        hook = likelihood.head.register_forward_hook(lambda m, args, out: answers.append(out))
        likelihood.log_prob(x, z)
        hook.remove()
        return answers[0].flatten()

    for d in range(42):
        other = x.clone().view(-1)
        other[d] = 1 - other[d]
        seen[:, d] = (logits(other.view_as(x)) - logits(x)).abs() > 1e-12
    row, column = torch.arange(42) // 7, torch.arange(42) % 7
    above, left = row[:, None] - row, column[:, None] - column
    near = (above.abs() <= 2) & (left.abs() <= 2)
    assert torch.equal(seen, near & ((above > 0) | ((above == 0) & (left > 0))))


@torch.no_grad()
@pytest.mark.parametrize("window", [3, 5])
def test_samples_have_the_probabilities_that_it_gives_them(window, g):
    shape, n = (1, 2, 3), 40_000
    likelihood, x, z = likelihood_on(shape, window), every_image(shape), torch.randn(2)
    p = likelihood.log_prob(x, z.expand(len(x), 2)).exp()
    drawn = likelihood.sample(z.expand(n, 2), g).flatten(1)
    counts = torch.bincount((drawn @ 2.0 ** torch.arange(5, -1, -1)).long(), minlength=len(x))
    expected = n * p
    chi2 = ((counts - expected).square() / expected)[expected > 5].sum().item()
    assert chi2 < 63 + 4.5 * math.sqrt(2 * 63)


@torch.no_grad()
def test_without_neighbours_it_is_the_bernoulli(g):
    shape = (1, 4, 4)
    likelihood = likelihood_on(shape)
    likelihood.weight.zero_()

    class Plain(nn.Module):
        def forward(self, z):
            return likelihood.logits(likelihood.features_of(z))

    plain, z, x = Bernoulli(Plain(), shape), torch.randn(7, 5, 2), torch.rand(5, *shape).round()
    torch.testing.assert_close(likelihood.log_prob(x, z), plain.log_prob(x, z))
    torch.testing.assert_close(likelihood.mean(z), plain.mean(z))
    h = torch.Generator().set_state(g.get_state())
    assert torch.equal(likelihood.sample(z, g), plain.sample(z, h))


@torch.no_grad()
def test_means_are_near_those_of_samples(g):
    """To first order in the weights, which are small here."""
    likelihood, z = likelihood_on((1, 5, 5), std=0.3), torch.randn(2)
    means, x = likelihood.mean(z), likelihood.sample(z.expand(40_000, 2), g)
    assert (means - x.mean(0)).abs().max() < 0.02
    likelihood.weight.zero_()
    assert (likelihood.mean(z) - means).abs().max() > 0.02


@torch.no_grad()
def test_samples_in_front_are_judged_one_by_one():
    likelihood = likelihood_on((1, 4, 4))
    x, z = torch.rand(5, 1, 4, 4).round(), torch.randn(7, 5, 2)
    each = torch.stack([likelihood.log_prob(x, row) for row in z])
    torch.testing.assert_close(likelihood.log_prob(x, z), each)
    assert likelihood.mean(z).shape == likelihood.sample(z).shape == (7, 5, 1, 4, 4)


@pytest.mark.parametrize(("channels", "window", "said"), [(3, 3, "in 3"), (1, 4, "4"), (1, 1, "1")])
def test_windows_without_a_centre_and_colours_are_refused(channels, window, said):
    with pytest.raises(ValueError, match=f"not {said}"):
        AutoregressiveBernoulli(nn.Identity(), (channels, 4, 4), 2, window)
