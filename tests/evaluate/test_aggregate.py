import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily
from torch.distributions import Normal as TorchNormal
from toys import SHAPE, randomised, tiny_posterior, tiny_two_levels, tiny_vae

from triptych.evaluate.aggregate import (
    aggregate_log_prob,
    aggregate_match,
    encode_all,
)
from triptych.evaluate.units import gaussian_marginals
from triptych.posteriors import GaussianParameters


def posteriors(N, M=2, sigma=0.5):
    return GaussianParameters(torch.randn(N, M), math.log(sigma) + 0.3 * torch.randn(N, M))


def one_draw_each(h):
    eps = torch.randn_like(h.mu)
    return h.mu + h.log_sigma.exp() * eps, TorchNormal(h.mu, h.log_sigma.exp())


def match_of(h, prior="gaussian"):
    model = tiny_vae(prior, dim=h.mu.shape[1])
    z, q = one_draw_each(h)
    return aggregate_match(model, h, z, q.log_prob(z).sum(-1))


def kl_to_standard(h):
    s = h.log_sigma
    return 0.5 * (h.mu.square() + (2 * s).exp() - 1 - 2 * s).sum(-1)


def test_aggregate_density_is_torchs_mixture_of_all_posteriors():
    h, z = posteriors(300), torch.randn(1100, 2)
    components = Independent(TorchNormal(h.mu.double(), h.log_sigma.double().exp()), 1)
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(300).double()), components)
    ours = aggregate_log_prob(tiny_posterior(), z, h)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, mixture.log_prob(z.double()))


class OfItsOwn(torch.nn.Module):
    """A Laplace distribution, whose parameters a user calls as a Gaussian's."""

    latent_dim = 2

    def encode(self, x): ...

    def rsample(self, h, eps): ...

    def log_prob(self, z, h):
        return torch.distributions.Laplace(h.mu, h.log_sigma.exp()).log_prob(z).sum(-1)


@torch.no_grad()
def test_parameters_of_gaussians_do_not_make_a_posterior_gaussian(g):
    h, z = posteriors(30), torch.randn(7, 2)
    q = torch.distributions.Laplace(h.mu.double(), h.log_sigma.double().exp())
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(30).double()), Independent(q, 1))
    ours = aggregate_log_prob(OfItsOwn(), z, h)
    torch.testing.assert_close(ours, mixture.log_prob(z.double()), rtol=1e-5, atol=1e-5)
    assert gaussian_marginals(OfItsOwn(), h) is None


@torch.no_grad()
@pytest.mark.usefixtures("float64")
def test_aggregate_density_of_two_levels_is_the_mean_over_pairs(monkeypatch):
    monkeypatch.setattr("triptych.evaluate.aggregate.PAIRS", 14)
    posterior, x, z = randomised(tiny_two_levels(4)), torch.rand(5, *SHAPE), torch.randn(9, 4)
    each = [posterior.log_prob(z, posterior.encode(x[i : i + 1])) for i in range(5)]
    expected = torch.stack(each).double().logsumexp(0) - math.log(5)
    ours = aggregate_log_prob(posterior, z, posterior.encode(x))
    torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_of_costly_posteriors_a_few_draws_all_over_the_images_must_do(monkeypatch, g):
    monkeypatch.setattr("triptych.evaluate.aggregate.DRAWS_IF_COSTLY", 6)
    model, x = randomised(tiny_vae("hierarchical", 4)), torch.rand(20, *SHAPE)
    h = encode_all(model, x)
    z, log_qz = model.posterior.rsample(h, model.noise(20, g)["eps"])
    match = aggregate_match(model, h, z, log_qz)
    some = [0, 3, 7, 11, 15, 19]
    log_q = aggregate_log_prob(model.posterior, z[some], h)
    information = (log_qz[some].double() - log_q).mean().item()
    assert match.draws == 6
    assert match.mutual_information == pytest.approx(information)
    rate = (log_qz - model.prior.log_prob(z)).mean().item()
    assert match.rate.mean().item() == pytest.approx(rate, rel=1e-5)
    assert match.kl == pytest.approx(rate - information, rel=1e-5)


