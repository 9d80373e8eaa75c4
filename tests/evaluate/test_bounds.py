import math

import pytest
import torch
from torch import nn
from toys import images, randomised, tiny_ddpm, tiny_flow, tiny_vae

from triptych.ddpm import DDPM
from triptych.evaluate.diffusion import ddpm_bound, ddpm_terms
from triptych.evaluate.likelihood import (
    Estimate,
    _tail_jackknife,
    flow_bounds,
    importance_bounds,
    in_bits,
    in_nats,
    jackknife,
)
from triptych.maths import bits_per_dim, log_mean_exp
from triptych.schedules import cosine_beta


@pytest.mark.parametrize("n", [3, 607])
def test_every_image_gets_a_value_of_its_own(n, g):
    x = images(n).float()
    flow, ddpm, vae = tiny_flow(), tiny_ddpm(), tiny_vae()
    for estimate in (
        *flow_bounds(flow, x, 2, g),
        ddpm_bound(ddpm, x, 1, g),
        *importance_bounds(vae, (x > 8).float(), 2, g)[:2],
    ):
        assert estimate.values.shape == (n,)
        assert estimate.mean == pytest.approx(estimate.values.double().mean().item())


@torch.no_grad()
def test_flow_bounds_are_the_mean_over_dequantizations_and_the_log_of_a_mean(g):
    model, x = randomised(tiny_flow(), 0.1), images(4).float()
    seen, used, noise, log_weight = [], [], model.noise, model.log_weight
    model.noise = lambda *a: seen.append(noise(*a)) or seen[-1]
    model.log_weight = lambda *a: used.append(len(seen)) or log_weight(*a)
    estimate, iwae = flow_bounds(model, x, 5, g)
    assert used == [1, 2, 3, 4, 5]  # each draw is used before the next is held
    expected = torch.stack([model.log_weight(x, u) for u in seen]).double()
    torch.testing.assert_close(estimate.values, expected.mean(0))
    assert estimate.mc_std == pytest.approx((expected.var(0).sum() / 5).sqrt().item() / 4)
    torch.testing.assert_close(iwae.values, expected.exp().mean(0).log())
    assert (iwae.values > estimate.values).all()


def test_the_error_of_iwae_is_the_jackknifes(g):
    """Of all weights, where the streamed one sees the largest and the sums."""
    model, x, K = randomised(tiny_vae(), 0.1), (images(3) > 8).float(), 400
    again = torch.Generator().manual_seed(g.initial_seed())
    bounds = importance_bounds(model, x, K, g)
    with torch.no_grad():
        log_w = model.log_weight(x, torch.randn(K, 3, 2, generator=again)).double()
    torch.testing.assert_close(bounds.iwae.values, log_mean_exp(log_w))
    assert 2 < bounds.ess.min() < 20
    exact = jackknife(log_w).sum().sqrt().item() / 3
    assert bounds.iwae.mc_std == pytest.approx(exact, rel=1e-3)
    of_mean = (log_w.var(0).sum() / K).sqrt().item() / 3
    assert bounds.elbo.mc_std == pytest.approx(of_mean, rel=1e-3)


def test_the_largest_weights_and_a_sum_are_enough_for_the_jackknife(g):
    """Of 1,000 that are nearly alike, where the small ones are most of it, and of others."""
    log_w = torch.tensor([0.1, 1.0, 4.0]) * torch.randn(1000, 3, generator=g).double()
    total = log_w.logsumexp(0)
    inverse_ess = (2 * log_w).logsumexp(0).sub(2 * total).exp()
    largest = log_w.sort(0, descending=True).values[:95]
    found = _tail_jackknife(largest, total, inverse_ess, len(log_w))
    torch.testing.assert_close(found, jackknife(log_w), rtol=0.01, atol=0)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_the_jackknife_knows_how_far_the_log_of_a_mean_strays(spread, g):
    """Of few heavy weights too, where 1 / ESS - 1 / K, never above 1, is far too small."""
    log_w = spread * torch.randn(16, 20_000, generator=g).double()
    true = log_mean_exp(log_w).var().item()
    assert jackknife(log_w).mean().item() == pytest.approx(true, rel=0.2)


