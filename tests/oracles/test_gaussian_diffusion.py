"""Data x_0 ~ N(m, v I): the best denoiser is linear, and every term of the bound is known."""

import math

import pytest
import torch
from torch import nn

from triptych.ddpm import DDPM
from triptych.evaluate.diffusion import ddpm_bound, draw_times, proposal
from triptych.samplers import ddim, dpm_solver
from triptych.schedules import cosine_beta, linear_beta

SHAPE, D = (1, 2, 2), 4
M, V, LEVELS = 0.1, 0.04, 4001
WIDTH = 2 / (LEVELS - 1)

pytestmark = pytest.mark.usefixtures("float64")


class Optimal(nn.Module):
    """The eps that E[x_0|x_t] = m + v a (x_t - a m) / (a^2 v + s^2) implies."""

    def __init__(self, beta):
        super().__init__()
        self.alpha_bar = (1 - beta).cumprod(0)

    def forward(self, x_t, t):
        ab = self.alpha_bar[t][:, None, None, None]
        a, s2 = ab.sqrt(), 1 - ab
        x_0 = M + V * a * (x_t - a * M) / (ab * V + s2)
        return (x_t - a * x_0) / s2.sqrt()


def optimal(T, schedule=cosine_beta):
    beta = schedule(T)
    return DDPM(Optimal(beta), beta, SHAPE, LEVELS, "eps", clip=False), beta


def levels_of_data(n, g):
    x_0 = M + math.sqrt(V) * torch.randn(n, *SHAPE, generator=g)
    return ((x_0 + 1) / WIDTH).round()


def exact_terms(beta):
    """E of L_T, of L_1 .. L_{T-1}, and of L_0, by hand; bins are narrow enough to be densities."""
    ab = (1 - beta).cumprod(0)
    left = V * (1 - ab) / (ab * V + 1 - ab)  # var[x_0|x_t]
    L_T = D / 2 * (ab[-1] * (V + M**2) - ab[-1] - (1 - ab[-1]).log())
    before, now = ab[:-1], ab[1:]
    variance = beta[1:] * (1 - before) / (1 - now)
    weight = before.sqrt() * beta[1:] / (1 - now)
    L_t = D / 2 * weight**2 / variance * left[1:]
    return L_T.item(), L_t, reconstruction_term(variance[0], left[0])


def reconstruction_term(variance, left):
    """E of L_0 where the last step has this variance, and x_0 is known but for `left`."""
    return (D / 2 * ((2 * math.pi * variance).log() + left / variance)).item() - D * math.log(WIDTH)


def entropy():
    """Of the levels: the differential entropy less the log of a bin's width."""
    return D / 2 * math.log(2 * math.pi * math.e * V) - D * math.log(WIDTH)


def close_to(samples, exact):
    error = samples.std().item() / len(samples) ** 0.5
    return samples.mean().item() == pytest.approx(exact, abs=4.5 * error)


@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
def test_each_term_has_its_exact_mean(schedule, g):
    model, beta = optimal(20, schedule)
    L_T, L_t, L_0 = exact_terms(beta)
    x_0 = model.scale(levels_of_data(20_000, g))
    eps = torch.randn(x_0.shape, generator=g)
    assert close_to(model.prior_term(x_0), L_T)
    for t in (1, 2, 10, 19):
        times = torch.full((len(x_0),), t)
        assert close_to(model.diffusion_term(x_0, times, eps), L_t[t - 1].item())
    assert close_to(model.reconstruction_term(x_0, eps), L_0)


@pytest.mark.parametrize("T", [3, 20])
def test_the_bound_has_its_exact_mean(T, g):
    model, beta = optimal(T)
    L_T, L_t, L_0 = exact_terms(beta)
    estimate = ddpm_bound(model, levels_of_data(3_000, g), 4, g)
    total = -(L_T + L_t.sum().item() + L_0)
    # mc_std leaves out that the images themselves are a sample.
    spread = estimate.values.std().item() / len(estimate.values) ** 0.5
    assert estimate.mean == pytest.approx(total, abs=4.5 * (estimate.mc_std + spread))


class Calibrated(Optimal):
    """The same, with the variance of q(x_{t-1}|x_t): beta_tilde and what of x_0 is not known."""

    def __init__(self, beta):
        super().__init__(beta)
        ab = self.alpha_bar
        before = torch.cat([torch.ones(1), ab[:-1]])
        variance = beta * (1 - before) / (1 - ab)
        self.small = torch.cat([variance[1:2], variance[1:]])
        left = V * (1 - ab) / (ab * V + 1 - ab)
        best = self.small + (before.sqrt() * beta / (1 - ab)) ** 2 * left
        self.left_0 = best[0] = left[0]
        ratio = (best / self.small).log() / (beta / self.small).log()
        self.share = torch.where(beta > self.small, ratio, 0)

    def forward(self, x_t, t):
        eps = super().forward(x_t, t)
        share = self.share[t][:, None, None, None].expand_as(eps)
        return torch.cat([eps, 2 * share - 1], 1)


