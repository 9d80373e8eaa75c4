import pickle

import pytest
import torch
from scipy.stats import chi2
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.func import functional_call, vmap
from toys import (
    PRIORS,
    SHAPE,
    global_generator_untouched,
    prior_named,
    randomised,
    tiny_posterior,
    tiny_two_levels,
    tiny_vae,
    training_data,
)

from triptych.nets.mlp import MLP
from triptych.posteriors import GaussianParameters
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.resampled import ResampledPrior
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.train.fit import prepare
from triptych.train.order import TrainConfig
from triptych.train.trainer import Run, Trainer

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
@pytest.mark.parametrize("name", PRIORS)
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


def bent(name):
    """The named prior in two dimensions, moved off its start; a VampPrior with its encoder."""
    torch.manual_seed(0)
    two = name.startswith("hierarchical")
    posterior = randomised(tiny_two_levels(2) if two else tiny_posterior(), 0.05)
    return randomised(prior_named(name, 2, posterior), 0.2)


WIDE = ("flow", "maf", "hierarchical", "hierarchical-vamp")


def plane(name):
    """Wide enough for tails that are stretched, fine enough for a spline's bins."""
    reach, points = (25.0, 900) if name in WIDE else (7.0, 1200)
    axis = torch.linspace(-reach, reach, points)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
    return grid, (axis[1] - axis[0]).item() ** 2


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS)
def test_total_probability_in_two_dimensions_is_one(name):
    grid, cell = plane(name)
    total = bent(name).log_prob(grid).exp().sum() * cell
    assert total.item() == pytest.approx(1, abs=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS)
def test_samples_follow_the_density(name, g):
    prior, (grid, cell) = bent(name), plane(name)
    log_p = prior.log_prob(grid)
    p, x = log_p.exp() * cell, prior.sample(40_000, g)

    def features(points, log_prob):
        a, b = points.unbind(-1)
        return torch.stack([a, b, a * a, a * b, b * b, a.sin(), log_prob], -1)

    expected = (p[:, None] * features(grid, log_p)).sum(0)
    drawn = features(x, prior.log_prob(x))
    z_scores = (drawn.mean(0) - expected) / (drawn.std(0) / len(x) ** 0.5)
    assert z_scores.abs().max() < 4.5


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS)
def test_samples_fill_the_plane_as_the_density_says(name, g):
    """Pearson's chi-square test over squares of about a half, cut between points of the grid."""
    prior, (grid, cell) = bent(name), plane(name)
    axis = grid[:, 0].unique()
    step, n = (axis[1] - axis[0]).item(), 40_000
    edges = axis[:: round(0.5 / step)] + step / 2

    def squares(points):
        i, j = torch.bucketize(points.contiguous(), edges).unbind(-1)
        return (i * (len(edges) + 1) + j).bincount

    size = (len(edges) + 1) ** 2
    expected = n * squares(grid)(prior.log_prob(grid).exp() * cell, minlength=size)
    seen = squares(prior.sample(n, g))(minlength=size)
    full = expected > 20
    assert full.sum() > 30
    statistic = ((seen - expected).square() / expected)[full].sum().item()
    assert chi2.sf(statistic, int(full.sum())) > 1e-3


@pytest.mark.parametrize("name", PRIORS)
def test_log_prob_under_vmap_is_the_loop(name):
    prior, z = bent(name), torch.randn(6, 2)
    torch.testing.assert_close(vmap(prior.log_prob)(z), prior.log_prob(z))


