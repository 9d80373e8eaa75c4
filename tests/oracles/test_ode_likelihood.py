"""The probability-flow ODE on data x_0 ~ N(m, v I), where the density is known all along."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from triptych.ddpm import DDPM
from triptych.evaluate.ode import (
    dequantized,
    divergence,
    first_noise,
    flow_of,
    log_density,
    ode_bound,
)
from triptych.schedules import cosine_beta, linear_beta

SHAPE, D = (1, 2, 2), 4
M, V, LEVELS = 0.1, 0.04, 257

pytestmark = pytest.mark.usefixtures("float64")


class Optimal(nn.Module):
    """The best prediction at any time, whole or not, along the straight lines of log s."""

    def __init__(self, beta, prediction, twice=False):
        super().__init__()
        ab = (1 - beta).cumprod(0)
        self.log_s, self.prediction, self.twice = ((1 - ab) / ab).log() / 2, prediction, twice

    def forward(self, x_t, t):
        u = np.interp(t.numpy(), np.arange(len(self.log_s)), self.log_s.numpy())
        s = torch.tensor(u).exp().view(-1, 1, 1, 1)
        a = torch.rsqrt(1 + s**2)
        x_0 = M + V / (V + s**2) * (x_t / a - M)
        eps = (x_t - a * x_0) / (s * a)
        out = eps if self.prediction == "eps" else a * eps - s * a * x_0
        return torch.cat([out, x_t.sin()], 1) if self.twice else out


def optimal(schedule=cosine_beta, prediction="v", variance="small", levels=LEVELS):
    beta = schedule(1000)
    net = Optimal(beta, prediction, variance == "learned")
    return DDPM(net, beta, SHAPE, levels, prediction, clip=False, variance=variance)


@pytest.mark.parametrize(
    ("schedule", "prediction", "variance", "error"),
    [
        (linear_beta, "eps", "small", 6e-3),
        (cosine_beta, "v", "small", 2e-4),
        (cosine_beta, "eps", "learned", 2e-4),
    ],
)
def test_the_density_is_the_gaussians(schedule, prediction, variance, error):
    """But for what the chain leaves of the data at its end, which the linear schedule's shows."""
    model = optimal(schedule, prediction, variance)
    y = M + torch.randn(6, *SHAPE) * torch.linspace(0.1, 3, 6).view(-1, 1, 1, 1) * V**0.5
    spread = math.sqrt(V + flow_of(model).log_s[0].exp().item() ** 2)
    exact = torch.distributions.Normal(M, spread).log_prob(y).sum((1, 2, 3))
    found = log_density(model, y, None, tolerance=1e-7)
    torch.testing.assert_close(found, exact, atol=error, rtol=0)


class Correlated(nn.Module):
    """The best prediction of v where x_0 ~ N(m, S): its Jacobian is S (S + s^2 I)^-1."""

    def __init__(self, beta, S):
        super().__init__()
        ab = (1 - beta).cumprod(0)
        self.log_s, self.S = ((1 - ab) / ab).log() / 2, S

    def forward(self, x_t, t):
        s = torch.tensor(np.interp(t[0], np.arange(len(self.log_s)), self.log_s.numpy())).exp()
        a = torch.rsqrt(1 + s**2)
        gain = torch.linalg.solve(self.S + s**2 * torch.eye(D), self.S)
        x_0 = M + ((x_t / a - M).flatten(1) @ gain).view_as(x_t)
        return (x_t - a * x_0) / s - s * a * x_0


def test_random_signs_estimate_the_density_where_pixels_hang_together(g):
    """Where none of them do, any signs give the trace: nothing would be tested. The exact trace
    gives the density itself."""
    beta, mix = cosine_beta(1000), torch.randn(D, D, generator=g)
    S = 0.05 * mix @ mix.T / D + 0.005 * torch.eye(D)
    model = DDPM(Correlated(beta, S), beta, SHAPE, LEVELS, "v", clip=False)
    normal = torch.distributions.MultivariateNormal(
        torch.full((D,), M), S + first_noise(model) ** 2 * torch.eye(D)
    )
    y = normal.sample((4,)).view(4, *SHAPE)
    exact = normal.log_prob(y.flatten(1))
    torch.testing.assert_close(log_density(model, y, None, 1e-7), exact, atol=2e-3, rtol=0)
    signs = torch.randn(300, 4, *SHAPE, generator=g).sign()
    found = log_density(model, y.repeat(300, 1, 1, 1), signs.flatten(0, 1)).view(300, 4)
    assert found.std(0).min() > 0.2
    error = found.std(0) / 300**0.5
    assert ((found.mean(0) - exact).abs() < 4.5 * error + 0.01).all()


@pytest.mark.parametrize("exact", [False, True])
def test_the_bound_is_the_entropy_of_the_levels(exact, g):
    model = optimal()
    x_0 = M + math.sqrt(V) * torch.randn(4_000, *SHAPE, generator=g)
    k = ((x_0 + 1) / 2 * (LEVELS - 1)).round()
    bound = ode_bound(model, k, g, exact, chunk=1000)
    width = 2 / (LEVELS - 1)
    entropy = D / 2 * math.log(2 * math.pi * math.e * V) - D * math.log(width)
    error = bound.std().item() / len(bound) ** 0.5
    assert -bound.mean().item() == pytest.approx(entropy, abs=4 * error + 0.01)
    assert error < 0.05


