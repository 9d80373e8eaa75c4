import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from toys import POSTERIORS, SHAPE, posterior_named, prior_named, randomised

from triptych.evaluate.units import ACTIVE, activity, divergence_by_dimension
from triptych.posteriors import DiagonalGaussian, GaussianParameters
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians


def test_activity_is_the_variance_of_the_posterior_mean(g):
    """Three units: means that vary by 1 and by 0.1, and one that only the noise moves."""
    mu = torch.randn(8000, 3) * torch.tensor([1.0, 0.1, 0.0])
    h = GaussianParameters(mu, torch.zeros(8000, 3))
    found = activity(DiagonalGaussian(torch.nn.Identity(), 3), h, 8000, g)
    torch.testing.assert_close(found, mu.var(0))


def test_few_images_make_no_collapsed_unit_active(g):
    mu = torch.zeros(20, 32)
    h = GaussianParameters(mu, torch.zeros(20, 32))
    assert (activity(DiagonalGaussian(torch.nn.Identity(), 32), h, 20, g) < 0.01).all()


@pytest.mark.parametrize("name", POSTERIORS)
def test_activity_of_every_posterior_is_that_of_its_mean(name, g):
    posterior, n = randomised(posterior_named(name), 0.05), 400
    h = posterior.encode(torch.rand(n, *SHAPE))
    with torch.no_grad():
        draws = torch.stack([posterior.rsample(h, torch.randn(n, 2))[0] for _ in range(600)])
    expected = draws.mean(0).var(0)
    found = activity(posterior, h, n, g, draws=600)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.06)


class Shifted:
    """z = its image's number and noise, of no distribution that is known."""

    latent_dim = 1

    def rsample(self, h, eps):
        return h["number"] + eps, eps[:, 0]

    def encode(self, x):
        raise NotImplementedError

    def log_prob(self, z, h):
        raise NotImplementedError


def test_activity_from_draws_is_unbiased_for_few_images(g):
    h = {"number": torch.tensor([[0.0], [1.0], [2.0]])}
    found = activity(Shifted(), h, 3, g, draws=4000)
    assert found.item() == pytest.approx(1.0, abs=0.1)


def of_gaussians(prior, h, g):
    posterior = DiagonalGaussian(torch.nn.Identity(), h.mu.shape[1])
    return divergence_by_dimension(prior, posterior, h, len(h.mu), g)


def test_divergence_by_dimension_is_the_closed_form_under_a_gaussian(g):
    mu, log_sigma = torch.randn(4000, 3), -1.0 + 0.1 * torch.randn(4000, 3)
    found = of_gaussians(StandardGaussian(3), GaussianParameters(mu, log_sigma), g)
    exact = kl_divergence(Normal(mu, log_sigma.exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.02)


def test_divergence_by_dimension_has_the_priors_narrow_modes_and_tails(g):
    """Posteriors that each sit on a narrow component far from the others: log(components)."""
    prior = MixtureOfGaussians(1, 8)
    with torch.no_grad():
        prior.mu.copy_(torch.arange(8.0)[:, None] * 20)
        prior.log_sigma.fill_(math.log(0.01))
    h = GaussianParameters(prior.mu.detach().repeat(500, 1), torch.full((4000, 1), math.log(0.01)))
    found = of_gaussians(prior, h, g)
    assert found.item() == pytest.approx(math.log(8), abs=1e-3)


def test_divergence_by_dimension_of_a_flow_is_near_the_closed_form(g):
    """No closed marginal: a flow at its start is the Gaussian, and is looked at through draws."""
    mu, log_sigma = 0.3 * torch.randn(4000, 2), -1.0 + 0.1 * torch.randn(4000, 2)
    found = of_gaussians(prior_named("flow"), GaussianParameters(mu, log_sigma), g)
    exact = kl_divergence(Normal(mu, log_sigma.exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(found.detach().float(), exact, atol=0.05, rtol=0.03)


def test_divergence_by_dimension_is_from_the_priors_own_marginal(g):
    """A prior of two far components, each of which half of the posteriors are."""
    prior = MixtureOfGaussians(2, 2)
    with torch.no_grad():
        prior.mu.copy_(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]))
    side = torch.tensor([-4.0, 4.0]).repeat(2000)
    mu = torch.stack([side, torch.zeros(4000)], 1)
    found = of_gaussians(prior, GaussianParameters(mu, torch.zeros(4000, 2)), g)
    assert found[0].item() == pytest.approx(math.log(2), abs=0.06)
    assert found[1].item() == pytest.approx(0, abs=0.03)


def test_divergence_by_dimension_of_a_full_gaussian_is_that_of_its_marginals(g):
    posterior, n = randomised(posterior_named("full", 3), 0.03), 4000
    h = posterior.encode(torch.rand(n, *SHAPE))
    L = h.below + torch.diag_embed(h.log_sigma.exp())
    sigma = (L @ L.mT).diagonal(dim1=-2, dim2=-1).sqrt()
    exact = kl_divergence(Normal(h.mu, sigma), Normal(0.0, 1.0)).mean(0)
    apart = kl_divergence(Normal(h.mu, h.log_sigma.exp()), Normal(0.0, 1.0)).mean(0)
    found = divergence_by_dimension(StandardGaussian(3), posterior, h, n, g)
    torch.testing.assert_close(found.float(), exact, atol=0.06, rtol=0.03)
    assert (exact - apart).abs().max() > 0.2


@pytest.mark.parametrize("name", ["coupling", "iaf", "two levels"])
def test_divergence_by_dimension_without_a_density_is_from_draws(name, g):
    """Scaled and shifted by hand, the draws of a flow at its start are Gaussian still, and so are
    those of the top level."""
    posterior, n = posterior_named(name, 4), 600
    h = posterior.encode(torch.rand(n, *SHAPE))
    given = h.top if name == "two levels" else h.base
    given.mu.data += torch.randn(n, 1)
    given.log_sigma.data -= torch.tensor([0.5, 1.5] * (given.mu.shape[1] // 2))
    exact = kl_divergence(Normal(given.mu, given.log_sigma.exp()), Normal(0.0, 1.0)).mean(0)
    found = divergence_by_dimension(StandardGaussian(4), posterior, h, n, g, points=20_000)
    found = found[-given.mu.shape[1] :]
    torch.testing.assert_close(found.float(), exact, atol=0.08, rtol=0.03)


def test_of_few_images_no_collapsed_dimension_is_active_by_chance(g):
    class Collapsed:
        """q(z|x) = N(0, I), which is not known to be a Gaussian."""

        latent_dim = 32

        def encode(self, x):
            return x

        def rsample(self, h, eps):
            return eps, eps.sum(-1)

        def log_prob(self, z, h):
            return z.sum(-1)

    assert (activity(Collapsed(), torch.zeros(20, 1), 20, g) > ACTIVE).sum() <= 1