@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
def test_the_best_learned_variance_has_its_exact_bound(schedule, g):
    """Then L_t = D/2 log(best / beta_tilde), which is less than with beta_tilde itself."""
    beta = schedule(20)
    net = Calibrated(beta)
    model = DDPM(net, beta, SHAPE, LEVELS, "eps", clip=False, variance="learned")
    _, fixed, _ = exact_terms(beta)
    x_0 = model.scale(levels_of_data(20_000, g))
    eps = torch.randn(x_0.shape, generator=g)
    for t in (1, 2, 10, 19):
        exact = D / 2 * net.share[t] * (beta[t] / net.small[t]).log()
        assert 0 <= net.share[t] <= 1
        assert exact < fixed[t - 1]
        times = torch.full((len(x_0),), t)
        assert close_to(model.diffusion_term(x_0, times, eps), exact.item())


def even_log_snr(T, first=1e-5, last=10.0):
    """Steps of equal log signal-to-noise ratio.

    The chain's fixed variances are exact only where each step changes that ratio little, which
    for the first steps of the usual schedules stays untrue however large T is.
    """
    start = math.log((1 - first) / first)
    alpha_bar = torch.linspace(start, -last, T).sigmoid()
    return 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])


def test_the_bound_lies_above_the_entropy_and_comes_nearer_with_more_steps():
    """But for the last step: its variance should be what is left of x_0, and is that of a step,
    which with short steps is far less."""
    gaps = []
    for T in (16, 128, 1024, 8192):
        beta = even_log_snr(T)
        L_T, L_t, _ = exact_terms(beta)
        left = Calibrated(beta).left_0
        gaps.append(L_T + L_t.sum().item() + reconstruction_term(left, left) - entropy())
    assert gaps == sorted(gaps, reverse=True)
    assert 0 < gaps[-1] < 0.05 < 1 < gaps[0]


def test_with_the_best_variance_a_few_steps_reach_the_entropy(g):
    beta = even_log_snr(16)
    model = DDPM(Calibrated(beta), beta, SHAPE, LEVELS, "eps", clip=False, variance="learned")
    assert gap_of(model, g) == pytest.approx(0, abs=0.1)


def gap_of(model, g):
    """What the bound of many images lies above the entropy."""
    return -ddpm_bound(model, levels_of_data(20_000, g), 8, g).mean - entropy()


@pytest.mark.parametrize("n", [1, 7, 2000])
def test_times_are_of_q_and_weighted_by_it(n, g):
    """Of n times, as many as n q(t) says but for one; all weights of one time sum to n."""
    q = proposal(torch.tensor([0.0, -1.0, -9.0, -2.0]).numpy(), torch.device("cpu"))
    assert q.sum().item() == pytest.approx(1)
    assert q.min() > 0.024
    t, weight = draw_times(q, n, g)
    torch.testing.assert_close(weight, 1 / q[t])
    assert (t.bincount(minlength=4) - n * q).abs().max() <= 2
    assert n < 10 or not torch.equal(t, t.sort().values)
    each, _ = draw_times(torch.full((n,), 1 / n, dtype=torch.float64), n, g)
    assert each.sort().values.tolist() == list(range(n))


def test_the_error_of_the_bound_is_that_of_repeated_estimates(g):
    """Where each term is another: of times that were uniform it would be ten times as large."""
    model, _ = optimal(200)
    x = levels_of_data(50, g)
    estimates = [ddpm_bound(model, x, 2, g) for _ in range(60)]
    spread = torch.tensor([e.mean for e in estimates]).std().item()
    claimed = sum(e.mc_std for e in estimates) / 60
    assert claimed / spread == pytest.approx(1.1, abs=0.35)
    rows, weight = [], torch.full((50,), 199.0)
    for _ in range(60):
        t, noise = (
            torch.randint(1, 200, (50,), generator=g),
            (model.gaussian_noise(50, g) for _ in "ab"),
        )
        rows.append(model.bound(x, t, *noise, weight))
    assert torch.stack(rows).mean(1).std() / 2**0.5 > 3 * spread


# --- samplers ---


def errors_of(sampler, steps, g):
    """Root mean square distance from the exact solution of the probability-flow ODE, which is
    linear: (x_0 - m) / sqrt(v) = (x_T - a m) / sqrt(a^2 v + s^2)."""
    model, beta = optimal(1000)
    model.grey = lambda x: x
    start = model.gaussian_noise(500, g)
    model.gaussian_noise = lambda n, generator: start
    ab = (1 - beta).cumprod(0)[-1]
    exact = M + math.sqrt(V) * (start - ab.sqrt() * M) / (ab * V + 1 - ab).sqrt()
    return (sampler(model, 500, steps, g) - exact).square().mean().sqrt().item()


def test_dpm_solver_is_of_second_order_and_ddim_of_first(g):
    """Halving the steps' length divides the error by about four, and by about two."""
    first = [errors_of(ddim, steps, g) for steps in (20, 40)]
    second = [errors_of(dpm_solver, steps, g) for steps in (20, 40)]
    assert 1.6 < first[0] / first[1] < 2.5
    assert second[0] / second[1] > 3
    assert second[0] < first[0] / 8


@pytest.mark.parametrize("sampler", [ddim, dpm_solver])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_datas_mean_and_variance_whatever_the_noise(sampler, eta, g):
    model, _ = optimal(1000)
    model.grey = lambda x: x
    x = sampler(model, 5000, 200, g, eta)
    assert x.mean().item() == pytest.approx(M, abs=4 * math.sqrt(V / 20_000))
    assert x.std().item() == pytest.approx(math.sqrt(V), rel=0.05)
