"""AIS on the linear-Gaussian VAE, whose log p(x) is known: bounds from both sides that meet."""

import math
from typing import get_args

import pytest
import torch
from test_linear_gaussian_vae import SHAPE, M, problem
from toys import (
    POSTERIORS,
    PRIORS,
    global_generator_untouched,
    images,
    randomised,
    tiny_vae,
)

from triptych.evaluate.ais import (
    AnnealedPath,
    Annealing,
    annealed_log_px,
    bracket,
    temperatures,
    transition,
    tuned_step_sizes,
)
from triptych.maths import log_mean_exp
from triptych.study.build import build
from triptych.study.configs import BINARY, Likelihood
from triptych.study.recipes import override, recipes_for

pytestmark = pytest.mark.usefixtures("float64")

FEW = Annealing(steps=200, chains=8, leapfrog=4)


def far_problem():
    """An encoder so far off that importance sampling with as many samples fails."""
    return problem(shift=1.0, stretch=0.7)


def test_temperatures_rise_from_zero_to_one():
    beta = torch.tensor(temperatures(50))
    assert (beta[0], beta[-1], len(beta)) == (0, 1, 51)
    assert (beta.diff() > 0).all()
    assert beta.diff()[25] > 3 * beta.diff()[0]


def test_annealing_reaches_log_px_where_importance_sampling_does_not(g):
    model, exact = far_problem()
    x = exact.sample((40,)).view(-1, *SHAPE)
    log_px = exact.log_prob(x.flatten(1)).mean().item()
    plain = log_mean_exp(model.log_weight(x, torch.randn(8, 40, M))).mean().item()
    annealed = annealed_log_px(model, x, FEW, g).mean
    assert plain < log_px - 0.2
    assert annealed == pytest.approx(log_px, abs=0.1)


def test_the_bounds_hold_the_exact_value_between_them(g):
    """In the mean over images, each side on its own; with few steps they are apart."""
    model, exact = far_problem()
    seen = []
    draw = model.likelihood.sample
    model.likelihood.sample = lambda *a: seen.append(draw(*a)) or seen[-1]
    gaps = []
    for steps in (5, 200):
        seen.clear()
        low, high = bracket(model, 60, Annealing(steps, 8, 4), g)
        log_px = exact.log_prob(torch.cat(seen).flatten(1))
        below, above = (log_px - low), (high - log_px)
        assert below.mean() > -2 * below.std() / math.sqrt(60)
        assert above.mean() > -2 * above.std() / math.sqrt(60)
        gaps.append((high - low).mean().item())
    assert gaps[0] > 0.3
    assert gaps[1] < 0.2


@pytest.mark.parametrize("prior", PRIORS)
def test_under_every_prior_the_bounds_keep_their_sides(prior, g):
    """And come nearer with more temperatures."""
    model = randomised(tiny_vae(prior), 0.1).requires_grad_(False).eval()
    widths = []
    for steps in (2, 30):
        low, high = bracket(model, 20, Annealing(steps, 6, 3), g)
        width = high - low
        assert width.mean() > -3 * width.std() / math.sqrt(20)
        widths.append(width.mean().item())
    assert widths[1] < max(0.9 * widths[0], 0.05)


@pytest.mark.parametrize("posterior", POSTERIORS[:-1])
def test_from_every_posterior_annealing_reaches_the_same(posterior, g):
    """What is integrated does not depend on where the chain begins."""
    x = (images(6) > 8).double()
    model = randomised(tiny_vae(), 0.1).requires_grad_(False)
    other = randomised(tiny_vae(posterior=posterior), 0.1, seed=1).requires_grad_(False)
    other.likelihood = model.likelihood
    found, usual = (annealed_log_px(m, x, Annealing(60, 8, 3), g) for m in (other, model))
    error = math.hypot(found.mc_std, usual.mc_std)
    assert found.mean == pytest.approx(usual.mean, abs=5 * error + 0.02)


