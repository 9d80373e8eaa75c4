"""The continuous-time bound against closed forms: on Gaussian data it is the entropy itself."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn
from toys import SHAPE, global_generator_untouched, images, randomised, tiny_vdm

from triptych.evaluate.diffusion import ddpm_bound, vdm_bound, vdm_terms
from triptych.maths import bits_per_dim
from triptych.samplers import ddim
from triptych.vdm import END, START, VDM

SMALL, D = (1, 2, 2), 4
M, V, LEVELS = 0.1, 0.04, 1001
WIDTH = 2 / (LEVELS - 1)


class Optimal(nn.Module):
    """The prediction that E[x_0|z] of data N(m, v I) implies, whatever else it is told."""

    def __init__(self, prediction, v=V):
        super().__init__()
        self.prediction, self.v = prediction, v

    def forward(self, features, t):
        z, gamma = features[:, :1], (START + (END - START) * t / 1000)[:, None, None, None]
        a, s = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
        x_0 = M + self.v * a * (z - a * M) / (a**2 * self.v + s**2)
        eps = (z - a * x_0) / s
        return {"eps": eps, "v": a * eps - s * x_0, "x_0": x_0}[self.prediction]


def optimal(prediction="eps", ends=(START, END)):
    model = VDM(Optimal(prediction), SMALL, LEVELS, prediction)
    model.moved_0.data.fill_(ends[0] - START)
    model.moved_1.data.fill_(ends[1] - END)
    return model


def levels_of_data(n, g):
    x_0 = M + math.sqrt(V) * torch.randn(n, *SMALL, generator=g)
    return ((x_0 + 1) / WIDTH).round()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("ends", [(-14.0, 6.0), (-13.3, 9.0)])
def test_the_bound_of_gaussian_data_is_their_entropy_wherever_the_schedule_ends(
    prediction, ends, g
):
    """Between any two ends: far enough out that nothing is lost there."""
    x = levels_of_data(20_000, g)
    estimate = vdm_bound(optimal(prediction, ends), x, 8, g)
    entropy = D / 2 * math.log(2 * math.pi * math.e * V) - D * math.log(WIDTH)
    spread = estimate.values.std().item() / len(x) ** 0.5
    assert -estimate.mean == pytest.approx(entropy, abs=4.5 * spread)
    assert 4.5 * spread < 0.4 < 0.02 * entropy


@pytest.mark.usefixtures("float64")
def test_the_terms_of_all_times_add_up_to_the_entropy_of_gaussian_data(g):
    model, x = optimal("v"), levels_of_data(4000, g)
    model.timesteps = 100
    with global_generator_untouched():
        t, bits, T, prior = vdm_terms(model, x, g, points=10_000).values()
    assert T == 100
    assert t.tolist() == list(range(101))
    last = bits_per_dim(-model.prior_term(model.scale(x)).mean(), D)
    assert prior == pytest.approx(last.item())
    nats = (bits.sum() + prior) * D * math.log(2)
    entropy = D / 2 * math.log(2 * math.pi * math.e * V) - D * math.log(WIDTH)
    assert nats == pytest.approx(entropy, abs=0.1)


@pytest.mark.usefixtures("float64")
def test_a_level_has_the_mass_of_its_bin_and_all_have_one():
    model = optimal(ends=(-4.0, 5.0))
    scale = math.exp(-2.0)
    eps, levels = torch.tensor([[[[0.3]]]]), torch.arange(LEVELS)
    x_0 = (2 * levels / (LEVELS - 1) - 1).view(-1, 1, 1, 1)
    # The same z_0 for every level: its noise is what the level lacks.
    y = 0.95 + scale * eps
    log_p = -model.reconstruction(x_0, (y - x_0) / scale)
    assert log_p.exp().sum().item() == pytest.approx(1)
    edges = (x_0.flatten()[:-1] + WIDTH / 2).numpy()
    mass = torch.tensor(norm.cdf(edges, y.item(), scale)).diff()
    torch.testing.assert_close(log_p[1:-1].exp(), mass, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_prior_term_is_the_divergence_from_the_standard_normal():
    model, x_0 = optimal(), torch.randn(3, *SMALL)
    mu, var = (-model.gamma_1).sigmoid().sqrt() * x_0, model.gamma_1.sigmoid()
    q = torch.distributions.Normal(mu, var.sqrt())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(model.prior_term(x_0), kl.sum((1, 2, 3)))


def test_a_prior_term_of_next_to_nothing_is_exact_in_float32():
    """Of a white pixel, (alpha^2 + sigma^2 - log sigma^2 - 1) / 2 = -log(sigma^2) / 2."""
    model = optimal(ends=(START, 12.0))
    kl = -torch.nn.functional.logsigmoid(model.gamma_1.double()) / 2
    found = model.prior_term(torch.ones(1, *SMALL)).double() / math.prod(SMALL)
    torch.testing.assert_close(found, kl.expand(1), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("float64")
def test_the_loss_is_the_bound_in_bits_and_the_sum_of_its_terms(g):
    model, x = tiny_vdm().double(), images(6).double()
    randomised(model)
    noise = model.noise(6, g)
    terms = model.terms(x, noise)
    torch.testing.assert_close(model.loss(x, noise), sum(terms.values()))
    nats = -model.prior_term(2 * x / 16 - 1)
    torch.testing.assert_close(terms["prior"], bits_per_dim(nats, 64))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_the_bound_is_of_the_model_that_is_sampled(prediction, g):
    """Which clips x_0_hat: a network that sees no noise anywhere pays for it in the box only."""
    x = images(6).double()
    model = VDM(Optimal(prediction, v=1e9), SHAPE, 17, prediction, timesteps=2000)
    noise = model.noise(6, g)
    raw = model.terms(x, noise)["diffusion"]
    clipped = model.eval().terms(x, noise)["diffusion"]
    assert (clipped < raw).all()
    fine, chained = vdm_bound(model, x, 400, g), ddpm_bound(model.chain(), x, 400, g)
    error = math.hypot(fine.mc_std, chained.mc_std)
    assert error < 0.01 * abs(fine.mean)
    assert fine.mean == pytest.approx(chained.mean, abs=4 * error + 0.01 * abs(fine.mean))


@pytest.mark.usefixtures("float64")
def test_both_ends_of_the_schedule_learn(g):
    model, x = tiny_vdm().double(), images(6).double()
    randomised(model)
    noise = model.noise(6, g)
    model.loss(x, noise).mean().backward()
    for name in ("moved_0", "moved_1"):
        p, h = getattr(model, name), 1e-5
        grad = p.grad.item()
        p.data.add_(h)
        above = model.loss(x, noise).mean().item()
        p.data.sub_(2 * h)
        below = model.loss(x, noise).mean().item()
        p.data.add_(h)
        assert grad == pytest.approx((above - below) / (2 * h), rel=1e-3)


@pytest.mark.usefixtures("float64")
def test_the_chain_has_the_schedule_and_the_network(g):
    model = randomised(tiny_vdm(T=9).double())
    chain = model.chain()
    assert chain.T == 9
    t = torch.tensor([0, 4, 8])
    gamma = model.gamma((t + 1) / 9)
    torch.testing.assert_close(chain.sqrt_alpha_bar[t].square(), (-gamma).sigmoid())
    x, eps = images(3).double(), chain.gaussian_noise(3, g)
    x_0 = chain.scale(x)
    error = (eps - eps_hat(chain, chain.diffuse(x_0, t, eps), t)).square().sum((1, 2, 3))
    slope = model.gamma_1 - model.gamma_0
    torch.testing.assert_close(model.diffusion(x_0, (t + 1) / 9, eps), 0.5 * slope * error)


def eps_hat(chain, x_t, t):
    chain.clip = False
    a, s = (c[t].view(-1, 1, 1, 1) for c in (chain.sqrt_alpha_bar, chain.sqrt_one_minus_alpha_bar))
    return (x_t - a * chain.x_0_hat(x_t, t)) / s


def test_samples_of_the_chain_have_the_datas_mean_and_variance(g):
    chain = optimal(ends=(START, 9.0)).chain()
    chain.clip, chain.grey = False, lambda x: x
    x = ddim(chain, 5000, 200, g, eta=1.0)
    assert x.mean().item() == pytest.approx(M, abs=4 * math.sqrt(V / 20_000))
    assert x.std().item() == pytest.approx(math.sqrt(V), rel=0.05)


def test_times_cover_the_unit_interval_evenly(g):
    t = tiny_vdm().noise(50, g)["t"]
    assert torch.equal((50 * t).floor(), torch.arange(50.0))


def test_neighbouring_levels_look_different_to_the_network():
    """A wave turns by half a period from one level to the next."""
    model = VDM(nn.Identity(), SHAPE, 256)
    seen = []
    model.net.net.forward = lambda z, t: seen.append(z) or z[:, :1]
    z = (2 * torch.arange(256.0) / 255 - 1).view(-1, 1, 1, 1)
    model.net(z, torch.zeros(256))
    assert seen[0].shape[1] == 5
    wave = seen[0][:, 1:3].flatten(1)
    assert wave.diff(dim=0).norm(dim=1).min() > 1.9
    assert seen[0][:, 0].diff(dim=0).abs().max() < 0.01


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [17, 256])
def test_a_clean_pixel_shows_each_of_its_levels_at_the_same_phase(levels):
    """And every second one at the same of the wave that is half as fast."""
    model, k = VDM(Features(), (1, 1, 1), levels), torch.arange(levels)
    features = model.net(model.scale(k.view(-1, 1, 1, 1)), torch.zeros(levels))
    slow, fast = features.flatten(1)[:, 1:].split(2, 1)
    torch.testing.assert_close(fast, fast[:1].expand_as(fast))
    torch.testing.assert_close(slow[::2], slow[:1].expand_as(slow[::2]))
    assert (slow[0] - slow[1]).norm() == pytest.approx(2)


class Features(nn.Module):
    """What the network is shown."""

    def forward(self, features, t):
        return features


def test_a_model_in_double_precision_draws_in_it(g):
    assert tiny_vdm().double().sample(2, g).dtype == torch.float64


def test_a_chain_of_many_steps_has_its_betas_exactly():
    """1 - alpha_bar_t / alpha_bar_t-1 of neighbours that differ by little."""
    model = VDM(nn.Identity(), SMALL, 17, timesteps=20_000)
    t = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
    gamma = model.gamma_0.double() + (model.gamma_1 - model.gamma_0).double() * t
    alpha_bar = (-gamma).sigmoid()
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    found = (2 * model.chain().log_sigma_large[1:].double()).exp()
    torch.testing.assert_close(found, beta, rtol=1e-5, atol=0)