class TwoLevels(nn.Module):
    """The best prediction of v where each pixel is -c or c, as often."""

    def __init__(self, beta, c):
        super().__init__()
        ab = (1 - beta).cumprod(0)
        self.log_s, self.c = ((1 - ab) / ab).log() / 2, c

    def forward(self, x_t, t):
        u = np.interp(t.numpy(), np.arange(len(self.log_s)), self.log_s.numpy())
        s = torch.tensor(u).exp().view(-1, 1, 1, 1)
        a = torch.rsqrt(1 + s**2)
        x_0 = self.c * (self.c * x_t / a / s**2).tanh()
        return (x_t - a * x_0) / s - s * a * x_0


def straight(gamma_0):
    """beta of a chain whose log noise-to-signal is a straight line from gamma_0."""
    alpha_bar = (-torch.linspace(gamma_0, 5, 1000)).sigmoid()
    return 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])


@pytest.mark.parametrize("c", [0.5, 1.0])
@pytest.mark.parametrize("gamma_0", [-13.3, -11.0, -9.0])
def test_the_bound_is_the_entropy_where_data_are_whole_numbers(gamma_0, c, g):
    """However fine the first noise is beside a level: a half, one and a half, or three of its
    deviations reach a level's end; of black and white, which have one end only, the other side is
    theirs too."""
    beta = straight(gamma_0)
    model = DDPM(TwoLevels(beta, c), beta, SHAPE, LEVELS, "v", clip=False)
    k = (128 + 256 * c * (torch.randint(2, (300, *SHAPE), generator=g) - 0.5)).double()
    half = 1 / (LEVELS - 1) / first_noise(model) / math.sqrt(2)
    mass = math.erf(half) if c < 1 else (1 + math.erf(half)) / 2  # of the first noise, inside
    bound = ode_bound(model, k, g)
    exact = D * (math.log(mass) - math.log(2))
    assert bound.mean().item() == pytest.approx(exact, abs=0.02)
    assert bound.std() < 0.2


def test_what_is_drawn_stays_in_its_level_and_is_normal_there(g):
    half = 1 / (LEVELS - 1)
    for gamma_0 in (-13.8, -9.0, -2.0):
        beta = straight(gamma_0)
        model = DDPM(TwoLevels(beta, 1), beta, SHAPE, LEVELS)
        k = torch.randint(LEVELS, (400, *SHAPE), generator=g).double()
        k[:100] = 256 * torch.randint(2, (100, *SHAPE), generator=g)
        y, log_q = dequantized(model, k, g)
        assert (((y + 1) / 2 * (LEVELS - 1)).round().clamp(0, LEVELS - 1) == k).all()
        normal = torch.distributions.Normal(0.0, first_noise(model))
        offset, end = y - model.scale(k), normal.cdf(torch.tensor(half))
        mass = torch.where((k > 0) & (k < LEVELS - 1), 2 * end - 1, end)
        torch.testing.assert_close(log_q, (normal.log_prob(offset) - mass.log()).sum((1, 2, 3)))
        inner = offset[(k > 0) & (k < LEVELS - 1)]
    assert inner.std().item() == pytest.approx(2 * half / 12**0.5, rel=0.05)  # uniform, by now


def test_random_signs_give_the_trace_on_average():
    """Over all 2^D of them exactly; off the diagonal they only add noise."""
    mix = torch.randn(D, D)
    y = torch.randn(3, *SHAPE, requires_grad=True)
    x_0 = (y.flatten(1).tanh() @ mix).view_as(y)
    exact = divergence(x_0, y, None)
    by_hand = ((1 - y.flatten(1).tanh() ** 2) * mix.diag()).sum(1)
    torch.testing.assert_close(exact, by_hand.detach())
    signs = [torch.tensor(s).view(1, *SHAPE) for s in itertools.product((-1.0, 1.0), repeat=D)]
    found = []
    for probe in signs:
        x_0 = (y.flatten(1).tanh() @ mix).view_as(y)
        found.append(divergence(x_0, y, probe.expand_as(y)))
    torch.testing.assert_close(torch.stack(found).mean(0), exact)
    assert torch.stack(found).std(0).min() > 0.1


def test_the_trace_is_by_random_signs_unless_exact_is_asked_for(g, monkeypatch):
    seen = []

    def spy(x_0, y, probe):
        seen.append(probe is None)
        return divergence(x_0, y, probe)

    monkeypatch.setattr("triptych.evaluate.ode.divergence", spy)
    k = torch.full((2, *SHAPE), LEVELS // 2, dtype=torch.get_default_dtype())
    for exact in (True, False):
        seen.clear()
        ode_bound(optimal(), k, g, exact)
        assert set(seen) == {exact}


def test_whole_times_are_met_exactly():
    flow = flow_of(optimal())
    for t in (0, 1, 500, 999):
        assert flow.time(flow.log_s[t].item()).item() == pytest.approx(t, abs=1e-6)


def test_real_numbers_have_no_levels(g):
    with pytest.raises(ValueError, match="no levels"):
        ode_bound(optimal(levels=None), torch.zeros(2, *SHAPE), g)