def test_the_error_of_a_few_costly_draws_is_their_spread_over_repetitions(monkeypatch):
    """Posteriors taken for costly ones, whose means and widths differ from image to image: again
    and again other images and draws."""
    monkeypatch.setattr("triptych.evaluate.aggregate.DRAWS_IF_COSTLY", 40)
    monkeypatch.setattr("triptych.evaluate.aggregate.DiagonalGaussian", dict)
    model, found = tiny_vae(dim=2), []
    for _ in range(300):
        h = posteriors(400, sigma=0.5)
        h = GaussianParameters(3 * h.mu, h.log_sigma)
        z, q = one_draw_each(h)
        found.append(aggregate_match(model, h, z, q.log_prob(z).sum(-1)))
    for name in ("kl", "mutual_information"):
        spread = np.std([getattr(match, name) for match in found])
        told = np.mean([getattr(match, f"{name}_mc_std") for match in found])
        assert told == pytest.approx(spread, rel=0.15), name


@torch.no_grad()
def test_of_posteriors_costly_by_their_passes_fewer_draws_must_do(monkeypatch, g):
    """Each log density of an inverse autoregressive posterior of D coordinates takes D passes."""
    monkeypatch.setattr("triptych.evaluate.aggregate.DRAWS_IF_COSTLY", 12)
    for name, draws in (("coupling", 12), ("iaf", 3)):
        model, x = tiny_vae(dim=4, posterior=name), torch.rand(20, *SHAPE)
        h = encode_all(model, x)
        z, log_qz = model.posterior.rsample(h, model.noise(20, g)["eps"])
        assert aggregate_match(model, h, z, log_qz).draws == draws


def test_information_and_aggregate_kl_make_up_the_elbos_kl():
    """ELBO surgery: E KL(q(z|x)||p) = MI + KL(q||p)."""
    h = posteriors(4000)
    match = match_of(h)
    error = math.hypot(match.kl_mc_std, match.mutual_information_mc_std)
    expected = kl_to_standard(h).mean().item()
    assert match.kl + match.mutual_information == pytest.approx(expected, abs=4 * error)
    assert match.kl > 0
    assert match.mutual_information > 0


def test_the_error_of_the_divergence_knows_that_its_parts_share_their_draws():
    """Where both are of all draws, it is that of the mean of log q(z) - log p(z)."""
    h, model = posteriors(300), tiny_vae()
    z, log_qz_x = h.rsample(torch.randn(300, 2))
    match = aggregate_match(model, h, z, log_qz_x)
    ratio = aggregate_log_prob(model.posterior, z, h) - model.prior.log_prob(z)
    assert match.kl_mc_std == pytest.approx(ratio.std().item() / math.sqrt(300), rel=1e-3)


def test_equal_posteriors_carry_no_information_and_their_kl_is_known():
    one = GaussianParameters(torch.tensor([[0.5, -1.0]]), torch.tensor([[-0.2, 0.3]]))
    h = GaussianParameters(one.mu.expand(5000, 2), one.log_sigma.expand(5000, 2))
    match = match_of(h)
    assert match.mutual_information == pytest.approx(0, abs=1e-5)
    assert match.kl == pytest.approx(kl_to_standard(one).item(), abs=4 * match.kl_mc_std)


def test_posteriors_far_apart_tell_all_images_apart():
    h = GaussianParameters(1000 * torch.randn(50, 2), torch.full((50, 2), -3.0))
    assert match_of(h).mutual_information == pytest.approx(math.log(50), abs=1e-6)


def test_a_prior_that_is_the_aggregate_has_no_kl_left():
    h = GaussianParameters(torch.zeros(3000, 2), torch.zeros(3000, 2))
    assert match_of(h).kl == pytest.approx(0, abs=1e-5)


def test_encode_all_is_encode_of_all(monkeypatch):
    model, x = tiny_vae(), torch.rand(1203, 1, 8, 8)
    whole, parts = model.posterior.encode(x), encode_all(model, x)
    torch.testing.assert_close(parts.mu, whole.mu)
    torch.testing.assert_close(parts.log_sigma, whole.log_sigma)
