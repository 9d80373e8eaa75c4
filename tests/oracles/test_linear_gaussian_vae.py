"""p(z) = N(0, I), x|z = N(W z + b, s^2 I): log p(x) and KL(q||p(z|x)) are known exactly."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from triptych.evaluate import memory
from triptych.evaluate.judge_vae import of_all
from triptych.evaluate.likelihood import importance_bounds, marks
from triptych.evaluate.pareto import LargestWeights
from triptych.maths import normal_log_prob
from triptych.priors.gaussian import StandardGaussian
from triptych.vae import VAE

SHAPE, D, M, S = (1, 2, 2), 4, 2, 0.7

pytestmark = pytest.mark.usefixtures("float64")


class Full(NamedTuple):
    mu: Tensor


class LinearLikelihood(nn.Module):
    def __init__(self, W, b):
        super().__init__()
        self.W, self.b, self.rows = W, b, []

    def log_prob(self, x, z):
        self.rows.append(z.shape[:-1].numel())
        return normal_log_prob(self.mean(z), x.flatten(-3), math.log(S))

    def mean(self, z):
        return z @ self.W.T + self.b

    def sample(self, z, generator=None):
        x = self.mean(z)
        x = x + S * torch.randn(x.shape, generator=generator)
        return x.view(-1, *SHAPE)

    def grey(self, x):
        return x


class LinearPosterior(nn.Module):
    """The true posterior N(A (x - b), L L'), its mean moved and its spread stretched."""

    latent_dim = M

    def __init__(self, W, b, shift, stretch):
        super().__init__()
        precision = torch.eye(M) + W.T @ W / S**2
        self.true_cov = precision.inverse()
        self.A, self.b, self.shift = self.true_cov @ W.T / S**2, b, shift
        self.L = stretch * torch.linalg.cholesky(self.true_cov)
        self.encoded, self.drawn = 0, []

    def encode(self, x):
        self.encoded += 1
        return Full((x.flatten(-3) - self.b) @ self.A.T + self.shift)

    def rsample(self, h, eps):
        self.drawn.append(len(eps))
        log_det = self.L.diagonal().log().sum()
        return h.mu + eps @ self.L.T, normal_log_prob(eps) - log_det

    def log_prob(self, z, h):
        return MultivariateNormal(h.mu, scale_tril=self.L).log_prob(z)

    def kl_to_true(self, h):
        true = MultivariateNormal(h.mu - self.shift, self.true_cov)
        return kl_divergence(MultivariateNormal(h.mu, scale_tril=self.L), true)


def problem(shift=0.3, stretch=1.4):
    W, b = torch.randn(D, M), torch.randn(D)
    model = VAE(StandardGaussian(M), LinearPosterior(W, b, shift, stretch), LinearLikelihood(W, b))
    exact = MultivariateNormal(b, W @ W.T + S**2 * torch.eye(D))
    return model, exact


def test_with_the_exact_posterior_every_weight_is_log_px():
    model, exact = problem(shift=0.0, stretch=1.0)
    x = exact.sample((5,)).view(5, *SHAPE)
    log_w = model.log_weight(x, torch.randn(3, 5, M))
    torch.testing.assert_close(log_w, exact.log_prob(x.flatten(1)).expand(3, 5))


def test_elbo_is_below_iwae_5_is_below_iwae_5000_which_reaches_log_px(g):
    model, exact = problem()
    x = exact.sample((300,)).view(-1, *SHAPE)
    log_px = exact.log_prob(x.flatten(1)).mean().item()
    elbo, *_ = importance_bounds(model, x, 100, g)
    _, iwae_5, *_ = importance_bounds(model, x, 5, g)
    _, iwae_5000, *_ = importance_bounds(model, x, 5000, g)
    assert elbo.mean < iwae_5.mean - 0.02 < iwae_5000.mean - 0.04
    assert iwae_5.mean < log_px
    assert iwae_5000.mean == pytest.approx(log_px, abs=4 * iwae_5000.mc_std + 1e-3)
    assert iwae_5000.mc_std < 0.005


def test_the_elbo_is_log_px_minus_the_posteriors_divergence(g):
    model, exact = problem()
    x = exact.sample((300,)).view(-1, *SHAPE)
    gap = model.posterior.kl_to_true(model.posterior.encode(x))
    expected = (exact.log_prob(x.flatten(1)) - gap).mean().item()
    elbo, *_ = importance_bounds(model, x, 200, g)
    assert elbo.mean == pytest.approx(expected, abs=4 * elbo.mc_std)


def test_the_monte_carlo_errors_are_those_of_repeated_estimates(g):
    model, exact = problem()
    x = exact.sample((20,)).view(-1, *SHAPE)
    pairs = [importance_bounds(model, x, 50, g)[:2] for _ in range(200)]
    for estimates in zip(*pairs, strict=True):
        spread = torch.tensor([e.mean for e in estimates]).std().item()
        claimed = sum(e.mc_std for e in estimates) / len(estimates)
        assert 0.8 < claimed / spread < 1.25


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("stretch", [1.0, 2.0, 3.0])
def test_the_error_of_a_bound_of_some_images_is_calibrated(stretch, g):
    """Whether log w and IWAE-K move together, or, of a wide q, not."""
    model, exact = problem(0.3, stretch)
    x, scores = exact.sample((60,)).view(-1, *SHAPE), []
    for _ in range(120):
        elbo = importance_bounds(model, x, 100, g).elbo
        scores.append(of_all(elbo, importance_bounds(model, x[:12], 30, g), 30, {}))
    spread = torch.tensor([s.value for s in scores]).std().item()
    said = torch.tensor([s.mc_std for s in scores]).square().mean().sqrt().item()
    assert 0.8 < said / spread < 1.25


@pytest.mark.parametrize("K", [1, 7, 1000])
def test_exactly_as_many_samples_as_asked_are_used_whatever_the_chunk(K, g, monkeypatch):
    monkeypatch.setattr(memory, "ROWS", 70)  # 17 samples of 4 images at a time
    model, exact = problem()
    x, seen = exact.sample((4,)).view(-1, *SHAPE), []
    log_weight = model.log_weight
    monkeypatch.setattr(model, "log_weight", lambda *a: seen.append(log_weight(*a)) or seen[-1])
    elbo, iwae, ess, k_hat, growth, _ = importance_bounds(model, x, K, g)
    log_w = torch.cat(seen)
    assert sum(model.posterior.drawn) == len(log_w) == K
    torch.testing.assert_close(elbo.values, log_w.mean(0))
    torch.testing.assert_close(iwae.values, log_w.logsumexp(0) - math.log(K))
    w = log_w.exp()
    torch.testing.assert_close(ess, w.sum(0).square() / w.square().sum(0))
    largest = LargestWeights(K)
    largest.update(log_w)
    torch.testing.assert_close(k_hat, largest.k_hat(), equal_nan=True)
    for k, bound in zip(marks(K), growth, strict=True):
        blocks = log_w[: K // k * k].reshape(-1, k, len(x))
        torch.testing.assert_close(bound, (blocks.logsumexp(1) - math.log(k)).mean())


def test_marks_end_at_k_and_come_in_thirds_of_a_decade():
    assert marks(1) == [1]
    assert marks(7) == [1, 2, 5, 7]
    assert marks(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


@pytest.mark.parametrize(("n", "K", "chunks"), [(4, 20_000, 1), (250, 100, 3)])
def test_the_encoder_runs_once_for_each_image_and_memory_is_bounded(n, K, chunks, g):
    model, exact = problem()
    elbo, iwae, *_ = importance_bounds(model, exact.sample((n,)).view(-1, *SHAPE), K, g)
    assert model.posterior.encoded == chunks
    assert max(model.likelihood.rows) <= memory.ROWS
    assert sum(model.likelihood.rows) == n * K + 1  # which asks how wide the decoder is
    assert len(elbo.values) == len(iwae.values) == n


@pytest.mark.parametrize(("numbers", "most"), [(10**9, 4000), (60_000, 1000), (1, 1)])
def test_the_widest_layer_says_how_many_are_decoded_at_a_time(numbers, most, g, monkeypatch):
    monkeypatch.setattr(memory, "NUMBERS", numbers)
    model, exact = problem()
    wide = nn.Sequential(nn.Linear(M, 60), nn.Linear(60, 60))
    log_prob = model.likelihood.log_prob
    model.likelihood.add_module("wide", wide)
    monkeypatch.setattr(
        model.likelihood, "log_prob", lambda x, z: wide(z).sum() * 0 + log_prob(x, z)
    )
    importance_bounds(model, exact.sample((4,)).view(-1, *SHAPE), max(10, most // 2), g)
    assert max(model.likelihood.rows) == most


def test_no_samples_are_refused(g):
    model, _ = problem()
    with pytest.raises(ValueError, match="at least 1"):
        importance_bounds(model, torch.zeros(1, *SHAPE), 0, g)