def test_one_importance_sample_has_an_error_too(g):
    model, x = randomised(tiny_vae(), 0.5), (images(50) > 8).float()
    bounds = importance_bounds(model, x, 1, g)
    assert bounds.elbo.mc_std == pytest.approx(bounds.elbo.values.std().item() / 50**0.5)
    assert bounds.iwae.mc_std == bounds.elbo.mc_std


@pytest.mark.parametrize("kind", ["flow", "flow-iwae", "ddpm"])
def test_monte_carlo_errors_are_those_of_repeated_estimates(kind, g):
    x = images(12).float()
    model = randomised(tiny_ddpm() if kind == "ddpm" else tiny_flow(), 0.05)
    bound = ddpm_bound if kind == "ddpm" else lambda *a: flow_bounds(*a)[kind == "flow-iwae"]
    estimates = [bound(model, x, 4, g) for _ in range(40)]
    spread = torch.tensor([e.mean for e in estimates]).std().item()
    claimed = sum(e.mc_std for e in estimates) / 40
    # Of a DDPM's 12 times each is another: the true error is smaller than what is claimed.
    assert 0.75 < claimed / spread < (1.8 if kind == "ddpm" else 1.35)


def test_one_image_says_nothing_of_others():
    assert Estimate(torch.ones(1), 0.1).image_std is None
    assert Estimate(torch.tensor([1.0, 3.0]), 0.1).image_std == pytest.approx(1)


def test_bits_have_the_errors_of_their_nats():
    nats, bit = Estimate(torch.tensor([-1.0, -5.0]), 0.1), 64 * math.log(2)
    score = in_bits(in_nats("bpd", nats, {}), 64)
    assert (score.value, score.mc_std, score.image_std) == pytest.approx(
        (3 / bit, 0.1 / bit, 2 / bit)
    )
    assert in_bits(in_nats("bpd", Estimate(torch.ones(1), 0.1), {}), 64).image_std is None


def test_one_draw_an_image_still_has_an_error(g):
    assert flow_bounds(tiny_flow(), images(6).float(), 1, g)[0].mc_std > 0


@pytest.mark.usefixtures("float64")
def test_the_terms_of_the_bound_add_up_to_it(g):
    """Where the network's answer is the same for every noise, each term is one number."""

    class Grey(torch.nn.Module):
        def forward(self, x, t):
            return torch.full_like(x, 0.1)

    x, T = images(6).double(), 12
    model = DDPM(Grey(), cosine_beta(T), (1, 8, 8), 17, "x_0")
    t, bits, _, prior = ddpm_terms(model, x, g).values()
    assert t.tolist() == list(range(T))
    last = bits_per_dim(-model.prior_term(model.scale(x)).mean(), 64)
    assert prior == pytest.approx(last.item())
    weight = torch.full((6,), T - 1.0)
    bound = torch.stack(
        [
            model.bound(x, torch.full((6,), s), *(model.gaussian_noise(6, g) for _ in "ab"), weight)
            for s in t[1:]
        ]
    )
    exact = bits_per_dim(bound.mean(), 64).item()
    assert bits.sum() + last.item() == pytest.approx(exact, abs=0.02)
    torch.testing.assert_close(
        torch.tensor(bits[1:]), torch.tensor([model_term(model, x, s) for s in t[1:]])
    )


def model_term(model, x, step):
    """L_t in bits/dim of two Gaussians of one variance, from the means alone."""
    x_0 = model.scale(x)
    gap = model.mu_x_0[step] * (x_0 - 0.1)
    nats = 0.5 * (gap / model.log_sigma_small[step].exp()).square().sum((1, 2, 3)).mean()
    return (nats / (64 * torch.tensor(2.0).log())).item()


def test_a_chain_of_one_step_has_no_term_to_draw():
    model = DDPM(nn.Identity(), torch.tensor([0.5]), (1, 8, 8), 17)
    with pytest.raises(ValueError, match="2 steps or more"):
        ddpm_bound(model, torch.zeros(2, 1, 8, 8), 1, torch.Generator())