@pytest.mark.parametrize("name", PRIORS)
def test_gradients_of_log_prob_are_right(name):
    prior, z = bent(name), torch.randn(3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(prior.log_prob, z)


@pytest.mark.parametrize("name", PRIORS)
def test_gradients_in_the_parameters_are_right(name, g):
    """Of all of them; a resampled prior's Z too, which training estimates from draws."""
    prior, z = bent(name), torch.randn(3, 2)
    names, values = zip(*prior.named_parameters(), strict=True) if name != "gaussian" else ((), ())
    rest = (prior.noise(g),) if name == "resampled" else ()

    def log_prob(*values):
        return functional_call(prior, dict(zip(names, values, strict=True)), (z, *rest))

    prior.forward = prior.log_prob
    inputs = [value.detach().requires_grad_() for value in values]
    assert not inputs or torch.autograd.gradcheck(log_prob, inputs)


def test_vamp_log_prob_is_that_of_a_mixture_of_posteriors():
    posterior = randomised(tiny_posterior(), 0.2)
    prior, z = randomised(VampPrior(posterior, SHAPE, 4)), torch.randn(5, 2)
    inputs = prior.pseudo_inputs.clamp(0, 1)[:, None]
    each = [posterior.log_prob(z, posterior.encode(u)) for u in inputs]
    expected = (prior.logits.log_softmax(0) + torch.stack(each, -1)).logsumexp(-1)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_a_vamp_prior_borrows_its_encoder():
    """Its gradient reaches the encoder, but the encoder's weights are the VAE's alone."""
    model = tiny_vae("vamp")
    assert {n for n, _ in model.prior.named_parameters()} == {"logits", "pseudo_inputs"}
    model.prior.log_prob(torch.randn(3, 2)).sum().backward()
    assert all((p.grad != 0).any() for p in model.posterior.parameters())
    assert (model.prior.pseudo_inputs.grad != 0).any()


def test_pseudo_inputs_start_from_as_many_training_images_of_the_seed(tmp_path):
    """Just inside [0, 1], so that the clamp lets their gradient through."""
    data = training_data("threshold")
    models, seeds = [tiny_vae("vamp"), tiny_vae("vamp")], (1, 2)
    trainer = Trainer(
        models, [Run(s, tmp_path) for s in seeds], data, TrainConfig(epochs=1, batch_size=2)
    )
    prepare(trainer)
    known = data.view(data.images, data.levels, None).flatten(1)
    starts = [m.prior.pseudo_inputs.detach() for m in models]
    for start in starts:
        assert set(start.unique().tolist()) == {0.01, 0.99}
        seen = {tuple(u) for u in start.flatten(1).round().tolist()}
        assert len(seen) == 3
        assert seen <= {tuple(x) for x in known.tolist()}
    assert not torch.equal(*starts)
    assert torch.equal(trainer.ensemble.parameters[1], torch.stack(starts))


def test_narrow_posteriors_do_not_cost_a_vamp_prior_its_precision():
    """The expanded square cancels where mu / sigma is large."""
    prior = VampPrior(tiny_posterior(8), SHAPE, 50)
    mu, log_sigma = 4 * torch.randn(50, 8), torch.full((50, 8), -4.0)
    z = mu + log_sigma.exp() * torch.randn(50, 8)

    def at(dtype):
        prior.components = lambda: GaussianParameters(mu.to(dtype), log_sigma.to(dtype))
        return prior.to(dtype).log_prob(z.to(dtype)).double()

    exact = at(torch.float64)
    torch.testing.assert_close(at(torch.float32), exact, atol=0.02, rtol=0)


def test_a_resampled_prior_starts_as_its_proposal_whatever_the_draws(g):
    prior, z = prior_named("resampled", 3), torch.randn(6, 3)
    torch.testing.assert_close(prior.log_prob(z), StandardGaussian(3).log_prob(z))
    torch.testing.assert_close(prior.log_prob(z, prior.noise(g)), StandardGaussian(3).log_prob(z))


@torch.no_grad()
def test_a_resampled_priors_normaliser_comes_from_the_draws_it_is_given(g):
    """Equation 5 of Bauer & Mnih with Z the mean acceptance of the draws, T = 5."""
    prior, z = randomised(prior_named("resampled", 3), 0.5), torch.randn(6, 3)
    draws = prior.noise(g)
    assert draws.shape == (50, 3)
    a, Z = prior.net(z).sigmoid().squeeze(-1), prior.net(draws).sigmoid().mean()
    missed = (1 - Z) ** 4
    expected = StandardGaussian(3).log_prob(z) + (a * (1 - missed) / Z + missed).log()
    torch.testing.assert_close(prior.log_prob(z, draws), expected)
    fixed = prior.log_prob(z)
    assert (fixed - expected).std() < (fixed - expected).abs().mean()  # Z alone differs
    assert (fixed - expected).abs().max() > 1e-4


def test_the_fixed_points_of_a_resampled_prior_are_in_no_file():
    """A checkpoint would be thousands of times as large."""
    saved = prior_named("resampled", 3).eval().state_dict()
    assert saved
    assert all(name.startswith("net.") for name in saved)


@torch.no_grad()
def test_a_resampled_prior_settles_its_normaliser_for_evaluation(monkeypatch):
    prior, z = randomised(prior_named("resampled", 3), 0.5), torch.randn(6, 3)
    before, other = prior.log_prob(z), randomised(prior_named("resampled", 3), 0.5, seed=1)
    assert prior.eval().train().training
    prior.eval()
    torch.testing.assert_close(prior.log_prob(z), before)
    prior.load_state_dict(other.state_dict())
    torch.testing.assert_close(prior.log_prob(z), other.log_prob(z))
    monkeypatch.setattr(prior, "points", None)  # not looked at again
    prior.log_prob(z)


@pytest.mark.parametrize("log_odds", [0.0, -4.0])  # a(z) near 1/2, or so small that many are missed
def test_the_error_of_a_resampled_priors_density_is_its_spread_over_points(log_odds, g):
    prior = randomised(ResampledPrior(StandardGaussian(2), MLP([2, 4, 1]), points=400), 1.0)
    with torch.no_grad():
        prior.net[-1].bias += log_odds
        z = torch.randn(50, 2)
        means = [prior.log_prob(z, torch.randn(400, 2)).mean() for _ in range(500)]
    std, found = prior.log_prob_std(z), torch.stack(means).std().item()
    assert std == pytest.approx(found, rel=0.15)
    assert std > 0.005


def test_a_resampled_priors_normaliser_follows_the_precision():
    prior = ResampledPrior(StandardGaussian(2), MLP([2, 4, 1]), points=400).eval().double()
    assert prior.cached_log_normaliser.dtype == torch.float64


def test_a_resampled_prior_bears_acceptances_that_round_to_one_and_to_zero():
    prior, z = prior_named("resampled", 3).float(), torch.randn(6, 3).float()
    for logit in (200.0, -200.0):
        prior.net[-1].bias.data.fill_(logit)
        log_p = prior.log_prob(z)
        log_p.sum().backward()
        expected = StandardGaussian(3).float().log_prob(z)
        torch.testing.assert_close(log_p, expected, atol=1e-3, rtol=1e-4)
        assert all(p.grad.isfinite().all() for p in prior.parameters())


@torch.no_grad()
def test_a_resampled_prior_takes_its_last_proposal_as_it_is(g):
    """T = 2: one proposal is tested, the next one is taken. Mean acceptance of the draws against
    its integral under the density."""
    prior = randomised(ResampledPrior(StandardGaussian(2), MLP([2, 4, 1]), 2, points=2**16), 2.0)
    a, log_p = prior.log_a(prior.points).exp(), prior.log_prob(prior.points)
    ratio = (log_p - StandardGaussian(2).log_prob(prior.points)).exp()
    drawn = prior.log_a(prior.sample(2**16, g)).exp()
    assert a.std() > 0.2
    assert drawn.mean().item() == pytest.approx((ratio * a).mean().item(), abs=0.008)


@pytest.mark.parametrize("name", ["vamp", "hierarchical", "hierarchical-vamp"])
def test_what_lies_far_from_all_images_has_a_finite_density(name):
    prior = randomised(prior_named(name, 4), 100.0).float()
    for module in prior.modules():
        for encoder in module.borrowed if isinstance(module, VampPrior) else ():
            randomised(encoder, 100.0).float()
    assert prior.log_prob(3 * torch.randn(20, 4).float()).isfinite().all()


@pytest.mark.parametrize("truncation", [2, 100, 10_000])
@pytest.mark.parametrize("log_Z", [-1e-7, -0.1, -5.0, -10.0, -16.0, -20.0, -40.0])
def test_a_resampled_prior_is_exact_whatever_it_accepts(truncation, log_Z):
    """p = pi (a (1 - (1 - Z)^(T-1)) / Z + (1 - Z)^(T-1)), of nearly all and of next to nothing."""
    prior = ResampledPrior(StandardGaussian(1), nn.Linear(1, 1), truncation, points=8).float()
    with torch.no_grad():
        prior.net.weight.zero_()
        prior.net.bias.fill_(3.0)
    z = torch.zeros(1, 1, dtype=torch.float32)
    log_Z = torch.tensor(log_Z, dtype=torch.float32, requires_grad=True)
    found = prior.normalised(z, log_Z)
    (slope,) = torch.autograd.grad(found.sum(), log_Z)
    Z = log_Z.detach().double().exp().requires_grad_()
    missed = (truncation - 1) * torch.log1p(-Z)
    a = torch.tensor(3.0, dtype=torch.float64).sigmoid()
    p = a * -torch.expm1(missed) / Z + missed.exp()
    expected = prior.base.log_prob(z).double() + p.log()
    (by_Z,) = torch.autograd.grad(expected.sum(), Z)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert abs(slope.double() - by_Z * Z) < 1e-4


def test_a_resampled_prior_can_be_pickled():
    prior = prior_named("resampled").eval()
    again, z = pickle.loads(pickle.dumps(prior)), torch.randn(5, 2)
    torch.testing.assert_close(again.log_prob(z), prior.log_prob(z))