def test_the_monte_carlo_error_is_that_of_repeated_estimates(g):
    model, exact = problem()
    x = exact.sample((10,)).view(-1, *SHAPE)
    estimates = [annealed_log_px(model, x, Annealing(4, 60, 2), g) for _ in range(50)]
    spread = torch.tensor([e.mean for e in estimates]).std().item()
    claimed = sum(e.mc_std for e in estimates) / len(estimates)
    assert 0.7 < claimed / spread < 1.4


def test_one_temperature_is_importance_sampling(g):
    model, exact = problem()
    x = exact.sample((5,)).view(-1, *SHAPE)
    how, seed = Annealing(steps=1, chains=7), g.get_state()
    value = annealed_log_px(model, x, how, g).values
    eps = torch.randn(7, 5, M, generator=g.set_state(seed))  # drawn for tuning
    eps = torch.randn(7, 5, M, generator=g)
    torch.testing.assert_close(value, log_mean_exp(model.log_weight(x, eps)))


def test_a_transition_leaves_its_density_invariant(g):
    """From exact draws of f_beta, a Gaussian here, the moments stay."""
    model, exact = problem(shift=1.0, stretch=1.3)
    x = exact.sample((1,)).view(-1, *SHAPE)
    path, beta = AnnealedPath(model, x), 0.4
    h, (A, L) = path.h, (model.posterior.A, model.posterior.L)
    true_mu = (x.flatten(1) - model.posterior.b) @ A.T
    q, p = torch.linalg.inv(L @ L.T), torch.linalg.inv(model.posterior.true_cov)
    cov = torch.linalg.inv((1 - beta) * q + beta * p)
    mu = (((1 - beta) * h.mu @ q + beta * true_mu @ p) @ cov)[0]
    z = mu + torch.randn(20_000, 1, M, generator=g) @ torch.linalg.cholesky(cov).T
    size = torch.full((1,), 0.4)
    for _ in range(3):
        z, rate = transition(path, z, beta, size, 4, g)
    assert 0.3 < rate.item() < 1
    flat = z[:, 0]
    scores = (flat.mean(0) - mu) / (flat.std(0) / math.sqrt(len(flat)))
    assert scores.abs().max() < 4.5
    torch.testing.assert_close(torch.cov(flat.T), cov, rtol=0.06, atol=0.01)


def test_step_sizes_are_tuned_towards_the_target(g):
    model, exact = far_problem()
    path = AnnealedPath(model, exact.sample((6,)).view(-1, *SHAPE))
    how = Annealing(steps=80, chains=20, leapfrog=4)
    step_sizes = tuned_step_sizes(path, how, g)
    assert step_sizes.shape == (80, 6)
    mu = (path.x.flatten(1) - model.posterior.b) @ model.posterior.A.T
    L = torch.linalg.cholesky(model.posterior.true_cov)
    _, rate = transition(path, mu + torch.randn(400, 6, M) @ L.T, 1.0, step_sizes[-1], 4, g)
    assert 0.4 < rate.mean() < 0.9


def test_all_randomness_comes_from_the_generator():
    model, _ = problem()

    def run(seed):
        return bracket(model, 3, Annealing(4, 2, 2), torch.Generator().manual_seed(seed))

    with global_generator_untouched():
        first, again, other = run(1), run(1), run(2)
    assert torch.equal(first.lower, again.lower)
    assert torch.equal(first.upper, again.upper)
    assert not torch.equal(first.lower, other.lower)


@pytest.mark.parametrize("likelihood", get_args(Likelihood))
def test_the_bounds_keep_their_sides_under_every_likelihood(likelihood, g):
    """What a model draws is what its density takes: else the reverse chain starts anywhere."""
    view = "threshold" if likelihood in BINARY else "raw"
    small = {"latent_dim": 8, "hidden": [16]}
    recipe = override(
        recipes_for("digits")["vae-gaussian"], view=view, likelihood=likelihood, **small
    )
    torch.manual_seed(0)
    model = randomised(build(recipe.model, (1, 8, 8), 17), 0.05)
    low, high = bracket(model, 40, Annealing(20, 4, 3), g)
    width = high - low
    assert width.mean() > -3 * width.std() / math.sqrt(40)
