import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from toys import global_generator_untouched, prior_named, randomised

from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.protocols import Density

pytestmark = pytest.mark.usefixtures("float64")


def bent_mixture():
    return randomised(MixtureOfGaussians(3, 4), 0.6)


def as_torch(prior):
    components = Independent(Normal(prior.mu, prior.log_sigma.exp()), 1)
    return MixtureSameFamily(Categorical(logits=prior.logits), components)


def test_gaussian_log_prob_equals_torchs():
    z = torch.randn(3, 5, 4)
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardGaussian(4).log_prob(z), expected)


def test_mixture_log_prob_equals_torchs():
    prior, z = bent_mixture(), 2 * torch.randn(3, 5, 3)
    torch.testing.assert_close(prior.log_prob(z), as_torch(prior).log_prob(z))


@torch.no_grad()
def test_mixture_samples_have_the_moments_of_the_mixture(g):
    prior = bent_mixture()
    w, mu, sigma = prior.logits.softmax(0), prior.mu, prior.log_sigma.exp()
    mean = w @ mu
    second = torch.diag(w @ sigma**2) + mu.T @ (w[:, None] * mu)
    z = prior.sample(40_000, g)
    products = torch.einsum("ni,nj->nij", z, z).flatten(1)
    for drawn, expected in ((z, mean), (products, second.flatten())):
        z_scores = (drawn.mean(0) - expected) / (drawn.std(0) / len(z) ** 0.5)
        assert z_scores.abs().max() < 4.5


@torch.no_grad()
@pytest.mark.parametrize("name", ["gaussian", "mixture", "flow"])
def test_samples_come_from_the_generator_alone(name):
    prior = randomised(prior_named(name))
    assert isinstance(prior, Density)

    def draw(seed):
        return prior.sample(5, torch.Generator().manual_seed(seed))

    with global_generator_untouched():
        first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@torch.no_grad()
def test_mixture_weights_stay_normalised_whatever_the_logits():
    prior = MixtureOfGaussians(2, 3)
    z = torch.randn(4, 2)
    before = prior.log_prob(z)
    prior.logits.add_(100)
    torch.testing.assert_close(prior.log_prob(z), before)
